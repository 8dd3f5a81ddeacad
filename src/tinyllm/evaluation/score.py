"""Predictions -> scores: two accuracies with 95% Wilson intervals, and what could not be parsed."""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm.evaluation.statistics import wilson_interval
from tinyllm.parsing import is_right
from tinyllm.records import Prediction, Scores


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score predictions of one split."""
    n = len(predictions)
    right = sum(is_right(p.predicted, p.answer) for p in predictions)
    low, high = wilson_interval(right, n)
    ranked: dict[str, float | None] = dict.fromkeys(("accuracy_ranked", "accuracy_ranked_low", "accuracy_ranked_high"))
    if any(p.ranked is not None for p in predictions):
        best = sum(is_right(p.ranked, p.answer) for p in predictions)
        ranked = dict(zip(ranked, (best / n, *wilson_interval(best, n)), strict=True))
    return Scores(
        n=n,
        accuracy=right / n if n else 0.0,
        accuracy_low=low,
        accuracy_high=high,
        unparsed=sum(p.predicted is None for p in predictions),
        **ranked,
    )


def score_subsets(predictions: Sequence[Prediction]) -> dict[str, Scores]:
    """Scores of every named subset, by name; empty where the questions have none."""
    names = sorted({p.subset for p in predictions if p.subset})
    return {name: score([p for p in predictions if p.subset == name]) for name in names}
