"""The runs of a report with the choices made among them: what tables, figures and cases are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from tinyllm import paper
from tinyllm.config import Metric
from tinyllm.evaluation.statistics import Difference, difference, holm
from tinyllm.reporting.choose import Choice, choose, chosen, selection_note
from tinyllm.reporting.paired import Answers, Averages, Pair, Together, average
from tinyllm.reporting.predictions import Predictions
from tinyllm.runs import TEACHER

LEVEL = 0.05
"""Of every test, after Holm's correction."""
POWER = 0.8
"""Of the minimum detectable effect."""


@dataclass(frozen=True, eq=False)
class Study:
    """Runs on the test split, the settings that validation chose, and paired tests between them.

    Built once a report: choices are made once, and every file of predictions is read once.
    """

    frame: pd.DataFrame
    """Of `frame.on_test`: a row a run, all settings and all training fractions."""
    metric: Metric = Metric.accuracy
    """What is compared."""
    resamples: int = 2000
    """Of the paired bootstrap, at least."""
    seed: int = 0
    """Of the paired bootstrap."""
    predictions: Predictions = field(default_factory=Predictions)

    @cached_property
    def choices(self) -> list[Choice]:
        """One for every method with several settings."""
        return choose(self.frame)

    @cached_property
    def selection(self) -> str:
        """The note on how choices were made."""
        return selection_note(self.frame)

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The runs of chosen settings, at every training fraction."""
        return chosen(self.frame, self.choices)

    # What tables compare: one training fraction for each dataset and student

    @cached_property
    def fractions(self) -> dict[tuple[str, str], float]:
        """The largest fraction of the training questions that a student was trained on, by (dataset, student)."""
        trained = self.frame[~self.frame["untrained"].astype(bool)]
        largest = trained.groupby(["dataset", "student"], as_index=False)["train_fraction"].max()
        keys = zip(largest["dataset"], largest["student"], strict=True)
        return dict(zip(keys, map(float, largest["train_fraction"]), strict=True))

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """All settings at the largest training fraction: fractions are never mixed in a table.

        Runs without training belong to every fraction.
        """
        frame = self.frame
        keys = zip(frame["dataset"], frame["student"], strict=True)
        at_largest = frame["train_fraction"] == [self.fractions.get(key, 1.0) for key in keys]
        row = [frame[column] for column in ("dataset", "student", "method", "ablation", "variant")]
        none_at_largest = ~at_largest.groupby(row, dropna=False).transform("any")
        last = frame["train_fraction"] == frame["train_fraction"].groupby(row, dropna=False).transform("max")
        untrained = frame["untrained"] & none_at_largest & last
        return frame[at_largest | (frame["method"] == TEACHER) | untrained]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The chosen among `candidates`."""
        return chosen(self.candidates, self.choices)

    @cached_property
    def choices_in_tables(self) -> list[Choice]:
        """The choices of `runs`."""
        settings = set(self.runs["setting"])
        return [choice for choice in self.choices if choice.setting in settings]

    @cached_property
    def students(self) -> list[str]:
        """In the paper's order, others after them by name."""
        return paper.paper_first(self.runs.loc[self.runs["method"] != TEACHER, "student"], paper.STUDENTS)

    def select(self, student: str, method: str, ablation: str = "none", variant: str = "") -> pd.DataFrame:
        """Those of `runs` that are one row of a table; empty where there are none."""
        runs = self.runs
        return runs[
            (runs["student"] == student)
            & (runs["method"] == method)
            & (runs["ablation"] == ablation)
            & (runs["variant"] == variant)
        ]

    # Tests

    @cached_property
    def _answers(self) -> Answers:
        return Answers(self.predictions, self.metric)

    def pair(self, first: pd.DataFrame, second: pd.DataFrame, subset: str = "") -> Pair | None:
        """As `Answers.pair`."""
        return self._answers.pair(first, second, subset)

    def together(self, settings: Mapping[Any, pd.DataFrame]) -> Together | None:
        """As `Answers.together`."""
        return self._answers.together(settings)

    def right(self, folder: str) -> dict[str, bool]:
        """As `Answers.right`."""
        return self._answers.right(folder)

    def averages(self, pairs: Sequence[Pair], resamples: int | None = None) -> Averages:
        """Both accuracies over several datasets, one pair each: the arguments of the tests of `statistics`."""
        return average(pairs, resamples or self.resamples, self.seed)

    def differences(self, tests: Sequence[Sequence[Pair]]) -> list[Difference]:
        """The paired tests, uncorrected, with resamples enough for Holm's correction over all of them.

        On one seed of independent questions, p is at least that of McNemar's exact test: where few questions are
        discordant, a bootstrap of them is too sure.
        """
        resamples = max(self.resamples, enough_resamples(len(tests)))
        found = [difference(*self.averages(pairs, resamples)) for pairs in tests]
        exact = [pairs[0].mcnemar() if len(pairs) == 1 else None for pairs in tests]
        return [replace(one, p=max(one.p, p or 0.0)) for one, p in zip(found, exact, strict=True)]


def enough_resamples(tests: int) -> int:
    """Resamples with which a clear difference stays below the level when Holm multiplies its p by all tests."""
    return 10 * math.ceil(2 * tests / LEVEL)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """With p by Holm over all of them."""
    return [replace(one, p=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]
