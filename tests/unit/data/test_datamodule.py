"""Optimizer steps planned ahead, the normaliser of every target, and batches of questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import T5Config

from tinyllm.config import Reduction, StreamLoss
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.data.question_batches import question_batches
from tinyllm.data.steps import MicroBatch, Pair, StepSampler, StreamDataset, TargetIds
from tinyllm.data.tokens import SourceTokens
from tinyllm.methods import Stream, single_target
from tinyllm.records import Question
from tinyllm.student.encoder_decoder import lay_out
from tinyllm.student.tokenizer import train_tokenizer


def sampler(
    count: int = 203, *, batch_size: int = 8, accumulate_grad_batches: int = 1, seed: int = 0, **options: bool
) -> StepSampler:
    rng = random.Random(7)
    lengths = [rng.randrange(5, 300) for _ in range(count)]
    chosen = {"shuffle": True, "group_by_length": True} | options
    return StepSampler(
        lengths, batch_size=batch_size, accumulate_grad_batches=accumulate_grad_batches, seed=seed, **chosen
    )


def spread(plan: StepSampler) -> float:
    """Mean difference of the longest and the shortest question of a step."""
    sizes = [[plan.lengths[i] for i in step] for step in plan.steps()]
    return sum(max(step) - min(step) for step in sizes) / len(sizes)


@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("count", "batch_size"), [(203, 8), (200, 8), (5, 8), (1000, 2), (1, 1)])
def test_every_question_stands_once_in_an_epoch(
    count: int, batch_size: int, shuffle: bool, group_by_length: bool
) -> None:
    plan = sampler(count, batch_size=batch_size, shuffle=shuffle, group_by_length=group_by_length)
    for epoch in range(3):
        plan.set_epoch(epoch)
        assert sorted(chain.from_iterable(plan.steps())) == list(range(count))
        sizes = sorted((len(step) for step in plan.steps()), reverse=True)
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert len(plan) == len(list(plan)) == len(sizes)


def test_order_follows_seed_and_epoch_alone() -> None:
    first = sampler(seed=3)
    assert first.steps() == sampler(seed=3).steps()
    assert first.steps() != sampler(seed=4).steps()
    epochs = []
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(first.steps())
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    first.set_epoch(1)
    assert first.steps() == epochs[1]
    random.seed(99)  # the global generator has no part in it
    assert first.steps() == epochs[1]


@pytest.mark.parametrize("group_by_length", [False, True])
def test_without_shuffling_the_order_stays(group_by_length: bool) -> None:
    plan = sampler(11, batch_size=4, shuffle=False, group_by_length=group_by_length)
    plan.set_epoch(5)
    assert plan.steps() == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]


def test_grouping_by_length_brings_like_lengths_together_and_loses_none() -> None:
    plain, grouped = sampler(800, group_by_length=False), sampler(800)
    assert sorted(chain.from_iterable(plain.steps())) == sorted(chain.from_iterable(grouped.steps()))
    assert spread(grouped) < spread(plain) / 5


def test_grouped_steps_do_not_come_in_order_of_length() -> None:
    """Or every epoch would train on short questions first."""
    plan = sampler(800)
    first = [plan.lengths[step[0]] for step in plan.steps()[:50]]
    rising = sum(a <= b for a, b in pairwise(first))
    assert 10 < rising < 40


@pytest.mark.parametrize(("accumulate_grad_batches", "world"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (3, 2), (8, 4)])
def test_a_step_is_the_same_however_it_is_dealt_out(accumulate_grad_batches: int, world: int) -> None:
    """Each process makes `accumulate_grad_batches` passes a step; together they hold each question of the step once."""
    expected = sampler().steps()
    dealt = []
    for rank in range(world):
        plan = sampler(accumulate_grad_batches=accumulate_grad_batches)
        plan.rank, plan.world = rank, world
        dealt.append(list(plan))
        assert len(dealt[-1]) == len(plan) == len(expected) * accumulate_grad_batches
    for number, step in enumerate(expected):
        parts = [
            micro
            for own in dealt
            for micro in own[number * accumulate_grad_batches : (number + 1) * accumulate_grad_batches]
        ]
        assert sorted(chain.from_iterable(micro.examples for micro in parts)) == sorted(step)
        assert {micro.step_examples for micro in parts} == {step}
        assert {micro.parts for micro in parts} == {accumulate_grad_batches * world}
        sizes = [len(micro.examples) for micro in parts]
        assert max(sizes) - min(sizes) <= 1


def test_an_interrupted_epoch_goes_on_where_it_stopped_and_the_next_is_whole() -> None:
    plan = sampler(accumulate_grad_batches=2)
    plan.set_epoch(1)
    whole = list(plan)
    plan.resume_at = (1, 10)
    assert list(plan) == whole[20:]
    assert list(plan) == whole[20:]  # a second look, as Lightning takes at the start of a resumed fit, changes nothing
    for other in (0, 2):
        plan.set_epoch(other)
        assert len(list(plan)) == len(whole)
    plan.set_epoch(1)
    plan.resume_at = (1, len(plan.steps()))
    assert list(plan) == []


@pytest.mark.parametrize(("shuffle", "accumulate_grad_batches", "world"), [(True, 1, 1), (True, 2, 2), (False, 1, 1)])
def test_tokens_read_are_those_of_the_steps_dealt_out(shuffle: bool, accumulate_grad_batches: int, world: int) -> None:
    plans = [
        sampler(37, batch_size=8, accumulate_grad_batches=accumulate_grad_batches, shuffle=shuffle)
        for _ in range(world)
    ]
    read = [0]  # after 0, 1, 2, ... steps, counted as the processes read them
    for epoch in range(3):
        dealt = []
        for rank, plan in enumerate(plans):
            plan.set_epoch(epoch)
            plan.rank, plan.world = rank, world
            dealt.append(list(plan))
        for number in range(5):
            mine = slice(number * accumulate_grad_batches, (number + 1) * accumulate_grad_batches)
            tokens = sum(plans[0].lengths[i] for own in dealt for micro in own[mine] for i in micro.examples)
            read.append(read[-1] + tokens)
    assert [plans[0].tokens_read(steps) for steps in range(16)] == read


class Sources:
    """A source whose one token tells the question and whose length tells the prefix."""

    def source(self, question_id: str, prefix: str, option: int = 0, perturbation: None = None) -> tuple[int, ...]:
        return (int(question_id),) * len(prefix)

    def lead(self, prefix: str) -> tuple[int, ...]:
        return ()


STREAMS = [
    Stream("answer", "p: ", 1.0, single_target({"10": "x", "11": "x", "12": "x"})),
    Stream("owl", "owl: ", 0.5, single_target({"10": "x", "12": "x"})),
]
TARGETS: list[dict[str, TargetIds]] = [
    {"10": [((5, 1), 1.0)], "11": [((6, 6, 6, 1), 1.0)], "12": [((7, 1), 1.0)]},
    {"10": [((8, 1), 1.0)], "12": [((9, 9, 1), 1.0)]},
]


def dataset(reduction: Reduction) -> StreamDataset:
    return StreamDataset(["10", "11", "12"], Sources(), STREAMS, TARGETS, reduction=reduction, lay_out=list)  # type: ignore[arg-type]


def summary(pairs: Sequence[Pair]) -> list[tuple[int, int, tuple[int, ...], float]]:
    """Question, stream, target and normaliser of each pair."""
    assert all(len(pair.targets) == 1 for pair in pairs)
    return [(p.source[0], p.targets[0].stream, p.targets[0].ids, pytest.approx(p.targets[0].normaliser)) for p in pairs]


def test_pairs_of_a_micro_batch_and_their_normalisers_by_example() -> None:
    """A token weighs alpha / (tokens of its target * questions of the step), times the parts that are averaged."""
    pairs = dataset(Reduction.example)[MicroBatch((0, 1), (0, 1, 2), 2)]
    assert summary(pairs) == [
        (10, 0, (5, 1), 2 / (2 * 3)),
        (11, 0, (6, 6, 6, 1), 2 / (4 * 3)),
        (10, 1, (8, 1), 2 / (2 * 3)),
    ]
    assert [len(pair.source) for pair in pairs] == [3, 3, 5]


def test_normalisers_by_token() -> None:
    """A token weighs alpha / (target tokens of its stream in the whole step), not in the micro-batch."""
    pairs = dataset(Reduction.token)[MicroBatch((0, 1), (0, 1, 2), 2)]
    assert summary(pairs) == [
        (10, 0, (5, 1), 2 / 8),
        (11, 0, (6, 6, 6, 1), 2 / 8),
        (10, 1, (8, 1), 2 / 5),
    ]


def several(reduction: Reduction) -> StreamDataset:
    """One stream of options with shares: texts of 2 and 3 tokens for question 10, one text for question 11."""
    targets: list[dict[str, TargetIds]] = [{"10": [((5, 1), 0.25), ((6, 6, 1), 0.75)], "11": [((7, 7, 7, 1), 1.0)]}]
    texts = {"10": (("x", 0.25), ("y", 0.75)), "11": (("z", 1.0),)}
    return StreamDataset(
        ["10", "11"], Sources(), [Stream("kd", "p: ", 0.5, texts)], targets, reduction=reduction, lay_out=list
    )  # type: ignore[arg-type]


def test_texts_with_shares_are_decoded_from_one_source() -> None:
    """A token weighs alpha * share / (tokens of its text * questions), or / (shares times tokens of the step)."""
    pairs = several(Reduction.example)[MicroBatch((0, 1), (0, 1), 1)]
    assert [[(t.ids, t.share) for t in pair.targets] for pair in pairs] == [
        [((5, 1), 0.25), ((6, 6, 1), 0.75)], [((7, 7, 7, 1), 1.0)],
    ]  # fmt: skip
    normalisers = [[t.normaliser for t in pair.targets] for pair in pairs]
    assert normalisers == [
        [pytest.approx(0.25 / (2 * 2)), pytest.approx(0.75 / (3 * 2))], [pytest.approx(1 / (4 * 2))],
    ]  # fmt: skip
    by_token = several(Reduction.token)[MicroBatch((0, 1), (0, 1), 1)]
    every = 0.25 * 2 + 0.75 * 3 + 4
    assert [[t.normaliser for t in pair.targets] for pair in by_token] == [
        [pytest.approx(0.25 / every), pytest.approx(0.75 / every)], [pytest.approx(1 / every)],
    ]  # fmt: skip
    assert several(Reduction.example).lengths() == [3 + 2 + 3, 3 + 4]


def test_a_lead_that_texts_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sources, "lead", lambda self, prefix: (9, 9))
    assert several(Reduction.example).lengths() == [3 + 2 + 2 + 3, 3 + 2 + 4]


@pytest.mark.parametrize("reduction", list(Reduction))
def test_an_empty_part_of_a_step_computes_something_that_counts_for_nothing(reduction: Reduction) -> None:
    """Every process must take part in a step; one without a question adds nothing to the gradient."""
    pairs = dataset(reduction)[MicroBatch((), (2, 0), 4)]
    assert summary(pairs) == [(12, 0, (7, 1), 0.0), (12, 1, (9, 9, 1), 0.0)]


@pytest.mark.parametrize("examples", [(1,), ()])
def test_a_part_without_any_target_computes_something_that_counts_for_nothing(examples: tuple[int, ...]) -> None:
    """Of a method that teaches rationales alone, where a teacher has none for a question."""
    alone = StreamDataset(
        ["10", "11"],
        Sources(),  # type: ignore[arg-type]
        STREAMS[1:],
        [{"10": [((8, 1), 1.0)]}],
        reduction=Reduction.example,
        lay_out=lambda pairs: lay_out(pairs, T5Config(decoder_start_token_id=0)),
    )
    assert not alone[MicroBatch(examples, (1, 0), 4)].normaliser_M.any()


@pytest.mark.parametrize(("reduction", "divisor"), [(Reduction.example, 3), (Reduction.token, 2)])
def test_lists_are_numbered_over_the_batch_and_count_by_question(reduction: Reduction, divisor: int) -> None:
    """Question 12 has no target: it counts as a loss of 0, or not at all. A text without a share still competes."""
    listed: list[dict[str, TargetIds]] = [
        {"10": [((5, 1), 0.0), ((6, 6, 1), 1.0)], "11": [((7, 1), 0.5), ((8, 1), 0.5)]}
    ]
    texts = {"10": (("x", 0.0), ("y", 1.0)), "11": (("z", 0.5), ("w", 0.5))}
    streams = [STREAMS[0], Stream("list", "list: ", 2.0, texts, StreamLoss.listwise)]
    own = StreamDataset(
        ["10", "11", "12"], Sources(), streams, [TARGETS[0], *listed], reduction=reduction, lay_out=list
    )  # type: ignore[arg-type]
    pairs = own[MicroBatch((0, 1, 2), (0, 1, 2), 1)]
    assert [[t.list_number for t in pair.targets] for pair in pairs] == [[-1]] * 3 + [[0, 0], [1, 1]]
    assert [[t.share for t in pair.targets] for pair in pairs[3:]] == [[0.0, 1.0], [0.5, 0.5]]
    assert {t.normaliser for pair in pairs[3:] for t in pair.targets} == {1 / divisor}
    half = own[MicroBatch((1,), (0, 1, 2), 2)]
    assert [t.list_number for t in half[-1].targets] == [0, 0]
    assert {t.normaliser for t in half[-1].targets} == {2 / divisor}
    empty = own[MicroBatch((), (0, 1, 2), 4)]
    assert {t.normaliser for pair in empty for t in pair.targets} == {0.0}
    assert len(own[MicroBatch((2,), (2,), 1)]) == 1, "a step without a list"


def test_length_of_a_question_is_that_of_its_sources_and_targets_over_all_streams() -> None:
    assert dataset(Reduction.example).lengths() == [3 + 2 + 5 + 2, 3 + 4, 3 + 2 + 5 + 3]


WORDS = ["copper", "drum", "silver", "bell", "wooden", "flute", "glass", "harp", "iron", "gong", "paper", "horn"]


def questions(split: str, count: int) -> list[Question]:
    rng = random.Random(split)
    made = []
    for i in range(count):
        choices = tuple(" ".join(rng.sample(WORDS, rng.randrange(1, 4))) + f" {j}" for j in range(2 + i % 3))
        context = " ".join(rng.choices(WORDS, k=rng.randrange(1, 30))) if i % 3 else ""
        made.append(Question(f"{split}{i}", " ".join(rng.sample(WORDS, 4)) + "?", choices, choices[0], context=context))
    return made


TRAIN, VALID = questions("train", 25), questions("valid", 11)
TOKENIZER = train_tokenizer([*WORDS, "predict: explain: Answer Choices: 0 1 2 3? (a) (b) (c) (d)"], 500)


def test_question_batches_hold_every_question_once_longest_first(tmp_path: Path) -> None:
    sources = SourceTokens(VALID, TOKENIZER, 60, tmp_path)
    batches = question_batches(VALID, sources, TOKENIZER, prefix="predict: ", batch_size=4, cache=tmp_path)
    assert [len(batch.questions) for batch in batches] == [4, 4, 3]
    rows = [row for batch in batches for row in zip(batch.questions, batch.sources, batch.options, strict=True)]
    assert sorted(question.id for question, _, _ in rows) == sorted(question.id for question in VALID)
    lengths = [len(source) for _, (source,), _ in rows]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 5
    for question, source, options in rows:
        assert source == (sources.source(question.id, "predict: "),)
        assert options == tuple(
            (*TOKENIZER.encode(choice, add_special_tokens=False), TOKENIZER.eos_token_id) for choice in question.choices
        )


def test_question_batches_hold_the_source_of_every_option(tmp_path: Path) -> None:
    texts = {
        q.id: [" ".join(WORDS[: 1 + 9 * (i == n)]) for i in range(len(q.choices))] for n, q in enumerate(VALID[:2])
    }
    sources = SourceTokens(VALID, TOKENIZER, 100, tmp_path, texts)
    batches = question_batches(VALID, sources, TOKENIZER, prefix="predict: ", batch_size=4, cache=tmp_path)
    longest = []
    for batch in batches:
        assert batch.by_option and all(single.by_option for single in batch.singles())
        for question, own in zip(batch.questions, batch.sources, strict=True):
            assert own == tuple(sources.source(question.id, "predict: ", i) for i in range(len(question.choices)))
            longest.append(max(map(len, own)))
    assert longest == sorted(longest, reverse=True)


def test_order_of_question_batches_does_not_follow_the_file(tmp_path: Path) -> None:
    forth, back = (
        question_batches(
            part, SourceTokens(part, TOKENIZER, 60, tmp_path), TOKENIZER, prefix="p ", batch_size=4, cache=tmp_path
        )
        for part in (VALID, VALID[::-1])
    )
    assert forth == back


def test_singles_are_the_same_questions_one_a_batch(tmp_path: Path) -> None:
    sources = SourceTokens(VALID, TOKENIZER, 60, tmp_path)
    (batch,) = question_batches(VALID, sources, TOKENIZER, prefix="p ", batch_size=99, cache=tmp_path)
    singles = batch.singles()
    assert [single.questions for single in singles] == [(question,) for question in batch.questions]
    assert [single.sources + single.options for single in singles] == [
        (source, options) for source, options in zip(batch.sources, batch.options, strict=True)
    ]


def module(
    cache: Path, *, max_source_length: int = 1000, max_target_length: int = 100, accumulate_grad_batches: int = 1
):
    streams = [
        Stream("answer", "predict: ", 1.0, single_target({q.id: q.answer for q in TRAIN})),
        Stream(
            "owl", "explain: ", 0.5, single_target({q.id: " ".join(WORDS[: 1 + i]) for i, q in enumerate(TRAIN[:10])})
        ),
    ]
    return QuestionDataModule(
        {"train": TRAIN, "valid": VALID},
        streams,
        TOKENIZER,
        lay_out=list,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        reduction=Reduction.example,
        batch_size=8,
        accumulate_grad_batches=accumulate_grad_batches,
        shuffle=True,
        group_by_length=True,
        seed=0,
        answer_prefix="predict: ",
        evaluation_batch_size=4,
        cache=cache,
    )


def test_long_targets_are_cut_before_their_end_token_and_counted(tmp_path: Path) -> None:
    """Rationales of 1 to 10 words: with room for 6 tokens, end token included, those of 6 and more words are cut."""
    data = module(tmp_path, max_target_length=6)
    assert data.cut_targets["owl"] == 5
    owl = data.dataset.targets[1]
    for i, question in enumerate(TRAIN[:10]):
        words = TOKENIZER.encode(" ".join(WORDS[: 1 + i]), add_special_tokens=False)
        assert list(owl[question.id]) == [((*words[:5], TOKENIZER.eos_token_id), 1.0)]
    assert set(owl) == {question.id for question in TRAIN[:10]}
    assert module(tmp_path).cut_targets == {"answer": 0, "owl": 0}


def test_questions_that_lose_context_are_counted_by_stream(tmp_path: Path) -> None:
    assert module(tmp_path).truncated == {"answer": 0, "owl": 0}
    data = module(tmp_path, max_source_length=1)
    assert data.truncated == dict.fromkeys(("answer", "owl"), sum(bool(q.context) for q in TRAIN))
    assert 0 < data.truncated["answer"] < len(TRAIN)


def test_the_loader_gives_the_planned_pairs(tmp_path: Path) -> None:
    data = module(tmp_path, accumulate_grad_batches=2)
    batches = list(data.train_dataloader())
    assert batches == [data.dataset[micro] for micro in data.sampler]
    targets = [pair.targets[0] for batch in batches for pair in batch]
    answers = [target.ids for target in targets if target.stream == 0 and target.normaliser > 0]
    expected = [(*TOKENIZER.encode(q.answer, add_special_tokens=False), TOKENIZER.eos_token_id) for q in TRAIN]
    assert sorted(answers) == sorted(expected)


def test_rationales_are_spoilt_anew_every_epoch_and_in_the_same_way_again(tmp_path: Path) -> None:
    """So that a resumed run, and any split over processes, reads what an uninterrupted one reads."""
    texts = {q.id: [" ".join(WORDS[:10])] * len(q.choices) for q in TRAIN}
    options = {q.id: tuple((choice, float(choice == q.answer)) for choice in q.choices) for q in TRAIN}
    masked = Stream("flat", "predict: ", 0.5, options, StreamLoss.listwise, mask=0.5)
    clear = Stream("answer", "predict: ", 1.0, options)
    count = sum(len(q.choices) for q in TRAIN)

    def made(seed: int = 0, accumulate_grad_batches: int = 1) -> QuestionDataModule:
        return QuestionDataModule(
            {"train": TRAIN, "valid": VALID}, [clear, masked], TOKENIZER, lay_out=list, max_source_length=1000,
            max_target_length=100, reduction=Reduction.example, batch_size=8, shuffle=True,
            accumulate_grad_batches=accumulate_grad_batches,
            group_by_length=True, seed=seed, answer_prefix="predict: ", evaluation_batch_size=4, cache=tmp_path,
            rationales={"train": texts, "valid": {q.id: ["fog"] * len(q.choices) for q in VALID}},
        )  # fmt: skip

    def is_of(pair: Pair, stream: int) -> bool:
        return pair.targets[0].stream == stream and pair.targets[0].normaliser > 0

    def read(data: QuestionDataModule, epoch: int, stream: int = 1, world: int = 1) -> list[tuple[int, ...]]:
        data.sampler.world = world
        found = []
        for rank in range(world):
            data.sampler.rank = rank
            data.sampler.set_epoch(epoch)
            found += [p.source for m in data.sampler for p in data.dataset[m] if is_of(p, stream) for _ in p.targets]
        return sorted(found)

    first = read(made(), 0)
    hidden = TOKENIZER.unk_token_id
    assert len(first) == count and len(read(made(), 0, stream=0)) == len(TRAIN), "of the answers, those with a share"
    clear_sources = [s for q in TRAIN for s in made().train_sources.sources(q.id, "predict: ")]
    more = sum(source.count(hidden) for source in first) - sum(source.count(hidden) for source in clear_sources)
    assert more == 5 * count
    assert first == read(made(), 0) == read(made(accumulate_grad_batches=3), 0) == read(made(), 0, world=2)
    assert first != read(made(), 1) and first != read(made(seed=1), 0)
    later = made()
    read(later, 0)
    assert read(later, 1) == read(made(), 1)
    assert read(made(), 0, stream=0) == read(made(), 1, stream=0)
    (batch, *_) = made().valid_batches
    fog = TOKENIZER.encode("fog", add_special_tokens=False)[-1]
    assert all(source[-2] == fog for own in batch.sources for source in own)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_share_the_questions_out(tmp_path: Path, world: int) -> None:
    """Three validation batches: five processes get single questions, so that each has some."""
    data, seen = module(tmp_path), []
    for rank in range(world):
        data.trainer = SimpleNamespace(
            global_rank=rank, world_size=world, current_epoch=2, global_step=0, strategy=None
        )
        own = [question.id for batch in data.val_dataloader() for question in batch.questions]
        assert own
        seen += own
        data.train_dataloader()
        assert (data.sampler.rank, data.sampler.world, data.sampler.epoch) == (rank, world, 2)
    assert sorted(seen) == sorted(question.id for question in VALID)


def test_state_is_the_step_within_the_epoch(tmp_path: Path) -> None:
    data = module(tmp_path, accumulate_grad_batches=2)  # 25 questions in steps of 8: 4 steps an epoch
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, current_epoch=1, global_step=4 + 3)
    assert data.state_dict() == {"epoch": 1, "step": 3}
    other = module(tmp_path, accumulate_grad_batches=2)
    other.load_state_dict(data.state_dict())
    assert len(list(other.train_dataloader())) == 8
    other.sampler.set_epoch(1)
    data.sampler.set_epoch(1)
    assert list(other.sampler) == list(data.sampler)[6:]
