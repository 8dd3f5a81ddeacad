"""A cell of a claim -> the runs of one setting that stand for it on one dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tinyllm.reporting.choose import at_one_rate, validation_means
from tinyllm.reporting.claims import BEST, WORST, Budget, CellSpec
from tinyllm.reporting.labels import label
from tinyllm.reporting.study import Study
from tinyllm.runs import TEACHER

_DURATION = ("trainer.max_epochs", "trainer.max_steps", "trainer.valid_every")
"""Keys in which a variant that was trained longer differs from its method."""


def runs_of(study: Study, cell: CellSpec, student: str, dataset: str) -> pd.DataFrame:
    """The runs of a cell; none where it wasn't run."""
    if cell.method == TEACHER:
        names = teachers_of(study, student, dataset)[cell.teacher - 1 : cell.teacher]
        return _where(study.runs, dataset=dataset, method=TEACHER, student=names[0] if names else "")
    runs = study.runs if cell.fraction is None else study.chosen
    if cell.alpha:
        runs = study.candidates
    runs = _where(runs, dataset=dataset, student=student, method=cell.method, ablation=cell.ablation)
    if cell.fraction is not None and cell.method != "inference":
        runs = _where(runs, train_fraction=cell.fraction)
    match cell.budget:
        case Budget.own:
            runs = _where(runs, variant="")
        case Budget.compute:
            whole = _where(study.runs, dataset=dataset, student=student, method="tinyllm", ablation="none", variant="")
            runs = _trained_for(runs, runs["passes"], whole["passes"])
        case Budget.steps:
            whole = _where(study.frame, dataset=dataset, student=student, method=cell.method, ablation=cell.ablation)
            whole = _where(whole, variant="")
            runs = _trained_for(runs, runs["epochs"] * runs["train_fraction"], whole["epochs"])
    return _with_alpha(runs, cell.alpha) if cell.alpha else runs


def teachers_of(study: Study, student: str, dataset: str) -> list[str]:
    """The largest teacher set of the runs that stand for TinyLLM, in its order; without those, of all of its runs."""
    every = _where(study.frame, student=student, dataset=dataset, method="tinyllm", ablation="none")
    plain = _where(every, variant="")
    runs = plain if len(plain) else every
    sets = sorted(set(runs["teacher_set"]) - {""})
    return max(sets, key=lambda text: str(text).count("+")).split("+") if sets else []


def best_by_validation(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Of several settings' runs, those with the highest mean validation accuracy; of equals the first."""
    every = pd.concat(parts, ignore_index=True)
    which = pd.Series(np.repeat(np.arange(len(parts)), [len(runs) for runs in parts]), name="part")
    means = validation_means(every, which)
    return max(enumerate(parts), key=lambda one: float(means.get(one[0], 0.0)))[1]


def name_of(cells: Sequence[CellSpec]) -> str:
    """What a cell is called where it has not been run: `Full fine-tuning at equal compute`."""
    return " or ".join(dict.fromkeys(map(_name, cells)))


def _name(cell: CellSpec) -> str:
    if cell.method == TEACHER:
        return f"teacher {cell.teacher}"
    parts = [label({"student": "", "method": cell.method, "ablation": cell.ablation})]
    if cell.alpha in (BEST, WORST):
        parts.append("with several α")
    elif cell.alpha:
        parts.append(f"with α {cell.alpha}")
    if cell.fraction is not None:
        parts.append(f"with {100 * cell.fraction:g}% of the questions")
    parts += {Budget.own: [], Budget.compute: ["at equal compute"], Budget.steps: ["at equal steps"]}[cell.budget]
    return " ".join(parts)


def _where(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    keep = np.logical_and.reduce([(frame[column] == value).to_numpy(dtype=bool) for column, value in values.items()])
    return frame[keep]


def _trained_for(runs: pd.DataFrame, amount: pd.Series, wanted: pd.Series) -> pd.DataFrame:
    """Of the method and its longer variants, the setting with the wanted amount of training, within 2%."""
    if wanted.empty or runs.empty:
        return runs.iloc[:0]
    same = (amount - wanted.max()).abs() <= 0.02 * wanted.max()
    duration_alone = runs["variant"].map(_differs_in_duration_alone).astype(bool)
    runs = runs[same & duration_alone]
    return runs[runs["setting"] == min(runs["setting"])] if len(runs) else runs


def _differs_in_duration_alone(variant: str) -> bool:
    return all(part.split("=")[0] in _DURATION for part in variant.split(", ") if part)


def _with_alpha(runs: pd.DataFrame, alpha: str) -> pd.DataFrame:
    """Runs with all teachers of their set and this α for each; `best` and `worst` need two settings to choose from."""
    runs = at_one_rate(runs[(runs["teachers"] == runs["teacher_set"]) & (runs["teacher_set"] != "")])
    if alpha not in (BEST, WORST):
        value = float(alpha)
        same = [
            all(run[f"alpha/{teacher}"] == value for teacher in run["teacher_set"].split("+"))
            for run in runs.to_dict("records")
        ]
        return runs[pd.Series(same, index=runs.index, dtype=bool)]
    means = validation_means(runs, runs["setting"])
    if len(means) < 2:
        return runs.iloc[:0]
    ranked = sorted(means.index, key=lambda setting: (-means[setting], setting))
    chosen: pd.DataFrame = runs[runs["setting"] == ranked[0 if alpha == BEST else -1]]
    return chosen


def for_every_seed(study: Study, untrained: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """Runs of a model that nothing trains, one for each seed of the other side that it has the questions of.

    A seed without a run of its own takes another's, if its questions are the same: where a dataset has fixed questions,
    a teacher is asked once.
    """
    if untrained.empty or not untrained["untrained"].all():
        return untrained
    asked = {folder: _questions(study, folder) for folder in [*untrained["folder"], *trained["folder"]]}
    rows = []
    for run in trained.to_dict("records"):
        own = (untrained["seed"] == run["seed"]) & (untrained["data_seed"] == run["data_seed"])
        same = [asked[folder] == asked[run["folder"]] for folder in untrained["folder"]]
        found = untrained[own] if own.any() else untrained[same]
        rows += [found.iloc[:1].assign(seed=run["seed"], data_seed=run["data_seed"])] if len(found) else []
    return pd.concat(rows) if rows else untrained


def _questions(study: Study, folder: str) -> frozenset[tuple[str, str]]:
    return frozenset((prediction.id, prediction.question) for prediction in study.predictions.of(folder))
