"""Predictions -> scores: what counts as right, what as unparsed, and the subsets."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tinyllm.data import release
from tinyllm.evaluation.score import chance, majority, score, score_subsets
from tinyllm.evaluation.statistics import wilson_interval
from tinyllm.parsing import is_right
from tinyllm.records import Prediction, Question, Scores

CHOICES = ("a kite", "a drum", "A kite.")


def prediction(name: str, predicted: str | None, ranked: str, answer: str = "a kite", subset: str = "") -> Prediction:
    return Prediction(
        name, "What flies?", CHOICES, answer, predicted or "mumble", predicted, ranked, (-1.0,) * 3, subset
    )


FOUR = [
    prediction("1", "a kite", "a kite", subset="windy"),
    prediction("2", "a drum", "a kite", subset="windy"),
    prediction("3", None, "a drum", subset="calm"),
    prediction("4", None, "a kite"),
]


def test_scores_by_hand() -> None:
    found = score(FOUR)
    assert (found.n, found.accuracy, found.accuracy_ranked, found.unparsed) == (4, 0.25, 0.75, 2)
    assert (found.accuracy_low, found.accuracy_high) == wilson_interval(1, 4)
    assert (found.accuracy_ranked_low, found.accuracy_ranked_high) == wilson_interval(3, 4)


def test_an_unparsed_generation_counts_as_wrong_never_as_a_guess() -> None:
    """It stays in the denominator, even where the ranked option is right."""
    lucky = [prediction(str(i), None, "a kite") for i in range(3)]
    assert (score(lucky).accuracy, score(lucky).unparsed, score(lucky).n) == (0.0, 3, 3)
    assert score([*lucky, prediction("x", "a kite", "a kite")]).accuracy == 0.25


@pytest.mark.parametrize(
    ("choice", "answer", "right"),
    [
        ("a kite", "a kite", True),
        (" a  kite", "a kite", True),
        ("RR", "Rr", False),  # genotypes
        ("a kite.", "a kite", False),
        ("a drum", "a kite", False),
        ("a kites", "a kite", False),
        ("", "a kite", False),
        (None, "a kite", False),
    ],
)
def test_right_is_the_option_or_one_that_reads_the_same(choice: str | None, answer: str, right: bool) -> None:
    assert is_right(choice, answer) is right


def test_equal_options_are_equally_right() -> None:
    """Some published questions have one option twice; the answer names its first."""
    twin = prediction("1", "a  kite", "a  kite", answer="a kite")
    assert score([twin]).accuracy == score([twin]).accuracy_ranked == 1.0
    other = replace(twin, predicted="a kite", ranked="a drum", answer="a  kite")
    assert (score([other]).accuracy, score([other]).accuracy_ranked) == (1.0, 0.0)


def test_no_predictions_score_nothing() -> None:
    expected = Scores(
        n=0,
        accuracy=0.0,
        accuracy_low=0.0,
        accuracy_high=1.0,
        accuracy_ranked=None,
        accuracy_ranked_low=None,
        accuracy_ranked_high=None,
        unparsed=0,
    )
    assert score([]) == expected
    assert score_subsets([]) == {}


def test_subsets_are_scored_apart_and_questions_without_one_in_none() -> None:
    found = score_subsets(FOUR)
    assert list(found) == ["calm", "windy"]
    assert found == {"windy": score(FOUR[:2]), "calm": score(FOUR[2:3])}
    assert (found["windy"].n, found["windy"].accuracy, found["windy"].accuracy_ranked) == (2, 0.5, 1.0)
    assert (found["calm"].n, found["calm"].unparsed) == (1, 1)
    assert score_subsets(FOUR[3:]) == {}


def test_names_of_scores_are_those_of_results() -> None:
    """A subset's scores stand in `result.json` under the same names."""
    assert list(asdict(score(FOUR))) == [
        "n",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "accuracy_ranked",
        "accuracy_ranked_low",
        "accuracy_ranked_high",
        "unparsed",
        "accuracy_exact",
        "accuracy_exact_low",
        "accuracy_exact_high",
    ]


@pytest.mark.parametrize(
    ("generated", "right"),
    [("a kite", True), (" a kite\n", True), ("A kite", False), ("a kite.", False), ("(a) a kite", False), ("", False)],
)
def test_exact_is_equality_but_for_outer_whitespace(generated: str, right: bool) -> None:
    found = score([replace(FOUR[0], generated=generated)])
    assert found.accuracy_exact == float(right)
    assert (found.accuracy_exact_low, found.accuracy_exact_high) == wilson_interval(int(right), 1)


def test_a_teachers_text_is_no_bare_answer() -> None:
    """It is asked for a rationale, and its options are not ranked."""
    found = score([replace(one, ranked=None, scores=()) for one in FOUR])
    assert (found.accuracy, found.accuracy_ranked, found.accuracy_exact) == (0.25, None, None)


def test_a_fact_asked_twice_counts_once() -> None:
    """The interval is that of one copy; accuracies and n count every question."""
    once = [prediction(str(i), "a kite" if i < 3 else "a drum", "a kite") for i in range(8)]
    twice = [replace(one, id=f"{one.id}{copy}", group=f"g{one.id}") for one in once for copy in "ab"]
    found = score(twice)
    assert (found.n, found.accuracy, found.accuracy_ranked) == (16, 3 / 8, 1.0)
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx(wilson_interval(3, 8))
    assert (found.accuracy_ranked_low, found.accuracy_ranked_high) == pytest.approx(wilson_interval(8, 8))
    alone = [replace(one, group=one.id) for one in once]
    assert score(alone) == score(once)


def asked(answer: str, choices: tuple[str, ...] = ("yes", "no")) -> Question:
    return Question(answer, "Is it so?", choices, answer)


def test_the_majority_class_is_of_the_training_answers() -> None:
    train = [asked("no"), asked("yes"), asked("no")]
    scored = [asked("yes"), asked("yes"), asked("no", ("no", "yes"))]
    assert majority(train, scored) == pytest.approx(1 / 3)
    assert chance(scored) == 0.5


def test_questions_with_other_options_have_no_majority_class() -> None:
    mixed = [asked("yes"), asked("yes", ("yes", "no", "maybe"))]
    assert majority([asked("yes")], mixed) is majority(mixed, [asked("yes")]) is None
    assert majority([], mixed[:1]) is majority(mixed[:1], []) is None
    assert chance(mixed) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert chance([]) is None


def test_the_majority_class_of_pubmedqa(shared: Path) -> None:
    """221 of 400 test answers are yes, the most frequent of training."""
    questions = release.load(shared / "data" / "release", "pubmedqa")
    assert majority(questions["train"], questions["test"]) == 221 / 400
    obqa = release.load(shared / "data" / "release", "obqa")
    assert (majority(obqa["train"], obqa["test"]), chance(obqa["test"])) == (None, 0.25)
