"""What the runs say of each claim: differences with intervals, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, cast

import pandas as pd

from tinyllm import paper
from tinyllm.evaluation.statistics import Difference, detectable_difference, difference
from tinyllm.reporting.cells import best_by_validation, for_every_seed, name_of, runs_of, teachers_of
from tinyllm.reporting.claims import Budget, CellSpec, Claim
from tinyllm.reporting.labels import label
from tinyllm.reporting.paired import Pair
from tinyllm.reporting.study import LEVEL, POWER, Study, corrected
from tinyllm.reporting.whole import Whole
from tinyllm.runs import TEACHER


class Verdict(StrEnum):
    """Of a claim that a difference is above 0; the interval is the paired test's."""

    holds = "holds"
    """The interval is above 0."""
    contradicted = "contradicted"
    """It is below 0."""
    not_shown = "not shown"
    """It has 0 inside."""
    not_run = "not run"
    """Runs or their predictions are missing, or can't be compared."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A claim on one dataset."""

    dataset: str
    pair: Pair | None
    paper: float | None
    """The paper's difference, share of 1."""
    difference: Difference | None = None
    """Ours, uncorrected."""
    detectable: float | None = None
    """Minimum detectable effect, share of 1."""
    remark: str = ""
    """What was compared; without a pair, why not."""

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.difference)


@dataclass(frozen=True, slots=True)
class Line:
    """A claim with one student: on average over the datasets that were run, and on each."""

    claim: Claim
    sentence: str
    student: str
    datasets: list[Tested]
    paper: float | None = None
    """The paper's difference on the same student and datasets, share of 1."""
    in_words: str = ""
    """What stands in its place: the range over the paper's students, or its own words."""
    difference: Difference | None = None
    """Ours, with p corrected over all lines."""
    detectable: float | None = None
    reason: str = ""
    """Why it was not run."""
    remarks: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        found = verdict_of(self.difference)
        return Verdict.not_shown if self.claim.any_dataset and found is Verdict.contradicted else found


def verdict_of(difference: Difference | None) -> Verdict:
    """By the interval; without a difference, not run."""
    if difference is None:
        return Verdict.not_run
    if difference.low > 0:
        return Verdict.holds
    return Verdict.contradicted if difference.high < 0 else Verdict.not_shown


@lru_cache(maxsize=1)
def judge(study: Study, claims: tuple[Claim, ...]) -> list[Line]:
    """A line for every claim, student and scope (the paper's datasets, or others), in the order of the claims.

    A claim for which there is no such student or dataset has one line, which says what is missing.
    """
    wholes = {student: Whole(study, student) for student in study.students}
    lines: list[Line] = []
    for claim in claims:
        places = [(student, datasets) for student in study.students for datasets in _scopes(study, claim, student)]
        lines += [_line(study, wholes[student], claim, student, datasets) for student, datasets in places]
        lines += [] if places else [_nowhere(claim)]
    tested = [(i, _pairs(line.datasets)) for i, line in enumerate(lines) if not line.reason]
    raw = study.differences([pairs for _, pairs in tested])
    for (i, pairs), one in zip(tested, corrected(raw), strict=True):
        lines[i] = replace(lines[i], difference=one, detectable=_measured(study, pairs)[1])
    return lines


def _scopes(study: Study, claim: Claim, student: str) -> list[list[str]]:
    """Datasets that are averaged in one line: the paper's on which it claims it, and those that it doesn't have."""
    ran = set(study.runs.loc[(study.runs["student"] == student) & (study.runs["method"] != TEACHER), "dataset"])
    claimed = claim.places.get(student, ()) if student in paper.STUDENTS else set().union(*claim.places.values())
    own = sorted(ran.difference(paper.DATASETS))
    return [scope for scope in (paper.paper_first(ran.intersection(claimed), paper.DATASETS), own) if scope]


def _nowhere(claim: Claim) -> Line:
    """Of students or datasets that weren't run at all."""
    missing = [
        student if len(datasets) == len(paper.DATASETS) else f"{student} on {', '.join(datasets)}"
        for student, datasets in claim.places.items()
    ]
    return Line(claim, claim.named([]), "", [], in_words=_in_words(claim), reason=f"no runs of {' or '.join(missing)}")


def _line(study: Study, whole: Whole, claim: Claim, student: str, datasets: list[str]) -> Line:
    tested = [_test(study, whole, claim, student, dataset) for dataset in datasets]
    complete = [one.dataset for one in tested if one.pair is not None]
    remarks = [one.remark if len(tested) == 1 else f"{one.dataset}: {one.remark}" for one in tested if one.remark]
    reason = ""
    claimed = claim.places.get(student, []) if datasets[0] in paper.DATASETS else []
    if not complete:
        reason = "; ".join(dict.fromkeys(one.remark for one in tested))
    elif claim.average_only and (missing := [dataset for dataset in claimed if dataset not in complete]):
        reason = f"claimed for the average over {len(claimed)} datasets; not run: {', '.join(missing)}"
    elif smallest := _smallest_share(study, claim, student, complete):
        remarks.append(smallest)
    seeds = {one.dataset: one.pair.seeds for one in tested if one.pair is not None}
    if len(set(seeds.values())) > 1:
        remarks.append(f"seeds differ: {', '.join(f'{name} {len(own)}' for name, own in seeds.items())}")
    number = claim.in_paper(student, complete) if claimed else None
    names = teachers_of(study, student, datasets[0])
    return Line(
        claim,
        claim.named(names),
        student,
        tested,
        number,
        "" if number is not None else _in_words(claim),
        reason=reason,
        remarks=list(dict.fromkeys(remarks)),
    )


def _in_words(claim: Claim) -> str:
    numbers = [100 * n for student, datasets in claim.places.items() if (n := claim.in_paper(student, datasets))]
    if claim.reported or not numbers:
        return claim.reported
    ends = dict.fromkeys(f"{number:.1f}" for number in (min(numbers), max(numbers)))
    return " to ".join(ends)


def _test(study: Study, whole: Whole, claim: Claim, student: str, dataset: str) -> Tested:
    number = claim.in_paper(student, [dataset])
    first = runs_of(study, claim.first, student, dataset)
    seconds = [runs for cell in claim.second if len(runs := runs_of(study, cell, student, dataset))]
    if first.empty or not seconds:
        missing = [claim.first] if first.empty else claim.second
        return Tested(dataset, None, number, remark=f"no runs of {name_of(missing)}")
    second = best_by_validation(seconds)
    name, remarks = label(cast(dict[str, Any], second.iloc[0].to_dict())), []
    if claim.first == CellSpec(method="tinyllm") and second["method"].iloc[0] in ("tinyllm", paper.ONE_TEACHER):
        same = whole.of(second, name)
        if same is None:
            return Tested(dataset, None, number, remark=f"not comparable: {whole.why_not(second)}")
        if set(same["setting"]) != set(first["setting"]):
            variant = str(same["variant"].iloc[0])
            remarks.append(f"TinyLLM [{variant}]" if variant else f"TinyLLM at α {same['alpha'].iloc[0]}")
        first = same
    elif origins := _origins(first, second):
        remarks.append(f"texts: {origins}")
    if len(claim.second) > 1 or second["variant"].iloc[0]:
        remarks.append(f"against {name}")
    if claim.second[0].budget is Budget.compute and (times := _tokens(second, first)):
        remarks.append(times)
    pair = study.pair(for_every_seed(study, first, second), for_every_seed(study, second, first))
    if pair is None:
        return Tested(dataset, None, number, remark="no seed and question with predictions of both")
    return Tested(dataset, pair, number, *_measured(study, [pair]), remark=", ".join(remarks))


def _tokens(runs: pd.DataFrame, others: pd.DataFrame) -> str:
    """How many times the others' tokens the runs read in training; "" where unknown, or the same within 2%."""
    mine, theirs = (float(side["train_tokens"].mean()) if "train_tokens" in side else 0.0 for side in (runs, others))
    times = mine / theirs if theirs > 0 else math.nan
    return f"which reads {times:.2f} times the tokens" if abs(times - 1) > 0.02 else ""


def _origins(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """Where the two sides' texts came from, if not from the same; "" where one of them has none."""
    origins = [sorted({one.origin for texts in runs["texts"] for one in texts.teachers}) for runs in (first, second)]
    if not all(origins) or origins[0] == origins[1]:
        return ""
    return " against ".join(" and ".join(found) for found in origins)


def _smallest_share(study: Study, claim: Claim, student: str, datasets: Sequence[str]) -> str:
    """Of a claim on a part of the questions: the smallest part of those that were run at which it holds."""
    cell, other = claim.first, claim.second[0]
    if cell.fraction is None or cell.fraction == other.fraction or cell.budget is not Budget.own:
        return ""
    runs = study.chosen[(study.chosen["student"] == student) & (study.chosen["method"] == cell.method)]
    shares = sorted(set(runs.loc[runs["dataset"].isin(datasets) & (runs["ablation"] == "none"), "train_fraction"]))
    tested = []
    for share in shares:
        sides = [
            [runs_of(study, one, student, dataset) for one in (replace(cell, fraction=share), other)]
            for dataset in datasets
        ]
        pairs = [pair for first, second in sides if (pair := study.pair(first, second)) is not None]
        if len(pairs) < len(datasets):
            continue
        tested.append(f"{100 * share:g}%")
        if verdict_of(_measured(study, pairs)[0]) is Verdict.holds:
            return f"smallest share at which it is shown to be above: {tested[-1]} (not corrected)"
    return f"shown to be above at none of {', '.join(tested)}" if tested else ""


def _pairs(datasets: Sequence[Tested]) -> list[Pair]:
    return [one.pair for one in datasets if one.pair is not None]


def _measured(study: Study, pairs: Sequence[Pair]) -> tuple[Difference, float | None]:
    """The difference and the minimum detectable effect."""
    averages = study.averages(pairs)
    effect = detectable_difference(averages.means, averages.by_seed, alpha=LEVEL, power=POWER)
    return difference(*averages), effect
