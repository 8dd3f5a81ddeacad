"""The parts that make a T5 fast on a processor compute what the slow ones do."""

from __future__ import annotations

import math
import platform
import subprocess
import sys

import pytest
import torch
from tests.conftest import small_t5
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from tinyllm.student.cpu_speed import Dropout, RmsNorm, accelerate, dropout


def within_chance(found: float, share: float, count: int) -> bool:
    """Within five standard deviations of a binomial share: wrong once in two million draws, and those are seeded."""
    return abs(found - share) < 5 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("probability", [0.02, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(probability: float) -> None:
    torch.manual_seed(0)
    count = 200_000
    result = dropout(torch.ones(count), probability, True)
    exact = round(probability * 2**16) / 2**16  # the probability that the 16-bit mask can hold
    assert result.unique().tolist() == pytest.approx([0.0, 1 / (1 - exact)], rel=1e-6)
    assert within_chance(float((result == 0).float().mean()), exact, count)
    deviation = math.sqrt(exact / (1 - exact) / count)
    assert abs(float(result.mean()) - 1) < 5 * deviation


def test_all_four_numbers_of_a_random_word_drop_alike_and_apart() -> None:
    """A mask is drawn four to a 64-bit number: no place is dropped more often, and no two go together."""
    torch.manual_seed(1)
    count, probability = 100_000, 0.25
    kept = (dropout(torch.ones(count, 4), probability, True) > 0).double()
    for place in range(4):
        assert within_chance(1 - float(kept[:, place].mean()), probability, count)
    together = torch.corrcoef(kept.T) - torch.eye(4, dtype=torch.double)
    assert float(together.abs().max()) < 5 / math.sqrt(count)
    neighbours = torch.corrcoef(torch.stack([kept[:-1, 3], kept[1:, 0]]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(count)


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 4, 5), (0, 4)])
def test_dropout_of_any_shape(shape: tuple[int, ...]) -> None:
    """Also of a number of elements that four does not divide."""
    values = torch.rand(shape) + 1
    result = dropout(values, 0.5, True)
    assert result.shape == values.shape
    assert bool(((result == 0) | torch.isclose(result, values * 2)).all())


def test_dropout_of_a_transposed_tensor() -> None:
    values = (torch.arange(12.0) + 1).view(3, 4).T
    result = dropout(values, 0.5, True)
    assert bool(((result == 0) | (result == values * 2)).all())


def test_backward_uses_the_mask_of_forward() -> None:
    torch.manual_seed(2)
    values = (torch.rand(1000) + 1).requires_grad_()
    upstream = torch.rand(1000) + 1
    result = dropout(values, 0.3, True)
    result.backward(upstream)
    torch.testing.assert_close(values.grad, upstream * result.detach() / values.detach())
    assert 200 < int((values.grad == 0).sum()) < 400


@pytest.mark.parametrize(("probability", "training"), [(0.5, False), (0.0, True), (0.0, False)])
def test_dropout_is_the_identity_in_evaluation_and_at_0(probability: float, training: bool) -> None:
    values = torch.rand(100)
    state = torch.get_rng_state()
    assert dropout(values, probability, training) is values
    module = Dropout(probability).train(training)
    assert torch.equal(module(values), values)
    assert torch.equal(torch.get_rng_state(), state)  # and draws nothing


def test_dropout_follows_the_global_seed() -> None:
    def draw(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [dropout(torch.ones(500), 0.5, True) for _ in range(2)]

    first, again, other = draw(3), draw(3), draw(4)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_dropout_in_bf16_keeps_its_type() -> None:
    torch.manual_seed(0)
    result = dropout(torch.ones(10_000, dtype=torch.bfloat16), 0.1, True)
    assert result.dtype is torch.bfloat16
    assert within_chance(float((result == 0).float().mean()), 0.1, 10_000)


def norms(width: int, dtype: torch.dtype = torch.float32) -> tuple[RmsNorm, T5LayerNorm]:
    theirs = T5LayerNorm(width, eps=1e-6).to(dtype)
    torch.manual_seed(5)
    theirs.weight.data = torch.rand(width, dtype=dtype) + 0.5
    return RmsNorm(nn.Parameter(theirs.weight.detach().clone()), 1e-6), theirs


def test_norm_of_bf16_values_is_computed_in_fp32() -> None:
    """As Qwen3 norms queries and keys, which are bf16 under autocast."""
    torch.manual_seed(6)
    weight = torch.rand(64) + 0.5
    hidden, upstream = torch.randn(500, 64).bfloat16(), torch.randn(500, 64).bfloat16()
    exact = hidden.double().requires_grad_()
    scale = weight.double().requires_grad_()
    expected = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-6) * scale
    expected.backward(upstream.double())
    ours, own = RmsNorm(nn.Parameter(weight.clone()), 1e-6), hidden.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ours(own)
    result.backward(upstream)
    assert result.dtype is torch.bfloat16 and own.grad is not None and own.grad.dtype is torch.bfloat16
    for found, right in ((result, expected), (own.grad, exact.grad), (ours.weight.grad, scale.grad)):
        error = (found.double() - right).norm() / right.norm()
        assert float(error.detach()) < 2**-9 + 5e-4  # half a step of bf16, and fp32's own


@pytest.mark.parametrize("shape", [(1, 6), (9, 6), (2, 3, 6)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_norm_equals_t5s_forward_and_backward(shape: tuple[int, ...], size: float) -> None:
    ours, theirs = norms(6)
    hidden = (torch.randn(shape) * size).requires_grad_()
    copy = hidden.detach().clone().requires_grad_()
    upstream = torch.randn(shape)
    own, expected = ours(hidden), theirs(copy)
    own.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hidden.grad, copy.grad, rtol=1e-4, atol=1e-5 / size)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)


def test_gradient_of_the_norm_by_finite_differences() -> None:
    ours, _ = norms(5, torch.float64)
    hidden = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def run(hidden: Tensor, weight: Tensor) -> Tensor:
        ours.weight = nn.Parameter(weight, requires_grad=False)
        return torch.func.functional_call(ours, {"weight": weight}, (hidden,))

    weight = ours.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (hidden, weight))


def test_norm_of_zeros_is_zero_and_its_gradient_finite() -> None:
    ours, _ = norms(6)
    hidden = torch.zeros(2, 6, requires_grad=True)
    result = ours(hidden)
    result.sum().backward()
    assert not result.any()
    assert bool(hidden.grad.isfinite().all())


def test_norm_leaves_its_input_and_the_gradient_above_alone() -> None:
    ours, _ = norms(6)
    hidden = torch.randn(3, 6, requires_grad=True)
    upstream = torch.randn(3, 6)
    before = hidden.detach().clone(), upstream.clone()
    ours(hidden).backward(upstream)
    assert torch.equal(hidden, before[0]) and torch.equal(upstream, before[1])


def test_norm_gives_autocasts_type() -> None:
    ours, theirs = norms(6)
    hidden = torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ours(hidden)
    assert result.dtype is torch.bfloat16
    assert torch.equal(result, theirs(hidden).bfloat16())
    result.sum().backward()
    assert hidden.grad.dtype is ours.weight.grad.dtype is torch.float32


def inputs() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(8)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {
        "input_ids": torch.randint(2, 97, (3, 9), generator=rng),
        "attention_mask": mask,
        "labels": torch.randint(2, 97, (3, 4), generator=rng),
    }


def test_an_accelerated_t5_has_the_same_state_and_outputs() -> None:
    model = small_t5(dropout=0.1).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "layer_norm" in name:
                value.uniform_(0.5, 1.5)
        expected = model(**inputs())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    accelerate(model)
    model.eval()
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        found = model(**inputs())
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    small_t5(seed=1).load_state_dict(after)  # a plain model reads its checkpoint


@pytest.mark.parametrize("training", [False, True])
def test_accelerating_keeps_the_mode_of_every_part(training: bool) -> None:
    """`from_pretrained` gives a model in evaluation mode: dropout must not wake up."""
    model = small_t5(dropout=0.1).train(training)
    model.decoder.train(False)
    accelerate(model)
    assert {module.training for module in model.encoder.modules()} == {training}
    assert {module.training for module in model.decoder.modules()} == {False}


def test_accelerating_replaces_every_slow_part_and_no_weight() -> None:
    model = small_t5(dropout=0.1)
    own = {id(p) for p in model.parameters()}
    accelerate(model)
    assert {id(p) for p in model.parameters()} == own
    kinds = {type(module) for module in model.modules()}
    assert nn.Dropout not in kinds and T5LayerNorm not in kinds
    assert {Dropout, RmsNorm, nn.GELU} <= kinds
    assert {module.p for module in model.modules() if isinstance(module, Dropout)} == {0.1}


def test_an_accelerated_t5_trains_with_the_same_gradients() -> None:
    plain, fast = small_t5(), small_t5()
    accelerate(fast)
    plain(**inputs()).loss.backward()
    fast(**inputs()).loss.backward()
    for (name, theirs), own in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert float((own.grad - theirs.grad).norm()) <= 1e-5 * float(theirs.grad.norm()) + 1e-7, name


RESIDENT = """
from pathlib import Path
import torch
from tinyllm.student import cpu_speed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

cpu_speed._keep_memory()
cpu_speed._LARGE = {large}
before = resident()
blocks = [torch.ones(1000 + 37 * (i % 91), 256) for i in range(200)]  # 1 to 4 MB each
kept = blocks[::20]
del blocks
left = resident() - before
cpu_speed.release_memory()
print(left, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("large", [0, 2**40])
def test_freed_memory_between_blocks_goes_back_where_there_is_much_of_it(large: int) -> None:
    """A tenth of some 500 MB stays in use."""
    out = subprocess.run(
        [sys.executable, "-c", RESIDENT.format(large=large)], capture_output=True, text=True, check=True
    )
    left, after = map(float, out.stdout.split())
    assert left > 300
    assert after < 0.3 * left if large == 0 else after > 0.9 * left
