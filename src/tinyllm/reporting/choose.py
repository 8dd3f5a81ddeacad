"""Which α and which teacher stand for a method: by validation accuracy alone, as the paper's section 4.1 has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tinyllm.config import Metric
from tinyllm.reporting.labels import label, order, seeds_text

GROUP = ("dataset", "student", "method", "ablation", "train_fraction", "variant")
"""A cell of the tables: its settings differ in α, the single teacher and the learning rate at most."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting taken among several of one method."""

    dataset: str
    student: str
    method: str
    ablation: str
    train_fraction: float
    variant: str
    setting: str
    """The one that was taken, as in the frame."""
    name: str
    """Its teacher and its weights, as in `setting_name`."""
    candidates: int
    """Settings it was taken from, itself included."""
    valid_accuracy: float
    """Its mean over the seeds that were compared, share of 1; NaN where no setting has one."""
    tied: int
    """How many of them have that accuracy."""
    seeds: tuple[int, ...]
    """The seeds that every candidate has, and on which they were compared; empty where they share none, and each
    counted with those it has."""

    def __str__(self) -> str:
        method = label(
            {"student": self.student, "method": self.method, "ablation": self.ablation, "variant": self.variant}
        )
        where = f"{self.dataset}, {self.student}" + (
            f", {100 * self.train_fraction:g}% of the training questions" if self.train_fraction != 1 else ""
        )
        taken = f"{where}: {method}: {self.name}, one of {self.candidates} settings"
        if pd.isna(self.valid_accuracy):
            return f"{taken}, the first by name: none has a validation accuracy"
        seeds = f", seeds {seeds_text(self.seeds)}" if self.seeds else ""
        equals = f"; {self.tied} have the same, and this is the first by name" if self.tied > 1 else ""
        return f"{taken} (validation accuracy {100 * self.valid_accuracy:.1f}%{seeds}{equals})"


_SELECTED_BY = {
    str(Metric.accuracy): "by greedy accuracy",
    str(Metric.accuracy_ranked): "by ranking accuracy",
    str(Metric.accuracy_exact): "by exact equality of the text",
}


def selection_note(frame: pd.DataFrame) -> str:
    """What a report says of its choices: on which split, and by which accuracy.

    Args:
        frame: of `frame.collect`.
    """
    used = set(frame.loc[frame["valid_accuracy"].notna(), "selected_by"])
    how = " and ".join(text for metric, text in _SELECTED_BY.items() if metric in used)
    by = f" ({how})" if how else ""
    return (
        f"α, the learning rate, the checkpoint and the best teacher were selected on the validation split{by}, where "
        "runs have a validation accuracy; test results were not used for selection."
    )


def setting_name(run: pd.Series) -> str:
    """What tells a run's setting from others of its method: `teacher wordy, α wordy=2`, or "" where nothing does.

    The learning rate is named where several were tried.
    """
    teacher = f"teacher {run['method_teacher']}" if run["method_teacher"] else ""
    alpha = f"α {run['alpha']}" if run["alpha"] else ""
    rate = f"learning rate {run['learning_rate']}" if run["learning_rate"] else ""
    return ", ".join(part for part in (teacher, alpha, rate) if part)


def at_one_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs at one learning rate: where several were tried, that of the setting that validation puts first."""
    if runs["learning_rate"].nunique() < 2:
        return runs
    means = validation_means(runs, runs["setting"])
    rates = dict(zip(runs["setting"], runs["learning_rate"], strict=True))
    best = min(rates, key=lambda setting: (-means.get(setting, 0.0), rates[setting], setting))
    found: pd.DataFrame = runs[runs["learning_rate"] == rates[best]]
    return found


def validation_means(runs: pd.DataFrame, by: pd.Series) -> pd.Series:
    """Mean validation accuracy of each group, on the seeds that all groups have; on their own where they share none.

    Args:
        runs: rows of the frame.
        by: the group of each.
    """
    scores = _by_seed(runs, by)
    common = scores.dropna(axis="columns", how="any")
    return (common if common.shape[1] else scores).mean(axis="columns")


def _by_seed(runs: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """A row a group that has a validation accuracy, a column a seed."""
    found: pd.DataFrame = runs.groupby([by, "seed"])["valid_accuracy"].mean().unstack("seed").dropna(how="all")
    return found


def choose(frame: pd.DataFrame) -> list[Choice]:
    """The setting with the highest mean validation accuracy of every group that has several.

    Settings are compared on the seeds that all of them have, so that no setting wins by a lucky seed of its own; where
    they share none, on all that each has. Of equals the first by name is taken, and a setting without a validation
    accuracy never before one that has it. No other column is looked at.

    Args:
        frame: of `frame.collect`.

    Returns:
        In the order of the groups' first runs.
    """
    choices: list[Choice] = []
    for _, runs in frame.groupby(list(GROUP), sort=False, dropna=False):
        if runs["setting"].nunique() < 2:
            continue
        scores = _by_seed(runs, runs["setting"])
        common = scores.dropna(axis="columns", how="any")
        means = validation_means(runs, runs["setting"])
        names = {str(run["setting"]): setting_name(run) for _, run in runs.iterrows()}
        candidates = list(means.index) or list(names)
        taken = min(candidates, key=lambda setting: (-means.get(setting, 0.0), names[setting], setting))
        choices.append(
            Choice(
                **{column: runs[column].iloc[0] for column in GROUP},
                setting=taken,
                name=names[taken] or f"setting {taken}",
                candidates=len(names),
                valid_accuracy=float(means.get(taken, float("nan"))),
                tied=int((means == means.get(taken)).sum()),
                seeds=tuple(int(seed) for seed in common.columns),
            )
        )
    return choices


def chosen(frame: pd.DataFrame, choices: Sequence[Choice]) -> pd.DataFrame:
    """The frame without the settings that were not taken."""
    taken = {tuple(getattr(choice, column) for column in GROUP): choice.setting for choice in choices}
    keys = frame[list(GROUP)].itertuples(index=False, name=None)
    keep = [
        taken.get(tuple(key), setting) == setting for key, setting in zip(keys, frame["setting"], strict=True)
    ]  # fmt: skip
    # A plain empty list would select no columns in place of no rows.
    return frame[pd.Series(keep, index=frame.index, dtype=bool)].reset_index(drop=True)


def tries_text(runs: pd.DataFrame) -> str:
    """From how many settings each method was chosen, and on how many validation questions; "" without a trained run.

    Args:
        runs: all settings at one training fraction for each dataset and student (`Study.candidates`).
    """
    trained = runs[~runs["untrained"].astype(bool) & (runs["ablation"] == "none") & (runs["variant"] == "")]
    if trained.empty:
        return ""
    tried = trained.groupby(["method", "dataset", "student"], sort=False)["setting"].nunique().groupby("method")
    counts = {str(method): _range(part) for method, part in tried}
    rows = [{"student": "", "method": method, "ablation": "none"} for method in counts]
    text = ", ".join(f"{label(row)} {counts[row['method']]}" for row in sorted(rows, key=order))
    questions = _range(trained.loc[trained["valid_examples"] > 0, "valid_examples"])
    on = f", on {questions} validation questions" if questions else ""
    unequal = " (not equally many per method)" if len(set(counts.values())) > 1 else ""
    return f"Settings tried{unequal}: {text}{on}."


def _range(counts: pd.Series) -> str:
    """`36`, or `6 to 36`."""
    return " to ".join(f"{count:g}" for count in dict.fromkeys([counts.min(), counts.max()])) if len(counts) else ""
