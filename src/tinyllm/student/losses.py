"""Losses of the student's streams (paper, equations 2 to 4), for every family of students.

Shape suffixes: M target tokens of a batch, T target texts, L lists of texts that compete, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tinyllm.data.steps import TargetText

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


@torch.no_grad()
def ranks(head: nn.Module, states_MD: Tensor, label_M: Tensor) -> tuple[Tensor, Tensor]:
    """Place of every target token among the vocabulary (1 is the likeliest), and its cross-entropy (nats): [M] each."""
    places, losses = [], []
    for states, labels in zip(states_MD.split(CHUNK), label_M.split(CHUNK), strict=True):
        logits = head(states).float()
        places.append(1 + (logits > logits.gather(1, labels[:, None])).sum(dim=1))
        losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
    return torch.cat(places), torch.cat(losses)


def mean_by_text(losses_M: Tensor, text_M: Tensor) -> Tensor:
    """Mean token loss of every target text: [texts], in the order of the pairs."""
    count = int(text_M.max()) + 1
    total = torch.zeros(count, dtype=losses_M.dtype, device=losses_M.device).index_add_(0, text_M, losses_M)
    return total / torch.bincount(text_M, minlength=count)


@dataclass(slots=True, kw_only=True)
class Batch:
    """Target tokens of one forward pass, in an order of the family's own, which adds how it lays them out.

    M: target tokens.
    """

    label_M: Tensor
    """Id of every target token."""
    stream_M: Tensor
    """Stream (or option) of every target token."""
    text_M: Tensor
    """Target text of every token, counted over the batch in the order of the pairs."""
    normaliser_M: Tensor
    """Factor of every token's loss within its stream's loss, fp32; in a list, factor of the list's loss."""
    share_M: Tensor
    """Part that its text has in its question's target, fp32."""
    list_M: Tensor
    """List whose texts compete with its text, from 0; -1 for none."""
    lists: int
    """Number of lists."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch with all its tensors on a device."""
        batch: Self = moved(self, device, non_blocking)
        return batch


def token_fields(targets: Sequence[TargetText], number: Sequence[int]) -> dict[str, Any]:
    """The fields of `Batch`, by name.

    Args:
        targets: in the family's own order.
        number: of each, counted over the batch in the order of the pairs.
    """
    size_t = torch.tensor([len(target.ids) for target in targets])
    return {
        "label_M": torch.tensor([token for target in targets for token in target.ids]),
        "stream_M": torch.tensor([target.stream for target in targets]).repeat_interleave(size_t),
        "text_M": torch.tensor(number).repeat_interleave(size_t),
        "normaliser_M": torch.tensor([t.normaliser for t in targets], dtype=torch.float32).repeat_interleave(size_t),
        "share_M": torch.tensor([t.share for t in targets], dtype=torch.float32).repeat_interleave(size_t),
        "list_M": torch.tensor([target.list_number for target in targets]).repeat_interleave(size_t),
        "lists": 1 + max(target.list_number for target in targets),
    }


def moved(value: Any, device: torch.device | str, non_blocking: bool = False) -> Any:
    """A batch with all its tensors, those in lists and dataclasses too, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, list):
        return [moved(item, device, non_blocking) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: moved(getattr(value, field.name), device, non_blocking) for field in fields(value)}
        return replace(value, **parts)
    return value


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """False for a layer that must be called: wrapped (LoRA), or with its weight in shards (ZeRO-3, FSDP)."""
    return (
        type(layer) is nn.Linear
        and layer.bias is None
        and layer.weight.numel() == layer.in_features * layer.out_features
    )


def batch_loss(
    head: nn.Module, states_MD: Tensor, batch: Batch, factor_M: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A batch's loss, a scalar, and each target token's cross-entropy [M] in nats, detached.

    The loss is the sum of factor * cross-entropy over the tokens that are in no list, and over the lists of factor *
    cross-entropy of the shares with softmax(s), s being the mean token log-likelihoods of a list's texts.

    Args:
        head: the output layer, a linear one or a wrapped one.
        states_MD: what it reads at target positions.
        batch: on the same device.
        factor_M: factor of each token, fp32, the same all over a list; None for the batch's normalisers, which is the
            sum of the streams' losses.
    """
    factor_M = batch.normaliser_M if factor_M is None else factor_M
    if not is_plain_linear(head):
        losses_M = nn.functional.cross_entropy(head(states_MD).float(), batch.label_M, reduction="none")
        loss = (losses_M * _token_weights(losses_M.detach(), batch, factor_M)).sum()
        losses_M = losses_M.detach()
    elif batch.lists:
        # The fused product needs its weights beforehand: the lists' tokens pass the head once more.
        listed_m = (batch.list_M >= 0).nonzero()[:, 0]
        known_M = torch.zeros_like(factor_M)
        with torch.no_grad():
            labels_m, weights_m = batch.label_M[listed_m], factor_M[listed_m]
            known_M[listed_m] = linear_cross_entropy(states_MD[listed_m], head.weight, labels_m, weights_m)[1]
        weight_M = _token_weights(known_M, batch, factor_M)
        loss, losses_M = linear_cross_entropy(states_MD, head.weight, batch.label_M, weight_M)
    else:
        return linear_cross_entropy(states_MD, head.weight, batch.label_M, factor_M)
    if batch.lists:  # so far it has the gradient of the lists' losses, not their value
        loss = loss + (_terms_M(losses_M, batch, factor_M).sum() - loss).detach()
    return loss, losses_M


def stream_losses(losses_M: Tensor, batch: Batch, count: int) -> Tensor:
    """The loss of every stream within a batch, [count]: what `batch_loss` sums, before the streams' weights.

    Args:
        losses_M: each token's cross-entropy.
        batch: that they are of.
        count: number of streams.
    """
    terms_M = _terms_M(losses_M, batch, batch.normaliser_M)
    return torch.zeros(count, dtype=terms_M.dtype, device=terms_M.device).index_add_(0, batch.stream_M, terms_M)


def _terms_M(losses_M: Tensor, batch: Batch, factor_M: Tensor) -> Tensor:
    """What each token adds to the loss; a list's, -sum(share * log p), is spread evenly over the tokens of a text."""
    if not batch.lists:
        return losses_M * factor_M
    log_p_T, length_T = _lists(losses_M, batch)
    listed_M = -batch.share_M * (log_p_T / length_T)[batch.text_M]
    return torch.where(batch.list_M >= 0, listed_M, losses_M) * factor_M


def _token_weights(losses_M: Tensor, batch: Batch, factor_M: Tensor) -> Tensor:
    """Weights with which the sum of the tokens' cross-entropies has the gradient of the batch's loss.

    A list's loss -sum(share * log p), with p = softmax(-mean cross-entropy), has the derivative (share - p) / length by
    the cross-entropy of a token.
    """
    if not batch.lists:
        return factor_M
    log_p_T, length_T = _lists(losses_M, batch)
    listed_M = (batch.share_M - log_p_T.exp()[batch.text_M]) / length_T[batch.text_M]
    return torch.where(batch.list_M >= 0, listed_M * factor_M, factor_M)


def _lists(losses_M: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probability within its list, and tokens, of every text: [T] each; of texts in no list the former is idle."""
    score_T = -mean_by_text(losses_M, batch.text_M)
    length_T = torch.bincount(batch.text_M, minlength=score_T.numel())
    list_T = torch.zeros_like(length_T).scatter_(0, batch.text_M, batch.list_M % (batch.lists + 1))  # -1 is the last
    top_L = score_T.new_full((batch.lists + 1,), -torch.inf).scatter_reduce_(0, list_T, score_T, "amax")
    score_T = score_T - top_L[list_T]
    total_L = torch.zeros_like(top_L).index_add_(0, list_T, score_T.exp())
    return score_T - total_L.log()[list_T], length_T
