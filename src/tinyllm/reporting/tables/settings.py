"""Every setting with its scores and its cost."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd

from tinyllm import paper
from tinyllm.config import Metric
from tinyllm.reporting.interval import interval, measurements
from tinyllm.reporting.labels import named, order, seeds_text
from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import notes

_TERMINAL_ROWS = 12
"""With more settings, or several datasets or students, the terminal leaves them to the report."""
_HEAD = {Metric.accuracy: "greedy", Metric.accuracy_ranked: "ranked", Metric.accuracy_exact: "exact"}


def settings(study: Study) -> list[Table]:
    """One table: all settings, selected or not, with all metrics and the cost, averaged over the seeds."""
    frame, metric = study.frame, study.metric
    subsets = sorted({c.split("/")[1] for c in frame.columns if c.startswith("subset/")}, reverse=True)
    head = ["dataset", "student", "method", "α", "training fraction", "seeds", "n", *_HEAD.values(), *subsets]
    head += ["valid", "unparsed", "tokens read", "seconds"]
    scores = [*map(str, _HEAD), *(f"subset/{s}/{metric}" for s in subsets)]
    groups = [runs for _, runs in frame.groupby(["setting", "student", "method"], sort=False, dropna=False)]
    fraction = ("training fraction",) if frame["train_fraction"].nunique() == 1 else ()
    lines = []
    for runs in sorted(groups, key=_order):
        first = _first(runs)
        lines.append(
            (
                Cell(text=str(first["dataset"])),
                Cell(text=str(first["student"])),
                Cell(text=named(first)),
                Cell(text=" or ".join(dict.fromkeys(map(str, runs["alpha"])))),  # several: see `strongest`
                Cell(text=f"{100 * first['train_fraction']:g}%"),
                Cell(text=seeds_text(runs["seed"])),
                Cell(text="–".join(f"{n:g}" for n in dict.fromkeys([runs["n"].min(), runs["n"].max()]))),
                *(_mean(runs, score) for score in scores),
                Cell() if runs["valid_accuracy"].isna().all() else Cell(float(runs["valid_accuracy"].mean())),
                Cell(text=f"{runs['unparsed'].mean():g}"),
                _count(runs["train_tokens"]),
                _count(runs["train_seconds"].where(runs["train_seconds"] > 0, runs["wall_seconds"])),
            )
        )
    table = Table(
        "settings",
        "All settings",
        tuple(head),
        tuple(lines),
        (
            "greedy, ranked, exact: accuracy in percent by greedy generation (the paper's metric), by ranking the "
            "options, and by equality of the generated text and the answer (the authors' code)."
            + (f" {', '.join(subsets)}: subsets, as in the column {_HEAD[metric]}." if subsets else ""),
            "valid: best validation accuracy, by which the checkpoint, α and the teacher are selected. tokens read: "
            "source and target tokens of training. seconds: of training, or of the whole run where that is unknown.",
        ),
        (notes.INTERVALS,),
        in_terminal=len(lines) <= _TERMINAL_ROWS and len(frame[["dataset", "student"]].drop_duplicates()) == 1,
        files_only=("dataset", "student", *fraction, "n", "exact", *subsets, "valid", "tokens read"),
    )
    return [table]


def _mean(runs: pd.DataFrame, column: str) -> Cell:
    if column not in runs or runs[column].isna().all():
        return Cell()
    return Cell(*interval(measurements(runs, column), column))


def _count(values: pd.Series) -> Cell:
    mean = float(values.mean())
    return Cell(text=f"{mean:,.0f}") if mean > 0 else Cell()


def _first(runs: pd.DataFrame) -> dict[str, Any]:
    return cast(dict[str, Any], runs.iloc[0].to_dict())


def _order(runs: pd.DataFrame) -> tuple[object, ...]:
    first = _first(runs)
    known = first["dataset"] in paper.DATASETS
    dataset = paper.DATASETS.index(first["dataset"]) if known else len(paper.DATASETS)
    own = (str(first["alpha"]), -float(first["train_fraction"]), str(first["setting"]))
    return (dataset, str(first["dataset"]), str(first["student"]), order(first), *own)
