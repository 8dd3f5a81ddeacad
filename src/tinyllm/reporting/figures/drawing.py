"""What several figures need: style, panels, error bars, a legend, and the axis of accuracy."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Canvas

from tinyllm.config import Metric
from tinyllm.evaluation.score import chance
from tinyllm.reporting.interval import interval
from tinyllm.reporting.labels import label, order
from tinyllm.reporting.study import Study
from tinyllm.runs import PREDICTIONS, TEACHER
from tinyllm.shown import file_name

_DPI = 150
_PANEL = (4.0, 3.0)
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.08,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a "$" in a name is no formula
}
# Okabe and Ito's palette, which readers with any colour vision can tell apart; markers differ as well, for print.
BLACK, GREY, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PINK = (
    "#222222", "#8a8a8a", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
_OF_METHOD = {
    "tinyllm": [(_RED, "o")],
    "step_by_step": [(_BLUE, "s"), (_SKY, "D"), ("#004c6d", "P")],
    "one_teacher": [("#7b3294", "s"), ("#c2a5cf", "D")],
    "full_ft": [(BLACK, "^"), (GREY, "v"), ("#555555", "<")],
    "standard_kd": [(_GREEN, "P"), ("#66c2a5", "X")],
    "lora": [(_ORANGE, "v")],
    "pinto": [(_PINK, "X"), ("#8f4a70", "d")],
    "inference": [(GREY, "x")],
}
LOOKS = [(_BLUE, "o"), (_RED, "s"), (_GREEN, "D"), (_ORANGE, "^"), (_SKY, "v"), (_PINK, "P"), (GREY, "X"), (BLACK, "*")]
"""Colour and marker of lines that are no methods: teachers, weightings."""
_OTHERS = [(c, m) for m in "*hp<>8" for c in (_PINK, _ORANGE, _GREEN, _SKY, GREY)]
OF_TEACHER = [(_BLUE, "o"), (_ORANGE, "s"), (_GREEN, "D"), (_PINK, "^"), (_RED, "v")]
"""Colours and markers of teachers."""

INTERVALS = "Bars: 95% confidence intervals, Student's t over seeds or, for a single seed, Wilson's over questions."
CHANCE, MAJORITY = "chance", "majority class"
METRICS = {
    Metric.accuracy: "greedy generation",
    Metric.accuracy_ranked: "ranking the options",
    Metric.accuracy_exact: "exact equality of the generated text",
}
SELECTED = "Where several α or teachers were run, the setting with the best validation accuracy is shown."


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its title and caption."""

    name: str
    """File name without its ending: `fig2_train_size`."""
    title: str
    caption: str
    """What is shown, of what, with which intervals; plain text."""
    figure: Canvas


def png(figure: Figure) -> bytes:
    """The plot as a PNG of 150 dots an inch."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, folder: Path) -> None:
    """Write `<name>.png` and `<name>.pdf`; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(figure.name)
    (folder / f"{name}.png").write_bytes(png(figure))
    with mpl.rc_context(STYLE):
        figure.figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def chosen_runs(study: Study) -> pd.DataFrame:
    """Students' runs of the chosen settings that have the metric, one line a method: the teacher is not in its name."""
    runs = student_runs(study, study.chosen)
    return runs.assign(method_teacher="")


def student_runs(study: Study, runs: pd.DataFrame) -> pd.DataFrame:
    """Those of a student that have the metric."""
    return runs[(runs["method"] != TEACHER) & runs[study.metric.value].notna()]


def percent_interval(runs: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    """Mean, low and high in percent."""
    mean, low, high = interval(runs, metric)
    return 100 * mean, 100 * low, 100 * high


LINE = ["dataset", "student", "method", "ablation", "variant"]
"""Runs that are one line, or one marker, of a figure."""


def panels_of(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, runs) of every dataset and student, the small students first."""
    groups = [(f"{dataset} · {student}", runs) for (dataset, student), runs in frame.groupby(["dataset", "student"])]
    return sorted(groups, key=lambda g: (g[1]["dataset"].iloc[0], g[1]["parameters"].fillna(0).mean(), g[0]))


def new_canvas(panels: int, size: tuple[float, float] = _PANEL) -> tuple[Canvas, list[Axes]]:
    """An empty figure and its axes.

    Args:
        panels: how many.
        size: of each, in inches.
    """
    columns = 2 if panels == 4 else min(panels, 3)
    rows = math.ceil(panels / columns)
    canvas = Canvas(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = [canvas.add_subplot(rows, columns, index + 1) for index in range(panels)]
    return canvas, axes


def add_legend(canvas: Canvas, axes: Sequence[Axes]) -> None:
    """One legend for all panels: to the right of a single panel, under several."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    if not entries:
        return
    labels = sorted(entries, key=lambda text: not isinstance(entries[text], ErrorbarContainer))  # references last
    handles = [entries[text] for text in labels]
    width, height = canvas.get_size_inches()
    needed = 0.075 * max(map(len, labels)) + 0.6  # inches of a column, at the legend's type size
    if len(axes) == 1:
        canvas.set_size_inches(width + needed, max(height, 0.2 * len(labels) + 0.4))
        canvas.legend(handles, labels, loc="outside right center")
    else:
        rows = math.ceil(len(labels) / max(1, int(width / needed)))
        columns = math.ceil(len(labels) / rows)
        canvas.set_size_inches(width, height + 0.2 * rows)
        canvas.legend(handles, labels, loc="outside lower center", ncols=columns)


def looks_of(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker by label: a method has the same in every figure."""
    found: dict[str, tuple[str, str]] = {}
    used: dict[str, int] = {}
    others = iter(_OTHERS * 9)
    for row in sorted(records(frame), key=order):
        if label(row) in found:
            continue
        own = _OF_METHOD.get(row["method"], []) if row["ablation"] == "none" else []
        turn = used.get(row["method"], 0)
        if turn < len(own):
            used[row["method"]] = turn + 1
            found[label(row)] = own[turn]
        else:
            found[label(row)] = next(others)
    return found


def by_number(frame: pd.DataFrame, column: str) -> list[tuple[float, pd.DataFrame]]:
    """(value, rows) of a column's values, in their order."""
    return [(float(value), frame[frame[column] == value]) for value in sorted(frame[column].unique())]


def records(frame: pd.DataFrame) -> list[Mapping[str, Any]]:
    """The rows as mappings, for `label` and `order`."""
    return cast(list[Mapping[str, Any]], frame.to_dict("records"))


def floor_of(study: Study, runs: pd.DataFrame) -> tuple[str, float] | None:
    """What an accuracy in percent has to beat: the majority class where it is known, else chance; with its name."""
    for name, column in ((MAJORITY, "majority"), (CHANCE, "chance")):
        if column in runs and (known := runs[column].dropna()).size:
            return name, 100 * float(known.mean())
    for folder in runs["folder"]:  # results of earlier versions
        if (Path(folder) / PREDICTIONS).is_file() and (share := chance(study.predictions.of(folder))) is not None:
            return CHANCE, 100 * share
    return None


def accuracy_axis(axis: Axes, floor: tuple[str, float] | None) -> None:
    """Label, limits inside 0 to 100, and the floor: as a line where it is near the data, else as text."""
    axis.set_ylabel("accuracy (%)")
    low, high = axis.get_ylim()
    if floor is not None:
        name, value = floor
        if low - 0.6 * (high - low) <= value <= high + 0.6 * (high - low):
            axis.axhline(value, color=GREY, linewidth=1, linestyle=(0, (5, 3)), label=name, zorder=1)
            low, high = min(low, value - 0.03 * (high - low)), max(high, value + 0.03 * (high - low))
        else:
            axis.text(
                0.99, 0.02, f"{name} is {value:.3g}%", transform=axis.transAxes, ha="right", color=GREY, fontsize=8
            )
    axis.set_ylim(max(low, 0.0), min(high, 100.0))


def seeds_a_setting(frame: pd.DataFrame) -> str:
    """`5 seeds`, or `3 to 5 seeds`."""
    counts = frame.groupby([*LINE, "setting"], dropna=False)["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    return f"{low} seed{'s' if low > 1 else ''}" if low == high else f"{low} to {high} seeds"


def metric_text(metric: str) -> str:
    """How answers were read."""
    return METRICS[Metric(metric)]


def errorbar(
    axis: Axes, points: Sequence[tuple[float, ...]], colour: str, marker: str, label: str, **style: Any
) -> None:
    """Points (x, mean, low, high) joined by a line."""
    xs, means, lows, highs = (np.array(column) for column in zip(*points, strict=True))
    kind = {"linewidth": 1.6, "markersize": 5, "capsize": 2.5, "elinewidth": 1} | style
    axis.errorbar(
        xs, means, [means - lows, highs - means], color=colour, marker=marker, label=label, **kind
    )  # fmt: skip
