"""Test accuracy against what training cost."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from tinyllm.reporting.figures.drawing import (
    INTERVALS,
    LINE,
    SELECTED,
    Figure,
    accuracy_axis,
    add_legend,
    chosen_runs,
    errorbar,
    floor_of,
    looks_of,
    metric_text,
    new_canvas,
    panels_of,
    percent_interval,
    records,
    seeds_a_setting,
)
from tinyllm.reporting.labels import label, order
from tinyllm.reporting.study import Study


def cost(study: Study) -> list[Figure]:
    """Accuracy over the tokens that training read."""
    frame, metric = chosen_runs(study), study.metric.value
    if "train_tokens" not in frame:
        return []
    known = frame[frame["train_tokens"].fillna(0) > 0]
    panels = panels_of(known) if len(known) else []
    panels = [(title, runs) for title, runs in panels if runs["setting"].nunique() > 1]
    if not panels:
        return []
    looks = looks_of(pd.concat([runs for _, runs in panels]))
    canvas, axes = new_canvas(len(panels), (4.4, 3.4))
    for axis, (title, runs) in zip(axes, panels, strict=True):
        for _, line in sorted(runs.groupby(LINE, sort=False), key=lambda g: order(records(g[1])[0])):
            row = records(line)[0]
            colour, marker = looks[label(row)]
            points = [
                (float(p["train_tokens"].mean()), *percent_interval(p, metric))
                for _, p in line.groupby("train_fraction")
            ]
            plain = row["ablation"] == "none" and not row["variant"]
            errorbar(
                axis, sorted(points), colour, marker, label(row),
                linewidth=1, elinewidth=0.8, markerfacecolor=colour if plain else "white",
            )  # fmt: skip
        axis.set_xscale("log")
        _token_ticks(axis)
        axis.set_xlabel("tokens read in training (log)")
        axis.set_title(title)
        accuracy_axis(axis, floor_of(study, runs))
    add_legend(canvas, axes)
    several = known["train_fraction"].nunique() > 1
    caption = (
        f"Test accuracy by {metric_text(metric)} against the cost of training, in source and target tokens read over "
        f"all streams and epochs; {seeds_a_setting(known)}. {INTERVALS} Hollow markers: variants and ablations. "
        + ("Lines join one method on growing fractions of the training questions. " if several else "")
        + "The cost of the teachers is not included. "
        + SELECTED
        + " Runs without training or without a token count are left out."
    )
    return [Figure("cost_accuracy", "Accuracy against cost", caption, canvas)]


def _token_ticks(axis: Axes) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten, as `200k` and `5M`, also where the axis spans less than a decade."""
    low, high = axis.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10**p for p in powers for m in (1, 2, 5) if low <= m * 10**p <= high]
    if len(ticks) > 6:
        ticks = [t for t in ticks if math.log10(t).is_integer()]
    if len(ticks) > 1:
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))


def _short(tokens: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:g}{unit}"
    return f"{tokens:g}"
