"""The packed loss and its gradients against the plain way: a forward per stream, sources padded to a fixed length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.conftest import small_t5
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tinyllm.config import Reduction, StreamLoss
from tinyllm.data.steps import MicroBatch, Pair, StreamDataset, TargetText
from tinyllm.methods import Stream, single_target
from tinyllm.student.cpu_speed import accelerate
from tinyllm.student.encoder_decoder import lay_out
from tinyllm.student.losses import stream_losses
from tinyllm.student.module import StudentModule
from tinyllm.student.student import Student

CONFIG = small_t5().config
SOURCE, TARGET = 40, 30
ALPHAS = (0.5, 1.0, 3.0)


class Sources:
    """Given source tokens of a question, prefix and option, as a stand-in for SourceTokens."""

    def __init__(self, sources: dict[tuple[str, str, int], tuple[int, ...]]) -> None:
        self.sources = sources

    def source(self, question_id: str, prefix: str, option: int = 0, perturbation: None = None) -> tuple[int, ...]:
        return self.sources[question_id, prefix, option]

    def lead(self, prefix: str) -> tuple[int, ...]:
        return ()


def make_case(teachers: int, questions: int, missing: bool, seed: int = 0, extra: Sequence[str] = ()):
    """Streams of one text a question, and those of `extra`, whose targets are several texts with shares.

    `shares` is as of standard KD. The texts compete in `listwise`; in `by_option`, each is read with its own source.
    """
    rng = random.Random(seed)
    ids = [f"q{i}" for i in range(questions)]
    names = ["answer", *(f"t{m}" for m in range(teachers))]
    weights = [1.0, *ALPHAS[:teachers]]
    streams, targets, sources = [], [], {}
    for name, weight in zip(names, weights, strict=True):
        chosen = [i for i in ids if not (missing and name == "t0" and i in ("q1", "q4"))]
        streams.append(Stream(name, f"{name}: ", weight, single_target(dict.fromkeys(chosen, "text"))))
        targets.append({i: [(text(rng), 1.0)] for i in chosen})
        for i in ids:
            sources[i, f"{name}: ", 0] = text(rng, 30)
    for number, name in enumerate(extra):
        loss = StreamLoss.tokens if name == "shares" else StreamLoss.listwise
        streams.append(Stream(name, f"{name}: ", 0.7 + number, {}, loss))
        chosen = [i for i in ids if not (missing and i in ("q2", "q3"))]
        targets.append({i: with_shares(rng, 1 + n % 4) for n, i in enumerate(chosen)})
        for i in ids:
            own = [text(rng, 30) for _ in range(4)]
            sources |= {(i, f"{name}: ", n): own[n if name == "by_option" else 0] for n in range(4)}
    return ids, streams, targets, Sources(sources)


def text(rng: random.Random, longest: int = 20) -> tuple[int, ...]:
    return (*(rng.randrange(2, 97) for _ in range(rng.randrange(1, longest))), 1)


def with_shares(rng: random.Random, count: int) -> list[tuple[tuple[int, ...], float]]:
    parts = [rng.random() * (n != 2) for n in range(count)]  # the third of three or four has no share
    return [(text(rng), part / sum(parts)) for part in parts]


def plain_loss(
    model: T5ForConditionalGeneration, ids, streams: Sequence[Stream], targets, sources: Sources, reduction: Reduction
) -> torch.Tensor:
    """Equations 2 to 4, written plainly."""
    total = torch.zeros(())
    for stream, texts in zip(streams, targets, strict=True):
        present = [(i, n, label, share) for i in ids if i in texts for n, (label, share) in enumerate(texts[i])]
        input_ids = torch.zeros(len(present), SOURCE, dtype=torch.long)
        mask = torch.zeros(len(present), SOURCE, dtype=torch.long)
        labels = torch.full((len(present), TARGET), -100)
        for row, (i, n, label, _) in enumerate(present):
            source = sources.source(i, stream.prefix, n)
            input_ids[row, : len(source)] = torch.tensor(source)
            mask[row, : len(source)] = 1
            labels[row, : len(label)] = torch.tensor(label)
        logits = model(input_ids=input_ids, attention_mask=mask, labels=labels).logits
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        share = torch.tensor([share for _, _, _, share in present])
        if stream.loss is StreamLoss.listwise:
            scores = -losses.sum(dim=1) / (labels != -100).sum(dim=1)
            rows = [torch.tensor([row for row, one in enumerate(present) if one[0] == i]) for i in ids if i in texts]
            each = [-(share[own] * torch.log_softmax(scores[own], 0)).sum() for own in rows]
            term = sum(each) / (len(each) if reduction is Reduction.token else len(ids))
        elif reduction is Reduction.token:
            term = (losses.sum(dim=1) * share).sum() / ((labels != -100).sum(dim=1) * share).sum()
        else:
            term = (losses.sum(dim=1) / (labels != -100).sum(dim=1) * share).sum() / len(ids)
        total = total + stream.weight * term
    return total


def module(model: T5ForConditionalGeneration, streams: Sequence[Stream]) -> StudentModule:
    return StudentModule(Student(model, None, "predict: "), {s.name: s.weight for s in streams}, lr=1.0)  # type: ignore[arg-type]


def gradients(model: T5ForConditionalGeneration) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize(
    ("teachers", "extra"),
    [(0, []), (1, []), (2, []), (3, []), (0, ["shares"]), (1, ["listwise"]), (1, ["by_option", "shares", "listwise"])],
    ids=str,
)
def test_loss_and_gradients_equal_the_plain_way(
    teachers: int, extra: list[str], reduction: Reduction, missing: bool, tied: bool, record_property
) -> None:
    ids, streams, targets, sources = make_case(teachers, 6, missing, extra=extra)
    plain, ours = small_t5(tied=tied), small_t5(tied=tied)
    expected = plain_loss(plain, ids, streams, targets, sources, reduction)
    expected.backward()
    accelerate(ours)
    dataset = StreamDataset(
        ids, sources, streams, targets, reduction=reduction,
        lay_out=lambda pairs: lay_out(pairs, CONFIG),
    )  # fmt: skip
    everything = tuple(range(len(ids)))
    batch = dataset[MicroBatch(everything, everything, 1)]
    loss, losses_M = module(ours, streams).losses(batch)
    loss.backward()
    terms = stream_losses(losses_M, batch, len(streams)).tolist()
    assert sum(s.weight * term for s, term in zip(streams, terms, strict=True)) == pytest.approx(loss.item(), rel=1e-6)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs, mine = gradients(plain), gradients(ours)
    assert theirs.keys() == mine.keys()
    worst = max(float((mine[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs if theirs[n].norm() > 0)
    record_property("largest_relative_difference", worst)
    assert worst < 1e-5


@pytest.mark.parametrize("reduction", list(Reduction))
def test_a_step_is_the_same_however_it_is_split(reduction: Reduction) -> None:
    ids, streams, targets, sources = make_case(2, 7, missing=True, seed=3, extra=["by_option", "shares"])
    dataset = StreamDataset(
        ids, sources, streams, targets, reduction=reduction, lay_out=lambda pairs: lay_out(pairs, CONFIG)
    )
    step = tuple(range(7))
    whole = small_t5()
    module(whole, streams).losses(dataset[MicroBatch(step, step, 1)])[0].backward()
    for parts in (2, 4, 8):  # 8 parts of 7 questions: one is empty
        split = small_t5()
        for part in range(parts):
            loss, _ = module(split, streams).losses(dataset[MicroBatch(step[part::parts], step, parts)])
            (loss / parts).backward()
        for name, gradient in gradients(whole).items():
            torch.testing.assert_close(split.get_parameter(name).grad, gradient, rtol=2e-4, atol=1e-6)


def test_an_empty_rationale_never_becomes_a_target(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target"):
        lay_out([Pair((5, 1), (TargetText((), 0, 1.0),))], CONFIG)


def test_normalisers_by_hand() -> None:
    """Two questions, one with targets of 2 and 4 tokens: each token counts 1 / (tokens * questions) in its stream."""
    streams = [
        Stream("answer", "answer: ", 1.0, single_target({"a": "x", "b": "x"})),
        Stream("t", "t: ", 0.5, single_target({"a": "x"})),
    ]
    targets = [{"a": [((5, 1), 1.0)], "b": [((5, 6, 7, 1), 1.0)]}, {"a": [((8, 9, 9, 9, 1), 1.0)]}]
    sources = Sources({(i, f"{n}: ", 0): (4, 1) for i in "ab" for n in ("answer", "t")})
    dataset = StreamDataset(
        ["a", "b"], sources, streams, targets, reduction=Reduction.example,
        lay_out=lambda pairs: lay_out(pairs, CONFIG),
    )  # fmt: skip
    batch = dataset[MicroBatch((0, 1), (0, 1), 1)]
    normalisers = {text: batch.normaliser_M[batch.text_M == text].tolist() for text in range(3)}
    assert normalisers == {0: [0.25] * 2, 1: [0.125] * 4, 2: [pytest.approx(0.1)] * 5}
