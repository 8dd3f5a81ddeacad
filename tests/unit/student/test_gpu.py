"""Students on a GPU against themselves on the CPU, where other kernels run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.conftest import small_decoder, small_t5
from tests.unit.student.test_decoder import mixed_pairs
from transformers import PreTrainedModel

from tinyllm.config import Accelerator
from tinyllm.data.steps import Pair
from tinyllm.student import decoder
from tinyllm.student.family import family_of

pytestmark = pytest.mark.gpu
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "t5": lambda: small_t5(d_kv=16),
    "llama": lambda: small_decoder(head_dim=16),
    "gemma3": lambda: small_decoder("gemma3", head_dim=16),
    "llama, FlexAttention": lambda: small_decoder(head_dim=16),
    "gemma3, FlexAttention": lambda: small_decoder("gemma3", head_dim=16),
}
PAIRS = [pair for seed in range(3) for pair in mixed_pairs(seed)]
"""27 sources: more than a thousand tokens, so that FlexAttention has blocks to skip."""


@pytest.fixture(params=MODELS)
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, PreTrainedModel, Any]:
    """A family, and a model with its copy on the GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    monkeypatch.setattr(decoder, "FLEX_FROM", 0 if "FlexAttention" in request.param else 1 << 30)
    here = MODELS[request.param]()
    family = family_of(here.config)
    there: Any = copy.deepcopy(here)
    family.prepare(here, Accelerator.cpu)
    family.prepare(there, Accelerator.gpu)
    return family, here, there.to("cuda")


def test_losses_and_gradients(both: tuple[Any, PreTrainedModel, Any]) -> None:
    family, here, there = both
    batch = family.lay_out(PAIRS, here.config)
    total, losses_M = family.token_losses(here, batch)
    total.backward()
    found, found_M = family.token_losses(there, batch.to("cuda"))
    found.backward()
    torch.testing.assert_close(found_M.cpu(), losses_M, rtol=1e-4, atol=1e-4)
    assert found.item() == pytest.approx(total.item(), rel=1e-4)
    for (name, own), other in zip(there.named_parameters(), here.parameters(), strict=True):
        assert float((own.grad.cpu() - other.grad).norm() / other.grad.norm()) < 1e-3, name


def test_bf16_is_near(both: tuple[Any, PreTrainedModel, Any]) -> None:
    family, here, there = both
    batch = family.lay_out(PAIRS, here.config)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        total, losses_M = family.token_losses(there, batch.to("cuda"))
    total.backward()
    torch.testing.assert_close(losses_M.cpu(), family.token_losses(here, batch)[1], rtol=0.1, atol=0.15)
    assert all(torch.isfinite(own.grad).all() for own in there.parameters())


def test_ranking_and_generation(both: tuple[Any, PreTrainedModel, Any]) -> None:
    family, here, there = both
    sources = [pair.source for pair in PAIRS]
    options = [[target.ids for target in pair.targets] for pair in PAIRS]
    lead = () if here.config.is_encoder_decoder else (90, 91)
    scores, texts = [], []
    for model in (here.eval(), there.eval()):
        memory = family.read(model, sources)
        scores.append([s for own in family.rank(model, memory, options, lead) for s in own])
        texts.append(family.generate(model, family.read(model, sources), lead, ends=[1], max_new_tokens=6))
    torch.testing.assert_close(*map(torch.tensor, scores), rtol=1e-4, atol=1e-4)
    same = sum(a == b for a, b in zip(*texts, strict=True))
    assert same >= 0.9 * len(PAIRS)  # two words may be as good as equal


def test_a_row_of_one_text(both: tuple[Any, PreTrainedModel, Any]) -> None:
    family, here, there = both
    batch = family.lay_out([Pair(PAIRS[0].source, PAIRS[0].targets[:1])], here.config)
    expected = family.token_losses(here, batch)[1]
    torch.testing.assert_close(family.token_losses(there, batch.to("cuda"))[1].cpu(), expected, rtol=1e-4, atol=1e-4)
