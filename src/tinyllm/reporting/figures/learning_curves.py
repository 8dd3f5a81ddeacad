"""Training loss and validation accuracy over the optimizer steps."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tinyllm.reporting.figures.drawing import (
    SELECTED,
    Figure,
    add_legend,
    by_number,
    chosen_runs,
    looks_of,
    metric_text,
    new_canvas,
    panels_of,
    records,
    seeds_a_setting,
)
from tinyllm.reporting.labels import fraction_text, label, order
from tinyllm.reporting.study import Study
from tinyllm.runs import METRICS

log = logging.getLogger(__name__)


def learning_curves(study: Study) -> list[Figure]:
    """One figure a dataset and student, of the runs on most training questions."""
    frame, metric = chosen_runs(study), study.metric.value
    frame = frame[[(Path(folder) / METRICS).is_file() for folder in frame["folder"]]] if len(frame) else frame
    found = []
    for title, runs in panels_of(frame[frame["ablation"] == "none"]):
        place = title.replace(" · ", "_")
        fraction, runs = by_number(runs, "train_fraction")[-1]
        title += fraction_text(fraction)
        logged = _metrics(runs)
        if logged.empty:
            continue
        streams = [c for c in logged.columns if c.startswith("train/loss/") and logged[c].notna().any()]
        streams.sort(key=lambda c: (c != "train/loss/answer", c))
        valid = f"valid/{metric}"
        shown = [*streams, *([valid] if valid in logged and logged[valid].notna().any() else [])]
        if not shown:
            continue
        looks = looks_of(runs)
        canvas, axes = new_canvas(len(shown), (3.6, 2.9))
        for axis, column in zip(axes, shown, strict=True):
            scale = 100 if column == valid else 1
            values = logged.dropna(subset=[column])
            for text in values["label"].unique():
                line = values[values["label"] == text]
                for _, one in line.groupby("folder"):
                    axis.plot(one["step"], scale * one[column], color=looks[text][0], alpha=0.25, linewidth=0.6)
                seeds = line["folder"].nunique()
                at_step = line.groupby("step")[column]
                mean = scale * at_step.mean()[at_step.count() == seeds]
                axis.plot(mean.index, mean, color=looks[text][0], linewidth=1.7, label=text)
            axis.set_xlabel("optimizer steps")
            if column == valid:
                axis.set_title("validation accuracy")
                axis.set_ylabel("accuracy (%)")
                axis.set_ylim(bottom=0)
            else:
                stream = column.removeprefix("train/loss/")
                axis.set_title("answer stream" if stream == "answer" else f"stream {stream}")
                axis.set_ylabel("training loss (nats)")
                axis.set_yscale("log")
                low, high = axis.get_ylim()
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
                axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
                axis.yaxis.set_minor_formatter(NullFormatter())
        canvas.suptitle(title, fontsize=10)
        add_legend(canvas, axes)
        caption = (
            f"{title}: training loss of every stream (logarithmic) and validation accuracy by {metric_text(metric)} "
            f"over the optimizer steps, {seeds_a_setting(runs)}. Thin: single seeds; thick: their mean, at the steps "
            f"that all of them logged. {SELECTED}"
        )
        found.append(Figure(f"learning_curves_{place}", f"Learning curves: {title}", caption, canvas))
    return [replace(found[0], name="learning_curves")] if len(found) == 1 else found


def _metrics(runs: pd.DataFrame) -> pd.DataFrame:
    """All lines of the runs' metrics.csv, with `label` and `folder`; runs without one are left out."""
    parts = []
    for row in sorted(records(runs), key=order):
        path = Path(row["folder"]) / METRICS
        if not path.is_file():
            continue
        try:
            part = pd.read_csv(path)
        except (OSError, ValueError) as error:
            log.warning("%s: no learning curve (%s)", path, error)
            continue
        if "step" in part:
            numbers = part.apply(pd.to_numeric, errors="coerce")  # a torn line of a killed run is no number
            parts.append(numbers.assign(label=label(row), folder=row["folder"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
