"""Wilson's interval against its formula, worked out by hand."""

from __future__ import annotations

import math

import pytest

from tinyllm.evaluation.statistics import wilson_interval


def by_formula(right: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    share = right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (263, 500, 0.4822, 0.5694),
    ],
)
def test_values_worked_out_by_hand(right: int, n: int, low: float, high: float) -> None:
    """10 of 10 at 95%: n / (n + z squared) = 10 / 13.8415 = 0.7225."""
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 17, 500])
def test_equals_the_formula_and_stays_within_0_and_1(n: int) -> None:
    for right in range(0, n + 1, max(1, n // 7)):
        low, high = wilson_interval(right, n)
        assert (low, high) == pytest.approx(by_formula(right, n), abs=1e-9)
        assert 0 <= low <= right / n <= high <= 1


def test_mirrors_and_narrows() -> None:
    low, high = wilson_interval(3, 20)
    assert wilson_interval(17, 20) == pytest.approx((1 - high, 1 - low))
    wide, narrow = wilson_interval(30, 40), wilson_interval(300, 400)
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 3
    sure = wilson_interval(30, 40, confidence=0.99)
    assert sure[0] < wide[0] and wide[1] < sure[1]


def test_nothing_is_known_of_no_questions() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
