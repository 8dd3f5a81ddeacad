"""Streams of a method: which are built, with which weight and targets, and what is refused."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise

import pytest
import torch

from tinyllm.config import MethodConfig, PromptConfig, StreamConfig, StreamLoss, Target, TeacherConfig, WhichTeachers
from tinyllm.data.steps import Pair, TargetText
from tinyllm.errors import UserError
from tinyllm.methods import (
    answer_prefix,
    build_streams,
    chosen_teachers,
    prompt_kind,
    single_target,
    single_teacher,
    uses_single_teacher,
)
from tinyllm.records import PromptKind, Question
from tinyllm.teachers.stored import shuffle_rationales

QUESTIONS = [
    Question("q1", "What keeps soup warm?", ("a flask", "a sieve"), "a flask"),
    Question("q2", "What lifts a piano?", ("a spoon", "a crane"), "a crane"),
    Question("q3", "What marks the hour?", ("a bell", "a brick"), "a bell"),
]
TEACHERS = {
    "owl": TeacherConfig(name="owl", prefix="explain: "),
    "fox": TeacherConfig(name="fox", prefix="rationale: "),
    "elk": TeacherConfig(name="elk", prefix="reason: "),
}
TEXTS = {name: {f"q{i}": f"{name} says {i}" for i in (1, 2, 3)} for name in TEACHERS}


def method(which: WhichTeachers | None, teacher: str | None = None, **answer: object) -> MethodConfig:
    """Answers, and rationales of `which` teachers (None for no rationale stream)."""
    streams = {"answer": StreamConfig(Target.answer, prefix="predict: ", **answer)}  # type: ignore[arg-type]
    if which is not None:
        streams["rationale"] = StreamConfig(Target.rationale, which)
    return MethodConfig(name="a_method", teacher=teacher, streams=streams)


ALL = method(WhichTeachers.all)


def build(how: MethodConfig = ALL, alpha=None, drop=(), teachers=TEACHERS, questions=QUESTIONS, texts=TEXTS):
    return build_streams(how, teachers, alpha or {}, drop, questions, texts)


def test_answers_and_every_teacher_with_its_own_prefix_and_weight() -> None:
    how = method(WhichTeachers.all, weight=2.0)
    how.streams["rationale"].weight = 3.0
    streams = build(how, {"owl": 0.5, "fox": 1.0})
    assert [(s.name, s.prefix, s.weight) for s in streams] == [
        ("answer", "predict: ", 2.0),
        ("owl", "explain: ", 1.5),
        ("fox", "rationale: ", 3.0),
        ("elk", "reason: ", 3.0),  # a teacher without an alpha weighs 1
    ]
    assert streams[0].targets == single_target({"q1": "a flask", "q2": "a crane", "q3": "a bell"})
    assert streams[2].targets == single_target(TEXTS["fox"])


def test_full_fine_tuning_builds_no_rationale_stream() -> None:
    assert [s.name for s in build(method(None))] == ["answer"]
    assert chosen_teachers(method(None), TEACHERS, {}, ()) == []


def test_weight_0_builds_nothing_and_asks_for_no_text() -> None:
    class Untouchable(dict):
        def get(self, key, default=None):
            assert key != "fox", "the rationales of a teacher with weight 0 were asked for"
            return super().get(key, default)

    streams = build(alpha={"owl": 1.0, "fox": 0.0}, texts=Untouchable(TEXTS))
    assert [s.name for s in streams] == ["answer", "owl", "elk"]
    assert chosen_teachers(ALL, TEACHERS, {"owl": 0, "fox": 0, "elk": 0}, ()) == []


def test_a_stream_of_weight_0_is_not_built() -> None:
    assert [s.name for s in build(method(WhichTeachers.all, weight=0.0))] == ["owl", "fox", "elk"]


def test_an_ablated_teacher_is_left_out() -> None:
    assert [s.name for s in build(drop=["owl", "elk"])] == ["answer", "fox"]
    assert chosen_teachers(ALL, TEACHERS, {"owl": 3.0}, ["owl"]) == ["fox", "elk"]


@pytest.mark.parametrize("text", [None, "", "  \n\t"], ids=["missing", "empty", "blank"])
def test_a_missing_or_empty_rationale_is_never_a_target(text: str | None, caplog: pytest.LogCaptureFixture) -> None:
    owl = {"q1": "warm", "q2": text, "q3": "rings"}
    if text is None:
        del owl["q2"]
    with caplog.at_level(logging.WARNING):
        streams = build(texts={**TEXTS, "owl": owl})
    by_name = {s.name: s for s in streams}
    assert by_name["owl"].targets == single_target({"q1": "warm", "q3": "rings"})
    assert by_name["fox"].targets == single_target(TEXTS["fox"])
    assert [r.getMessage() for r in caplog.records] == [
        "teacher owl: 1 of 3 training questions have no usable rationale and are left out of its stream"
    ]


@pytest.mark.parametrize("texts", [{}, {"fox": {}}, {"fox": {"q1": " ", "q2": "", "q3": "\n"}}])
def test_a_teacher_without_any_text_gets_no_stream(texts: dict[str, dict[str, str]]) -> None:
    texts = {**{name: TEXTS[name] for name in ("owl", "elk")}, **texts}
    assert [s.name for s in build(texts=texts)] == ["answer", "owl", "elk"]


def test_rationales_are_joined_by_id_not_by_position() -> None:
    turned = dict(reversed(TEXTS["owl"].items())) | {"of another split": "never read"}
    for questions in (QUESTIONS, QUESTIONS[::-1]):
        stream = build(questions=questions, texts={**TEXTS, "owl": turned})[1]
        assert stream.targets == single_target(TEXTS["owl"])
        assert list(stream.targets) == [q.id for q in questions]
    assert build(questions=QUESTIONS[1:2])[1].targets == single_target({"q2": "owl says 2"})


@pytest.mark.parametrize(("teacher", "chosen"), [(None, "owl"), ("owl", "owl"), ("elk", "elk")])
def test_a_single_teacher_method_takes_the_named_one_or_the_sets_first(teacher: str | None, chosen: str) -> None:
    how = method(WhichTeachers.one, teacher)
    assert chosen_teachers(how, TEACHERS, {}, ()) == [chosen]
    assert [s.name for s in build(how)] == ["answer", chosen]


def test_a_single_teacher_method_without_teachers_says_so() -> None:
    with pytest.raises(UserError, match=r"^method=.*teachers="):
        chosen_teachers(method(WhichTeachers.one), {}, {}, ())
    assert chosen_teachers(method(WhichTeachers.all), {}, {}, ()) == []


@pytest.mark.parametrize(
    ("how", "alpha", "message"),
    [
        (ALL, {"wolf": 0.5}, r"^alpha\.wolf: .*owl, fox, elk"),
        (ALL, {"fox": -0.1}, r"^alpha\.fox: .*-0\.1"),
        (method(WhichTeachers.one, "wolf"), {}, r"^method\.teacher=wolf: .*owl, fox, elk"),
        # A weight is checked though the method does not read it: it is a mistake all the same.
        (method(None), {"wolf": 1.0}, r"^alpha\.wolf: "),
    ],
)
def test_mistakes_are_named_with_what_was_expected(how: MethodConfig, alpha: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen_teachers(how, TEACHERS, alpha, ())
    with pytest.raises(UserError, match=message):
        build(how, alpha)


def test_weight_0_for_a_teacher_outside_of_the_set_is_no_mistake() -> None:
    assert chosen_teachers(ALL, TEACHERS, {"wolf": 0.0}, ()) == list(TEACHERS)


def test_two_streams_with_one_name_are_refused() -> None:
    """A teacher named like a stream of the method would take its place in the module's weights."""
    with pytest.raises(UserError, match="answer"):
        build(teachers={"answer": TeacherConfig(name="answer", prefix="why: ")}, texts={"answer": TEXTS["owl"]})


def test_two_streams_with_one_prefix_are_refused() -> None:
    """The student could not tell the voices apart."""
    twins = {**TEACHERS, "fox": TeacherConfig(name="fox", prefix="explain: ")}
    with pytest.raises(UserError, match=r"explain: .*teachers\.<name>\.prefix"):
        build(teachers=twins)
    assert len(build(teachers=twins, alpha={"fox": 0.0})) == 3
    with pytest.raises(UserError, match=r"predict: .*teachers\.<name>\.prefix"):
        build(teachers={"owl": TeacherConfig(name="owl", prefix="predict: ")})


def mixed(target: Target, source_rationale: bool = False, **options: object) -> MethodConfig:
    """Gold answers, and a second stream under the same prefix."""
    options = {"teachers": WhichTeachers.one, **options}
    streams = {"answer": StreamConfig(Target.answer), "second": StreamConfig(target, **options)}  # type: ignore[arg-type]
    return MethodConfig(name="a_method", source_rationale=source_rationale, streams=streams)


def test_a_teachers_own_answers_are_mixed_with_gold_and_unparsed_ones_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    how = mixed(Target.teacher_answer, weight=0.3)
    with caplog.at_level(logging.WARNING):
        gold, own = build_streams(how, TEACHERS, {}, (), QUESTIONS, {}, answers={"q1": "a sieve", "q3": "a bell"})
    assert (own.name, own.prefix, own.weight) == ("second", gold.prefix, 0.3)
    assert own.targets == {"q1": (("a sieve", 1.0),), "q3": (("a bell", 1.0),)}
    assert [r.getMessage() for r in caplog.records] == [
        "stream second: 1 of 3 training questions have no answer of the teacher that can be parsed and are left out"
    ]
    with caplog.at_level(logging.WARNING):
        assert [s.name for s in build_streams(how, TEACHERS, {}, (), QUESTIONS, {}, answers={})] == ["answer"]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_options_are_weighted_by_the_softened_scores(temperature: float) -> None:
    how = mixed(Target.teacher_options, temperature=temperature)
    scores = {"q1": (-0.5, -2.0), "q2": (-300.0, -1.0), "q3": (-7.0, -7.0)}
    own = build_streams(how, TEACHERS, {}, (), QUESTIONS, {}, scores=scores)[1]
    for question in QUESTIONS:
        expected = torch.softmax(torch.tensor(scores[question.id], dtype=torch.float64) / temperature, 0).tolist()
        assert [text for text, _ in own.targets[question.id]] == list(question.choices)
        assert [share for _, share in own.targets[question.id]] == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="2 options, found 1"):
        build_streams(how, TEACHERS, {}, (), QUESTIONS, {}, scores={**scores, "q2": (-1.0,)})


def test_the_flat_answer_is_every_option_alike() -> None:
    three = Question("q4", "Which?", ("x", "y", "z"), "y")
    how = mixed(Target.every_option, source_rationale=True, mask=0.4, teachers=WhichTeachers.none)
    own = build_streams(how, TEACHERS, {}, (), [*QUESTIONS, three], {})[1]
    assert own.targets["q1"] == (("a flask", 0.5), ("a sieve", 0.5))
    assert own.targets["q4"] == tuple((c, pytest.approx(1 / 3)) for c in "xyz")
    assert own.mask == 0.4


FOUR = Question("q5", "Which?", ("an owl", "a fox", "an  owl", "a hen"), "an owl")


@pytest.mark.parametrize(
    ("target", "smoothing", "shares"),
    [
        (Target.answer, 0.0, (0.5, 0.0, 0.5, 0.0)),  # equal options are equally right
        (Target.answer, 0.2, (0.45, 0.05, 0.45, 0.05)),
        (Target.teacher_answer, 0.1, (0.025, 0.025, 0.025, 0.925)),
        (Target.every_option, 0.0, (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_all_options_compete_in_a_listwise_stream(target: Target, smoothing: float, shares: tuple[float, ...]) -> None:
    how = mixed(target, loss=StreamLoss.listwise, smoothing=smoothing, weight=0.5)
    own = build_streams(how, TEACHERS, {}, (), [*QUESTIONS, FOUR], {}, answers={"q5": "a hen"})[1]
    assert (own.loss, own.weight) == (StreamLoss.listwise, 0.5) and "listwise" in str(own)
    assert [text for text, _ in own.targets["q5"]] == list(FOUR.choices)
    assert [share for _, share in own.targets["q5"]] == pytest.approx(shares)
    assert set(own.targets) == ({"q5"} if target is Target.teacher_answer else {"q1", "q2", "q3", "q5"})


def test_options_that_are_read_with_their_own_rationales_are_all_listed() -> None:
    how = mixed(Target.answer, source_rationale=True, mask=1.0, replace=0.3, teachers=WhichTeachers.none)
    first, second = build_streams(how, TEACHERS, {}, (), [FOUR], {})
    for stream in (first, second):
        assert stream.loss is StreamLoss.tokens
        assert stream.targets["q5"] == tuple(zip(FOUR.choices, (0.5, 0.0, 0.5, 0.0), strict=True))
    assert (second.mask, second.replace) == (1.0, 0.3)
    assert "100% masked or 30% replaced" in str(second) and "masked" not in str(first)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (mixed(Target.every_option, mask=0.5), r"streams\.second\.mask=0\.5: .*method\.source_rationale=true"),
        (mixed(Target.answer, replace=0.5), r"streams\.second\.replace=0\.5: .*method\.source_rationale=true"),
        (mixed(Target.answer, smoothing=0.1), r"streams\.second\.smoothing=0\.1: .*loss=listwise"),
        (mixed(Target.rationale, loss=StreamLoss.listwise), r"streams\.second\.target=rationale: .*loss=listwise"),
        (mixed(Target.rationale, source_rationale=True), r"second\.target=rationale: .*source_rationale=true"),
        (mixed(Target.teacher_answer, teachers=WhichTeachers.all), r"streams\.second\.teachers: .*teacher_answer"),
    ],
)
def test_settings_of_a_stream_that_can_not_work_are_refused(how: MethodConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(how)


def test_a_rationale_stream_never_shares_a_prefix_with_answers() -> None:
    how = mixed(Target.teacher_answer)
    how.streams["rationale"] = StreamConfig(Target.rationale, WhichTeachers.all)
    answers = {q.id: q.answer for q in QUESTIONS}
    assert len(build_streams(how, TEACHERS, {}, (), QUESTIONS, TEXTS, answers=answers)) == 5
    teachers = {**TEACHERS, "elk": TeacherConfig(name="elk", prefix="predict: ")}
    with pytest.raises(UserError, match=r"predict: .*teachers\.<name>\.prefix"):
        build_streams(how, teachers, {}, (), QUESTIONS, TEXTS, answers=answers)


def test_which_methods_read_a_single_teacher() -> None:
    assert uses_single_teacher(mixed(Target.teacher_answer)) and uses_single_teacher(mixed(Target.teacher_options))
    assert uses_single_teacher(mixed(Target.every_option, source_rationale=True))
    assert not uses_single_teacher(ALL) and not uses_single_teacher(mixed(Target.teacher_answer, weight=0.0))
    assert single_teacher(ALL, TEACHERS) == "owl"
    assert answer_prefix(mixed(Target.every_option)) == "predict: "
    with pytest.raises(UserError, match="method=odd"):
        answer_prefix(MethodConfig(name="odd", streams={"flat": StreamConfig(Target.every_option)}))


def test_without_teacher_forcing_forced_texts_alone_are_others() -> None:
    free = PromptConfig(teacher_forcing=False)
    asked = {kind: prompt_kind(StreamConfig(Target.rationale, prompt=kind), free) for kind in PromptKind}
    assert asked == {kind: kind for kind in PromptKind} | {PromptKind.forced: PromptKind.unforced}


@pytest.mark.parametrize("count", [2, 3, 17, 200])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffling_leaves_no_text_at_its_question_and_loses_none(count: int, seed: int) -> None:
    texts = {f"q{i}": f"text {i}" for i in range(count)}
    mixed = shuffle_rationales(texts, seed)
    assert mixed.keys() == texts.keys()
    assert Counter(mixed.values()) == Counter(texts.values())
    assert all(mixed[i] != texts[i] for i in texts)


def test_shuffling_follows_seed_and_ids_alone() -> None:
    texts = {f"q{i}": f"text {i}" for i in range(30)}
    mixed = shuffle_rationales(texts, 4)
    assert mixed == shuffle_rationales(dict(reversed(texts.items())), 4)
    assert mixed != shuffle_rationales(texts, 5)
    neighbours = sum(int(mixed[f"q{j}"].split()[1]) == i for i, j in pairwise(range(30)))
    assert neighbours < 10  # a shift in the order of the file would move every text to the next question
    assert shuffle_rationales({}, 0) == {}


def test_length_of_a_pairs_targets_is_their_sum() -> None:
    assert Pair((5, 1), (TargetText((7, 8, 1)), TargetText((9, 1)))).target_length == 5
