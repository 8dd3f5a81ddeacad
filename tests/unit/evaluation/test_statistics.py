"""Intervals and tests against formulas, hand-computed numbers and naive loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from tinyllm.evaluation.statistics import (
    Difference,
    Right,
    bootstrap_means,
    detectable_difference,
    difference,
    holm,
    mcnemar,
    observed_means,
    relative_gain,
    smallest_difference,
    t_interval,
    wilson_interval,
)


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


def test_student_interval_by_hand() -> None:
    """Mean 4, standard deviation 2, n 3: half width 4.302653 x 2 / sqrt(3)."""
    assert t_interval([2.0, 4.0, 6.0]) == pytest.approx((4.0, 4 - 4.96828, 4 + 4.96828), abs=1e-4)
    with pytest.raises(ValueError, match="two values or more, found 1"):
        t_interval([0.5])


def flags(*runs: tuple[bool, int]) -> Right:
    return np.array([value for value, times in runs for _ in range(times)])


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[Right, Right]:
    a = flags((True, both + only_a), (False, only_b + neither))
    b = flags((True, both), (False, only_a), (True, only_b), (False, neither))
    return a, b


def exact_p(k: int, m: int) -> float:
    return min(1.0, 2 * sum(math.comb(m, i) for i in range(min(k, m - k) + 1)) / 2**m)


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 8), (8, 1), (6, 6), (0, 5), (12, 25), (3, 2)])
def test_mcnemar_counts_only_what_differs(only_a: int, only_b: int) -> None:
    p = mcnemar(*pair(30, only_a, only_b, 7))
    assert p == pytest.approx(exact_p(only_a, only_a + only_b))
    assert p == mcnemar(*pair(0, only_a, only_b, 90))


def test_mcnemar_by_hand() -> None:
    """1 against 8: 2 (1 + 9) / 512. Nothing differs: 1."""
    assert mcnemar(*pair(10, 1, 8, 10)) == pytest.approx(20 / 512)
    assert mcnemar(*pair(10, 0, 0, 10)) == 1.0
    with pytest.raises(ValueError, match="same questions"):
        mcnemar(flags((True, 3)), flags((True, 4)))


def paired_bootstrap(a: list[Right], b: list[Right], **options: Any) -> Difference:
    return difference(bootstrap_means(a, b, **options), observed_means(a, b))


def by_seed(a: list[Right], b: list[Right]) -> list[list[tuple[float, float]]]:
    return [[(float(x.mean()), float(y.mean())) for x, y in zip(a, b, strict=True)]]


def naive_bootstrap(a: list[Right], b: list[Right], same: bool, resamples: int, seed: int) -> np.ndarray:
    """Seeds, then questions, one by one."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(resamples):
        common = rng.integers(len(a[0]), size=len(a[0]))
        gaps = []
        for s in rng.integers(len(a), size=len(a)):
            q = common if same else rng.integers(len(a[s]), size=len(a[s]))
            gaps.append(a[s][q].mean() - b[s][q].mean())
        out.append(np.mean(gaps))
    return np.array(out)


def seeds_of(questions: int, seeds: int, same: bool) -> tuple[list[Right], list[Right]]:
    """Seeds that differ in their gap; with `same`, questions whose difficulty all seeds share."""
    rng = np.random.default_rng(5)
    a, b = [], []
    ease = rng.random(questions)
    for s in range(seeds):
        n = questions if same else questions + 10 * s
        chance = ease if same else rng.random(n)
        a.append(chance + 0.1 * rng.random(n) > 0.40 + 0.02 * s)
        b.append(chance * 0.8 + 0.3 * rng.random(n) > 0.55)
    return a, b


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("seeds", [1, 3])
def test_bootstrap_agrees_with_drawing_one_by_one(same: bool, seeds: int) -> None:
    a, b = seeds_of(120, seeds, same)
    found = paired_bootstrap(a, b, same_questions=same, resamples=20_000, seed=1)
    naive = naive_bootstrap(a, b, same, 4_000, 2)
    assert found.mean == pytest.approx(np.mean([x.mean() - y.mean() for x, y in zip(a, b, strict=True)]))
    step = 1.01 / 120 if seeds == 1 else 0  # one seed's differences come in steps of a question
    close = 0.12 * naive.std() + step
    assert found.low == pytest.approx(np.quantile(naive, 0.025), abs=close)
    assert found.high == pytest.approx(np.quantile(naive, 0.975), abs=close)
    means = bootstrap_means(a, b, same_questions=same, resamples=20_000, seed=1)
    assert (means[:, 0] - means[:, 1]).std() == pytest.approx(naive.std(), rel=0.05)


def test_questions_that_all_seeds_share_are_not_counted_twice() -> None:
    """Three copies of one seed know no more than one: drawn apart, they would look sure by a factor of sqrt(3)."""
    a, b = pair(30, 16, 6, 30)
    one = paired_bootstrap([a], [b], resamples=20_000)
    shared = paired_bootstrap([a] * 3, [b] * 3, same_questions=True, resamples=20_000)
    apart = paired_bootstrap([a] * 3, [b] * 3, resamples=20_000)
    assert shared.high - shared.low == pytest.approx(one.high - one.low, rel=0.05)
    assert (apart.high - apart.low) * math.sqrt(3) == pytest.approx(one.high - one.low, rel=0.08)


def test_bootstrap_interval_by_the_normal_approximation() -> None:
    """Variance of a mean paired difference: (share that differs - difference squared) / n."""
    a, b = pair(400, 160, 100, 340)
    found = paired_bootstrap([a], [b], resamples=40_000)
    error = math.sqrt((0.26 - 0.06**2) / 1000)
    assert found.mean == pytest.approx(0.06)
    assert (found.low, found.high) == pytest.approx((0.06 - 1.96 * error, 0.06 + 1.96 * error), abs=0.0015)
    assert found.p == pytest.approx(2 * (1 - 0.5 * (1 + math.erf(0.06 / error / math.sqrt(2)))), abs=5e-4)


def test_bootstrap_is_seeded_antisymmetric_and_knows_a_tie() -> None:
    a, b = seeds_of(80, 3, False)
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)
    there, back = paired_bootstrap(a, b, resamples=20_000), paired_bootstrap(b, a, resamples=20_000)
    assert (back.mean, back.low) == pytest.approx((-there.mean, -there.high), abs=0.005)
    assert paired_bootstrap(a, a).p == 1.0
    sure = paired_bootstrap([flags((True, 50))], [flags((False, 50))], resamples=999)
    assert (sure.mean, sure.low, sure.high, sure.p) == (1.0, 1.0, 1.0, pytest.approx(2 / 1000))
    with pytest.raises(ValueError, match="as many seeds"):
        paired_bootstrap([], [])


def test_seeds_that_differ_have_the_last_word() -> None:
    """Per seed 60, 70, 80 against 50, 50, 50 of 100: t = 20 / (10 / sqrt(3)) with 2 degrees of freedom."""
    firsts = [flags((True, n), (False, 100 - n)) for n in (60, 70, 80)]
    seconds = [flags((True, 50), (False, 50))] * 3
    shares = by_seed(firsts, seconds)
    means, observed = bootstrap_means(firsts, seconds), observed_means(firsts, seconds)
    alone, found = difference(means, observed), difference(means, observed, shares)
    reference = ttest_rel([0.6, 0.7, 0.8], [0.5, 0.5, 0.5])
    assert found.p == pytest.approx(float(reference.pvalue)) and alone.p < 0.01
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval()))
    assert difference(means, observed, [shares[0][:1]]) == alone
    # Where all seeds agree, the questions have the last word; nothing leaves what a difference can be.
    assert difference(means, observed, [[(0.7, 0.5)] * 3]) == alone
    apart = difference(means, observed, [[(1.0, 0.0), (0.4, 1.0)]])
    assert (apart.low, apart.high) == (-1.0, 1.0)
    gain = relative_gain(means, observed, shares)
    assert gain is not None and (gain.low, gain.high) == pytest.approx((0.4 - 0.49683, 0.4 + 0.49683), abs=1e-4)
    assert gain.p == found.p


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_methods_are_told_apart_no_more_often_than_the_level_says(seeds: int) -> None:
    """Equal methods whose seeds vary by 4 points, on the same questions: the bootstrap alone is too sure of itself."""
    rng = np.random.default_rng(7)
    trials, alone, together = 300, 0, 0

    def accuracies(gain: float) -> list[Right]:
        return [hardness < 0.5 + gain + rng.normal(0, 0.04) for _ in range(seeds)]

    for trial in range(trials):
        hardness = rng.random(400)
        a, b = accuracies(0), accuracies(0)
        means = bootstrap_means(a, b, same_questions=True, resamples=400, seed=trial)
        alone += difference(means, observed_means(a, b)).p < 0.05
        found = difference(means, observed_means(a, b), by_seed(a, b))
        together += found.p < 0.05
        assert found.p >= 0.05 or not found.low <= 0 <= found.high
    assert together / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials) < alone / trials
    shown = 0
    for trial in range(20):
        hardness = rng.random(400)
        a, b = accuracies(0.3), accuracies(0)
        means = bootstrap_means(a, b, same_questions=True, resamples=400, seed=trial)
        shown += difference(means, observed_means(a, b), by_seed(a, b)).p < 0.05
    assert shown >= 16


def test_detectable_difference_by_hand() -> None:
    """Seeds: (4.30265 + 0.84162) x 10 / sqrt(3) points; questions alone: 2.80158 standard errors."""
    a, b = pair(400, 160, 100, 340)
    means = bootstrap_means([a], [b], resamples=40_000)
    error = math.sqrt((0.26 - 0.06**2) / 1000)
    assert detectable_difference(means) == pytest.approx(2.80158 * error, rel=0.02)
    assert detectable_difference(means, [[(0.6, 0.5), (0.7, 0.5), (0.8, 0.5)]]) == pytest.approx(0.29701, abs=1e-4)
    assert detectable_difference(means, [[(0.6, 0.54), (0.6, 0.54)]]) == detectable_difference(means)
    # Two methods that answer alike on every seed say nothing of what a test could find.
    assert detectable_difference(bootstrap_means([a] * 3, [a] * 3), [[(0.5, 0.5)] * 3]) is None


def test_seeds_of_datasets_that_share_none_are_combined_by_welch() -> None:
    """The mean of two datasets' differences, of three and four seeds: Welch's test of one half and minus the other."""
    first, second = [0.40, 0.10, 0.02], [0.05, 0.16, 0.11, 0.02]
    parts = [[((0.5 + gap) / 2, 0.25) for gap in own] for own in (first, second)]
    mean = (sum(first) / 3 + sum(second) / 4) / 2
    means = np.tile([0.5 + mean, 0.5], (1000, 1))  # a bootstrap that is far too sure
    found = difference(means, (0.5 + mean, 0.5), parts)
    reference = ttest_ind([gap / 2 for gap in first], [-gap / 2 for gap in second], equal_var=False)
    interval = reference.confidence_interval()
    assert found.mean == pytest.approx(mean) and (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(float(reference.pvalue)) and found.p > 2 / 1001
    # A dataset of one seed adds nothing that is known of other seeds.
    alone = difference(means, (0.5 + mean, 0.5), [parts[0], parts[1][:1]])
    half = ttest_rel([gap / 2 for gap in first], [0.0] * 3).confidence_interval()
    assert alone.high - alone.low == pytest.approx(half.high - half.low)


def test_relative_gain_is_of_the_means() -> None:
    """60 of 100 against 40 of 100: half as many again; the interval is the ratio's, not the difference's."""
    a, b = pair(30, 30, 10, 30)
    means = bootstrap_means([a], [b], resamples=20_000)
    gain = relative_gain(means, (0.6, 0.4))
    assert gain is not None and gain.mean == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    drawn = rng.integers(100, size=(20_000, 100))
    ratios = a[drawn].mean(axis=1) / b[drawn].mean(axis=1) - 1
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), abs=0.02)
    assert relative_gain(means, (0.6, 0.0)) is None


def test_a_gain_may_be_more_than_twofold() -> None:
    """60 of 100 against 20 of 100, by seeds 55 and 65 against 20: 3 minus 1, with 12.7062 x 0.25 on either side."""
    a, b = pair(15, 45, 5, 35)
    means = bootstrap_means([a], [b], resamples=20_000)
    gain = relative_gain(means, (0.6, 0.2))
    assert gain is not None and gain.mean == pytest.approx(2.0)
    drawn = np.random.default_rng(0).integers(100, size=(20_000, 100))
    ratios = a[drawn].mean(axis=1) / b[drawn].mean(axis=1) - 1
    assert gain.high == pytest.approx(np.quantile(ratios, 0.975), abs=0.1) and gain.high > 3
    seeds = relative_gain(means, (0.6, 0.2), [[(0.55, 0.2), (0.65, 0.2)]])
    assert seeds is not None and (seeds.low, seeds.high) == (-1.0, pytest.approx(2 + 12.7062 * 0.25, abs=1e-3))


def test_mixtures_of_systems_are_drawn_as_single_answers_are() -> None:
    """Shares of 0, a half and 1, of seeds with questions of their own and without groups."""
    rng = np.random.default_rng(2)
    a = [rng.integers(3, size=n) / 2 for n in (70, 90)]
    b = [np.maximum(part - rng.integers(2, size=len(part)) / 2, 0) for part in a]
    means = bootstrap_means(a, b, resamples=20_000)
    assert means.mean(axis=0) == pytest.approx(observed_means(a, b), abs=0.003)
    naive = naive_bootstrap(a, b, False, 4_000, 3)
    assert (means[:, 0] - means[:, 1]).std() == pytest.approx(naive.std(), rel=0.06)
    # Against single answers.
    some = [part > 0 for part in b]
    naive = naive_bootstrap(a, [part.astype(float) for part in some], False, 4_000, 3)
    means = bootstrap_means(a, some, resamples=20_000)
    assert (means[:, 0] - means[:, 1]).std() == pytest.approx(naive.std(), rel=0.06)


def test_holm_by_hand() -> None:
    """The example of R's p.adjust: 0.01 x 4, 0.02 x 3, then never below an earlier one."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.01, 0.6]) == pytest.approx([0.08, 0.03, 0.6])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("n", "discordance"), [(500, 0.3), (784, 0.2), (200, 0.1)])
def test_smallest_difference_has_the_power_it_claims(n: int, discordance: float) -> None:
    """Simulated tests at that difference come out significant in 80 of 100 (3 standard errors of 4000 are 2 points)."""
    gain = smallest_difference(n, discordance)
    assert gain is not None
    rng = np.random.default_rng(0)
    chances = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    counts = rng.multinomial(n, chances, size=4000)
    shown = np.mean([exact_p(int(x), int(x + y)) <= 0.05 for x, y, _ in counts])
    assert shown == pytest.approx(0.8, abs=0.02)
    # Connor (1987): n = (z_alpha sqrt(psi) + z_beta sqrt(psi - d^2))^2 / d^2; the exact test needs a little more.
    connor = (1.959964 * math.sqrt(discordance) + 0.841621 * math.sqrt(discordance - gain**2)) ** 2 / gain**2
    assert 0.8 * n < connor < n


def test_smallest_difference_that_no_test_could_show() -> None:
    assert smallest_difference(10, 0.2) is None
    assert smallest_difference(0, 0.2) is None
    assert smallest_difference(100, 0.0) is None
