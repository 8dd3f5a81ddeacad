"""Predictions -> scores: accuracies with 95% Wilson intervals, what could not be parsed, and the floors beside them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tinyllm.evaluation.statistics import design_effect, group_numbers, wilson_interval
from tinyllm.parsing import is_exact, is_right
from tinyllm.records import Prediction, Question, Scores


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score predictions of one split.

    Intervals are at the effective sample size where questions come in groups (`statistics.design_effect`).
    """
    n = len(predictions)
    groups = group_numbers([p.group for p in predictions])

    def share(flags: list[bool]) -> tuple[float, float, float]:
        right = np.array(flags, dtype=bool)
        hits = int(right.sum())
        return hits / n if n else 0.0, *wilson_interval(hits, n, effect=design_effect(right, groups))

    accuracy, low, high = share([is_right(p.predicted, p.answer) for p in predictions])
    ranked: tuple[float | None, ...] = (None, None, None)
    exact = ranked
    if any(p.ranked is not None for p in predictions):
        ranked = share([is_right(p.ranked, p.answer) for p in predictions])
        exact = share([is_exact(p.generated, p.answer) for p in predictions])
    return Scores(
        n=n,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        accuracy_ranked=ranked[0],
        accuracy_ranked_low=ranked[1],
        accuracy_ranked_high=ranked[2],
        unparsed=sum(p.predicted is None for p in predictions),
        accuracy_exact=exact[0],
        accuracy_exact_low=exact[1],
        accuracy_exact_high=exact[2],
    )


def score_subsets(predictions: Sequence[Prediction]) -> dict[str, Scores]:
    """Scores of every named subset, by name; empty where the questions have none."""
    names = sorted({p.subset for p in predictions if p.subset})
    return {name: score([p for p in predictions if p.subset == name]) for name in names}


def chance(scored: Sequence[Question | Prediction]) -> float | None:
    """Expected accuracy of a blind choice, as a share of 1; None without questions."""
    return statistics.fmean(1 / len(one.choices) for one in scored) if scored else None


def majority(train: Sequence[Question], scored: Sequence[Question | Prediction]) -> float | None:
    """Accuracy of the training questions' most frequent answer; None where not all questions have the same options."""
    options = {frozenset(one.choices) for one in (*train, *scored)}
    if not train or not scored or len(options) > 1:
        return None
    answer = Counter(question.answer for question in train).most_common(1)[0][0]
    return sum(one.answer == answer for one in scored) / len(scored)
