"""The interval of an accuracy over seeds."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy.stats import sem, t

from tinyllm.evaluation.statistics import wilson_interval
from tinyllm.reporting.interval import interval


def runs_with(right: list[int], redrawn: bool) -> pd.DataFrame:
    rows = [
        dict(zip(("accuracy", "accuracy_low", "accuracy_high"), (k / 500, *wilson_interval(k, 500)), strict=True))
        for k in right
    ]
    return pd.DataFrame(rows).assign(redrawn=redrawn)


def test_seeds_on_the_same_questions_are_no_surer_than_one_of_them() -> None:
    """Three seeds that differ by one answer: Student's t alone would give an interval of half a point."""
    low, high = wilson_interval(195, 500)
    assert interval(runs_with([195], False), "accuracy") == pytest.approx((0.39, low, high))
    assert interval(runs_with([195, 195], False), "accuracy") == pytest.approx((0.39, low, high))
    value, below, above = interval(runs_with([195, 195, 196], False), "accuracy")
    assert value == pytest.approx(586 / 1500)
    assert (value - below, above - value) == pytest.approx((0.39 - low, high - 0.39), abs=2e-4)


@pytest.mark.parametrize("redrawn", [True, False])
def test_seeds_that_differ_much_have_students_interval(redrawn: bool) -> None:
    shares = [0.3, 0.4, 0.5]
    value, low, high = interval(runs_with([150, 200, 250], redrawn), "accuracy")
    half = t.ppf(0.975, 2) * sem(shares)
    assert (value, low, high) == pytest.approx((0.4, 0.4 - half, 0.4 + half))


def test_seeds_with_questions_of_their_own_have_students_interval_however_narrow() -> None:
    value, low, high = interval(runs_with([195, 195, 196], True), "accuracy")
    half = t.ppf(0.975, 2) * sem([0.39, 0.39, 0.392])
    assert (value, low, high) == pytest.approx((586 / 1500, 586 / 1500 - half, 586 / 1500 + half))
