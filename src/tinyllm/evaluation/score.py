"""Predictions -> scores: two accuracies with 95% Wilson intervals, and what could not be parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyllm.evaluation.statistics import wilson_interval
from tinyllm.parsing import is_right
from tinyllm.records import Prediction


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares of 1 over `n` questions."""

    n: int
    accuracy: float
    """By greedy generation (the paper's metric)."""
    accuracy_low: float
    accuracy_high: float
    accuracy_ranked: float | None
    """By mean token log-likelihood of the options; None where no option was ranked."""
    accuracy_ranked_low: float | None
    accuracy_ranked_high: float | None
    unparsed: int
    """Generations that name no option; they count as wrong."""


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score predictions of one split."""
    n = len(predictions)
    right = sum(is_right(p.predicted, p.answer) for p in predictions)
    ranked = sum(is_right(p.ranked, p.answer) for p in predictions)
    ranking: tuple[float | None, float | None, float | None] = (None, None, None)
    if any(p.ranked is not None for p in predictions):
        ranking = (ranked / n, *wilson_interval(ranked, n))
    return Scores(
        n,
        right / n if n else 0.0,
        *wilson_interval(right, n),
        *ranking,
        sum(p.predicted is None for p in predictions),
    )


def score_subsets(predictions: Sequence[Prediction]) -> dict[str, Scores]:
    """Scores of every named subset, by name; empty where the questions have none."""
    names = sorted({p.subset for p in predictions if p.subset})
    return {name: score([p for p in predictions if p.subset == name]) for name in names}
