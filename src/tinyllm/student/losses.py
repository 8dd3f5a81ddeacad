"""Losses of the student's streams (paper, equations 2 to 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 256
"""Tokens whose logits are held at a time: [256, 32128] in fp32 is 33 MB."""
BLOCK = 4096
"""Tokens whose logit gradients are held at a time."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Logits, log-softmax and their gradient in one pass, chunk by chunk; [N, V] never exists in fp32."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, token_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        count = hidden.shape[0]
        losses = torch.empty(count, dtype=torch.float32, device=hidden.device)
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
        with torch.autocast(hidden.device.type, enabled=False):
            low = dtype or weight.dtype
            head, states = weight.to(low), hidden.to(low)
            grad_hidden = torch.empty_like(hidden) if need_hidden else None
            grad_weight: Tensor | None = None
            for block in range(0, count, BLOCK):
                block_states = states[block : block + BLOCK]
                shape = (block_states.shape[0], head.shape[0]) if need_hidden or need_weight else (0, 0)
                block_grads = torch.empty(shape, dtype=low, device=hidden.device)
                for start in range(0, block_states.shape[0], CHUNK):
                    stop = min(start + CHUNK, block_states.shape[0])
                    rows = slice(block + start, block + stop)
                    logits = (block_states[start:stop] @ head.T).float()
                    target = labels[rows, None]
                    gold = logits.gather(1, target)[:, 0]
                    top = logits.amax(dim=1, keepdim=True)
                    probabilities = logits.sub_(top).exp_()
                    total = probabilities.sum(dim=1, keepdim=True)
                    losses[rows] = total.log().add_(top)[:, 0] - gold
                    if need_hidden or need_weight:
                        probabilities.mul_(token_weights[rows, None] / total)
                        probabilities.scatter_add_(1, target, -token_weights[rows, None].to(probabilities.dtype))
                        block_grads[start:stop] = probabilities
                if grad_hidden is not None:
                    grad_hidden[block : block + BLOCK] = block_grads @ head
                if need_weight:
                    part = block_grads.T @ block_states
                    grad_weight = part if grad_weight is None else grad_weight + part
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype) if grad_weight is not None else None)
        loss = (losses * token_weights).sum()
        ctx.mark_non_differentiable(losses)
        return loss, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if float(grad_loss) != 1.0:
            grad_hidden = grad_hidden * grad_loss if grad_hidden is not None else None
            grad_weight = grad_weight * grad_loss if grad_weight is not None else None
        return grad_hidden, grad_weight, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, token_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropies of a linear head, without holding its logits.

    The head's product is computed in autocast's type where autocast is on, the softmax always in fp32.

    Args:
        hidden: [N, D], what the head reads, at target positions only.
        weight: [V, D], the head.
        labels: [N], int64, every one a token id (no -100).
        token_weights: [N], fp32: the factor of each token's loss in the sum.

    Returns:
        The weighted sum, a scalar with gradients to `hidden` and `weight`, and the token losses [N], in nats, without.

    Example:
        With `token_weights = 1 / N` the first value is `F.cross_entropy(hidden @ weight.T, labels)`.
    """
    if not torch.is_grad_enabled():  # autograd would still report a weight as wanting its gradient
        hidden, weight = hidden.detach(), weight.detach()
    loss, losses = _LinearCrossEntropy.apply(hidden, weight, labels, token_weights)  # type: ignore[no-untyped-call]
    return loss, losses


def mean_by_text(losses_M: Tensor, text_M: Tensor) -> Tensor:
    """Mean token loss of every target text: [texts], in the order of the pairs."""
    count = int(text_M.max()) + 1
    total = torch.zeros(count, dtype=losses_M.dtype, device=losses_M.device).index_add_(0, text_M, losses_M)
    return total / torch.bincount(text_M, minlength=count)
