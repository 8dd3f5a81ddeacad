"""Low-rank adapters: the packed loss against transformers and peft's own forward, saving, merging, refusals."""

from __future__ import annotations

import random
from pathlib import Path

import peft
import pytest
import torch
from tests.conftest import ranked as rank
from tests.conftest import small_decoder, small_t5
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tinyllm.config import LoraConfig
from tinyllm.data.steps import Pair, TargetText
from tinyllm.errors import UserError
from tinyllm.student import decoder
from tinyllm.student.adapters import add_adapters, save_and_merge
from tinyllm.student.cpu_speed import accelerate
from tinyllm.student.encoder_decoder import lay_out, token_losses

CONFIG = small_t5().config
EVERYWHERE = ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]


def with_adapters(
    targets: list[str], dropout: float = 0.0, tied: bool = False
) -> tuple[T5ForConditionalGeneration, peft.PeftModel]:
    """A small student whose adapters add something: peft's own first update is zero."""
    model = small_t5(tied=tied)
    adapters = add_adapters(model, LoraConfig(r=4, alpha=8.0, dropout=dropout, target_modules=targets))
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return model, adapters


def pairs(seed: int = 0) -> list[Pair]:
    rng = random.Random(seed)

    def ids(longest: int) -> tuple[int, ...]:
        return (*(rng.randrange(2, 97) for _ in range(rng.randrange(1, longest))), 1)

    return [Pair(ids(30), tuple(TargetText(ids(12), 0, rng.random()) for _ in range(1 + n % 2))) for n in range(7)]


def plain_loss(model: torch.nn.Module, some: list[Pair]) -> torch.Tensor:
    """One forward a text, through peft's wrapper."""
    total = torch.zeros(())
    for pair in some:
        for target in pair.targets:
            labels = torch.tensor([target.ids])
            logits = model(input_ids=torch.tensor([pair.source]), labels=labels).logits
            total = total + target.normaliser * F.cross_entropy(logits[0], labels[0], reduction="sum")
    return total


@pytest.mark.parametrize("targets", [["q", "v"], ["k"], EVERYWHERE, ["lm_head", "v"]], ids="-".join)
def test_loss_and_gradients_equal_pefts_own_forward(targets: list[str]) -> None:
    plain, wrapper = with_adapters(targets)
    ours, _ = with_adapters(targets)
    accelerate(ours)
    expected = plain_loss(wrapper, pairs())
    expected.backward()
    loss, _ = token_losses(ours, lay_out(pairs(), CONFIG))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() != pytest.approx(plain_loss(small_t5(), pairs()).item(), rel=1e-3), "the adapters add something"
    theirs = {name: w.grad for name, w in plain.named_parameters() if w.requires_grad}
    mine = {name: w.grad for name, w in ours.named_parameters() if w.requires_grad}
    assert theirs.keys() == mine.keys() and all("lora_" in name for name in mine)
    for name, gradient in theirs.items():
        assert gradient is not None and gradient.norm() > 0, name
        assert (mine[name] - gradient).norm() < 1e-4 * gradient.norm(), name


def test_a_step_changes_adapters_alone_and_dropout_reaches_them() -> None:
    model, _ = with_adapters(["q", "v"], dropout=0.5)
    accelerate(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    layers = 2 + 2 * 2  # encoder, decoder's own, decoder's cross-attention
    assert sum(weight.numel() for weight in trained) == layers * 2 * (4 * 24 + 4 * 24)
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    model.train()
    batch = lay_out(pairs(), CONFIG)
    losses = [token_losses(model, batch)[0] for _ in range(2)]
    assert losses[0].item() != losses[1].item()
    losses[0].backward()
    optimizer.step()
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_a_head_that_shares_its_weights_takes_no_adapter() -> None:
    """Merged into the shared weights, its update would change the embedding as well."""
    with pytest.raises(UserError, match=r"^method\.lora\.target_modules: expected no lm_head"):
        with_adapters(["lm_head", "v"], tied=True)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_adapters_are_saved_in_pefts_format_and_merged_into_a_plain_student(tmp_path: Path, tied: bool) -> None:
    model, adapters = with_adapters(EVERYWHERE, tied=tied)
    model.eval()
    sources, options = [pair.source for pair in pairs()], [[t.ids for t in pair.targets] for pair in pairs()]
    expected = rank(model, sources, options)
    plain = save_and_merge(adapters, model, tmp_path / "adapter")
    assert type(plain) is T5ForConditionalGeneration
    assert plain.state_dict().keys() == small_t5().state_dict().keys()
    assert plain.config.tie_word_embeddings is tied
    assert (plain.lm_head.weight is plain.shared.weight) is tied
    for found, right in zip(rank(plain, sources, options), expected, strict=True):
        assert found == pytest.approx(right, rel=1e-5)
    plain.save_pretrained(tmp_path / "plain")
    again = T5ForConditionalGeneration.from_pretrained(tmp_path / "plain").eval()
    assert rank(again, sources, options)[0] == pytest.approx(expected[0], rel=1e-5)
    assert {f.suffix for f in (tmp_path / "adapter").iterdir()} <= {".json", ".safetensors", ".md"}
    loaded = peft.PeftModel.from_pretrained(small_t5(tied=tied), str(tmp_path / "adapter")).eval()
    pair = pairs()[0]
    with torch.no_grad():
        logits = loaded(input_ids=torch.tensor([pair.source]), labels=torch.tensor([pair.targets[0].ids])).logits[0]
    own = -F.cross_entropy(logits, torch.tensor(pair.targets[0].ids)).item()
    assert own == pytest.approx(expected[0][0], rel=1e-5)


def test_the_best_weights_of_a_copy_are_what_is_saved(tmp_path: Path) -> None:
    """A strategy that shards trains one copy, and the best weights are read into another."""
    model, adapters = with_adapters(["q", "v"])
    best, _ = with_adapters(["q", "v"])
    best.load_state_dict({n: w * 2 if "lora_B" in n else w for n, w in model.state_dict().items()})
    best.eval()
    expected = rank(best, [(5, 6, 1)], [[(7, 1)]])
    plain = save_and_merge(adapters, best, tmp_path)
    assert rank(plain, [(5, 6, 1)], [[(7, 1)]])[0] == pytest.approx(expected[0], rel=1e-5)
    loaded = peft.PeftModel.from_pretrained(small_t5(), str(tmp_path)).eval()
    assert rank(loaded.get_base_model(), [(5, 6, 1)], [[(7, 1)]])[0] == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            LoraConfig(target_modules=["q", "query"]),
            r"^method\.lora\.target_modules: .*k, lm_head, o, q, v, wi_0, wi_1, wo, .*query",
        ),
        (LoraConfig(target_modules=[]), r"^method\.lora\.target_modules: "),
        (LoraConfig(r=0), r"^method\.lora: .*\br\b"),
    ],
)
def test_settings_that_can_not_work_are_refused(lora: LoraConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        add_adapters(small_t5(), lora)


def test_all_linear_layers_of_a_decoder_but_its_head_learn_and_merge() -> None:
    model = small_decoder()
    adapters = add_adapters(model, LoraConfig(r=4, alpha=8.0, dropout=0.0, target_modules=["all-linear"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    source, target = (5, 6, 7, 8), TargetText((9, 10, 1), normaliser=1.0, lead=(11, 12))
    loss, losses_M = decoder.token_losses(model, decoder.lay_out([Pair(source, (target,))], model.config))
    loss.backward()
    learning = {
        name.split(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.grad is not None
    }
    assert learning == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    logits = adapters(input_ids=torch.tensor([[*source, *target.lead, *target.ids]])).logits[0, -4:-1]
    expected = F.cross_entropy(logits, torch.tensor(target.ids), reduction="none")
    torch.testing.assert_close(losses_M, expected.detach(), rtol=1e-5, atol=1e-5)
    merged = adapters.merge_and_unload()
    again = decoder.token_losses(merged, decoder.lay_out([Pair(source, (target,))], model.config))[1]
    torch.testing.assert_close(again, losses_M, rtol=1e-4, atol=1e-5)
