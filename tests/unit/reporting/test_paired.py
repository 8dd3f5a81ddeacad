"""Answers side by side: which questions and groups count, and what an average over datasets is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import first, made

from tinyllm.evaluation.statistics import difference
from tinyllm.records import Prediction
from tinyllm.reporting.paired import Pair, average

Change = Callable[[Prediction], Prediction]


def methods(make_run: MakeRun, tmp_path: Path, change: Change, of: str = "standard_kd") -> tuple[Pair, Pair]:
    """The first two of three methods, joined with the third and without it; the answers of one are changed."""
    for method, n in (("full_ft", 10), ("lora", 20), ("standard_kd", 30)):
        make_run(method, right=first(n), **({"change": change} if method == of else {}))
    study = made(tmp_path)
    runs = {str(method): part for method, part in study.frame.groupby("method")}
    together, alone = study.together(runs), study.pair(runs["lora"], runs["full_ft"])
    assert together is not None and alone is not None
    return together.pair("lora", "full_ft"), alone


def test_a_question_that_changed_in_any_run_is_left_out(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of q0, q10 and q30 the third run has another text, other options and another answer."""

    def changed(answer: Prediction) -> Prediction:
        match answer.id:
            case "q0":
                return replace(answer, question="Which tree was it?")
            case "q10":
                return replace(answer, choices=("oak", "ivy", "elm", "yew"))
            case "q30":
                return replace(answer, answer="elm")
        return answer

    with caplog.at_level(logging.WARNING):
        together, alone = methods(make_run, tmp_path, changed)
    assert (together.questions, together.observed) == (37, (pytest.approx(18 / 37), pytest.approx(9 / 37)))
    assert (alone.questions, alone.observed) == (40, (20 / 40, 10 / 40))
    assert "3 of 40" in caplog.text and "standard_kd" in caplog.text


@pytest.mark.parametrize("knows", ["full_ft", "lora", "standard_kd"])
def test_groups_are_those_of_whichever_run_knows_them(make_run: MakeRun, tmp_path: Path, knows: str) -> None:
    together, alone = methods(make_run, tmp_path, lambda p: replace(p, group=f"pair {int(p.id[1:]) // 2}"), knows)
    for pair, grouped in ((together, True), (alone, knows != "standard_kd")):
        sizes = [] if pair.groups is None else np.bincount(pair.groups[0]).tolist()
        assert sizes == [2] * 20 * grouped


def test_mixtures_of_accuracies_have_no_exact_test() -> None:
    """Halves are no answers: that half of a system is right on a question says nothing of who wins it."""
    whole, half = np.repeat([1.0, 0.0], [30, 10]), np.repeat([1.0, 0.5, 0.0], [10, 10, 20])
    options = {"same_questions": True, "questions": 40, "seeds": ((0, 0),)}
    assert Pair((whole,), (half,), **options).mcnemar() is None
    assert Pair((half,), (whole,), **options).mcnemar() is None
    # 30 against 10 right: 20 to 0.
    assert Pair((whole,), (np.floor(half),), **options).mcnemar() == pytest.approx(2 / 2**20)


def test_seeds_that_datasets_share_are_averaged_before_they_are_compared() -> None:
    """Gaps of 10, 20 and 30 points on two datasets: t = 4.302653, whose half width is that of one; Welch's is half."""
    same = np.arange(4000) % 10 < 5

    def dataset(seeds: tuple[int, ...]) -> Pair:
        better = tuple(np.arange(4000) % 10 < 6 + seed for seed in range(len(seeds)))
        return Pair(better, (same,) * len(seeds), True, 4000, tuple((seed, seed) for seed in seeds))

    both = [dataset((0, 1, 2)), dataset((0, 1, 2))]
    averages = average(both, 500, 0)
    assert averages.by_seed == [[(pytest.approx(0.6 + seed / 10), 0.5) for seed in range(3)]]
    found = difference(*averages)
    half = 4.302653 * 0.1 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-5)
    # Of three seeds that share one, each dataset speaks for itself: two halves, with 4 degrees of freedom.
    found = difference(*average([both[0], dataset((2, 3, 4))], 500, 0))
    half = 2.776445 * 0.05 * (2 / 3) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-5)
