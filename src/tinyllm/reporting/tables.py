"""The frame of runs -> the paper's tables, the tests between methods, and every setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tinyllm import paper
from tinyllm.config import Metric
from tinyllm.evaluation.statistics import (
    Difference,
    detectable_difference,
    difference,
    holm,
    relative_gain,
    smallest_difference,
)
from tinyllm.reporting.cases import name, place
from tinyllm.reporting.choose import Choice, chosen, how_chosen, setting_name
from tinyllm.reporting.frame import TEACHER
from tinyllm.reporting.interval import interval, over_seeds, within
from tinyllm.reporting.paired import Answers, Averages, Pair, average, common_seeds
from tinyllm.reporting.table import Cell, Table

LEVEL = 0.05
"""Of every test, after Holm's correction."""
POWER = 0.8

_INTERVALS = (
    "In brackets 95% intervals: Student's t over seeds where there are several, Wilson's over questions where there is "
    "one"
)
_SEVERAL_SEEDS = (
    "Tests with two seeds or more: the paired bootstrap over questions and seeds, and the paired t test over the "
    "seeds' differences; the wider interval and the larger p count."
)
_ONE_SEED = "Tests with one seed: the paired bootstrap over questions alone; interval and p say nothing of other seeds."
_METRIC = {
    Metric.accuracy: (
        "Accuracy in percent, by greedy generation (the paper's metric); text that names no option is wrong."
    ),
    Metric.accuracy_ranked: (
        "Accuracy in percent, by ranking the options; teachers' answers are by free generation, and the paper's "
        "numbers by greedy generation."
    ),
}


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    datasets: tuple[str, ...]
    """One, or those that a total averages."""
    subset: str = ""

    @property
    def total(self) -> bool:
        return self.name == "Total"

    @property
    def in_paper(self) -> str:
        return paper.TOTAL if self.total else "" if self.subset else self.datasets[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    label: str
    student: str
    method: str
    ablation: str
    variant: str
    runs: pd.DataFrame
    """Of one setting a dataset."""

    def on(self, dataset: str) -> pd.DataFrame:
        return self.runs[self.runs["dataset"] == dataset]

    def in_paper(self, column: _Column) -> float | None:
        return None if self.variant else paper.reported(self.student, self.method, column.in_paper, self.ablation)


class _Study:
    """What all tables are made from: the chosen runs on one share of the training questions, and their predictions."""

    def __init__(
        self, frame: pd.DataFrame, choices: Sequence[Choice], metric: Metric, resamples: int, seed: int
    ) -> None:
        self.shares = _shares(frame)
        self.candidates = self._at_one_share(frame)
        """All settings, chosen or not."""
        self.runs = chosen(self.candidates, choices)
        settings = set(self.runs["setting"])
        self.choices = [choice for choice in choices if choice.setting in settings]
        self.by_validation = how_chosen(frame)
        self.metric = metric
        self.answers = Answers(metric)
        self.resamples = resamples
        self.seed = seed

    def _at_one_share(self, frame: pd.DataFrame) -> pd.DataFrame:
        """All questions where anything was trained on all, else the largest share: shares are never mixed in a table.

        What trains nothing belongs to every share.
        """
        keys = zip(frame["dataset"], frame["student"], strict=True)
        at_share = frame["train_fraction"] == [self.shares.get(key, 1.0) for key in keys]
        row = [frame[column] for column in ("dataset", "student", "method", "ablation", "variant")]
        elsewhere = ~at_share.groupby(row, dropna=False).transform("any")
        last = frame["train_fraction"] == frame["train_fraction"].groupby(row, dropna=False).transform("max")
        return frame[at_share | (frame["method"] == TEACHER) | (frame["untrained"] & elsewhere & last)]

    # Rows and columns

    def students(self) -> list[str]:
        found = set(self.runs.loc[self.runs["method"] != TEACHER, "student"])
        return [s for s in paper.STUDENTS if s in found] + sorted(found - set(paper.STUDENTS))

    def columns(self, student: str | None, runs: pd.DataFrame) -> list[_Column]:
        """The paper's six datasets for its students, with their total; then what else the runs have."""
        found = list(dict.fromkeys(runs["dataset"]))
        six = paper.DATASETS if student in paper.STUDENTS else ()
        columns = [_Column(dataset, (dataset,)) for dataset in six]
        others = [_Column(d, (d,)) for d in (*(d for d in paper.DATASETS if d in found), *sorted(found))]
        others = [c for c in dict.fromkeys(others) if c not in columns]
        with_parts: list[_Column] = []
        for column in others:
            with_parts += [column, *self._subsets(column.name, runs)]
        if six:
            return [*columns, _Column("Total", six), *with_parts]
        total = [_Column("Total", tuple(c.name for c in others))] if len(others) > 1 else []
        return [*with_parts, *total]

    def _subsets(self, dataset: str, runs: pd.DataFrame) -> list[_Column]:
        rows = runs[runs["dataset"] == dataset]
        scores = [c for c in rows.columns if c.startswith("subset/") and c.endswith("/n") and rows[c].notna().any()]
        names = sorted((c.split("/")[1] for c in scores), reverse=True)  # visible before hidden
        return [_Column(f"{dataset}/{subset}", (dataset,), subset) for subset in names]

    def row(self, student: str, method: str, ablation: str = "none", variant: str = "") -> _Row:
        """A row of the grid, with or without runs."""
        runs = self.runs
        runs = runs[
            (runs["student"] == student)
            & (runs["method"] == method)
            & (runs["ablation"] == ablation)
            & (runs["variant"] == variant)
        ]
        told = {"student": student, "method": method, "ablation": ablation, "variant": variant}
        return _Row(name(told), student, method, ablation, variant, runs)

    def rows_of(self, student: str) -> list[_Row]:
        """All that a student was trained or asked by, in the paper's order."""
        runs = self.runs[(self.runs["student"] == student) & (self.runs["method"] != TEACHER)]
        kinds = runs[["method", "ablation", "variant"]].drop_duplicates().to_dict("records")
        return [
            self.row(student, str(kind["method"]), str(kind["ablation"]), str(kind["variant"]))
            for kind in sorted(kinds, key=lambda kind: place({str(k): v for k, v in kind.items()}))
        ]

    # Cells

    def cell(self, row: _Row, column: _Column) -> Cell:
        if column.total:
            return self._total(row, column)
        reported = row.in_paper(column)
        runs = row.on(column.datasets[0])
        metric = Metric.accuracy if row.method == TEACHER else self.metric  # a teacher's options are not ranked
        stem = f"subset/{column.subset}/{metric}" if column.subset else str(metric)
        if stem not in runs or runs[stem].isna().all():
            return Cell(paper=reported)
        runs = _distinct(runs[runs[stem].notna()], stem)
        value, low, high = interval(runs, stem)
        strongest = _picked(runs)
        n = runs[f"subset/{column.subset}/n" if column.subset else "n"]
        sizes = "–".join(f"{size:g}" for size in dict.fromkeys([n.min(), n.max()]))
        setting = strongest or setting_name(runs.iloc[0])
        parts = [f"seeds {_listed(runs['seed'])}", f"n {sizes}", setting, self._chosen(runs.iloc[0])]
        return Cell(value, low, high, paper=reported, note="; ".join(part for part in parts if part))

    def _chosen(self, run: pd.Series) -> str:
        of = [c.candidates for c in self.choices if c.setting == run["setting"] and c.dataset == run["dataset"]]
        return f"one of {of[0]} by validation" if of else ""

    def _total(self, row: _Row, column: _Column) -> Cell:
        reported = row.in_paper(column)
        cells = [self.cell(row, _Column(dataset, (dataset,))) for dataset in column.datasets]
        if any(cell.value is None for cell in cells):
            return Cell(paper=reported)
        values = [cell.value or 0.0 for cell in cells]
        by_seed = (
            row.runs[row.runs["dataset"].isin(column.datasets)]
            .pivot_table(index="seed", columns="dataset", values=str(self.metric))
            .mean(axis="columns", skipna=False)
        )
        trained = (row.runs["train_examples"] > 0).any()
        if trained and len(by_seed) > 1 and by_seed.notna().all():
            value, low, high = over_seeds(list(by_seed))
        else:  # Newcombe's square-and-add of the cells' intervals
            mean = float(np.mean(values))
            low, high = (
                mean + side * math.hypot(*(getattr(c, end) - (c.value or 0.0) for c in cells)) / len(cells)
                for side, end in ((-1, "low"), (1, "high"))
            )
            value, low, high = within(mean, low, high)
        return Cell(value, low, high, paper=reported, note=f"mean of {len(cells)} datasets")

    # Tests

    def pairs(self, first: _Row, second: _Row, column: _Column) -> list[Pair]:
        """One a dataset of the column; empty where any is missing."""
        pairs = [self.answers.pair(first.on(d), second.on(d), column.subset) for d in column.datasets]
        return [] if any(pair is None for pair in pairs) else [pair for pair in pairs if pair is not None]

    def averages(self, pairs: Sequence[Pair], resamples: int | None = None) -> Averages:
        return average(pairs, resamples or self.resamples, self.seed)

    def differences(self, tests: Sequence[Sequence[Pair]]) -> list[Difference]:
        """The paired tests, uncorrected, with resamples enough for Holm's correction over all of them."""
        resamples = max(self.resamples, enough_resamples(len(tests)))
        return [difference(*self.averages(pairs, resamples)) for pairs in tests]

    def bold(self, rows: Sequence[_Row], grid: list[list[Cell]], columns: Sequence[_Column]) -> list[Sequence[Pair]]:
        """Mark the best of each column where it is no tie; returns what was tested."""
        tests: list[tuple[int, int, list[Pair]]] = []
        for place_of, column in enumerate(columns):
            values = {i: cells[place_of].value for i, cells in enumerate(grid)}
            order = sorted((i for i, v in values.items() if v is not None), key=lambda i: -(values[i] or 0.0))
            if len(order) > 1 and (pairs := self.pairs(rows[order[0]], rows[order[1]], column)):
                tests.append((order[0], place_of, pairs))
        found = _corrected(self.differences([pairs for _, _, pairs in tests]))
        for (i, j, _), one in zip(tests, found, strict=True):
            if one.p < LEVEL and one.mean > 0:
                grid[i][j] = replace(grid[i][j], best=True)
        return [pairs for _, _, pairs in tests]

    # Notes

    def notes(self, student: str, rows: Sequence[_Row], columns: Sequence[_Column]) -> list[str]:
        """What every accuracy table says under it."""
        runs = pd.concat([row.runs for row in rows]) if rows else self.runs.iloc[:0]
        notes = [_METRIC[self.metric], _INTERVALS + self._of_totals(columns) + "."]
        notes.append(self.by_validation)
        datasets = {dataset for column in columns for dataset in column.datasets}
        notes += self.share_notes([(dataset, student) for dataset in sorted(datasets)])
        settings = set(runs["setting"])
        notes += [
            f"Chosen: {choice}."
            for choice in self.choices
            if choice.student == student and choice.dataset in datasets and choice.setting in settings
        ]
        if len(runs):
            notes.append(f"Seeds: {_listed(runs['seed'])}.")
        trained = runs.loc[~runs["untrained"].astype(bool), "deviations"]
        told = dict.fromkeys(part for text in trained for part in text.split("; ") if part)
        if told:
            notes.append(f"Not the paper's settings: {'; '.join(told)}.")
        return notes

    def _of_totals(self, columns: Sequence[_Column]) -> str:
        if not any(column.total for column in columns):
            return ""
        return "; of totals, over the seeds' totals, or the datasets' intervals added in squares (Newcombe)"

    def share_notes(self, places: Sequence[tuple[str, str]]) -> list[str]:
        """Where no run was trained on all questions; places are (dataset, student)."""
        shares: dict[float, list[str]] = {}
        for dataset, student in places:
            if (share := self.shares.get((dataset, student), 1.0)) != 1:
                shares.setdefault(share, []).append(f"{dataset} ({student})")
        return [
            f"Trained on {100 * share:g}% of the training questions, the largest share that was run: "
            f"{', '.join(dict.fromkeys(told))}."
            for share, told in sorted(shares.items())
        ]

    def could_show(self, rows: Sequence[_Row], columns: Sequence[_Column]) -> str:
        """The note on the smallest difference that each column could show."""
        return least_shown([told for column in columns if (told := self.least_shown_in(rows, column))])

    def least_shown_in(self, rows: Sequence[_Row], column: _Column) -> str:
        """Of one column: of TinyLLM and full fine-tuning, or else TinyLLM and the row of which least can be said."""
        whole, full = (
            next((r for r in rows if (r.method, r.ablation, r.variant) == (method, "none", "")), None)
            for method in ("tinyllm", "full_ft")
        )
        if whole is None:
            return ""
        if full is not None and (pairs := self.pairs(whole, full, column)):
            return f"{column.name}: {self.least_difference(whole, full, pairs)[1]}"
        others = [(row, self.pairs(whole, row, column)) for row in rows if row is not whole]
        told = [self.least_difference(whole, row, pairs) for row, pairs in others if pairs]
        return f"{column.name}: {max(told)[1]}" if told else ""

    def least_difference(self, first: _Row, second: _Row, pairs: Sequence[Pair]) -> tuple[float, str]:
        """The smallest difference that the test of two rows could show, as a share of 1, and the same in words."""
        found = self.averages(pairs)
        least = detectable_difference(found.means, found.by_seed, alpha=LEVEL, power=POWER)
        seeds = max(len(pair.seeds) for pair in pairs)
        parts = [f"{first.label} and {second.label}", f"{seeds} seed{'s' if seeds > 1 else ''}"]
        if len(pairs) == 1:
            n, share = pairs[0].questions_a_seed, pairs[0].discordance
            one = smallest_difference(n, share, alpha=LEVEL, power=POWER)
            exact = "none" if one is None else f"{100 * one:.1f}"
            parts.append(f"n {n}, differ on {100 * share:.0f}%; McNemar's exact test of one seed: {exact}")
        shown = f"{100 * least:.1f}" if least <= 1 else "none"
        return least, f"{shown} ({', '.join(parts)})"

    # What tests say of themselves

    def how_tested(self, tests: Sequence[Sequence[Pair]]) -> list[str]:
        """The notes on seeds, for tests as they were made."""
        several = [len(common_seeds(pairs)) > 1 for pairs in tests]
        return [*([_SEVERAL_SEEDS] if any(several) else []), *([] if all(several) else [_ONE_SEED])]


def least_shown(parts: Sequence[str]) -> str:
    """The note on the smallest difference that tests could show."""
    if not parts:
        return "Smallest difference that the test could show: unknown without predictions of two methods."
    return (
        f"Smallest difference in points that the test could show, with power {POWER:g} at level {LEVEL:g} before "
        f"Holm's correction, from the standard error of the paired difference as run: {'; '.join(parts)}."
    )


def _shares(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    """The largest share of the training questions by (dataset, student)."""
    trained = frame[~frame["untrained"].astype(bool)]
    largest = trained.groupby(["dataset", "student"], as_index=False)["train_fraction"].max()
    keys = zip(largest["dataset"], largest["student"], strict=True)
    return dict(zip(keys, map(float, largest["train_fraction"]), strict=True))


def _picked(runs: pd.DataFrame) -> str:
    """Which teacher was found to be the strongest, seed by seed."""
    found = runs[runs["strongest"] != ""]
    return ", ".join(
        f"{'strongest teacher ' if index == 0 else ''}{teacher} (seeds {_listed(part['seed'])})"
        for index, (teacher, part) in enumerate(found.groupby("strongest"))
    )


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """With p by Holm over all of them."""
    return [replace(one, p=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]


def table1(
    frame: pd.DataFrame, choices: Sequence[Choice], metric: Metric, *, resamples: int = 2000, seed: int = 0
) -> list[Table]:
    """The paper's table 1, one for each student: teachers and methods by datasets, Δ rows, then variants and controls.

    Args:
        frame: of `frame.on_test`.
        choices: of `choose`.
        metric: which accuracy.
        resamples: of the bootstrap, at least.
        seed: of the bootstrap.

    Returns:
        `table1_<student>`, the paper's students first; `table1_teachers` where only teachers were asked. Bold is
        decided among the student's rows alone.
    """
    study = _Study(frame, choices, metric, resamples, seed)
    students = study.students()
    if not students:
        return [_teachers_alone(study)] if len(study.runs) else []
    return [_table1(study, student) for student in students]


def _teachers_alone(study: _Study) -> Table:
    columns = study.columns(None, study.runs)
    rows = [study.row(str(teacher), TEACHER) for teacher in sorted(set(study.runs["student"]))]
    grid = [[Cell(text=row.label), *(study.cell(row, column) for column in columns)] for row in rows]
    notes = [_METRIC[study.metric], _INTERVALS + study._of_totals(columns) + "."]
    return Table("table1_teachers", "Table 1: teachers", _header(columns), tuple(map(tuple, grid)), tuple(notes))


def _table1(study: _Study, student: str) -> Table:
    own = study.runs[(study.runs["student"] == student) & (study.runs["method"] != TEACHER)]
    columns = study.columns(student, own)
    datasets = {dataset for column in columns for dataset in column.datasets}
    asked = study.runs[(study.runs["method"] == TEACHER) & study.runs["dataset"].isin(datasets)]
    sets = own.loc[own["strongest"] == "", "teachers"]  # a second sample is no teacher of its own
    taught = [teacher for text in sets for teacher in text.split("+") if teacher]
    known = paper.TEACHERS if student in paper.STUDENTS else ()
    teachers = [study.row(t, TEACHER) for t in dict.fromkeys([*known, *sorted({*taught, *asked["student"]})])]
    core = [study.row(student, method) for method in paper.METHODS]
    more = [
        row
        for row in study.rows_of(student)
        if (row.ablation not in paper.ABLATIONS and (row.ablation, row.variant) != ("none", ""))
        or (row.ablation == "none" and row.variant == "" and row.method not in paper.METHODS)
    ]
    rows = [*core, *more]
    grid = [[study.cell(row, column) for column in columns] for row in rows]
    tested = study.bold(rows, grid, columns)
    by_method = {row.method: row for row in core}
    gains = [
        [Cell(text=label), *(_gain(study, by_method["tinyllm"], by_method[against], key, c) for c in columns)]
        for label, against, key in (("Δ_FF", "full_ft", "delta_ff"), ("Δ_Distill", "step_by_step", "delta_distill"))
    ]
    tested += [
        pairs
        for against in ("full_ft", "step_by_step")
        for column in columns
        if (pairs := study.pairs(by_method["tinyllm"], by_method[against], column))
    ]
    lines = [[Cell(text=row.label), *(study.cell(row, column) for column in columns)] for row in teachers]
    labelled = [[Cell(text=row.label), *cells] for row, cells in zip(rows, grid, strict=True)]
    lines += [*labelled[: len(core)], *gains, *labelled[len(core) :]]
    notes = [
        *study.notes(student, rows, columns),
        "Bold: the best of the student's rows, where it is no tie: better than the second by the paired test, "
        f"p < {LEVEL:g} after Holm's correction over the columns.",
        "Δ_FF and Δ_Distill: relative gain of TinyLLM over full fine-tuning and Distilling step-by-step in percent, on "
        "the seeds that both have, with the paired test's interval.",
        *study.how_tested(tested),
        study.could_show(rows, columns),
    ]
    title = f"Table 1: methods, student {student}"
    return Table(f"table1_{student}", title, _header(columns), tuple(map(tuple, lines)), tuple(notes))


def _gain(study: _Study, first: _Row, second: _Row, key: str, column: _Column) -> Cell:
    reported = paper.reported(first.student, key, column.in_paper)
    pairs = study.pairs(first, second, column)
    if pairs and (found := relative_gain(*study.averages(pairs))):
        seeds = sorted({seed for pair in pairs for seed, _ in pair.seeds})
        return Cell(found.mean, found.low, found.high, paper=reported, note=f"seeds {','.join(map(str, seeds))}")
    ours, theirs = (study.cell(row, column).value for row in (first, second))
    if ours is None or not theirs:
        return Cell(paper=reported)
    return Cell(ours / theirs - 1, paper=reported, note="no common predictions: without an interval")


def table2(
    frame: pd.DataFrame, choices: Sequence[Choice], metric: Metric, *, resamples: int = 2000, seed: int = 0
) -> list[Table]:
    """The paper's table 2 for every student that has an ablation, each with a table of differences to the whole method.

    Arguments as in `table1`. Returns `table2_<student>` and `table2_<student>_differences`.
    """
    study = _Study(frame, choices, metric, resamples, seed)
    tables: list[Table] = []
    for student in study.students():
        ablated = [row for row in study.rows_of(student) if row.method == "tinyllm" and row.ablation != "none"]
        if ablated:
            tables += _table2(study, student, ablated)
    return tables


def _table2(study: _Study, student: str, ablated: Sequence[_Row]) -> list[Table]:
    whole = study.row(student, "tinyllm")
    five = [study.row(student, "tinyllm", ablation) for ablation in paper.ABLATIONS]
    more = [row for row in ablated if row.ablation not in paper.ABLATIONS or row.variant]
    rows = [*five, *more, whole]
    runs = pd.concat([row.runs for row in rows])
    columns = [c for c in study.columns(student, runs) if not c.total]
    grid = [[study.cell(row, column) for column in columns] for row in rows]
    tested = study.bold(rows, grid, columns)
    left_out = _left_out(rows)
    notes = [
        *study.notes(student, rows, columns),
        *left_out,
        "Bold: the best row, where it is no tie: better than the second by the paired test, "
        f"p < {LEVEL:g} after Holm's correction over the columns.",
        *study.how_tested(tested),
        study.could_show(rows, columns),
    ]
    accuracies = Table(
        f"table2_{student}",
        f"Table 2: ablations, student {student}",
        _header(columns),
        tuple((Cell(text=row.label), *cells) for row, cells in zip(rows, grid, strict=True)),
        tuple(notes),
    )
    weights = _SameWeights(study, whole)
    tests = [
        (i, j, pairs)
        for i, row in enumerate(rows[:-1])
        for j, column in enumerate(columns)
        if (pairs := study.pairs(row, weights.of(row, column.datasets[0]), column))
    ]
    every = [pairs for _, _, pairs in tests]
    found = {(i, j): one for (i, j, _), one in zip(tests, _corrected(study.differences(every)), strict=True)}
    body = [
        (Cell(text=row.label), *(cell for j in range(len(columns)) for cell in _tested(found.get((i, j)))))
        for i, row in enumerate(rows[:-1])
    ]
    differences = Table(
        f"table2_{student}_differences",
        f"Table 2: differences to the whole of TinyLLM in points, student {student}",
        ("Variant", *(text for column in columns for text in (column.name, f"p, {column.name}"))),
        tuple(body),
        (
            "Variant minus TinyLLM, on the seeds and questions that both have; in brackets the 95% interval of the "
            "paired test.",
            f"p: of the same test, after Holm's correction over the tests of this table ({len(tests)}).",
            *study.how_tested(every),
            *weights.notes(),
            *left_out,
            study.by_validation,
            study.could_show(rows, columns),
        ),
    )
    return [accuracies, differences]


class _SameWeights:
    """The whole method with the α that a variant has: a chosen α would count tuning as part of the method."""

    def __init__(self, study: _Study, whole: _Row) -> None:
        self._study = study
        self._whole = whole
        self._same: dict[str, list[str]] = {}
        self._mixed: list[str] = []

    def of(self, row: _Row, dataset: str) -> _Row:
        """The whole method to compare a variant with on one dataset."""
        chosen_of = [c for c in self._study.choices if c.setting in set(self._whole.on(dataset)["setting"])]
        variant = row.on(dataset)
        if not chosen_of or variant.empty:
            return self._whole
        runs = self._study.candidates
        candidates = runs[
            (runs["dataset"] == dataset)
            & (runs["student"] == self._whole.student)
            & (runs["method"] == self._whole.method)
            & (runs["ablation"] == "none")
            & (runs["variant"] == "")
        ]
        weights = str(variant["composed_alpha"].iloc[0])
        same = candidates[candidates["composed_alpha"] == weights]
        if same.empty or same["setting"].nunique() > 1:
            self._mixed.append(f"{row.label} ({dataset})")
            return self._whole
        self._same.setdefault(weights, []).append(f"{row.label} ({dataset})")
        return replace(self._whole, runs=same)

    def notes(self) -> list[str]:
        """What was compared with what, where the whole method's α was chosen."""
        notes = [
            f"TinyLLM's α was chosen among several, the variant's not with it: compared at α {weights}, which the "
            f"variant has: {', '.join(dict.fromkeys(told))}."
            for weights, told in self._same.items()
        ]
        if self._mixed:
            notes.append(
                "TinyLLM's α was chosen among several and never run at the variant's: the difference mixes tuning with "
                f"ablation: {', '.join(dict.fromkeys(self._mixed))}."
            )
        return notes


def _left_out(rows: Sequence[_Row]) -> list[str]:
    """Which teachers the variants without a teacher did without: sets name them differently."""
    parts = []
    for row in rows:
        dropped = {teacher for text in row.runs["dropped"] for teacher in text.split("+") if teacher}
        if dropped:
            parts.append(f"{row.label}: {', '.join(sorted(dropped))}")
    return [f"Teachers left out: {'; '.join(parts)}."] if parts else []


def _tested(found: Difference | None) -> tuple[Cell, Cell]:
    if found is None:
        return Cell(), Cell()
    return Cell(found.mean, found.low, found.high), Cell(text=p_text(found.p))


def comparisons(
    frame: pd.DataFrame, choices: Sequence[Choice], metric: Metric, *, resamples: int = 2000, seed: int = 0
) -> Table:
    """Every method and variant of a student against full fine-tuning and against TinyLLM, on each dataset.

    Arguments as in `table1`. TinyLLM against full fine-tuning stands there once.
    """
    study = _Study(frame, choices, metric, resamples, seed)
    tests: list[tuple[str, str, _Row, _Row, Pair]] = []
    least: list[str] = []
    notes: list[str] = []
    for student in study.students():
        rows = study.rows_of(student)
        ordinary = {row.method: row for row in rows if (row.ablation, row.variant) == ("none", "")}
        full, whole = ordinary.get("full_ft"), ordinary.get("tinyllm")
        weights = _SameWeights(study, whole) if whole is not None else None
        for dataset in dict.fromkeys(d for row in rows for d in row.runs["dataset"]):
            if told := study.least_shown_in(rows, _Column(dataset, (dataset,))):
                least.append(f"{student}, {told}")
            for against in (full, whole):
                for row in rows:
                    if against is None or row is against or (row is full and against is whole):
                        continue
                    other = against
                    if against is whole and weights is not None and row.method == "tinyllm" and row.ablation != "none":
                        other = weights.of(row, dataset)
                    pair = study.answers.pair(row.on(dataset), other.on(dataset))
                    if pair is None:
                        continue
                    tests.append((student, dataset, row, against, pair))
        notes += weights.notes() if weights is not None else []
    raw = study.differences([[pair] for *_, pair in tests])
    lines = []
    for (student, dataset, row, against, pair), one, corrected in zip(tests, raw, _corrected(raw), strict=True):
        exact = pair.mcnemar()
        lines.append(
            (
                *(Cell(text=text) for text in (dataset, student, row.label, against.label)),
                Cell(one.mean, one.low, one.high),
                Cell(text=p_text(one.p)),
                Cell(text=p_text(corrected.p)),
                Cell() if exact is None else Cell(text=p_text(exact)),
                Cell(text=str(len(pair.seeds))),
                Cell(text=str(pair.questions)),
            )
        )
    return Table(
        "comparisons",
        "Comparisons in points",
        ("dataset", "student", "method", "against", "difference", "p", "p (Holm)", "p (McNemar)", "seeds", "questions"),
        tuple(lines),
        (
            _METRIC[metric],
            "Method minus the one it is compared with, on the seeds and questions that both have; in brackets the 95% "
            "interval of the paired test.",
            f"p: of the same test; p (Holm): corrected for the tests of this table ({len(tests)}); p (McNemar): "
            "exact, uncorrected, where there is one seed.",
            *study.how_tested([[pair] for *_, pair in tests]),
            *dict.fromkeys(notes),
            study.by_validation,
            *study.share_notes([(dataset, student) for student, dataset, *_ in tests]),
            least_shown(least),
        ),
    )


def settings(frame: pd.DataFrame, metric: Metric) -> Table:
    """Every setting with its scores by both metrics and its cost, the runs of its seeds averaged.

    Args:
        frame: of `frame.on_test`; all settings, chosen or not.
        metric: which accuracy of the subsets is shown.
    """
    subsets = sorted({c.split("/")[1] for c in frame.columns if c.startswith("subset/")}, reverse=True)
    head = ["dataset", "student", "method", "α", "training share", "seeds", "n", "greedy", "ranked", *subsets]
    head += ["valid", "unparsed", "tokens read", "seconds"]
    lines = []
    groups = [runs for _, runs in frame.groupby(["setting", "student", "method"], sort=False, dropna=False)]
    for runs in sorted(groups, key=_in_order):
        first = runs.iloc[0]
        scores = [str(Metric.accuracy), str(Metric.accuracy_ranked), *(f"subset/{s}/{metric}" for s in subsets)]
        lines.append(
            (
                Cell(text=str(first["dataset"])),
                Cell(text=str(first["student"])),
                Cell(text=name({str(key): value for key, value in first.items()})),
                Cell(text=" or ".join(dict.fromkeys(map(str, runs["alpha"])))),  # several: see `strongest`
                Cell(text=f"{100 * first['train_fraction']:g}%"),
                Cell(text=_listed(runs["seed"])),
                Cell(text="–".join(f"{n:g}" for n in dict.fromkeys([runs["n"].min(), runs["n"].max()]))),
                *(_averaged(runs, score) for score in scores),
                Cell() if runs["valid_accuracy"].isna().all() else Cell(float(runs["valid_accuracy"].mean())),
                Cell(text=f"{runs['unparsed'].mean():g}"),
                _known(runs["train_tokens"]),
                _known(runs["train_seconds"].where(runs["train_seconds"] > 0, runs["wall_seconds"])),
            )
        )
    return Table(
        "settings",
        "All settings",
        tuple(head),
        tuple(lines),
        (
            "Accuracies in percent, by greedy generation (the paper's metric) and by ranking the options; subsets by "
            + ("greedy generation." if metric is Metric.accuracy else "ranking."),
            _INTERVALS + ".",
            "valid: best validation accuracy, by which checkpoint, α and teacher are chosen. tokens read: source and "
            "target tokens of training. seconds: of training, or of the whole run where that is unknown.",
        ),
    )


def enough_resamples(tests: int) -> int:
    """Resamples with which a clear difference stays below the level when Holm multiplies its p by all tests."""
    return 10 * math.ceil(2 * tests / LEVEL)


def p_text(p: float) -> str:
    """Three decimals; `<0.001` below them."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _averaged(runs: pd.DataFrame, column: str) -> Cell:
    if column not in runs or runs[column].isna().all():
        return Cell()
    return Cell(*interval(_distinct(runs[runs[column].notna()], column), column))


def _distinct(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Seeds of a model that nothing has trained are one measurement, told several times, if their scores are equal."""
    same = runs[["n", column]].drop_duplicates()
    return runs.iloc[:1] if len(same) == 1 and (runs["train_examples"] == 0).all() else runs


def _known(values: pd.Series) -> Cell:
    mean = float(values.mean())
    return Cell(text=f"{mean:,.0f}") if mean > 0 else Cell()


def _listed(seeds: pd.Series) -> str:
    return ",".join(str(int(seed)) for seed in sorted(set(seeds)))


def _header(columns: Sequence[_Column]) -> tuple[str, ...]:
    return ("Method", *(column.name for column in columns))


def _in_order(runs: pd.DataFrame) -> tuple[object, ...]:
    first = runs.iloc[0]
    datasets = paper.DATASETS
    dataset = datasets.index(first["dataset"]) if first["dataset"] in datasets else len(datasets)
    told = {str(key): value for key, value in first.items()}
    own = (str(first["alpha"]), -float(first["train_fraction"]), str(first["setting"]))
    return (dataset, str(first["dataset"]), str(first["student"]), place(told), *own)
