"""Stored predictions -> which questions two settings answered rightly, side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinyllm.config import Metric
from tinyllm.evaluation.statistics import (
    BySeed,
    Credit,
    Groups,
    Right,
    bootstrap_means,
    group_numbers,
    mcnemar,
    observed_means,
)
from tinyllm.parsing import is_exact, is_right
from tinyllm.records import Prediction
from tinyllm.reporting.predictions import Predictions

log = logging.getLogger(__name__)


class _Scored(NamedTuple):
    right: bool
    subset: str
    group: str
    asked: int
    """Hash of question, options and answer."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two settings on the seeds and the questions that both have."""

    first: tuple[Credit, ...]
    """For each seed, shape (questions,)."""
    second: tuple[Credit, ...]
    """The same seeds and questions, in the same order."""
    same_questions: bool
    """Every seed asks the same questions, in the same order."""
    questions: int
    """Different ones, over all seeds."""
    seeds: tuple[tuple[int, int], ...]
    """(seed, seed of the data) of each."""
    groups: tuple[Groups, ...] | None = None
    """Of the questions, for each seed; None where all questions are independent."""

    @property
    def observed(self) -> tuple[float, float]:
        """Both accuracies."""
        return observed_means(self.first, self.second)

    @property
    def by_seed(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Both accuracies of every seed."""
        shares = [(float(a.mean()), float(b.mean())) for a, b in zip(self.first, self.second, strict=True)]
        return dict(zip(self.seeds, shares, strict=True))

    @property
    def questions_a_seed(self) -> int:
        """Of one seed; the mean where seeds have more or fewer."""
        return round(float(np.mean([len(part) for part in self.first])))

    @property
    def groups_a_seed(self) -> int | None:
        """Groups of one seed's questions; the mean where seeds have more or fewer. None for independent questions."""
        return None if self.groups is None else round(float(np.mean([part.max() + 1 for part in self.groups])))

    @property
    def discordance(self) -> float:
        """Share of questions on which one is right and the other wrong, averaged over seeds."""
        return float(np.mean([(a != b).mean() for a, b in zip(self.first, self.second, strict=True)]))

    def mcnemar(self) -> float | None:
        """p of the exact test; None where it does not apply.

        So where pairs of answers are not independent, over several seeds or in groups, and for mixtures of accuracies.
        """
        plain = all(bool(((part == 0) | (part == 1)).all()) for part in (*self.first, *self.second))
        independent = len(self.seeds) == 1 and self.groups is None and plain
        return mcnemar(self.first[0].astype(bool), self.second[0].astype(bool)) if independent else None

    def means(self, resamples: int, seed: int) -> NDArray[np.float64]:
        """As `statistics.bootstrap_means`."""
        return bootstrap_means(
            self.first,
            self.second,
            same_questions=self.same_questions,
            groups=self.groups,
            resamples=resamples,
            seed=seed,
        )


@dataclass(frozen=True, slots=True)
class Together:
    """Several settings on the seeds and the questions that all of them have; fields as in `Pair`."""

    right: tuple[Mapping[Any, Right], ...]
    """For each seed, setting -> shape (questions,)."""
    same_questions: bool
    questions: int
    seeds: tuple[tuple[int, int], ...]
    groups: tuple[Groups, ...] | None

    def pair(self, first: Any, second: Any) -> Pair:
        """Two of the settings, by their keys."""
        return Pair(
            tuple(seed[first] for seed in self.right),
            tuple(seed[second] for seed in self.right),
            same_questions=self.same_questions,
            questions=self.questions,
            seeds=self.seeds,
            groups=self.groups,
        )


class Answers:
    """Which questions each run answered rightly, worked out once a run."""

    def __init__(self, predictions: Predictions, metric: Metric) -> None:
        self._predictions = predictions
        self._metric = metric
        self._of = cache(self._score)

    def pair(self, first: pd.DataFrame, second: pd.DataFrame, subset: str = "") -> Pair | None:
        """Join the runs of two settings by seed and question id.

        Args:
            first: rows of the frame, of one setting on one dataset.
            second: of the other, on the same dataset.
            subset: only questions of this named subset; empty for all.

        Returns:
            None where no seed has predictions of both on a common question.
        """
        found = self.together({"first": first, "second": second}, subset)
        return None if found is None else found.pair("first", "second")

    def together(self, settings: Mapping[Any, pd.DataFrame], subset: str = "") -> Together | None:
        """As `pair`, of several settings; a question that has changed under its id in any of the runs is left out."""
        folders = {key: _by_seed(runs) for key, runs in settings.items()}
        asked: list[tuple[str, ...]] = []
        right: list[dict[Any, Right]] = []
        names: list[list[str]] = []
        found: list[tuple[int, int]] = []
        for seeds in sorted(set.intersection(*(set(own) for own in folders.values()))):
            scored = {key: self._of(own[seeds]) for key, own in folders.items()}
            runs = list(scored.values())
            common = _same_questions([own[seeds] for own in folders.values()], runs)
            ids = tuple(id for id in common if not subset or runs[0][id].subset == subset)
            if ids:
                asked.append(ids)
                right.append({key: _aligned(one, ids) for key, one in scored.items()})
                names.append([next((run[id].group for run in runs if run[id].group), "") for id in ids])
                found.append(seeds)
        if not asked:
            return None
        every = len(set().union(*asked))
        return Together(tuple(right), len(set(asked)) == 1, every, tuple(found), _groups(names))

    def right(self, folder: str) -> dict[str, bool]:
        """Question id -> whether a run answered it rightly."""
        return {id: one.right for id, one in self._of(folder).items()}

    def _score(self, folder: str) -> dict[str, _Scored]:
        predictions = self._predictions.of(folder)
        # A teacher's options are not ranked, and its text is no option: what counts is always the option that it names.
        teacher = all(p.ranked is None for p in predictions)
        metric = Metric.accuracy if teacher else self._metric
        return {
            p.id: _Scored(answered(p, metric), p.subset, p.group, hash((p.question, p.choices, p.answer)))
            for p in predictions
        }


def _same_questions(folders: Sequence[str], runs: Sequence[Mapping[str, _Scored]]) -> list[str]:
    """Ids that all runs have, in order; without questions that have changed under their id between two of them."""
    common = sorted(set.intersection(*(set(run) for run in runs)))
    same = [id for id in common if len({run[id].asked for run in runs}) == 1]
    if len(same) < len(common):
        log.warning(
            "%s: %d of %d questions of the same id differ in question, options or answer, and are not compared",
            " and ".join(folders), len(common) - len(same), len(common),
        )  # fmt: skip
    return same


def answered(prediction: Prediction, metric: Metric) -> bool:
    """Whether a question was answered rightly."""
    if metric is Metric.accuracy_exact:
        return is_exact(prediction.generated, prediction.answer)
    chosen = prediction.ranked if metric is Metric.accuracy_ranked else prediction.predicted
    return is_right(chosen, prediction.answer)


def _groups(names: Sequence[Sequence[str]]) -> tuple[Groups, ...] | None:
    """Of every seed, by number; None where no seed has a group of several questions."""
    numbers = [group_numbers(part) for part in names]
    if all(part is None for part in numbers):
        return None
    return tuple(np.arange(len(own)) if n is None else n for own, n in zip(names, numbers, strict=True))


def _aligned(answers: Mapping[str, _Scored], ids: Sequence[str]) -> Right:
    return np.array([answers[id].right for id in ids])


class Averages(NamedTuple):
    """Accuracies of two settings over several datasets of equal weight: the arguments of `statistics.difference`."""

    means: NDArray[np.float64]
    """Bootstrapped, each dataset for itself; shape (resamples, 2)."""
    observed: tuple[float, float]
    by_seed: BySeed
    """Of the seeds that all datasets have; where these are fewer than two, each dataset for itself."""


def average(pairs: Sequence[Pair], resamples: int, seed: int) -> Averages:
    """Put the pairs of several datasets (one or more) together.

    Args:
        pairs: one a dataset.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    draws = [pair.means(resamples, seed + index) for index, pair in enumerate(pairs)]
    observed = np.mean([pair.observed for pair in pairs], axis=0)
    own = [np.array(list(pair.by_seed.values())) / len(pairs) for pair in pairs]
    if len(common := common_seeds(pairs)) > 1:
        own = [np.mean([[pair.by_seed[key] for key in common] for pair in pairs], axis=0)]
    return Averages(
        np.asarray(np.mean(draws, axis=0)),
        (float(observed[0]), float(observed[1])),
        [[(float(first), float(second)) for first, second in part] for part in own],
    )


def common_seeds(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """The seeds that every pair has."""
    return [key for key in pairs[0].seeds if all(key in pair.seeds for pair in pairs)]


def _by_seed(runs: pd.DataFrame) -> dict[tuple[int, int], str]:
    """Folder by (seed, seed of the data)."""
    return {
        (int(seed), int(data_seed)): folder
        for seed, data_seed, folder in zip(runs["seed"], runs["data_seed"], runs["folder"], strict=True)
    }
