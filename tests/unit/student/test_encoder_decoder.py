"""Batches without padding, ranking and generation against transformers' own T5, one text at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from tests.conftest import generated as generate
from tests.conftest import ranked as rank
from tests.conftest import small_t5
from torch import Tensor
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from tinyllm.data.steps import Pair, TargetText
from tinyllm.student import encoder_decoder
from tinyllm.student.cpu_speed import accelerate
from tinyllm.student.encoder_decoder import (
    lay_out,
    mean_by_text,
    read,
    target_states,
    token_losses,
)

CONFIG = small_t5().config
ENDS = [1]
LOWEST = torch.finfo(torch.float32).min


@pytest.fixture(autouse=True)
def many_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases fall into several attention groups."""
    monkeypatch.setattr(encoder_decoder, "ALIKE", 1.25)
    monkeypatch.setattr(encoder_decoder, "FEW", 4)


def relu_t5(layers: int = 1) -> T5ForConditionalGeneration:
    """The first T5's shape: relu, not gated, tied embeddings whose decoder states are scaled."""
    return small_t5(
        seed=3,
        vocab=61,
        tied=True,
        d_model=20,
        d_kv=6,
        d_ff=28,
        num_layers=layers,
        num_decoder_layers=3,
        num_heads=2,
        feed_forward_proj="relu",
        scale_decoder_outputs=True,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        decoder_start_token_id=2,
    )


MODELS: dict[str, Callable[[], T5ForConditionalGeneration]] = {
    "gated, untied": small_t5,
    "gated, tied": lambda: small_t5(tied=True),
    "relu, tied, scaled": relu_t5,
    "accelerated": lambda: fast(small_t5()),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def fast(model: T5ForConditionalGeneration) -> T5ForConditionalGeneration:
    accelerate(model)
    return model


def peaked(model: T5ForConditionalGeneration, seed: int = 0) -> T5ForConditionalGeneration:
    """With weights large enough that generation follows the source, and does not repeat one token."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "layer_norm" not in name:
                value.normal_(std=0.3 if "Dense" in name else 1.0)
    return model.eval()


def texts(count: int, longest: int, vocab: int, seed: int) -> list[tuple[int, ...]]:
    """Token ids with the end token, of mixed lengths that include 1 and the longest."""
    rng = random.Random(seed)
    sizes = [1, longest, *(rng.randrange(1, longest + 1) for _ in range(count - 2))]
    rng.shuffle(sizes)
    return [(*(rng.randrange(3, vocab) for _ in range(size - 1)), 1) for size in sizes]


def mixed_pairs(vocab: int, seed: int = 0) -> list[Pair]:
    """Sources with one to three targets each, far apart in length."""
    rng = random.Random(seed)
    targets = iter(texts(40, 17, vocab, seed + 1))
    pairs = []
    for source in texts(14, 45, vocab, seed):
        own = [next(targets) for _ in range(rng.randrange(1, 4))]
        pairs.append(Pair(source, tuple(TargetText(ids, n, rng.random()) for n, ids in enumerate(own))))
    return pairs


def alone(model: T5ForConditionalGeneration, source: Sequence[int], target: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Last decoder states (as the head reads them) and token losses of one pair, by transformers' own forward."""
    found = model(
        input_ids=torch.tensor([source]), labels=torch.tensor([target]), output_hidden_states=True, use_cache=False
    )
    states = found.decoder_hidden_states[-1][0]
    if model.config.scale_decoder_outputs:
        states = states * model.config.d_model**-0.5
    return states, F.cross_entropy(found.logits[0], torch.tensor(target), reduction="none")


def test_the_layout_by_hand() -> None:
    """Sources and targets lie in order of length; numbers of texts follow the order of the pairs."""
    batch = lay_out(
        [
            Pair((11, 12, 13, 1), (TargetText((21, 22, 1), 0, 0.5),)),
            Pair((14, 1), (TargetText((23, 1), 1, 0.25, 0.4, 0), TargetText((24, 25, 26, 1), 2, 0.125, 0.6, 1))),
        ],
        T5Config(decoder_start_token_id=9),
    )
    assert batch.source_N.tolist() == [14, 1, 11, 12, 13, 1]
    assert batch.label_M.tolist() == [23, 1, 21, 22, 1, 24, 25, 26, 1]
    assert batch.decoder_M.tolist() == [9, 23, 9, 21, 22, 9, 24, 25, 26]
    assert batch.text_M.tolist() == [1, 1, 0, 0, 0, 2, 2, 2, 2]
    assert batch.stream_M.tolist() == [1, 1, 0, 0, 0, 2, 2, 2, 2]
    assert batch.normaliser_M.tolist() == [0.25] * 2 + [0.5] * 3 + [0.125] * 4
    assert batch.normaliser_M.dtype is batch.share_M.dtype is torch.float32
    assert batch.share_M.tolist() == [pytest.approx(share) for share in [0.4] * 2 + [1.0] * 3 + [0.6] * 4]
    assert batch.list_M.tolist() == [0] * 2 + [-1] * 3 + [1] * 4 and batch.lists == 2

    (source,) = batch.source_groups  # few rows share a group, however unlike
    assert (source.start, source.stop, source.rows, source.length) == (0, 6, 2, 4)
    assert source.slot_n.tolist() == [0, 1, 4, 5, 6, 7]
    assert source.mask_R11S.shape == (2, 1, 1, 4)
    assert source.mask_R11S[:, 0, 0].tolist() == [[0, 0, LOWEST, LOWEST], [0, 0, 0, 0]]

    (target,) = batch.target_groups
    assert (target.start, target.stop, target.rows, target.length) == (0, 9, 3, 4)
    assert target.slot_n.tolist() == [0, 1, 4, 5, 6, 8, 9, 10, 11]

    (cross,) = batch.cross_groups  # the sources of the targets, row by row: second, first, second
    assert (cross.rows, cross.length) == (3, 4)
    assert cross.slot_n.tolist() == [0, 1, 4, 5, 6, 7, 8, 9]
    assert batch.cross_n.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert batch.tokens == 15


def test_groups_hold_like_lengths_and_every_token_once() -> None:
    lengths = [2] * 5 + [3, 40, 41, 50, 51, 52, 100]
    pairs = [Pair((5,) * n, (TargetText((6,) * n),)) for n in reversed(lengths)]
    batch = lay_out(pairs, CONFIG)
    assert len(batch.source_groups) > 1
    for groups in (batch.source_groups, batch.target_groups):
        assert [group.start for group in groups] == [0, *(group.stop for group in groups[:-1])]
        assert groups[-1].stop == sum(lengths)
        assert sum(group.rows for group in groups) == len(lengths)
        for group in groups:
            assert group.slot_n.numel() == group.stop - group.start == int((group.mask_R11S == 0).sum())
            assert group.slot_n.unique().numel() == group.slot_n.numel()
            held = (group.mask_R11S[:, 0, 0] == 0).sum(dim=1)
            assert int(held.max()) == group.length
            assert group.rows <= encoder_decoder.FEW or int(held.max()) <= encoder_decoder.ALIKE * int(held.min())
        assert sum(group.rows * group.length for group in groups) < 0.5 * len(lengths) * max(lengths)  # of one group


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one pair"),
        ([Pair((), (TargetText((1,)),))], "each with a source"),
        ([Pair((5, 1), ())], "a target of one token or more"),
        ([Pair((5, 1), (TargetText((6, 1)), TargetText(())))], "found an empty one"),
    ],
)
def test_an_empty_part_is_refused(pairs: list[Pair], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lay_out(pairs, CONFIG)


def test_a_batch_moves_to_a_device_as_a_whole() -> None:
    batch = lay_out(mixed_pairs(97), CONFIG).to("meta")
    tensors = [value for name in batch.__slots__ if isinstance(value := getattr(batch, name), Tensor)]
    for group in (*batch.source_groups, *batch.target_groups, *batch.cross_groups):
        tensors += [group.slot_n, group.mask_R11S]
        assert isinstance(group.rows, int)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@each_model
def test_states_and_losses_equal_transformers_one_text_at_a_time(make) -> None:
    model = make().eval()
    pairs = mixed_pairs(model.config.vocab_size)
    batch = lay_out(pairs, model.config)
    assert len(batch.source_groups) > 2 and len(batch.target_groups) > 2
    states_MD = target_states(model, batch)
    total, losses_M = token_losses(model, batch)
    assert not losses_M.requires_grad
    number, expected_total = 0, 0.0
    for pair in pairs:
        for target in pair.targets:
            states, losses = alone(model, pair.source, target.ids)
            here = batch.text_M == number
            assert batch.label_M[here].tolist() == list(target.ids)
            torch.testing.assert_close(states_MD[here], states, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(losses_M[here], losses.detach(), rtol=1e-4, atol=1e-5)
            expected_total += target.normaliser * losses.sum().item()
            number += 1
    assert number == int(batch.text_M.max()) + 1
    assert total.item() == pytest.approx(expected_total, rel=1e-5)


@each_model
def test_gradients_equal_transformers_one_text_at_a_time(make) -> None:
    ours, theirs = make(), make()
    pairs = mixed_pairs(ours.config.vocab_size, seed=5)
    token_losses(ours, lay_out(pairs, ours.config))[0].backward()
    for pair in pairs:
        for target in pair.targets:
            (alone(theirs, pair.source, target.ids)[1].sum() * target.normaliser).backward()
    for (name, own), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert float((own.grad - expected.grad).norm()) <= 2e-5 * float(expected.grad.norm()) + 1e-8, name


def test_the_order_of_pairs_changes_nothing() -> None:
    model = small_t5().eval()
    pairs = [Pair(pair.source, pair.targets[:1]) for pair in mixed_pairs(97)]
    forth, back = (lay_out(part, CONFIG) for part in (pairs, pairs[::-1]))
    means = [mean_by_text(token_losses(model, batch)[1], batch.text_M) for batch in (forth, back)]
    torch.testing.assert_close(means[0], means[1].flip(0), rtol=1e-5, atol=1e-6)


def test_a_head_that_can_not_be_read_is_called() -> None:
    """As LoRA wraps it: a subclass of Linear whose forward adds something."""

    class Doubled(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = small_t5().eval()
    head = Doubled(24, 97, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    for block in model.decoder.block:  # and a layer of cross-attention too
        layer = Doubled(24, 24, bias=False)
        layer.weight = block.layer[1].EncDecAttention.k.weight
        block.layer[1].EncDecAttention.k = layer
    pair = Pair((7, 8, 9, 1), (TargetText((5, 6, 1), 0, 0.5),))
    total, losses_M = token_losses(model, lay_out([pair], CONFIG))
    expected = alone(model, pair.source, pair.targets[0].ids)[1]
    torch.testing.assert_close(losses_M, expected.detach(), rtol=1e-4, atol=1e-5)
    assert total.item() == pytest.approx(0.5 * expected.sum().item(), rel=1e-5)
    total.backward()
    assert head.weight.grad is not None and not losses_M.requires_grad


def test_dropout_of_training_is_seeded_and_off_in_evaluation() -> None:
    model = fast(small_t5(dropout=0.3))
    batch = lay_out(mixed_pairs(97), CONFIG)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return token_losses(model, batch)[0].item()

    model.train()
    assert loss(0) == loss(0) != loss(1)
    model.eval()
    assert loss(0) == loss(1) == pytest.approx(token_losses(small_t5().eval(), batch)[0].item(), rel=1e-5)


def test_attention_weights_are_dropped_too() -> None:
    """With every other dropout off, training mode must still differ: transformers drops attention weights."""
    model = small_t5(dropout=0.3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    batch = lay_out(mixed_pairs(97), CONFIG)
    first, second = (token_losses(model, batch)[0].item() for _ in range(2))
    assert first != second


def test_under_bf16_autocast_states_are_near() -> None:
    model = fast(small_t5()).eval()
    batch = lay_out(mixed_pairs(97), CONFIG)
    exact = token_losses(model, batch)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, losses_M = token_losses(model, batch)
    assert losses_M.dtype is torch.float32 and bool(losses_M.isfinite().all())
    assert float((losses_M - exact).norm() / exact.norm()) < 2e-2
    total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_bf16_weights_give_near_losses() -> None:
    """As DeepSpeed trains them, without autocast: an fp32 mask overflows in bf16."""
    pairs = [Pair((5, 6, 7), (TargetText((8, 9, 1), normaliser=0.5), TargetText((4, 1), normaliser=0.5)))]
    model = small_t5()
    batch = encoder_decoder.lay_out(pairs, model.config)
    expected, _ = encoder_decoder.token_losses(model, batch)
    found, _ = encoder_decoder.token_losses(model.bfloat16(), batch)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0)


def test_mean_by_text_by_hand() -> None:
    losses, numbers = torch.tensor([1.0, 3.0, 5.0, 4.0, 6.0]), torch.tensor([1, 1, 2, 0, 0])
    assert mean_by_text(losses, numbers).tolist() == [5.0, 2.0, 5.0]


@each_model
def test_ranking_equals_one_option_at_a_time(make) -> None:
    model = make().eval()
    vocab = model.config.vocab_size
    sources = texts(6, 30, vocab, 11)
    flat = iter(texts(17, 9, vocab, 12))
    options = [[next(flat) for _ in range(count)] for count in (2, 3, 4, 2, 5, 1)]
    options[2][1] = options[2][3]  # two equal options have one score
    scores = rank(model, sources, options)
    assert [len(row) for row in scores] == [2, 3, 4, 2, 5, 1]
    for source, own, row in zip(sources, options, scores, strict=True):
        naive = [-alone(model, source, option)[1].mean().item() for option in own]
        assert row == pytest.approx(naive, rel=1e-4, abs=1e-5)
    assert scores[2][1] == pytest.approx(scores[2][3], rel=1e-6)
    assert not any(p.grad is not None for p in model.parameters())


def test_ranking_and_generation_read_each_question_once() -> None:
    model = small_t5().eval()
    seen: list[int] = []
    model.encoder.block[0].register_forward_hook(lambda *_: seen.append(-1))
    model.encoder.final_layer_norm.register_forward_hook(lambda _, __, hidden: seen.append(hidden.shape[0]))
    memory = read(model, [(5, 6, 1), (7, 8, 9, 1)])
    encoder_decoder.rank(model, memory, [[(3, 1), (4, 1), (5, 1)], [(3, 1), (4, 1)]])
    encoder_decoder.generate(model, memory, ends=ENDS, max_new_tokens=4)
    assert seen == [7]


def test_ranking_leaves_no_graph() -> None:
    model = small_t5()
    with torch.enable_grad():
        assert isinstance(rank(model, [(5, 1)], [[(6, 1), (7, 1)]])[0][0], float)
        assert torch.is_grad_enabled()


def generate_alone(model: T5ForConditionalGeneration, source: Sequence[int], count: int) -> list[int]:
    """Greedy, by the definition: the most likely next token, the whole forward each time."""
    made: list[int] = []
    for _ in range(count):
        start = model.config.decoder_start_token_id
        logits = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *made]]), use_cache=False
        ).logits
        token = int(logits[0, -1].argmax())
        if token == model.config.eos_token_id:
            break
        made.append(token)
    return made


def deep_relu_t5() -> T5ForConditionalGeneration:
    """transformers' cache has as many layers as the encoder: generation fails where the decoder has more."""
    return relu_t5(layers=3)


@pytest.mark.parametrize("make", [small_t5, deep_relu_t5, MODELS["accelerated"]], ids=["gated", "relu", "accelerated"])
def test_generation_of_a_batch_equals_one_question_at_a_time(make) -> None:
    model = peaked(make())
    sources = texts(9, 30, model.config.vocab_size, 21)
    found = generate(model, sources, max_new_tokens=12)
    with torch.no_grad():
        assert found == [generate_alone(model, source, 12) for source in sources]
    for source, row in zip(sources, found, strict=True):
        assert generate(model, [source], max_new_tokens=12) == [row]
    assert len({tuple(row) for row in found}) > 4  # they do follow their sources


def test_generation_ends_at_the_end_token() -> None:
    """Rows that end early are cut there, with neither the end token nor the padding after it."""
    model = peaked(small_t5(), seed=1)
    likelier = torch.zeros(97).index_fill(0, torch.tensor([1]), 4.0)
    model.lm_head.register_forward_hook(lambda _, __, logits: logits + likelier)
    sources = texts(20, 20, 97, 22)
    found = generate(model, sources, max_new_tokens=25)
    with torch.no_grad():
        assert found == [generate_alone(model, source, 25) for source in sources]
    lengths = {len(row) for row in found}
    assert min(lengths) < 25 == max(lengths), "the case needs rows that end early and rows that do not"
    assert all(1 not in row for row in found)


@pytest.mark.parametrize("count", [1, 20, 21, 70])
def test_generation_gives_as_many_tokens_as_asked(count: int) -> None:
    """The paper's code cut at 64 tokens, and a model's own settings often stop at 20."""
    model = peaked(small_t5())
    model.generation_config.max_length = 20
    model.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor([1]), -1e9))
    (row,) = generate(model, [(7, 8, 9, 1)], max_new_tokens=count)
    assert len(row) == count


def test_generation_is_greedy_whatever_the_model_folder_says() -> None:
    model = peaked(small_t5())
    sources = texts(5, 20, 97, 23)
    expected = generate(model, sources, max_new_tokens=8)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    model.generation_config.num_beams = 3
    model.generation_config.repetition_penalty = 9.0
    assert generate(model, sources, max_new_tokens=8) == expected
