"""The study: its tests."""

from __future__ import annotations

from tinyllm.reporting.study import enough_resamples


def test_many_tests_get_resamples_enough_to_be_clear() -> None:
    """The least p that B resamples can give is 2 / (B + 1); Holm multiplies it by the number of tests."""
    for tests in (1, 7, 60, 400):
        assert tests * 2 / (enough_resamples(tests) + 1) < 0.05 / 5
