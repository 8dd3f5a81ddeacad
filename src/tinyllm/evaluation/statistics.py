"""Intervals of accuracies."""

from __future__ import annotations

from scipy.stats import binomtest


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share (scipy.stats.binomtest), as shares of 1; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(right, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)
