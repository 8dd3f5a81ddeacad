"""The frame of runs -> figures: the paper's figures 2 and 3, learning curves, and cost against accuracy."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from tinyllm.config import Metric
from tinyllm.reporting.cases import name, place, read_predictions
from tinyllm.reporting.choose import choose, chosen
from tinyllm.reporting.frame import TEACHER
from tinyllm.reporting.interval import interval
from tinyllm.runs import METRICS, PREDICTIONS

log = logging.getLogger(__name__)

_DPI = 150
_PANEL = (4.0, 3.0)
"""Inches."""
_STYLE: dict[Any, Any] = {
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
_BLACK, _GREY, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PINK = (
    "#222222", "#8a8a8a", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
_OF_METHOD = {
    "tinyllm": [(_RED, "o")],
    "step_by_step": [(_BLUE, "s"), (_SKY, "D"), ("#004c6d", "P")],
    "full_ft": [(_BLACK, "^"), (_GREY, "v"), ("#555555", "<")],
    "standard_kd": [(_GREEN, "P"), ("#66c2a5", "X")],
    "lora": [(_ORANGE, "v")],
    "pinto": [(_PINK, "X"), ("#8f4a70", "d")],
    "inference": [(_GREY, "x")],
}
_OTHERS = [(c, m) for m in "*hp<>8" for c in (_PINK, _ORANGE, _GREEN, _SKY, _GREY)]
_OF_TEACHER = [(_BLUE, "o"), (_ORANGE, "s"), (_GREEN, "D"), (_PINK, "^"), (_RED, "v")]

_INTERVALS = "Bars: 95% interval, Student's t over seeds, or Wilson's over questions where there is one seed."


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with what a reader needs beside it."""

    name: str
    """File name without its ending: `fig2_train_size`."""
    title: str
    caption: str
    """What is shown, of what, with which intervals; plain text."""
    figure: Canvas


def png(figure: Figure) -> bytes:
    """The plot as a PNG of 150 dots an inch."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, folder: Path) -> None:
    """Write `<name>.png` and `<name>.pdf`; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{figure.name}.png").write_bytes(png(figure))
    with mpl.rc_context(_STYLE):
        figure.figure.savefig(folder / f"{figure.name}.pdf", metadata={"CreationDate": None})


def figures(frame: pd.DataFrame, metric: Metric) -> list[Figure]:
    """The figures for which there are runs.

    Args:
        frame: a row a run, of all settings. Figures of methods show what `choose` takes, as tables do; figures of α
            show every setting.
        metric: column that is drawn.
    """
    students = frame[frame["method"] != TEACHER]
    # One line a method, whichever teacher was the best one at each of its points.
    taken = chosen(students, choose(students)).assign(method_teacher="")
    every, best = (runs[runs[metric.value].notna()] for runs in (students, taken))
    with mpl.rc_context(_STYLE):
        return [
            *_train_size(best, metric.value),
            *_alpha(every, metric.value),
            *_alpha_grid(every, metric.value),
            *_curves(best, metric.value),
            *_cost(best, metric.value),
        ]


# What several figures need


def _interval(runs: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    """Mean, low and high in percent."""
    mean, low, high = interval(runs, metric)
    return 100 * mean, 100 * low, 100 * high


def _share(share: float) -> str:
    """What a title adds where not all questions were trained on."""
    return "" if share == 1 else f" · {100 * share:g}% of the training questions"


_LINE = ["dataset", "student", "method", "ablation", "variant"]
"""Runs that are one line, or one marker, of a figure."""


def _panels(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, runs) of every dataset and student, the small students first."""
    groups = [(f"{dataset} · {student}", runs) for (dataset, student), runs in frame.groupby(["dataset", "student"])]
    return sorted(groups, key=lambda g: (g[1]["dataset"].iloc[0], g[1]["parameters"].fillna(0).mean(), g[0]))


def _canvas(panels: int, size: tuple[float, float] = _PANEL) -> tuple[Canvas, list[Axes]]:
    columns = 2 if panels == 4 else min(panels, 3)
    rows = math.ceil(panels / columns)
    canvas = Canvas(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = [canvas.add_subplot(rows, columns, index + 1) for index in range(panels)]
    return canvas, axes


def _legend(canvas: Canvas, axes: Sequence[Axes]) -> None:
    """One legend for all panels, on room of its own: beside a single panel, under several."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    labels = sorted(entries, key=lambda label: not isinstance(entries[label], ErrorbarContainer))  # references last
    handles = [entries[label] for label in labels]
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


def _looks(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker by name of a run: a method's own, whatever else is in the figure."""
    found: dict[str, tuple[str, str]] = {}
    used: dict[str, int] = {}
    others = iter(_OTHERS * 9)
    for row in sorted(_rows(frame), key=place):
        if name(row) in found:
            continue
        own = _OF_METHOD.get(row["method"], []) if row["ablation"] == "none" else []
        turn = used.get(row["method"], 0)
        if turn < len(own):
            used[row["method"]] = turn + 1
            found[name(row)] = own[turn]
        else:
            found[name(row)] = next(others)
    return found


def _by_number(frame: pd.DataFrame, column: str) -> list[tuple[float, pd.DataFrame]]:
    return [(float(value), frame[frame[column] == value]) for value in sorted(frame[column].unique())]


def _rows(frame: pd.DataFrame) -> list[Mapping[str, Any]]:
    return cast(list[Mapping[str, Any]], frame.to_dict("records"))


def _chance(runs: pd.DataFrame) -> float | None:
    """Accuracy in percent of a blind choice, where all questions have the same number of options."""
    for folder in runs["folder"]:
        if (Path(folder) / PREDICTIONS).is_file():
            counts = {len(prediction.choices) for prediction in read_predictions(Path(folder))}
            return 100 / counts.pop() if len(counts) == 1 else None
    return None


def _accuracy_axis(axis: Axes, chance: float | None) -> None:
    """Label, limits inside 0 to 100, and chance: as a line where it is near the data, else in words."""
    axis.set_ylabel("accuracy (%)")
    low, high = axis.get_ylim()
    if chance is not None:
        if low - 0.6 * (high - low) <= chance <= high + 0.6 * (high - low):
            axis.axhline(chance, color=_GREY, linewidth=1, linestyle=(0, (5, 3)), label="chance", zorder=1)
            low, high = min(low, chance - 0.03 * (high - low)), max(high, chance + 0.03 * (high - low))
        else:
            axis.text(
                0.99, 0.02, f"chance is {chance:.3g}%", transform=axis.transAxes, ha="right", color=_GREY, fontsize=8
            )
    axis.set_ylim(max(low, 0.0), min(high, 100.0))


def _seeds(frame: pd.DataFrame) -> str:
    counts = frame.groupby([*_LINE, "setting"], dropna=False)["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    return f"{low} seed{'s' if low > 1 else ''}" if low == high else f"{low} to {high} seeds"


def _what(metric: str) -> str:
    return "greedy generation" if metric == Metric.accuracy else "ranking the options"


# Figure 2


def _train_size(frame: pd.DataFrame, metric: str) -> list[Figure]:
    ordinary = frame[frame["ablation"] == "none"]
    lines = ordinary[ordinary["method"].isin(["tinyllm", "step_by_step"])]
    several = lines.groupby(_LINE)["train_fraction"].transform("nunique") > 1
    lines = lines[several]
    panels = _panels(lines)
    if not panels:
        return []
    full = ordinary[(ordinary["method"] == "full_ft") & (ordinary["train_fraction"] == 1) & (ordinary["variant"] == "")]
    looks = _looks(lines)
    canvas, axes = _canvas(len(panels))
    for axis, (title, runs) in zip(axes, panels, strict=True):
        where = (runs["dataset"].iloc[0], runs["student"].iloc[0])
        groups = sorted(runs.groupby(_LINE, sort=False), key=lambda g: place(_rows(g[1])[0]))
        for turn, (_, line) in enumerate(groups):
            called = name(_rows(line)[0])
            points = sorted((100 * f, *_interval(p, metric)) for f, p in _by_number(line, "train_fraction"))
            shift = 0.7 * (turn - (len(groups) - 1) / 2)  # bars of one fraction side by side
            _errorbar(axis, [(x + shift, *rest) for x, *rest in points], *looks[called], called)
        reference = full[(full["dataset"] == where[0]) & (full["student"] == where[1])]
        if len(reference):
            mean = _interval(reference, metric)[0]
            axis.axhline(mean, color=_BLACK, linestyle=":", linewidth=1.5, label="Full fine-tuning, all questions")
        shares = sorted(100 * runs["train_fraction"].unique())
        axis.xaxis.set_major_locator(FixedLocator(shares))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_xlabel("training questions (%)")
        axis.set_title(title)
        _accuracy_axis(axis, _chance(runs))
    _legend(canvas, axes)
    caption = (
        f"Test accuracy by {_what(metric)} over the share of the training questions, {_seeds(lines)}. {_INTERVALS} "
        "Markers of one share are set apart sideways. "
        + ("Dotted: full fine-tuning on all training questions. " if len(full) else "")
        + "Where several α or teachers were run at one share, the best by validation accuracy is shown."
    )
    return [Figure("fig2_train_size", "Accuracy over the size of the training set", caption, canvas)]


def _errorbar(
    axis: Axes, points: Sequence[tuple[float, ...]], colour: str, marker: str, label: str, **style: Any
) -> None:
    """Points (x, mean, low, high) joined by a line."""
    xs, means, lows, highs = (np.array(column) for column in zip(*points, strict=True))
    kind = {"linewidth": 1.6, "markersize": 5, "capsize": 2.5, "elinewidth": 1} | style
    axis.errorbar(
        xs, means, [means - lows, highs - means], color=colour, marker=marker, label=label, **kind
    )  # fmt: skip


# Figure 3


def _weighted(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame, list[str]]]:
    """(title, runs, teachers) of TinyLLM's runs that differ in α, with all of the set's teachers.

    Of a dataset and student, those on the largest share of the training questions on which α varies.
    """
    ordinary = frame[(frame["method"] == "tinyllm") & (frame["ablation"] == "none") & (frame["variant"] == "")]
    found = []
    for title, at_all_shares in _panels(ordinary):
        for share, runs in reversed(_by_number(at_all_shares, "train_fraction")):
            # The largest set: a weight of 0 drops a teacher's stream, and is a point of its grid all the same.
            largest = max(sorted(runs["teachers"].unique()), key=lambda teachers: str(teachers).count("+"))
            teachers = [t for t in str(largest).split("+") if f"alpha/{t}" in runs]
            runs = runs.dropna(subset=[f"alpha/{t}" for t in teachers])
            if teachers and any(runs[f"alpha/{t}"].nunique() > 1 for t in teachers):
                found.append((title + _share(share), runs, teachers))
                break
    return found


def _trained_on(runs: pd.DataFrame) -> str:
    """What a caption says of the share of training questions."""
    shares = sorted(100 * runs["train_fraction"].unique())
    return "" if shares == [100] else f"Trained on {' or '.join(f'{s:g}' for s in shares)}% of the training questions. "


def _alpha(frame: pd.DataFrame, metric: str) -> list[Figure]:
    panels = _weighted(frame)
    if not panels:
        return []
    canvas, axes = _canvas(len(panels))
    averages = False
    for axis, (title, runs, teachers) in zip(axes, panels, strict=True):
        values = sorted({float(v) for t in teachers for v in runs[f"alpha/{t}"]})
        position = {value: float(i) for i, value in enumerate(values)}
        for turn, teacher in enumerate(teachers):
            colour, marker = _OF_TEACHER[turn % len(_OF_TEACHER)]
            rest = [f"alpha/{t}" for t in teachers if t != teacher]
            shift = 0.12 * (turn - (len(teachers) - 1) / 2)
            held = runs[(runs[rest] == 1).all(axis=1)]
            by_value = [(position[v] + shift, part) for v, part in _by_number(held, f"alpha/{teacher}")]
            others = "the other" if len(teachers) == 2 else "the others"
            label = f"α of {teacher}" + (f", {others} at 1" if rest else "")
            if by_value:
                _errorbar(axis, [(x, *_interval(part, metric)) for x, part in by_value], colour, marker, label)
            if rest and runs.groupby(f"alpha/{teacher}")["setting"].nunique().max() > 1:
                averages = True
                # Seeds and settings weigh alike: first the mean of every setting, then over the settings.
                means = runs.groupby([f"alpha/{teacher}", "setting"])[metric].mean().groupby(level=0).mean()
                xs = [position[float(v)] + shift for v in means.index]
                axis.plot(
                    xs, 100 * means, "--", color=colour, linewidth=1.1, label=f"α of {teacher}, mean over {others}"
                )
        axis.set_xticks(range(len(values)), [f"{v:g}" for v in values])
        axis.set_xlabel("α (weight of a teacher's stream)")
        axis.set_title(title)
        _accuracy_axis(axis, _chance(runs))
    _legend(canvas, axes)
    every = pd.concat([runs for _, runs, _ in panels])
    caption = (
        f"TinyLLM's test accuracy by {_what(metric)} over the α of one teacher, {_seeds(every)}. Solid: the other "
        f"teachers' α held at 1. {_trained_on(every)}{_INTERVALS} "
        + ("Dashed: mean over all values of the other teachers' α that were run. " if averages else "")
        + "The values of α are evenly spaced. Test numbers of every α are drawn; none of them chose a setting."
    )
    return [Figure("fig3_alpha", "Accuracy over the weight of each teacher", caption, canvas)]


def _alpha_grid(frame: pd.DataFrame, metric: str) -> list[Figure]:
    panels = [
        (title, runs, teachers)
        for title, runs, teachers in _weighted(frame)
        if len(teachers) == 2 and all(runs[f"alpha/{t}"].nunique() > 1 for t in teachers)
    ]
    if not panels:
        return []
    canvas, axes = _canvas(len(panels), (4.4, 3.7))
    missing = 0
    for axis, (title, runs, (first, second)) in zip(axes, panels, strict=True):
        means = 100 * runs.pivot_table(metric, f"alpha/{second}", f"alpha/{first}", aggfunc="mean").sort_index()
        cells = means.to_numpy(dtype=float)
        image = axis.imshow(np.ma.masked_invalid(cells), cmap="cividis", origin="lower", aspect="auto")
        axis.grid(False)
        cells_low, cells_high = np.nanmin(cells), np.nanmax(cells)
        for row, column in np.ndindex(*cells.shape):
            value = cells[row, column]
            if math.isnan(value):
                missing += 1
                corner = (column - 0.5, row - 0.5)
                axis.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="#bbbbbb", linewidth=0))
                continue
            dark = value < cells_low + 0.55 * (cells_high - cells_low)
            axis.text(
                column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
        axis.set_xticks(range(cells.shape[1]), [f"{v:g}" for v in means.columns])
        axis.set_yticks(range(cells.shape[0]), [f"{v:g}" for v in means.index])
        axis.set_xlabel(f"α of {first}")
        axis.set_ylabel(f"α of {second}")
        axis.set_title(title)
        axis.spines[:].set_visible(False)
        bar = canvas.colorbar(image, ax=axis)
        bar.outline.set_visible(False)
        bar.set_label("accuracy (%)")
    every = pd.concat([runs for _, runs, _ in panels])
    caption = (
        f"TinyLLM's mean test accuracy in percent, by {_what(metric)}, for every pair of α, {_seeds(every)} a cell. "
        + _trained_on(every)
        + (f"Hatched: pairs that were not run or did not finish ({missing}). " if missing else "")
        + "Neighbouring cells differ by chance too: the intervals of figure 3 show how much."
    )
    return [Figure("fig3_alpha_grid", "Accuracy over the weights of both teachers", caption, canvas)]


# Learning curves


def _curves(frame: pd.DataFrame, metric: str) -> list[Figure]:
    """One figure a dataset and student."""
    found = []
    for title, runs in _panels(frame[frame["ablation"] == "none"]):
        where = title.replace(" · ", "_")
        share, runs = _by_number(runs, "train_fraction")[-1]
        title += _share(share)
        logged = _metrics(runs)
        if logged.empty:
            continue
        streams = [c for c in logged.columns if c.startswith("train/loss/") and logged[c].notna().any()]
        streams.sort(key=lambda c: (c != "train/loss/answer", c))
        valid = f"valid/{metric}"
        shown = [*streams, *([valid] if valid in logged and logged[valid].notna().any() else [])]
        looks = _looks(runs)
        canvas, axes = _canvas(len(shown), (3.6, 2.9))
        for axis, column in zip(axes, shown, strict=True):
            scale = 100 if column == valid else 1
            there = logged.dropna(subset=[column])
            for called in there["name"].unique():
                line = there[there["name"] == called]
                for _, one in line.groupby("folder"):
                    axis.plot(one["step"], scale * one[column], color=looks[called][0], alpha=0.25, linewidth=0.6)
                seeds = line["folder"].nunique()
                at_step = line.groupby("step")[column]
                mean = scale * at_step.mean()[at_step.count() == seeds]
                axis.plot(mean.index, mean, color=looks[called][0], linewidth=1.7, label=called)
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
        _legend(canvas, axes)
        caption = (
            f"{title}: training loss of every stream (logarithmic) and validation accuracy by {_what(metric)} over the "
            f"optimizer steps, {_seeds(runs)}. Thick: mean over the seeds, at the steps that all of them logged; thin: "
            "a seed each. Where several α or teachers were run, the best by validation accuracy is shown."
        )
        found.append(Figure(f"learning_curves_{where}", f"Learning curves: {title}", caption, canvas))
    return [replace(found[0], name="learning_curves")] if len(found) == 1 else found


def _metrics(runs: pd.DataFrame) -> pd.DataFrame:
    """All lines of the runs' metrics.csv, with `name` and `folder`; runs without one are left out."""
    parts = []
    for row in sorted(_rows(runs), key=place):
        path = Path(row["folder"]) / METRICS
        if not path.is_file():
            continue
        try:
            part = pd.read_csv(path)
        except (OSError, ValueError) as error:
            log.warning("%s: no learning curve (%s)", path, error)
            continue
        if "step" in part:
            parts.append(part.assign(name=name(row), folder=row["folder"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


# Cost against accuracy


def _cost(frame: pd.DataFrame, metric: str) -> list[Figure]:
    if "train_tokens" not in frame:
        return []
    known = frame[frame["train_tokens"].fillna(0) > 0]
    panels = _panels(known) if len(known) else []
    panels = [(title, runs) for title, runs in panels if runs["setting"].nunique() > 1]
    if not panels:
        return []
    looks = _looks(pd.concat([runs for _, runs in panels]))
    canvas, axes = _canvas(len(panels), (4.4, 3.4))
    for axis, (title, runs) in zip(axes, panels, strict=True):
        for _, line in sorted(runs.groupby(_LINE, sort=False), key=lambda g: place(_rows(g[1])[0])):
            row = _rows(line)[0]
            colour, marker = looks[name(row)]
            points = [
                (float(p["train_tokens"].mean()), *_interval(p, metric)) for _, p in line.groupby("train_fraction")
            ]
            plain = row["ablation"] == "none" and not row["variant"]
            _errorbar(
                axis, sorted(points), colour, marker, name(row),
                linewidth=1, elinewidth=0.8, markerfacecolor=colour if plain else "white",
            )  # fmt: skip
        axis.set_xscale("log")
        _token_ticks(axis)
        axis.set_xlabel("tokens read in training (log)")
        axis.set_title(title)
        _accuracy_axis(axis, _chance(runs))
    _legend(canvas, axes)
    parts = known["train_fraction"].nunique() > 1
    caption = (
        f"Test accuracy by {_what(metric)} against what training cost: source and target tokens read, over all streams "
        f"and epochs; {_seeds(known)}. {_INTERVALS} Hollow: variants and ablations. "
        + ("Joined: one method on growing shares of the training questions. " if parts else "")
        + "The teachers' own cost is not in it. Where several α or teachers were run, the best by validation accuracy "
        "is shown; runs without training, or without a token count, are left out."
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
