"""Groups of questions that are not independent: intervals and tests against naive loops, copies and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyllm.evaluation.statistics import (
    Groups,
    Right,
    bootstrap_means,
    design_effect,
    difference,
    group_numbers,
    observed_means,
    wilson_interval,
)


def test_groups_by_number() -> None:
    """An empty name is a group of its own; without a group of two questions there are none."""
    found = group_numbers(["oak", "", "elm", "oak", ""])
    assert found is not None and found.tolist() == [0, 1, 2, 0, 3]
    assert group_numbers(["", "", ""]) is None
    assert group_numbers(["oak", "elm", ""]) is None
    assert group_numbers([]) is None


def test_design_effect_by_hand() -> None:
    """Groups of 2, 1 and 3 with 2, 0 and 1 right, p = 1/2: (1 + 1/4 + 1/4) / (6/4) = 1; with 2, 0, 0: p = 1/3."""
    groups = np.array([0, 0, 1, 2, 2, 2])
    assert design_effect(np.array([1, 1, 0, 1, 0, 0], dtype=bool), groups) == pytest.approx(1)
    pairs = ((2 - 2 / 3) ** 2 + (1 / 3) ** 2 + 1**2) / (6 * 2 / 9)
    assert design_effect(np.array([1, 1, 0, 0, 0, 0], dtype=bool), groups) == pytest.approx(pairs)
    # All right or none: nothing is seen of the groups, which then count as one question each (4 + 1 + 9 over 6).
    assert design_effect(np.ones(6, dtype=bool), groups) == design_effect(np.zeros(6, dtype=bool), groups) == 14 / 6


def test_design_effect_is_never_below_that_of_independent_questions() -> None:
    """Pairs of which always one is right would look surer than independent questions do."""
    right, groups = np.array([True, False] * 10), np.repeat(np.arange(10), 2)
    assert design_effect(right, groups) == 1.0
    assert design_effect(right, None) == design_effect(np.array([], dtype=bool), np.array([], dtype=int)) == 1.0


@pytest.mark.parametrize("right", [0, 7, 20])
def test_copies_of_a_question_tell_nothing_new(right: int) -> None:
    once = np.arange(20) < right
    for copies in (2, 5):
        every, groups = np.repeat(once, copies), np.repeat(np.arange(20), copies)
        assert design_effect(every, groups) == pytest.approx(copies)
        found = wilson_interval(copies * right, 20 * copies, effect=design_effect(every, groups))
        assert found == pytest.approx(wilson_interval(right, 20))


def naive(
    a: list[Right], b: list[Right], groups: list[Groups], same: bool, resamples: int, seed: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Seeds, then groups, one by one; a mean is over all questions in the groups that were drawn."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(resamples):
        common = rng.integers(groups[0].max() + 1, size=groups[0].max() + 1)
        shares = []
        for s in rng.integers(len(a), size=len(a)):
            drawn = common if same else rng.integers(groups[s].max() + 1, size=groups[s].max() + 1)
            asked = np.concatenate([np.flatnonzero(groups[s] == g) for g in drawn])
            shares.append((a[s][asked].mean(), b[s][asked].mean()))
        out.append(np.mean(shares, axis=0))
    return np.array(out)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("seeds", [1, 3])
def test_bootstrap_agrees_with_drawing_groups_one_by_one(same: bool, seeds: int) -> None:
    """Groups of one to four questions; the questions of a group are about equally hard."""
    rng = np.random.default_rng(3)
    a, b, groups = [], [], []
    sizes = rng.integers(1, 5, size=40)
    ease = rng.random(40)
    for s in range(seeds):
        if not same:
            sizes = rng.integers(1, 5, size=40 + 5 * s)
            ease = rng.random(len(sizes))
        own = np.repeat(np.arange(len(sizes)), sizes)
        groups.append(own)
        a.append(ease[own] + 0.1 * rng.random(len(own)) > 0.40 + 0.02 * s)
        b.append(0.8 * ease[own] + 0.3 * rng.random(len(own)) > 0.55)
    means = bootstrap_means(a, b, same_questions=same, groups=groups, resamples=20_000, seed=1)
    reference = naive(a, b, groups, same, 3_000, 2)
    assert means.mean(axis=0) == pytest.approx(observed_means(a, b), abs=0.005)
    assert means.std(axis=0) == pytest.approx(reference.std(axis=0), rel=0.06)
    gaps, expected = means[:, 0] - means[:, 1], reference[:, 0] - reference[:, 1]
    assert gaps.std() == pytest.approx(expected.std(), rel=0.06)
    assert np.quantile(gaps, [0.025, 0.975]) == pytest.approx(
        np.quantile(expected, [0.025, 0.975]), abs=0.15 * expected.std()
    )
    # What questions alone would say: these groups are of one mind.
    apart = bootstrap_means(a, b, same_questions=same, resamples=20_000, seed=1)
    assert apart.std(axis=0)[0] < 0.9 * means.std(axis=0)[0]


@pytest.mark.parametrize("same", [True, False])
def test_two_copies_of_every_question_give_the_interval_of_one(same: bool) -> None:
    rng = np.random.default_rng(1)
    once = [rng.random(60) < 0.6 for _ in range(2)], [rng.random(60) < 0.5 for _ in range(2)]
    twice = [[np.repeat(part, 2) for part in system] for system in once]
    groups = [np.repeat(np.arange(60), 2)] * 2
    one = difference(bootstrap_means(*once, same_questions=same, resamples=20_000), observed_means(*once))
    both = bootstrap_means(*twice, same_questions=same, groups=groups, resamples=20_000)
    grouped = difference(both, observed_means(*twice))
    careless = difference(bootstrap_means(*twice, same_questions=same, resamples=20_000), observed_means(*twice))
    assert grouped.mean == pytest.approx(one.mean)
    assert grouped.high - grouped.low == pytest.approx(one.high - one.low, rel=0.04)
    assert careless.high - careless.low < 0.9 * (one.high - one.low)
    if same:
        assert (careless.high - careless.low) * math.sqrt(2) == pytest.approx(one.high - one.low, rel=0.05)


def test_groups_of_one_question_are_no_groups() -> None:
    a, b = [np.arange(30) < 20], [np.arange(30) % 2 == 0]
    single = bootstrap_means(a, b, same_questions=True, groups=[np.arange(30)], resamples=500)
    assert (single == bootstrap_means(a, b, same_questions=True, resamples=500)).all()


def answers(rng: np.random.Generator, pairs: int) -> tuple[Right, Right, Groups]:
    """Answers of two equal methods to two questions a pair, which each answers mostly alike, and the groups."""
    first, second = (np.repeat(rng.random(pairs) < 0.6, 2) for _ in range(2))
    slips = rng.random((2, 2 * pairs)) < 0.05
    return first ^ slips[0], second ^ slips[1], np.repeat(np.arange(pairs), 2)


def test_equal_methods_are_told_apart_as_often_as_the_level_says() -> None:
    """Correlated pairs: whole groups keep the level of 5%; questions drawn one by one are too sure of themselves."""
    rng = np.random.default_rng(11)
    trials, grouped, careless = 400, 0, 0
    for trial in range(trials):
        a, b, groups = answers(rng, 100)
        for numbers in (groups, None):
            drawn = bootstrap_means(
                [a], [b], same_questions=True, groups=None if numbers is None else [numbers], resamples=400, seed=trial
            )
            significant = difference(drawn, observed_means([a], [b])).p < 0.05
            if numbers is None:
                careless += significant
            else:
                grouped += significant
    assert 0.02 < grouped / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials) < careless / trials


def test_an_interval_covers_the_true_share_as_often_as_it_says() -> None:
    """Truth: 0.6 x 0.95 + 0.4 x 0.05 = 0.59."""
    rng = np.random.default_rng(5)
    trials, covered, careless = 500, 0, 0
    for _ in range(trials):
        right, _, groups = answers(rng, 60)
        hits = int(right.sum())
        low, high = wilson_interval(hits, 120, effect=design_effect(right, groups))
        covered += low <= 0.59 <= high
        low, high = wilson_interval(hits, 120)
        careless += low <= 0.59 <= high
    assert careless / trials < 0.95 - 3 * math.sqrt(0.05 * 0.95 / trials) < covered / trials < 0.985
