"""Drop-in parts that make a student train faster on a processor: same mathematics, fewer passes over memory.

PyTorch draws dropout masks on a processor one element at a time, which costs a FLAN-T5-small step more than its bf16
matrix products do. Here a mask is drawn as 16-bit integers, four to a 64-bit random number. The probability is rounded
to a multiple of 2**-16, and the scale is that of the rounded one.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

_NORMS = (T5LayerNorm, LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
"""The same mathematics under several names."""

RELEASE_EVERY = 8
"""Steps, or batches of questions, between two calls of `release_memory`: at each of them, a step took 10% longer."""
_LARGE = 2 * 1024**3
_KERNELS = 256
"""Kernels that oneDNN keeps (https://uxlfoundation.github.io/oneDNN, "Primitive Cache"). Each is made for one shape and
takes 0.6 MB. A step of new lengths needs 45 to 62 new ones, and hardly any of those before it."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: int) -> Tensor:
        count = values.numel()
        noise = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        factor = torch.empty_like(values, memory_format=torch.contiguous_format)
        torch.ge(noise.view(torch.int16)[:count].view(values.shape), threshold - 2**15, out=factor)
        factor.mul_(2**16 / (2**16 - threshold))
        ctx.save_for_backward(factor)
        return values * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout of any shape on a processor; elsewhere PyTorch's own."""
    if not training or probability == 0.0:
        return values
    if values.device.type != "cpu":
        return nn.functional.dropout(values, probability, training)
    if probability > 1 - 2**-16:
        return values * 0.0
    result: Tensor = _Dropout.apply(values, round(probability * 2**16))  # type: ignore[no-untyped-call]
    return result


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` with `dropout` of this module inside; it has no state, so checkpoints stay plain."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = _wide(hidden)
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(hidden.shape[-1])
        inverse = inverse.add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, inverse)
        normed: Tensor = (wide * inverse).mul_(weight).to(dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, inverse = ctx.saved_tensors
        normed = _wide(hidden) * inverse
        grad = grad.to(normed.dtype)
        grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        grad = grad * weight
        along = torch.linalg.vecdot(grad, normed)[..., None].div_(hidden.shape[-1])
        return grad.sub_(normed.mul_(along)).mul_(inverse).to(hidden.dtype), grad_weight, None, None


def _wide(values: Tensor) -> Tensor:
    """In a type with the precision of fp32 or more, as transformers computes a norm."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class RmsNorm(nn.Module):
    """Root-mean-square norm; its result is in autocast's type, so that the products after it need no casts.

    Args:
        weight: [D], shared with the module that this one replaces.
        epsilon: under the root.
    """

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        result: Tensor = _RmsNorm.apply(hidden, self.weight, self.epsilon, dtype)  # type: ignore[no-untyped-call]
        return result


def _keep_memory() -> None:
    """Let glibc keep freed blocks: a step asks for the same gigabyte again, and fresh pages cost it 5 to 10%."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))  # read at the first product
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Give back to the system what is free, where the process holds more than 2 GiB.

    `accelerate` lets glibc keep freed blocks. Texts of many lengths leave gaps between them, which add up over
    hundreds of steps.
    """
    with suppress(OSError, AttributeError, ValueError):  # not glibc, or no Linux
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > _LARGE:
            ctypes.CDLL(None).malloc_trim(0)


def accelerate(model: PreTrainedModel) -> None:
    """Replace, in place, dropout, GELU and layer norm by those of this module. Weights are untouched."""
    _keep_memory()
    torch.set_flush_denormal(True)  # numbers below 1e-38 cost a processor a hundred times what others do
    for parent in model.modules():
        for name, child in parent.named_children():
            part: nn.Module | None = None
            if type(child) is nn.Dropout:
                part = Dropout(child.p)
            elif isinstance(child, NewGELUActivation):
                part = nn.GELU(approximate="tanh")
            elif isinstance(child, _NORMS):
                part = RmsNorm(child.weight, child.variance_epsilon)
            if part is not None:
                setattr(parent, name, part.train(child.training))
