"""Weights of the teachers' texts: over the epochs where they are learned, over the share of a teacher that misleads."""

from __future__ import annotations

import json
from typing import cast

import pandas as pd

from tinyllm.config import Weighting
from tinyllm.reporting.figures.drawing import (
    LOOKS,
    Figure,
    accuracy_axis,
    add_legend,
    by_number,
    errorbar,
    floor_of,
    metric_text,
    new_canvas,
    percent_interval,
    student_runs,
)
from tinyllm.reporting.labels import fraction_text
from tinyllm.reporting.study import Study
from tinyllm.reporting.tables.weights import settings_of


def weights_by_epoch(study: Study) -> list[Figure]:
    """Learned weights, a panel for every setting."""
    panels = [
        (name, runs)
        for name, runs in settings_of(study)
        if any(len(own["mean"]) > 1 for text in runs["weights"] for own in json.loads(text).values())
    ]
    if not panels:
        return []
    canvas, axes = new_canvas(len(panels))
    for axis, (name, runs) in zip(axes, panels, strict=True):
        stored = [json.loads(text) for text in runs["weights"]]
        for number, teacher in enumerate(dict.fromkeys(m for own in stored for m in own)):
            rows = [own[teacher]["mean"] for own in stored if teacher in own]
            means = [sum(epoch) / len(epoch) for epoch in zip(*rows, strict=False)]
            points = [(float(n), mean, mean, mean) for n, mean in enumerate(means, 1)]
            errorbar(axis, points, *LOOKS[number % len(LOOKS)], teacher)
        axis.set_title(f"{runs['dataset'].iloc[0]} · {runs['student'].iloc[0]} · {name}", fontsize=9)
        axis.set_xlabel("epochs")
        axis.set_ylabel("weight")
    add_legend(canvas, axes)
    caption = "exp(-s) at the end of each epoch, mean over the seeds."
    return [Figure("weights", "Learned weights of the teachers", caption, canvas)]


def misleading(study: Study) -> list[Figure]:
    """Accuracy, and the weight of the teacher that misleads, over the share of its texts that are wrong."""
    frame = student_runs(study, study.frame)
    frame = frame[(frame["method"] == "tinyllm") & (frame["ablation"] == "none") & (frame["dropped"] == "")]
    frame = frame[(frame["weighting"] != "") & frame["wrong_share"].notna()]
    frame = frame[frame["teachers"].str.contains("misleading") | (frame["weights"] != "")]
    sets = [
        (f"{dataset} · {student} · α {alpha}{fraction_text(cast(float, fraction))}", runs)
        for (dataset, student, _, alpha, fraction), runs in frame.groupby(
            ["dataset", "student", "teacher_set", "composed_alpha", "train_fraction"], sort=False
        )
        if runs["wrong_share"].nunique() > 1
    ]
    if not sets:
        return []
    canvas, axes = new_canvas(2 * len(sets))
    metric = study.metric.value
    for place, (title, runs) in enumerate(sets):
        left, right = axes[2 * place], axes[2 * place + 1]
        runs = _most(runs, "untaught")
        by_name = [(name, _most(runs[runs["weighting"] == name], "without_teachers")) for name in Weighting]
        for number, (name, own) in enumerate(by_name):
            if own.empty:
                continue
            own = _on_shared_seeds(own, "wrong_share")
            look = (*LOOKS[number % len(LOOKS)], str(name))
            shares = by_number(own, "wrong_share")
            errorbar(left, [(share, *percent_interval(at, metric)) for share, at in shares], *look)
            errorbar(right, [(share, *3 * (_weight(at),)) for share, at in shares], *look)
        accuracy_axis(left, floor_of(study, runs))
        left.set_title(title, fontsize=9)
        right.set_ylabel("mean weight of misleading")
        for axis in (left, right):
            axis.set_xlabel("share of misleading's texts that are wrong")
    add_legend(canvas, axes)
    caption = (
        f"Left: accuracy by {metric_text(metric)}, with 95% intervals. Right: mean weight over questions and seeds; "
        "uniform is 1. A line is of the seeds that all of its points have. "
        "Where runs differ in other settings too, those of most runs are shown."
    )
    return [Figure("misleading", "A teacher that misleads", caption, canvas)]


def _most(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Those with the value that most of them have."""
    return runs[runs[column] == runs[column].mode().iloc[0]] if len(runs) else runs


def _on_shared_seeds(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Those of the seeds that every value of the column has; all where there is no such seed."""
    every = runs[column].nunique()
    shared = runs.groupby(["seed", "data_seed"])[column].transform("nunique") == every
    return runs[shared] if shared.any() else runs


def _weight(runs: pd.DataFrame) -> float:
    """Of misleading's texts; 0 where nothing is left of them."""
    found = []
    for text in runs["weights"]:
        own = json.loads(text) if text else None
        found.append(1.0 if own is None else own["misleading"]["mean"][-1] if "misleading" in own else 0.0)
    return sum(found) / len(found)
