"""What each teacher brings: accuracy over the number of teachers, leave-one-out and Shapley values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from tinyllm.evaluation.statistics import Difference
from tinyllm.reporting.interval import interval, over_seeds
from tinyllm.reporting.labels import seeds_text
from tinyllm.reporting.paired import Pair
from tinyllm.reporting.study import Study
from tinyllm.reporting.subsets import Lattice, Teachers, brings, lattices, shapley
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import notes

_COLUMNS = {"alone": "alone", "left out": "leave-one-out", "Shapley": "Shapley value"}
"""How a teacher is asked about -> the column."""


def teachers(study: Study) -> list[Table]:
    """Two tables for every set of teachers of which parts were run too."""
    found = []
    for number, lattice in enumerate(lattices(study), 1):
        found += [_attribution(study, lattice, number), _counts(study, lattice, number)]
    return [table for table in found if table is not None]


def _attribution(study: Study, lattice: Lattice, number: int) -> Table | None:
    nobody, whole = frozenset[str](), lattice.whole
    pairs: dict[tuple[str, str], Pair | None] = {}
    one_by_one = _at_shared_seeds(lattice, [nobody, *(frozenset({m}) for m in lattice.teachers)])
    left_out = _at_shared_seeds(lattice, [nobody, whole, *(whole - {m} for m in lattice.teachers)])
    for m in lattice.teachers:
        pairs[m, "alone"] = brings(study, one_by_one, m, nobody)
        pairs[m, "left out"] = brings(study, left_out, m, whole - {m})
        pairs[m, "Shapley"] = shapley(study, lattice, m)
    pairs["", "Shapley"] = _whole(study, lattice)
    pairs["", "left out"] = study.pair(left_out.runs[whole], left_out.runs[nobody]) if nobody in lattice.runs else None
    keys = [key for key, pair in pairs.items() if pair is not None]
    if not keys:
        return None
    tested = study.differences([[pair] for pair in (pairs[key] for key in keys) if pair is not None])
    found = dict(zip(keys, tested, strict=True))
    rows = [(Cell(text=m), *(_cell(found.get((m, how))) for how in _COLUMNS)) for m in lattice.teachers]
    rows.append(
        (Cell(text="all of them"), Cell(), _cell(found.get(("", "left out"))), _cell(found.get(("", "Shapley"))))
    )
    return Table(
        f"teachers_{number}",
        f"What each teacher brings in points: {lattice.title}",
        ("teacher", *_COLUMNS.values()),
        tuple(rows),
        (
            "Alone: the teacher alone minus full fine-tuning. Leave-one-out: the whole set minus the set without the "
            "teacher. Last line: the whole set minus full fine-tuning.",
            "Shapley value: what a teacher adds to a set of others, averaged over all orders in which the set can "
            f"grow; exact, over all {2 ** len(lattice.teachers)} subsets. They add up to the last line."
            if lattice.complete
            else "Shapley value: missing, as not every subset of these teachers was run.",
            f"Each column is on the seeds that all of its sets have: {_seeds_of_columns(pairs)}.",
            "95% intervals of the paired tests, not corrected for their number.",
        ),
        (notes.ACCURACY[study.metric], notes.TESTS),
    )


def _seeds_of_columns(pairs: Mapping[tuple[str, str], Pair | None]) -> str:
    by_column: dict[str, set[int]] = {}
    for (_, column), pair in pairs.items():
        if pair is not None:
            by_column.setdefault(column, set()).update(seed for seed, _ in pair.seeds)
    return "; ".join(f"{_COLUMNS[column]} {seeds_text(seeds)}" for column, seeds in by_column.items())


def _at_shared_seeds(lattice: Lattice, sets: Sequence[Teachers]) -> Lattice:
    """With the runs of these sets on the seeds that all of them have; as it is where they share none."""
    own = {one: lattice.runs[one] for one in sets if one in lattice.runs}
    shared = _shared(list(own.values()))
    kept = {
        one: runs[[drawn in shared for drawn in zip(runs["seed"], runs["data_seed"], strict=True)]]
        for one, runs in own.items()
    }
    return replace(lattice, runs={**lattice.runs, **kept}) if shared else lattice


def _shared(parts: Sequence[pd.DataFrame]) -> set[tuple[int, int]]:
    """(seed, seed of the data) that all parts have."""
    sets = [set(zip(runs["seed"], runs["data_seed"], strict=True)) for runs in parts]
    return set.intersection(*sets) if sets else set()


def _whole(study: Study, lattice: Lattice) -> Pair | None:
    """The whole set against full fine-tuning, on what all sets share: as the Shapley values."""
    together = study.together(lattice.runs) if lattice.complete else None
    return None if together is None else together.pair(lattice.whole, frozenset())


def _cell(found: Difference | None) -> Cell:
    return Cell() if found is None else Cell(found.mean, found.low, found.high)


def _counts(study: Study, lattice: Lattice, number: int) -> Table | None:
    curve = count_curve(study, lattice)
    if len(curve) < 2:
        return None
    rows = [
        (Cell(text=str(count)), Cell(text=" + ".join(lattice.teachers[:count]) or "none"), _point(one), _point(mean))
        for count, (one, mean) in curve.items()
    ]
    return Table(
        f"teacher_count_{number}",
        f"Accuracy over the number of teachers: {lattice.title}",
        ("teachers", "first in the set's order", "accuracy", "mean over all sets of this size"),
        tuple(rows),
        (
            "On the seeds that all of these sets were run on: "
            f"{seeds_text(seed for seed, _ in shared_seeds(study, lattice))}. Intervals: Student's t over the seeds; "
            "Wilson's for a single run.",
        ),
        (notes.ACCURACY[study.metric],),
    )


Point = tuple[float, float, float]
"""Mean, low and high; the latter NaN where unknown."""


def count_curve(study: Study, lattice: Lattice) -> dict[int, tuple[Point | None, Point | None]]:
    """Number of teachers -> accuracy of the first so many, and mean accuracy over all sets of as many.

    On the seeds that all of these sets share: others would be seen as a trend.
    """
    found: dict[int, tuple[Point | None, Point | None]] = {}
    seeds = shared_seeds(study, lattice)
    for count in range(len(lattice.teachers) + 1):
        first, sets = frozenset(lattice.teachers[:count]), lattice.of_size(count)
        one = _mean(study, lattice, [first], seeds) if first in lattice.runs else None
        mean = _mean(study, lattice, sets, seeds) if sets else None
        if one or mean:
            found[count] = (one, mean)
    return found


def shared_seeds(study: Study, lattice: Lattice) -> list[tuple[int, int]]:
    """(seed, seed of the data) that every set of a count curve was run on."""
    sizes = range(len(lattice.teachers) + 1)
    firsts = [frozenset(lattice.teachers[:count]) for count in sizes]
    drawn = {one for count in sizes for one in lattice.of_size(count) or []} | {
        one for one in firsts if one in lattice.runs
    }
    metric = study.metric.value
    return sorted(_shared([lattice.runs[one].dropna(subset=[metric]) for one in drawn]))


def _mean(study: Study, lattice: Lattice, sets: list[Teachers], seeds: Sequence[tuple[int, int]]) -> Point | None:
    metric = study.metric.value
    by_set = [lattice.runs[one].set_index(["seed", "data_seed"]).loc[list(seeds)] for one in sets]
    values = [sum(own) / len(own) for own in zip(*(runs[metric] for runs in by_set), strict=True)]
    if len(values) > 1:
        return over_seeds(values)
    if len(values) == 1 and len(sets) == 1:
        return interval(by_set[0], metric)
    return (values[0], math.nan, math.nan) if values else None


def _point(point: Point | None) -> Cell:
    if point is None:
        return Cell()
    mean, low, high = point
    return Cell(mean) if math.isnan(low) else Cell(mean, low, high)
