"""The paper's figure 2: accuracy over the size of the training set."""

from __future__ import annotations

from matplotlib.ticker import FixedLocator, FuncFormatter

from tinyllm import paper
from tinyllm.reporting.figures.drawing import (
    BLACK,
    INTERVALS,
    LINE,
    SELECTED,
    Figure,
    accuracy_axis,
    add_legend,
    by_number,
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


def train_size(study: Study) -> list[Figure]:
    """TinyLLM and the methods of one teacher over fractions of the training set, full fine-tuning on all of it."""
    frame, metric = chosen_runs(study), study.metric.value
    methods = frame[frame["ablation"] == "none"]
    lines = methods[methods["method"].isin(["tinyllm", "step_by_step", paper.ONE_TEACHER])]
    several = lines.groupby(LINE)["train_fraction"].transform("nunique") > 1
    lines = lines[several]
    panels = panels_of(lines)
    if not panels:
        return []
    full = methods[(methods["method"] == "full_ft") & (methods["train_fraction"] == 1) & (methods["variant"] == "")]
    looks = looks_of(lines)
    canvas, axes = new_canvas(len(panels))
    for axis, (title, runs) in zip(axes, panels, strict=True):
        where = (runs["dataset"].iloc[0], runs["student"].iloc[0])
        groups = sorted(runs.groupby(LINE, sort=False), key=lambda g: order(records(g[1])[0]))
        for turn, (_, line) in enumerate(groups):
            text = label(records(line)[0])
            points = sorted((100 * f, *percent_interval(p, metric)) for f, p in by_number(line, "train_fraction"))
            shift = 0.7 * (turn - (len(groups) - 1) / 2)  # error bars of one fraction side by side
            errorbar(axis, [(x + shift, *rest) for x, *rest in points], *looks[text], text)
        reference = full[(full["dataset"] == where[0]) & (full["student"] == where[1])]
        if len(reference):
            mean = percent_interval(reference, metric)[0]
            axis.axhline(mean, color=BLACK, linestyle=":", linewidth=1.5, label="Full fine-tuning, all questions")
        axis.xaxis.set_major_locator(FixedLocator(sorted(100 * runs["train_fraction"].unique())))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_xlabel("training questions (%)")
        axis.set_title(title)
        accuracy_axis(axis, floor_of(study, runs))
    add_legend(canvas, axes)
    caption = (
        f"Test accuracy by {metric_text(metric)} over the fraction of the training questions, "
        f"{seeds_a_setting(lines)}. {INTERVALS} Markers of one fraction are shifted sideways to keep their bars apart. "
        + ("Dotted: full fine-tuning on all training questions. " if len(full) else "")
        + SELECTED
    )
    return [Figure("fig2_train_size", "Accuracy over the size of the training set", caption, canvas)]
