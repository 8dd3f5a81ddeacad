"""The fused head and loss, and the loss of a batch, against the plain ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tinyllm.student import losses
from tinyllm.student.losses import batch_loss, linear_cross_entropy, stream_losses


def case(count: int, width: int = 7, vocab: int = 11, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, head, labels and token weights (every third of them 0)."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=rng, requires_grad=True)
    head = torch.randn(vocab, width, generator=rng, requires_grad=True)
    labels = torch.randint(vocab, (count,), generator=rng)
    weights = torch.rand(count, generator=rng) * (torch.arange(count) % 3 != 2)
    return hidden, head, labels, weights


def plain(hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    each = F.cross_entropy((hidden @ head.T).float(), labels, reduction="none")
    return (each * weights).sum(), each


def compare(count: int, scale: float = 1.0, **shape: int) -> None:
    hidden, head, labels, weights = case(count, **shape)
    expected, each = plain(hidden, head, labels, weights)
    (expected * scale).backward()
    theirs = hidden.grad, head.grad
    hidden.grad = head.grad = None
    loss, token_losses = linear_cross_entropy(hidden, head, labels, weights)
    (loss * scale).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(token_losses, each, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad, theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.grad, theirs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 40, 300])
def test_value_and_gradients_equal_the_plain_way(count: int) -> None:
    compare(count)


def test_a_larger_head() -> None:
    compare(50, width=33, vocab=1000)


@pytest.mark.parametrize("scale", [0.25, -2.0])
def test_an_upstream_gradient_scales_both(scale: float) -> None:
    """As with accumulation, or where the loss is a term of a sum."""
    compare(20, scale)


@pytest.mark.parametrize(("chunk", "block"), [(4, 4), (4, 16), (3, 16), (5, 7), (100, 16)])
@pytest.mark.parametrize("count", [3, 4, 16, 17, 50])
def test_more_tokens_than_fit_a_chunk_or_a_block(
    count: int, chunk: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    monkeypatch.setattr(losses, "BLOCK", block)
    compare(count)


def test_mean_of_all_tokens_is_cross_entropy() -> None:
    hidden, head, labels, _ = case(9)
    loss, _ = linear_cross_entropy(hidden, head, labels, torch.full((9,), 1 / 9))
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ head.T, labels))


def test_tokens_of_weight_0_have_a_loss_but_no_gradient() -> None:
    hidden, head, labels, weights = case(12)
    loss, token_losses = linear_cross_entropy(hidden, head, labels, weights)
    loss.backward()
    off = weights == 0
    assert off.sum() == 4 and bool((token_losses[off] > 0).all())
    assert bool((hidden.grad[off] == 0).all()) and bool((hidden.grad[~off] != 0).any(dim=1).all())


def test_all_weights_0() -> None:
    hidden, head, labels, weights = case(5)
    loss, _ = linear_cross_entropy(hidden, head, labels, torch.zeros_like(weights))
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any() and not head.grad.any()


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_a_frozen_side_gets_no_gradient_and_the_other_the_same(frozen: str) -> None:
    """A frozen head is what LoRA leaves."""
    hidden, head, labels, weights = case(30)
    plain(hidden, head, labels, weights)[0].backward()
    expected = {"hidden": hidden.grad, "head": head.grad}
    hidden.grad = head.grad = None
    sides = {"hidden": hidden, "head": head}
    sides[frozen].requires_grad_(False)
    linear_cross_entropy(hidden, head, labels, weights)[0].backward()
    assert sides[frozen].grad is None
    other = "head" if frozen == "hidden" else "hidden"
    torch.testing.assert_close(sides[other].grad, expected[other], rtol=1e-5, atol=1e-5)


def test_without_gradients_the_values_are_the_same() -> None:
    hidden, head, labels, weights = case(30)
    with torch.no_grad():
        loss, token_losses = linear_cross_entropy(hidden, head, labels, weights)
    expected, each = plain(hidden, head, labels, weights)
    assert not loss.requires_grad
    torch.testing.assert_close((loss, token_losses), (expected.detach(), each.detach()), rtol=1e-5, atol=1e-5)


def test_token_losses_carry_no_gradient() -> None:
    _, token_losses = linear_cross_entropy(*case(4))
    assert not token_losses.requires_grad


def test_large_logits_do_not_overflow() -> None:
    hidden, head, labels, weights = (x.detach() for x in case(10))
    loss, _ = linear_cross_entropy(hidden * 100, head * 100, labels, weights)
    torch.testing.assert_close(loss, plain(hidden * 100, head * 100, labels, weights)[0])


def test_inputs_are_left_as_they_are() -> None:
    inputs = case(10)
    before = [x.detach().clone() for x in inputs]
    linear_cross_entropy(*inputs)[0].backward()
    for was, now in zip(before, inputs, strict=True):
        assert torch.equal(was, now)


def test_under_bf16_autocast_the_product_is_bf16_and_the_softmax_is_not() -> None:
    hidden, head, labels, weights = case(200, width=32, vocab=300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, token_losses = linear_cross_entropy(hidden, head, labels, weights)
    loss.backward()
    mine = hidden.grad, head.grad
    hidden.grad = head.grad = None
    rounded = (hidden.detach().bfloat16() @ head.detach().bfloat16().T).float()
    torch.testing.assert_close(token_losses, F.cross_entropy(rounded, labels, reduction="none"), rtol=1e-5, atol=1e-5)
    expected, each = plain(hidden, head, labels, weights)
    expected.backward()
    assert loss.dtype == token_losses.dtype == mine[0].dtype == mine[1].dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert not torch.equal(token_losses, each.detach())
    for own, theirs in zip(mine, (hidden.grad, head.grad), strict=True):
        assert float((own - theirs).norm() / theirs.norm()) < 2e-2


class Wrapped(torch.nn.Linear):
    """A head that must be called, as LoRA and ZeRO-3 make it."""


TEXTS = [(3, -1, 0.25), (5, 0, 0.0), (2, 1, 0.7), (4, 0, 1.0), (1, 1, 0.3), (6, 0, 0.0), (3, -1, 1.0)]
"""Tokens, list and share of each text. Texts of a list do not lie together; both lists are of stream 1."""


def listed(kind: type[torch.nn.Linear] = torch.nn.Linear) -> tuple[torch.nn.Linear, Tensor, SimpleNamespace]:
    """A head, states and a batch of `TEXTS`; list 1 has three times the factor of list 0."""
    hidden, weight, labels, _ = case(sum(length for length, _, _ in TEXTS))
    head = kind(7, 11, bias=False)
    head.weight = torch.nn.Parameter(weight.detach().clone())
    sizes = torch.tensor([length for length, _, _ in TEXTS])
    lists = torch.tensor([number for _, number, _ in TEXTS])
    batch = SimpleNamespace(
        label_M=labels,
        stream_M=(lists >= 0).long().repeat_interleave(sizes),
        text_M=torch.arange(len(TEXTS)).repeat_interleave(sizes),
        normaliser_M=torch.tensor([0.3, 0.1, 0.3, 0.1, 0.3, 0.1, 0.2]).repeat_interleave(sizes),
        share_M=torch.tensor([share for _, _, share in TEXTS]).repeat_interleave(sizes),
        list_M=lists.repeat_interleave(sizes),
        lists=2,
    )
    return head, hidden.detach().requires_grad_(), batch


def naive(head: torch.nn.Linear, hidden: Tensor, batch: SimpleNamespace, factor_M: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the ordinary texts and over the lists, each with its factors."""
    each = F.cross_entropy(head(hidden), batch.label_M, reduction="none")
    ordinary = (each * factor_M)[batch.list_M < 0].sum()
    lists = torch.zeros(())
    for number in range(2):
        own = [n for n, (_, which, _) in enumerate(TEXTS) if which == number]
        scores = torch.stack([-each[batch.text_M == n].mean() for n in own])
        shares = torch.tensor([TEXTS[n][2] for n in own])
        factor = factor_M[batch.list_M == number][0]
        lists = lists - factor * (shares * torch.log_softmax(scores, 0)).sum()
    return ordinary, lists


@pytest.mark.parametrize("kind", [torch.nn.Linear, Wrapped], ids=["fused", "called"])
@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["normalisers", "factors"])
def test_texts_of_a_list_compete(kind: type[torch.nn.Linear], scale: float) -> None:
    head, hidden, batch = listed(kind)
    factor_M = batch.normaliser_M * (1 + scale * batch.stream_M)
    expected = sum(naive(head, hidden, batch, factor_M))
    expected.backward()
    theirs, hidden.grad, head.weight.grad = (hidden.grad, head.weight.grad), None, None
    loss, losses_M = batch_loss(head, hidden, batch, factor_M)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and not losses_M.requires_grad
    torch.testing.assert_close(losses_M, F.cross_entropy(head(hidden).detach(), batch.label_M, reduction="none"))
    torch.testing.assert_close((hidden.grad, head.weight.grad), theirs, rtol=1e-5, atol=1e-6)


def test_every_stream_has_its_part_of_the_loss() -> None:
    head, hidden, batch = listed()
    expected = torch.stack([*naive(head, hidden, batch, batch.normaliser_M), torch.zeros(())])
    loss, losses_M = batch_loss(head, hidden, batch)
    torch.testing.assert_close(stream_losses(losses_M, batch, 3), expected.detach())
    assert loss.item() == pytest.approx(expected.sum().item(), rel=1e-6)


def test_a_hopeless_text_of_a_list_stays_finite() -> None:
    head, hidden, batch = listed()
    loss, _ = batch_loss(head, hidden * 300, batch)
    loss.backward()
    assert bool(loss.isfinite()) and bool(hidden.grad.isfinite().all())
    expected = sum(naive(head, hidden * 300, batch, batch.normaliser_M))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
