"""Intervals and tests of accuracies. Shares are of 1; tests are two-sided."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm, t

Right = NDArray[np.bool_]
"""Which of some questions were answered rightly; shape (questions,)."""
Credit = Right | NDArray[np.float64]
"""The same, or of a mixture of systems the share of them that are right on each question."""


Groups = NDArray[np.intp]
"""Number of each question's group, from 0, without gaps; shape (questions,)."""


def group_numbers(names: Sequence[str]) -> Groups | None:
    """Groups by number; None where every question is a group of its own.

    Args:
        names: the group of each question; an empty name is a group of one question.
    """
    own = [name or index for index, name in enumerate(names)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(own))}
    return None if len(numbers) == len(own) else np.array([numbers[name] for name in own])


def design_effect(right: Right, groups: Groups | None) -> float:
    """How many times the variance of an accuracy is what it would be with independent questions; at least 1.

    For n questions, share p right and a group g of n_g questions with y_g right, it is
    sum over g of (y_g - p n_g)^2 / (n p (1 - p)): the variance of a ratio estimator under cluster sampling, linearised,
    over that of simple random sampling (Kish 1965). Where all are right or none, groups are taken
    to be of one mind: sum over g of n_g^2 / n.

    Args:
        right: shape (questions,).
        groups: of the same questions; None for independent ones.
    """
    if groups is None or len(right) == 0:
        return 1.0
    sizes, hits = np.bincount(groups), np.bincount(groups, weights=right)
    n, share = len(right), float(right.mean())
    if share in (0.0, 1.0):
        return float((sizes**2).sum() / n)
    return max(1.0, float(((hits - share * sizes) ** 2).sum() / (n * share * (1 - share))))


def wilson_interval(right: int, n: int, confidence: float = 0.95, effect: float = 1.0) -> tuple[float, float]:
    """Wilson score interval of a share, as shares of 1; (0, 1) for n = 0.

    Args:
        right: questions answered rightly.
        n: questions.
        confidence: of the interval.
        effect: the `design_effect`: the interval is that of n / effect questions (Dean and Pagano 2015).
    """
    if n == 0:
        return 0.0, 1.0
    if effect > 1:
        size, share, z = n / effect, right / n, float(norm.ppf((1 + confidence) / 2))
        middle = share + z**2 / (2 * size)
        half = z * math.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
        low, high = ((middle + side * half) / (1 + z**2 / size) for side in (-1, 1))
        return max(low, 0.0), min(high, 1.0)
    interval = binomtest(right, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of some seeds' values with its Student t interval: (mean, low, high).

    Raises:
        ValueError: for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"expected two values or more, found {len(values)}")
    mean = statistics.fmean(values)
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def mcnemar(right_a: Right, right_b: Right) -> float:
    """p of McNemar's exact test that two systems are equally often right (McNemar 1947).

    Only questions on which they differ count; without any, p is 1.

    Args:
        right_a: of one system, shape (questions,).
        right_b: of the other on the same questions, in the same order.

    Raises:
        ValueError: when the lengths differ.
    """
    _check_aligned(right_a, right_b)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """A quantity of two systems, with its interval and the p of its being zero."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_means(
    right_a: Sequence[Credit],
    right_b: Sequence[Credit],
    *,
    same_questions: bool = False,
    groups: Sequence[Groups] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Mean accuracies of two systems over resampled seeds and resampled questions, or groups of questions.

    Every resample draws as many seeds as there are, with replacement, then questions within each of them; both systems
    are always seen on the same ones. A single seed is kept, so that the result speaks of its questions alone. Where
    questions come in groups, whole groups are drawn, as many as there are (cluster bootstrap; Davison and Hinkley 1997,
    section 3.8), and a mean is over all questions in them.

    Args:
        right_a: of one system, for each seed an array of shape (questions,).
        right_b: of the other on the same seeds and questions, in the same order.
        same_questions: every seed asks the same questions in the same order. A resample then draws them once for all
            seeds: drawn apart, a question that is hard for every seed would count as evidence once for each.
        groups: of the questions, for each seed; None for independent questions.
        resamples: how many.
        seed: of the random numbers.

    Returns:
        Shape (resamples, 2): shares of 1.

    Raises:
        ValueError: without a seed or a question, or when shapes differ.
    """
    if len(right_a) != len(right_b) or not right_a or any(len(part) == 0 for part in right_a):
        raise ValueError(
            f"expected as many seeds of both, each with questions, found {len(right_a)} and {len(right_b)}"
        )
    for a, b in zip(right_a, right_b, strict=True):
        _check_aligned(a, b)
    rng = np.random.default_rng(seed)
    seeds = len(right_a)
    drawn = rng.integers(seeds, size=(resamples, seeds))
    # A resample of questions is a multinomial draw over the patterns of right and wrong that occur: as exact as drawing
    # the questions one by one, and its cost doesn't grow with their number. A group's pattern is its counts.
    if same_questions:
        totals = _totals([*right_a, *right_b], groups[0] if groups is not None else None)
        patterns, counts = np.unique(totals, axis=1, return_counts=True)
        sums = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples) @ patterns.T
        means = sums[:, :-1] / sums[:, -1:]
        each = np.stack([means[:, :seeds], means[:, seeds:]], axis=-1)
        taken: NDArray[np.float64] = np.take_along_axis(each, drawn[:, :, None], axis=1)
        return np.asarray(taken.mean(axis=1))
    if groups is None and any(part.dtype != np.bool_ for part in (*right_a, *right_b)):
        groups = [np.arange(len(part)) for part in right_a]
    if groups is not None:
        return _apart(list(zip(right_a, right_b, groups, strict=True)), drawn, rng)
    sizes = np.array([len(part) for part in right_a])
    cells = np.stack([np.bincount(2 * a + b, minlength=4) for a, b in zip(right_a, right_b, strict=True)])
    counted = rng.multinomial(sizes[drawn], (cells / sizes[:, None])[drawn]) / sizes[drawn][:, :, None]
    shares = np.stack([counted[..., 2] + counted[..., 3], counted[..., 1] + counted[..., 3]], axis=-1)
    return np.asarray(shares.mean(axis=1))


def _apart(
    rows: Sequence[tuple[Credit, Credit, Groups]], drawn: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """`bootstrap_means` of groups that every seed has for itself.

    Args:
        rows: both systems' answers and the groups, for each seed.
        drawn: seeds of each resample, shape (resamples, seeds); one that is drawn twice has its groups drawn twice.
        rng: random numbers.
    """
    shares = np.empty((*drawn.shape, 2))
    for index, (a, b, groups) in enumerate(rows):
        patterns, counts = np.unique(_totals([a, b], groups), axis=1, return_counts=True)
        here = drawn == index
        sums = rng.multinomial(counts.sum(), counts / counts.sum(), size=int(here.sum())) @ patterns.T
        shares[here] = sums[:, :2] / sums[:, 2:]
    return np.asarray(shares.mean(axis=1))


def _totals(rows: Sequence[Credit], groups: Groups | None) -> NDArray[np.float64]:
    """Right answers of each row and, last, questions; shape (rows + 1, groups)."""
    table = np.stack([*rows, np.ones_like(rows[0])]).astype(float)
    return table if groups is None else np.stack([np.bincount(groups, weights=row) for row in table])


BySeed = Sequence[Sequence[tuple[float, float]]]
"""For each seed the accuracies of two systems, in one or more independent parts, which add up: accuracies are the sums
of the parts' means. One part, where all of a mean's datasets have the same seeds; else one for each dataset, divided by
their number. A part of fewer than two seeds says nothing of other seeds, and counts as none."""


def difference(
    means: NDArray[np.float64],
    observed: tuple[float, float],
    by_seed: BySeed = (),
    confidence: float = 0.95,
) -> Difference:
    """First system minus second: bootstrap and paired Student t together, within -1 to 1.

    The bootstrap's p is twice the smaller share of resamples on either side of zero, each counted with one more
    (Davison and Hinkley 1997, section 4.2): never 0; its interval is the percentiles'. A bootstrap of few seeds is too
    sure of itself: the part that S seeds contribute lacks a factor of sqrt(S / (S - 1)), and normal tails stand in for
    Student's. With two seeds or more, the paired t test over the seeds' differences is therefore asked too (Welch's,
    where there are several parts); on either side the end of the wider interval counts, and of the two p the larger.

    Args:
        means: from `bootstrap_means`, or an average of several.
        observed: the two means themselves.
        by_seed: without a part of two seeds, the result speaks of questions alone.
        confidence: of the interval.
    """
    gaps = [[first - second for first, second in part] for part in by_seed]
    found = _summary(means[:, 0] - means[:, 1], observed[0] - observed[1], confidence)
    return _with_seeds(found, gaps, _t_test(found.mean, gaps), confidence, (-1.0, 1.0))


def relative_gain(
    means: NDArray[np.float64],
    observed: tuple[float, float],
    by_seed: BySeed = (),
    confidence: float = 0.95,
) -> Difference | None:
    """First system over second, minus 1 (the paper's Δ): arguments as in `difference`; None where the second is 0.

    The ratio's spread over seeds is that of its linear part, (first - ratio × second) / mean of second.
    """
    if observed[1] == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = means[:, 0] / means[:, 1] - 1
    found = _summary(ratios[~np.isnan(ratios)], observed[0] / observed[1] - 1, confidence)
    ratio = observed[0] / observed[1]
    linear = [[(first - ratio * second) / observed[1] for first, second in part] for part in by_seed]
    p = _t_test(observed[0] - observed[1], [[first - second for first, second in part] for part in by_seed])
    return _with_seeds(found, linear, p, confidence, (-1.0, float("inf")))


def _with_seeds(
    found: Difference, parts: Sequence[Sequence[float]], p: float, confidence: float, bounds: tuple[float, float]
) -> Difference:
    """The wider interval and the larger p."""
    low, high = found.low, found.high
    if spread := _spread(parts):
        error, freedom = spread
        half = float(t.ppf((1 + confidence) / 2, freedom)) * error
        low, high = min(low, found.mean - half), max(high, found.mean + half)
    return Difference(found.mean, max(low, bounds[0]), min(high, bounds[1]), max(found.p, p))


def _t_test(mean: float, parts: Sequence[Sequence[float]]) -> float:
    """p of a mean being zero whose spread the seeds' values show; 0, which never counts, where they show none."""
    spread = _spread(parts)
    if spread is None:
        return 0.0
    error, freedom = spread
    if error == 0:
        return float(mean == 0)
    return 2 * float(t.sf(abs(mean) / error, freedom))


def _spread(parts: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Standard error over seeds of the sum of the parts' means, and its degrees of freedom (Welch 1947).

    None without a part of two values.
    """
    several = [part for part in parts if len(part) > 1]
    if not several:
        return None
    squares = [statistics.variance(part) / len(part) for part in several]
    total = sum(squares)
    if total == 0:
        return 0.0, float(sum(len(part) - 1 for part in several))
    parted = sum((square / total) ** 2 / (len(part) - 1) for square, part in zip(squares, several, strict=True))
    return math.sqrt(total), 1 / parted


def observed_means(right_a: Sequence[Credit], right_b: Sequence[Credit]) -> tuple[float, float]:
    """Both systems' accuracies, averaged over seeds."""
    return statistics.fmean(float(a.mean()) for a in right_a), statistics.fmean(float(b.mean()) for b in right_b)


def _summary(values: NDArray[np.float64], observed: float, confidence: float) -> Difference:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return Difference(float(observed), float(low), float(high), min(1.0, 2 * (tail + 1) / (len(values) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for their number by Holm's step-down method (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def detectable_difference(
    means: NDArray[np.float64],
    by_seed: BySeed = (),
    *,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float | None:
    """Smallest true difference that the test of `difference` would show with the given power, as the runs were made.

    (quantile of the two-sided level + quantile of the power) × standard error of the paired difference: of the
    bootstrap with normal quantiles, or over the seeds with Student's for the level, whichever asks for more.

    Args:
        means: from `bootstrap_means`, or an average of several.
        by_seed: for each seed the two accuracies.
        alpha: level of the two-sided test.
        power: chance of a significant outcome.

    Returns:
        Share of 1; it may lie above what is possible. None where the runs show no spread at all, from which nothing
        follows.
    """
    beta = float(norm.ppf(power))
    least = (float(norm.ppf(1 - alpha / 2)) + beta) * float((means[:, 0] - means[:, 1]).std())
    if spread := _spread([[first - second for first, second in part] for part in by_seed]):
        error, freedom = spread
        least = max(least, (float(t.ppf(1 - alpha / 2, freedom)) + beta) * error)
    return least or None


def smallest_difference(n: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest true difference in accuracy that McNemar's exact test would show with the given power.

    Args:
        n: questions.
        discordance: share of them on which the two systems differ: one is right and the other wrong.
        alpha: level of the two-sided test.
        power: chance of a significant outcome.

    Returns:
        Share of 1; None where even a system that wins on every question on which they differ would not be significant.
    """
    if n <= 0 or discordance <= 0:
        return None
    within = [int(q) for q in binom.ppf([1e-9, 1 - 1e-9], n, discordance)]
    differing = np.arange(max(within[0], 0), within[1] + 1)
    chance = binom.pmf(differing, n, discordance)
    # The largest count of the rarer side with 2 P(X <= count) <= alpha; -1 where no outcome is significant.
    critical = binom.ppf(alpha / 2, differing, 0.5).astype(int)
    critical -= 2 * binom.cdf(critical, differing, 0.5) > alpha

    def shortfall(gain: float) -> float:
        wins = (1 + gain / discordance) / 2
        shown = binom.cdf(critical, differing, 1 - wins) + binom.cdf(critical, differing, wins)
        return float(chance @ np.where(critical >= 0, shown, 0.0)) - power

    if shortfall(discordance) < 0:
        return None
    return float(brentq(shortfall, 0.0, discordance, xtol=1e-6))


def _check_aligned(right_a: Credit, right_b: Credit) -> None:
    if right_a.shape != right_b.shape or right_a.ndim != 1:
        raise ValueError(f"expected the same questions, found shapes {right_a.shape} and {right_b.shape}")
