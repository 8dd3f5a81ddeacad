"""The interval of an accuracy, as every table and figure shows it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tinyllm.evaluation.statistics import t_interval


def interval(runs: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Mean, low and high of one setting's runs, as shares of 1.

    Args:
        runs: one or more rows of the frame.
        column: an accuracy; `<column>_low` and `<column>_high` are a run's own (Wilson's) interval, taken where there
            is one run. Several have Student's t interval over the runs. Where all seeds ask the same questions, it says
            nothing of how these were drawn, so it reaches at least as far as the runs' own do on average; so, too,
            where all runs are equal and it has no width.
    """
    value = float(runs[column].mean())
    below, above = reach(runs, column)
    if runs[column].nunique() < 2:
        return within(value, value + below, value + above)
    value, low, high = over_seeds(list(runs[column]))
    if runs["redrawn"].all():
        return value, low, high
    return within(value, min(low, value + below), max(high, value + above))


def reach(runs: pd.DataFrame, column: str) -> tuple[float, float]:
    """How far the runs' own intervals go below and above their accuracies, on average; the first is negative."""
    below, above = (float((runs[f"{column}_{end}"] - runs[column]).mean()) for end in ("low", "high"))
    return below, above


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of two or more seeds' accuracies with its Student t interval, as far as accuracies go."""
    return within(*t_interval(values))


def within(value: float, low: float, high: float) -> tuple[float, float, float]:
    """The interval without its parts below 0 and above 1: few seeds that differ much reach beyond them."""
    return value, max(low, 0.0), min(high, 1.0)


def measurements(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """One setting's runs that have the score, each measurement once.

    Seeds of a model that nothing has trained are one measurement made several times, if their scores are equal.
    """
    runs = runs[runs[column].notna()]
    same = runs[["n", column]].drop_duplicates()
    return runs.iloc[:1] if len(same) == 1 and (runs["train_examples"] == 0).all() else runs
