"""Trees of one prompt with many continuations against transformers' own forward, one text at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.conftest import small_decoder
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from tinyllm.config import Accelerator
from tinyllm.data.steps import Pair, TargetText
from tinyllm.errors import UserError
from tinyllm.student import decoder
from tinyllm.student.decoder import check, generate, lay_out, prepare, rank, read, token_losses
from tinyllm.student.family import family_of
from tinyllm.student.losses import mean_by_text

LEADS = ((90, 91), (92,), (93, 94, 95))


def fast(model: PreTrainedModel) -> PreTrainedModel:
    prepare(model, Accelerator.cpu)
    return model


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": small_decoder,
    "llama, tied": lambda: small_decoder(tie_word_embeddings=True),
    "llama, one head of keys": lambda: small_decoder(num_key_value_heads=1),
    "llama, prepared": lambda: fast(small_decoder()),
    "qwen3": lambda: small_decoder("qwen3"),
    "qwen3, prepared": lambda: fast(small_decoder("qwen3")),
    "gemma3": lambda: small_decoder("gemma3"),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "TOGETHER", 20)


def text(rng: random.Random, longest: int) -> tuple[int, ...]:
    return (*(rng.randrange(3, 90) for _ in range(rng.randrange(longest))), 1)


def mixed_pairs(seed: int = 0) -> list[Pair]:
    """Sources with one to five targets, several behind one lead, far apart in length; longer than Gemma's window."""
    rng = random.Random(seed)
    return [
        Pair(
            (n + 3, *text(rng, 40)),
            tuple(
                TargetText(text(rng, 20), i, rng.random(), lead=rng.choice(LEADS)) for i in range(rng.randrange(1, 6))
            ),
        )
        for n in range(9)
    ]


def alone(model: PreTrainedModel, source: Sequence[int], lead: Sequence[int], ids: Sequence[int]) -> Tensor:
    """Token losses of one text, by transformers' own forward."""
    logits = model(input_ids=torch.tensor([[*source, *lead, *ids]]), use_cache=False).logits[0]
    return F.cross_entropy(logits[-len(ids) - 1 : -1], torch.tensor(ids), reduction="none")


def plain(model: PreTrainedModel) -> PreTrainedModel:
    model.set_attn_implementation("eager")
    return model


def test_the_layout_by_hand() -> None:
    """A question, then lead by lead in order of length, and behind each its targets; last tokens have no place."""
    batch = lay_out(
        [
            Pair((11, 12), (TargetText((21, 22, 1), 0, 0.5, lead=(31, 32)), TargetText((23, 1), 1, 0.25, lead=(33,)))),
            Pair((13,), (TargetText((24, 1), 0, 0.5, 0.4, 0, (31,)), TargetText((25, 1), 0, 0.5, 0.6, 0, (31,)))),
        ],
        small_decoder().config,
    )
    assert batch.token_N.tolist() == [11, 12, 33, 23, 31, 32, 21, 22, 13, 31, 24, 25]
    assert batch.nodes.question_N.tolist() == [0] * 8 + [1] * 4
    assert batch.nodes.position_N.tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 0, 1, 2, 2]
    assert batch.nodes.node_N.tolist() == [0, 0, 1, 2, 3, 3, 4, 4, 0, 1, 2, 3]
    assert batch.nodes.lead_N.tolist() == [0, 0, 1, 1, 3, 3, 3, 3, 0, 1, 1, 1]
    assert batch.state_M.tolist() == [2, 3, 5, 6, 7, 9, 10, 9, 11]
    assert batch.label_M.tolist() == [23, 1, 21, 22, 1, 24, 1, 25, 1]
    assert batch.text_M.tolist() == [1, 1, 0, 0, 0, 2, 2, 3, 3]
    assert batch.list_M.tolist() == [-1] * 5 + [0] * 4 and batch.lists == 1
    assert [(b.start, b.stop, b.prompt_start, b.prompt_stop) for b in batch.blocks] == [(0, 8, 0, 0), (8, 12, 0, 0)]
    assert batch.tokens == 12


def test_long_texts_have_blocks_of_their_own() -> None:
    """Every token is in one block; a block without its question is told where the question's keys are."""
    batch = lay_out(mixed_pairs(), small_decoder().config)
    assert [b.start for b in batch.blocks] == [0, *(b.stop for b in batch.blocks[:-1])]
    assert batch.blocks[-1].stop == batch.tokens
    apart = [b for b in batch.blocks if b.prompt_stop > b.prompt_start]
    assert len(apart) > 3
    for block in apart:
        own = batch.nodes.question_N == batch.nodes.question_N[block.start]
        expected = (own & (batch.nodes.node_N == 0)).nonzero()[:, 0].tolist()
        assert list(range(block.prompt_start, block.prompt_stop)) == expected


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one pair"),
        ([Pair((), (TargetText((1,)),))], "each with a source"),
        ([Pair((5, 1), (TargetText((6, 1)), TargetText(())))], "found an empty one"),
    ],
)
def test_an_empty_part_is_refused(pairs: list[Pair], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lay_out(pairs, small_decoder().config)


def test_a_batch_moves_to_a_device_as_a_whole() -> None:
    batch = lay_out(mixed_pairs(), small_decoder().config).to("meta")
    tensors = [value for name in batch.__slots__ if isinstance(value := getattr(batch, name), Tensor)]
    tensors += [getattr(batch.nodes, name) for name in batch.nodes.__slots__]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert isinstance(batch.blocks[0].start, int)


@each_model
def test_losses_and_gradients_equal_transformers_one_text_at_a_time(make, record_property) -> None:
    ours, theirs = make(), plain(make())
    pairs = mixed_pairs()
    batch = lay_out(pairs, ours.config)
    total, losses_M = token_losses(ours, batch)
    total.backward()
    assert not losses_M.requires_grad
    number, expected_total = 0, 0.0
    for pair in pairs:
        for target in pair.targets:
            losses = alone(theirs, pair.source, target.lead, target.ids)
            (losses.sum() * target.normaliser).backward()
            expected_total += target.normaliser * losses.sum().item()
            here = batch.text_M == number
            assert batch.label_M[here].tolist() == list(target.ids)
            torch.testing.assert_close(losses_M[here], losses.detach(), rtol=1e-5, atol=1e-5)
            number += 1
    assert number == int(batch.text_M.max()) + 1
    assert total.item() == pytest.approx(expected_total, rel=1e-5)
    worst = 0.0
    for (name, own), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert expected.grad is not None and float(expected.grad.norm()) > 0, name
        worst = max(worst, float((own.grad - expected.grad).norm() / expected.grad.norm()))
    record_property("largest_relative_difference", worst)
    assert worst < 1e-5


def test_one_masked_product_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other devices than a processor compute."""
    model = small_decoder("gemma3")
    batch = lay_out(mixed_pairs(), model.config)
    blocks = token_losses(model, batch)
    blocks[0].backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(decoder, "_by_block", lambda query: False)
    whole = token_losses(model, batch)
    whole[0].backward()
    torch.testing.assert_close(whole[1], blocks[1], rtol=1e-5, atol=1e-5)
    for own, other in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(own.grad, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_flex_attention_sees_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not compiled, and forward alone: what a processor can do of it. `test_gpu` does the rest."""
    model = small_decoder(kind, head_dim=16).eval()
    pairs = [pair for seed in range(3) for pair in mixed_pairs(seed)]
    sources, options = [pair.source for pair in pairs], [[target.ids for target in pair.targets] for pair in pairs]

    @torch.no_grad()
    def found() -> Tensor:
        losses_M = token_losses(model, lay_out(pairs, model.config))[1]
        scores = rank(model, read(model, sources), options, (90,))
        return torch.cat([losses_M, torch.tensor([s for own in scores for s in own])])

    expected = found()
    monkeypatch.setattr(decoder, "_by_block", lambda query: False)
    monkeypatch.setattr(decoder, "FLEX_FROM", 0)
    monkeypatch.setattr(decoder, "_flex", lambda: flex_attention)
    torch.testing.assert_close(found(), expected, rtol=1e-5, atol=1e-5)
    batch = lay_out(pairs, model.config)
    mask = decoder._Tree(batch.nodes, batch.blocks, None).block_mask(None)
    assert mask.to_dense().sum() < 0.7 * mask.to_dense().numel()  # blocks are skipped


def test_without_a_compiler_masked_products_take_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_decoder()
    batch = lay_out(mixed_pairs(), model.config)
    expected = token_losses(model, batch)[1]
    tried = []

    def broken(*arguments: object, **options: object) -> Tensor:
        tried.append(arguments)
        raise torch._dynamo.exc.TorchDynamoException("Failed to find C compiler")

    monkeypatch.setattr(decoder, "_by_block", lambda query: False)
    monkeypatch.setattr(decoder, "FLEX_FROM", 0)
    monkeypatch.setattr(decoder, "_flex", lambda: broken)
    torch.testing.assert_close(token_losses(model, batch)[1], expected, rtol=1e-5, atol=1e-5)
    assert len(tried) == 1 and caplog.text.count("Failed to find C compiler") == 1


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_bf16_is_near_and_keeps_no_attention_weights(kind: str) -> None:
    """Nothing that backward keeps has the size of a question's attention weights."""
    model = fast(small_decoder(kind))
    source, targets = tuple(range(3, 90)) * 2, [TargetText((*range(3, 60), 1), i, 1.0, lead=LEADS[i]) for i in range(2)]
    batch = lay_out([Pair(source, tuple(targets))], model.config)
    exact = token_losses(model, batch)[1]
    kept: list[Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with torch.autocast("cpu", dtype=torch.bfloat16), hooks:
        total, losses_M = token_losses(model, batch)
    total.backward()
    torch.testing.assert_close(losses_M, exact, rtol=0.1, atol=0.1)
    assert max(t.numel() for t in kept) < len(source) * len(source)


def test_the_order_of_pairs_changes_nothing() -> None:
    model = small_decoder().eval()
    pairs = [Pair(pair.source, pair.targets[:1]) for pair in mixed_pairs()]
    forth, back = (lay_out(part, model.config) for part in (pairs, pairs[::-1]))
    means = [mean_by_text(token_losses(model, batch)[1], batch.text_M) for batch in (forth, back)]
    torch.testing.assert_close(means[0], means[1].flip(0), rtol=1e-5, atol=1e-6)


@each_model
def test_option_scores_equal_one_forward_an_option(make) -> None:
    model = make().eval()
    rng = random.Random(4)
    sources = [(*text(rng, 40), 5) for _ in range(6)]
    options = [[text(rng, 25) for _ in range(rng.randrange(2, 6))] for _ in sources]
    found = rank(model, read(model, sources), options, LEADS[2])
    plain(model)
    with torch.no_grad():
        for source, own, scores in zip(sources, options, found, strict=True):
            expected = [-alone(model, source, LEADS[2], ids).mean().item() for ids in own]
            assert scores == pytest.approx(expected, rel=1e-5, abs=1e-5)


@each_model
def test_generation_of_a_batch_equals_plain_generate_one_question_at_a_time(make) -> None:
    model = make().eval()
    rng = random.Random(7)
    sources = [(*text(rng, 40), 5) for _ in range(9)]
    ends = [1, 17, 40]
    found = generate(model, read(model, sources), LEADS[0], ends=ends, max_new_tokens=14)
    plain(model)
    expected = []
    for source in sources:
        prompt = torch.tensor([[*source, *LEADS[0]]])
        settings: dict[str, Any] = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": ends, "pad_token_id": 0}
        row = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[0, prompt.shape[1] :].tolist()
        expected.append(row[: next((i for i, token in enumerate(row) if token in ends), None)])
    assert found == expected
    assert len({tuple(row) for row in found}) > 4


def test_rows_that_end_early_leave_the_others_alone() -> None:
    model = small_decoder().eval()
    rng = random.Random(9)
    sources = [(*text(rng, 30), 5) for _ in range(24)]
    free = generate(model, read(model, sources), LEADS[0], ends=[], max_new_tokens=12)
    ends = {row[i % 11] for i, row in enumerate(free) if i % 2}
    found = generate(model, read(model, sources), LEADS[0], ends=ends, max_new_tokens=12)
    assert found == [row[: next((i for i, t in enumerate(row) if t in ends), None)] for row in free]
    assert len({len(row) for row in found}) > 3 and all(len(row) == 12 for row in free)


def test_generation_is_greedy_whatever_the_model_folder_says() -> None:
    model = small_decoder().eval()
    memory = read(model, [(5, 6, 7), (8, 9)])
    expected = generate(model, memory, (90,), ends=[1], max_new_tokens=8)
    for name, value in {
        "do_sample": True, "temperature": 5.0, "num_beams": 3, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1,
        "min_new_tokens": 8, "bad_words_ids": [[expected[0][0]]],
    }.items():  # fmt: skip
        setattr(model.generation_config, name, value)
    assert generate(model, read(model, [(5, 6, 7), (8, 9)]), (90,), ends=[1], max_new_tokens=8) == expected


def test_reading_once_serves_ranking_and_generation_in_either_order() -> None:
    model = small_decoder().eval()
    sources, options = [(5, 6, 7), (8, 9)], [[(3, 1), (4, 1)]] * 2
    memory = read(model, sources)
    made = generate(model, memory, (90,), ends=[], max_new_tokens=5)
    scores = rank(model, memory, options, (90,))
    assert generate(model, memory, (90,), ends=[], max_new_tokens=5) == made
    assert rank(model, read(model, sources), options, (90,)) == scores
    assert not any(p.grad is not None for p in model.parameters())


def test_the_family_follows_the_model() -> None:
    assert family_of(small_decoder().config) is decoder


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_served_architectures_pass_the_check(kind: str) -> None:
    check(small_decoder(kind), "model")


def test_an_architecture_that_computes_something_else_is_refused() -> None:
    """Logits with a cap: the head alone does not give them."""
    with pytest.raises(
        UserError, match=r"student.pretrained=capped: decoders of model_type gemma3_text are not supported"
    ):
        check(small_decoder("gemma3", final_logit_softcapping=2.0), "capped")


def test_an_architecture_with_attention_of_its_own_is_refused() -> None:
    """Bloom's positions are biases of its own attention, which transformers lets nobody replace."""
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=24, n_layer=2, n_head=3))
    with pytest.raises(UserError, match="decoders of model_type bloom are not supported") as found:
        check(model, "bloom")
    assert len(str(found.value).splitlines()) == 1


def test_a_window_that_only_a_mask_knows_of_is_refused() -> None:
    """On a text within the window there is nothing to see."""
    fields: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2,
    }  # fmt: skip
    windows = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    torch.manual_seed(0)
    check(Qwen2ForCausalLM(Qwen2Config(**fields, **windows)), "passed on to attention")
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**fields, **windows, **experts, shared_expert_intermediate_size=16))
    with pytest.raises(UserError, match=r"student\.pretrained=moe: decoders of model_type qwen2_moe"):
        check(model, "moe")


@pytest.mark.parametrize("original", [32, 4096])
def test_positions_that_depend_on_the_longest_text_are_refused_where_they_would(original: int) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = small_decoder(max_position_embeddings=original, rope_parameters=rope)
    if original > 2048:
        check(model, "long")
    else:
        with pytest.raises(UserError, match="rope_type=dynamic beyond 32 tokens"):
            check(model, "short")


def test_attention_dropout_is_refused() -> None:
    with pytest.raises(UserError, match=r"attention_dropout=0.1 in its config.json: .* set it to 0"):
        check(small_decoder(attention_dropout=0.1), "dropping")
