"""Accuracy on questions on which the teachers conclude differently, and on the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from tinyllm.evaluation.statistics import t_interval
from tinyllm.parsing import single_spaces
from tinyllm.reporting.interval import over_seeds
from tinyllm.reporting.labels import fraction_text, named, order
from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import notes
from tinyllm.runs import TEACHER


def conflict(study: Study) -> list[Table]:
    """A table for every set of two teachers or more that all answered the test questions themselves."""
    frame, answers = study.frame, _answers(study)
    students = frame[(frame["method"] != TEACHER) & ~frame["untrained"].astype(bool)]
    found: list[Table] = []
    for (dataset, student), group in students.groupby(["dataset", "student"], sort=False):
        sets = {frozenset((m, how[0]) for m, how in json.loads(text).items()): text for text in group["taught"] if text}
        for whole, text in sets.items():
            own = [answers.get((str(dataset), m, digest), {}) for m, digest in whole]
            differs = _differs(own)
            if len(whole) < 2 or not differs:
                continue
            same = [
                not one or frozenset((m, how[0]) for m, how in json.loads(one).items()) == whole
                for one in group["taught"]
            ]
            lines = _lines(study, group[same], differs)
            if lines:
                names = " + ".join(json.loads(text))
                found.append(_table(study, f"{dataset} · {student} · {names}", lines, differs, len(found) + 1))
    return found


def _answers(study: Study) -> dict[tuple[str, str, str], dict[str, str | None]]:
    """(dataset, teacher, hash of how it is asked) -> id of each question -> the option that it names.

    Where one was asked in several ways, as with more in-context examples, the way that stands in table 1 counts, else
    the first by name. Of an id that several seeds share, the lowest seed's answer.
    """
    asked = study.runs[(study.runs["method"] == TEACHER) & (study.runs["taught"] != "")]
    found: dict[tuple[str, str, str], dict[str, str | None]] = {}
    way: dict[tuple[str, str, str], str] = {}
    for row in asked.sort_values(["variant", "setting", "seed", "data_seed"]).to_dict("records"):
        teacher, taught = row["student"], json.loads(row["taught"])
        if teacher not in taught:
            continue
        key = (row["dataset"], teacher, taught[teacher][0])
        if way.setdefault(key, row["setting"]) == row["setting"]:
            own = {p.id: p.predicted for p in study.predictions.of(row["folder"])}
            found[key] = own | found.get(key, {})
    return found


def _differs(answers: list[dict[str, str | None]]) -> dict[str, bool]:
    """Id of each question that all teachers were asked -> whether they name different options."""
    if not answers:
        return {}
    common = set.intersection(*(set(own) for own in answers))
    return {i: len({single_spaces(own[i] or "") for own in answers if own[i] is not None}) > 1 for i in common}


def _lines(study: Study, runs: Any, differs: Mapping[str, bool]) -> list[tuple[Cell, ...]]:
    lines = []
    for _, own in runs.groupby("setting", sort=False):
        by_seed: list[list[float | None]] = []
        for folder in own["folder"]:
            right = study.right(folder)
            parts = [[flag for i, flag in right.items() if differs.get(i) is kind] for kind in (True, False)]
            by_seed.append([sum(part) / len(part) if part else None for part in parts])
        columns = [[one[kind] for one in by_seed if one[kind] is not None] for kind in (0, 1)]
        gaps = [one - other for one, other in by_seed if one is not None and other is not None]
        if not any(columns):
            continue
        first = cast(dict[str, Any], own.iloc[0].to_dict())
        cells = [_cell([value for value in values if value is not None], over_seeds) for values in columns]
        cells.append(_cell(gaps, t_interval))
        name = named(first) + (f" ({first['alpha']})" if own["method"].iloc[0] == "tinyllm" and first["alpha"] else "")
        name += fraction_text(first["train_fraction"])
        lines.append((order(first), (Cell(text=name), *cells, Cell(text=str(len(by_seed))))))
    return [cells for _, cells in sorted(lines, key=lambda one: one[0])]


def _cell(values: list[float], over: Callable[[list[float]], tuple[float, float, float]]) -> Cell:
    return Cell(*over(values)) if len(values) > 1 else Cell(values[0] if values else None)


def _table(study: Study, title: str, lines: list[tuple[Cell, ...]], differs: Mapping[str, bool], number: int) -> Table:
    count = sum(differs.values())
    return Table(
        f"conflict_{number}",
        f"Where the teachers contradict each other: {title}",
        ("method", "accuracy with conflict", "without conflict", "difference", "seeds"),
        tuple(lines),
        (
            f"With conflict: the teachers, asked without the answer, name different options; {count} of {len(differs)} "
            f"test questions ({100 * count / len(differs):.0f}%), over all seeds.",
            "Intervals: Student's t over the seeds. The two kinds of questions differ in more than the conflict.",
        ),
        (notes.ACCURACY[study.metric],),
    )
