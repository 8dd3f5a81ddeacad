"""Methods by datasets: the rows, columns and cells that tables 1 and 2 are put together from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tinyllm import paper
from tinyllm.config import Metric
from tinyllm.reporting.choose import setting_name, tries_text
from tinyllm.reporting.interval import interval, measurements, over_seeds, reach, within
from tinyllm.reporting.labels import label, order, seeds_text
from tinyllm.reporting.paired import Pair
from tinyllm.reporting.study import LEVEL, Study, corrected
from tinyllm.reporting.table import Cell
from tinyllm.runs import TEACHER


@dataclass(frozen=True, slots=True)
class Column:
    """A dataset, a named part of one, or the total of several."""

    name: str
    datasets: tuple[str, ...]
    """One, or those that a total averages."""
    subset: str = ""

    @property
    def total(self) -> bool:
        return self.name == "Total"

    @property
    def in_paper(self) -> str:
        """Its name in the paper's tables; "" where they can't have it."""
        return paper.TOTAL if self.total else "" if self.subset else self.datasets[0]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A method, ablation or variant of a student, or a teacher."""

    label: str
    student: str
    method: str
    ablation: str
    variant: str
    runs: pd.DataFrame
    """One setting a dataset."""

    @property
    def plain(self) -> bool:
        """Neither an ablation nor a variant."""
        return (self.ablation, self.variant) == ("none", "")

    def on(self, dataset: str) -> pd.DataFrame:
        """The runs on one dataset."""
        return self.runs[self.runs["dataset"] == dataset]

    def in_paper(self, column: Column) -> float | None:
        """The paper's number."""
        return None if self.variant else paper.reported(self.student, self.method, column.in_paper, self.ablation)


def row_of(study: Study, student: str, method: str, ablation: str = "none", variant: str = "") -> Row:
    """A row, without runs where there are none."""
    fields = {"student": student, "method": method, "ablation": ablation, "variant": variant}
    return Row(label(fields), **fields, runs=study.select(**fields))


def rows_of(study: Study, student: str) -> list[Row]:
    """All methods, ablations and variants of a student that were run, in the paper's order."""
    runs = study.runs[(study.runs["student"] == student) & (study.runs["method"] != TEACHER)]
    kinds = runs[["student", "method", "ablation", "variant"]].drop_duplicates().to_dict("records")
    fields = [{str(key): str(value) for key, value in kind.items()} for kind in kinds]
    return [row_of(study, **kind) for kind in sorted(fields, key=order)]


def teachers_of(study: Study, datasets: Iterable[str]) -> list[Row]:
    """The teachers that were asked about any of the datasets."""
    asked = study.runs[(study.runs["method"] == TEACHER) & study.runs["dataset"].isin(list(datasets))]
    return [row_of(study, teacher, TEACHER) for teacher in paper.paper_first(asked["student"], paper.TEACHERS)]


def columns_of(runs: pd.DataFrame, student: str | None = None) -> list[Column]:
    """The datasets of some runs and their subsets, the paper's first, and a total.

    Of the paper's students the total is the paper's: over its six datasets.
    """
    datasets = paper.paper_first(runs["dataset"], paper.DATASETS)
    averaged = paper.DATASETS if student in paper.STUDENTS else tuple(datasets)
    columns = [column for dataset in datasets for column in (Column(dataset, (dataset,)), *_subsets(dataset, runs))]
    if len(averaged) < 2 or not set(averaged) <= set(datasets):
        return columns
    after = max(i for i, column in enumerate(columns) if column.datasets[0] in averaged) + 1
    return [*columns[:after], Column("Total", averaged), *columns[after:]]


def _subsets(dataset: str, runs: pd.DataFrame) -> list[Column]:
    rows = runs[runs["dataset"] == dataset]
    scores = [c for c in rows.columns if c.startswith("subset/") and c.endswith("/n") and rows[c].notna().any()]
    names = sorted((c.split("/")[1] for c in scores), reverse=True)  # visible before hidden
    return [Column(f"{dataset}/{subset}", (dataset,), subset) for subset in names]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Cells of rows by columns; every row and every column has a value."""

    rows: list[Row]
    columns: list[Column]
    cells: list[list[Cell]]
    """A list for each row."""

    @property
    def header(self) -> tuple[str, ...]:
        return ("Method", *(column.name for column in self.columns))

    @property
    def has_total(self) -> bool:
        return any(column.total for column in self.columns)

    def lines(self) -> list[tuple[Cell, ...]]:
        """The rows of a table, labels first."""
        return [(Cell(text=row.label), *cells) for row, cells in zip(self.rows, self.cells, strict=True)]


def grid_of(study: Study, rows: Sequence[Row], columns: Sequence[Column]) -> Grid:
    """The cells, without the rows and the columns that no run has."""
    cells = [[cell_of(study, row, column) for column in columns] for row in rows]
    kept_columns = [j for j in range(len(columns)) if any(line[j].value is not None for line in cells)]
    kept_rows = [i for i, line in enumerate(cells) if any(cell.value is not None for cell in line)]
    return Grid(
        [rows[i] for i in kept_rows],
        [columns[j] for j in kept_columns],
        [[cells[i][j] for j in kept_columns] for i in kept_rows],
    )


def cell_of(study: Study, row: Row, column: Column) -> Cell:
    """The accuracy with its interval, the paper's number, and a note on seeds and setting."""
    if column.total:
        return _total(study, row, column)
    reported = row.in_paper(column)
    runs = row.on(column.datasets[0])
    metric = Metric.accuracy if row.method == TEACHER else study.metric  # a teacher's options are not ranked
    stem = f"subset/{column.subset}/{metric}" if column.subset else str(metric)
    if stem not in runs or runs[stem].isna().all():
        return Cell(paper=reported)
    runs = measurements(runs, stem)
    value, low, high = interval(runs, stem)
    n = runs[f"subset/{column.subset}/n" if column.subset else "n"]
    sizes = "–".join(f"{size:g}" for size in dict.fromkeys([n.min(), n.max()]))
    setting = _strongest(runs) or setting_name(runs.iloc[0])
    parts = [f"seeds {seeds_text(runs['seed'])}", f"n {sizes}", setting, _selected(study, runs.iloc[0])]
    return Cell(value, low, high, paper=reported, note="; ".join(part for part in parts if part))


def _selected(study: Study, run: pd.Series) -> str:
    of = [c for c in study.choices_in_tables if (c.setting, c.dataset) == (run["setting"], run["dataset"])]
    return f"one of {of[0].candidates} settings by validation" if of else ""


def _strongest(runs: pd.DataFrame) -> str:
    """Which teacher was found to be the strongest, seed by seed."""
    found = runs[runs["strongest"] != ""]
    return ", ".join(
        f"{'strongest teacher ' if index == 0 else ''}{teacher} (seeds {seeds_text(part['seed'])})"
        for index, (teacher, part) in enumerate(found.groupby("strongest"))
    )


def _total(study: Study, row: Row, column: Column) -> Cell:
    reported = row.in_paper(column)
    cells = [cell_of(study, row, Column(dataset, (dataset,))) for dataset in column.datasets]
    if any(cell.value is None for cell in cells):
        return Cell(paper=reported)
    values = [cell.value or 0.0 for cell in cells]
    by_seed = (
        row.runs[row.runs["dataset"].isin(column.datasets)]
        .pivot_table(index="seed", columns="dataset", values=str(study.metric))
        .mean(axis="columns", skipna=False)
    )
    trained = (row.runs["train_examples"] > 0).any()
    mean = float(np.mean(values))
    if trained and len(by_seed) > 1 and by_seed.notna().all():
        mean, *over = over_seeds(list(by_seed))
        metric = str(study.metric)
        own = [reach(row.on(d), metric) for d in column.datasets if not row.on(d)["redrawn"].all()]
        below, above = (_added(ends, len(cells)) for ends in zip(*own, strict=True)) if own else (0.0, 0.0)
        value, low, high = within(mean, min(over[0], mean - below), max(over[1], mean + above))
    else:
        ends = [[getattr(cell, end) - (cell.value or 0.0) for cell in cells] for end in ("low", "high")]
        value, low, high = within(mean, mean - _added(ends[0], len(cells)), mean + _added(ends[1], len(cells)))
    return Cell(value, low, high, paper=reported, note=f"mean of {len(cells)} datasets")


def _added(distances: Sequence[float], datasets: int) -> float:
    """Newcombe's square-and-add, of a mean over datasets."""
    return math.hypot(*distances) / datasets


def pairs_of(study: Study, first: Row, second: Row, column: Column) -> list[Pair]:
    """The answers of two rows, a pair for each dataset of the column; empty where any is missing."""
    pairs = [study.pair(first.on(d), second.on(d), column.subset) for d in column.datasets]
    return [] if any(pair is None for pair in pairs) else [pair for pair in pairs if pair is not None]


def mark_best(study: Study, grid: Grid) -> None:
    """Mark the best of each column where it is significantly better than the second best."""
    tests: list[tuple[int, int, list[Pair]]] = []
    for j, column in enumerate(grid.columns):
        values = {i: cells[j].value for i, cells in enumerate(grid.cells)}
        ranking = sorted((i for i, v in values.items() if v is not None), key=lambda i: -(values[i] or 0.0))
        if len(ranking) < 2:
            continue
        best, second = (grid.rows[i] for i in ranking[:2])
        pairs = pairs_of(study, best, second, column)
        seeds = [len(row.on(dataset)) for row in (best, second) for dataset in column.datasets]
        if pairs and (max(seeds) == 1 or min(len(pair.seeds) for pair in pairs) > 1):  # one of several says too little
            tests.append((ranking[0], j, pairs))
    found = corrected(study.differences([pairs for _, _, pairs in tests]))
    for (i, j, _), one in zip(tests, found, strict=True):
        if one.p < LEVEL and one.mean > 0:
            grid.cells[i][j] = replace(grid.cells[i][j], best=True)


def own_notes(study: Study, student: str, grid: Grid) -> list[str]:
    """What is true of one table of accuracies alone: seeds, choices, training fraction, deviations from the paper."""
    runs = pd.concat([row.runs for row in grid.rows]) if grid.rows else study.runs.iloc[:0]
    datasets = [dataset for dataset in dict.fromkeys(runs["dataset"])]
    notes = [_seeds_note(grid)] if len(runs) else []
    notes += fraction_notes(study, [(dataset, student) for dataset in datasets])
    candidates = study.candidates
    own = candidates[(candidates["student"] == student) & candidates["dataset"].isin(datasets)]
    notes += filter(None, [tries_text(own)])
    settings = set(runs["setting"])
    notes += [f"Selected: {c}." for c in study.choices_in_tables if c.student == student and c.setting in settings]
    trained = runs.loc[~runs["untrained"].astype(bool), "deviations"]
    deviations: dict[str, str] = {}
    for part in (part for text in trained for part in text.split("; ") if part):
        setting = part.split(" (paper: ")[0]
        if "(paper: not stated" not in part or setting not in deviations:  # it may be stated for another method alone
            deviations[setting] = part
    if deviations:
        notes.append(f"Settings that differ from the paper's: {'; '.join(deviations.values())}.")
    return notes


def _seeds_note(grid: Grid) -> str:
    """The seeds of most rows, and of those that have others."""
    rows = [(row.label, seeds_text(row.runs["seed"])) for row in grid.rows if not row.runs["untrained"].all()]
    if not rows:
        return f"Seeds: {seeds_text(pd.concat([row.runs for row in grid.rows])['seed'])}."
    counts = Counter(seeds for _, seeds in rows)
    most = max(counts, key=lambda seeds: (counts[seeds], len(seeds)))
    others = [f"{label}: {seeds}" for label, seeds in rows if seeds != most]
    return f"Seeds: {'; '.join([most, *others])}."


def fraction_notes(study: Study, places: Iterable[tuple[str, str]]) -> list[str]:
    """Where no run was trained on all questions; places are (dataset, student)."""
    by_fraction: dict[float, list[str]] = {}
    for dataset, student in dict.fromkeys(places):
        if (fraction := study.fractions.get((dataset, student), 1.0)) != 1:
            by_fraction.setdefault(fraction, []).append(f"{dataset} ({student})")
    return [
        f"Trained on {100 * fraction:g}% of the training questions, the largest fraction that was run: "
        f"{', '.join(names)}."
        for fraction, names in sorted(by_fraction.items())
    ]
