"""The paper's figure 3: accuracy over the weight of each teacher."""

from __future__ import annotations

import pandas as pd

from tinyllm.reporting.choose import at_one_rate
from tinyllm.reporting.figures.drawing import (
    INTERVALS,
    OF_TEACHER,
    Figure,
    accuracy_axis,
    add_legend,
    by_number,
    errorbar,
    floor_of,
    metric_text,
    new_canvas,
    panels_of,
    percent_interval,
    seeds_a_setting,
    student_runs,
)
from tinyllm.reporting.labels import fraction_text
from tinyllm.reporting.study import Study


def alpha_panels(study: Study) -> list[tuple[str, pd.DataFrame, list[str]]]:
    """(title, runs, teachers) of TinyLLM's runs that differ in α, with all of the set's teachers.

    Of a dataset and student, those on the largest fraction of the training questions on which α varies.
    """
    frame = student_runs(study, study.frame)
    tinyllm = frame[(frame["method"] == "tinyllm") & (frame["ablation"] == "none") & (frame["variant"] == "")]
    found = []
    for title, at_all_fractions in panels_of(tinyllm):
        for fraction, runs in reversed(by_number(at_all_fractions, "train_fraction")):
            # The largest set: a weight of 0 drops a teacher's stream, and is a point of its grid all the same.
            largest = max(sorted(runs["teachers"].unique()), key=lambda teachers: str(teachers).count("+"))
            teachers = [t for t in str(largest).split("+") if f"alpha/{t}" in runs]
            runs = at_one_rate(runs.dropna(subset=[f"alpha/{t}" for t in teachers]))
            if teachers and any(runs[f"alpha/{t}"].nunique() > 1 for t in teachers):
                found.append((title + fraction_text(fraction), runs, teachers))
                break
    return found


def trained_on(runs: pd.DataFrame) -> str:
    """What a caption says where not all training questions were used; else ""."""
    percent = sorted(100 * runs["train_fraction"].unique())
    return (
        "" if percent == [100] else f"Trained on {' or '.join(f'{p:g}' for p in percent)}% of the training questions. "
    )


def alpha(study: Study) -> list[Figure]:
    """TinyLLM over the α of one teacher, with the others' held at 1 and averaged over."""
    metric = study.metric.value
    panels = alpha_panels(study)
    if not panels:
        return []
    canvas, axes = new_canvas(len(panels))
    averages = False
    for axis, (title, runs, teachers) in zip(axes, panels, strict=True):
        values = sorted({float(v) for t in teachers for v in runs[f"alpha/{t}"]})
        position = {value: float(i) for i, value in enumerate(values)}
        for turn, teacher in enumerate(teachers):
            colour, marker = OF_TEACHER[turn % len(OF_TEACHER)]
            rest = [f"alpha/{t}" for t in teachers if t != teacher]
            shift = 0.12 * (turn - (len(teachers) - 1) / 2)
            held = runs[(runs[rest] == 1).all(axis=1)]
            by_value = [(position[v] + shift, part) for v, part in by_number(held, f"alpha/{teacher}")]
            others = "the other" if len(teachers) == 2 else "the others"
            label = f"α of {teacher}" + (f", {others} at 1" if rest else "")
            if by_value:
                errorbar(axis, [(x, *percent_interval(part, metric)) for x, part in by_value], colour, marker, label)
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
        accuracy_axis(axis, floor_of(study, runs))
    add_legend(canvas, axes)
    every = pd.concat([runs for _, runs, _ in panels])
    caption = (
        f"TinyLLM's test accuracy by {metric_text(metric)} over the α of one teacher, {seeds_a_setting(every)}. Solid: "
        f"α of the other teachers held at 1. {trained_on(every)}{INTERVALS} "
        + ("Dashed: mean over all values of the other teachers' α that were run. " if averages else "")
        + "Values of α are evenly spaced. Test results of every α are shown; none was used for selection."
    )
    return [Figure("fig3_alpha", "Accuracy over the weight of each teacher", caption, canvas)]
