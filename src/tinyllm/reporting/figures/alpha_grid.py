"""Figure 3 over both teachers: accuracy for every pair of α."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from tinyllm.reporting.figures.alpha import alpha_panels, trained_on
from tinyllm.reporting.figures.drawing import Figure, metric_text, new_canvas, seeds_a_setting
from tinyllm.reporting.study import Study


def alpha_grid(study: Study) -> list[Figure]:
    """TinyLLM by the α of two teachers, where both vary."""
    metric = study.metric.value
    panels = [
        (title, runs, teachers)
        for title, runs, teachers in alpha_panels(study)
        if len(teachers) == 2 and all(runs[f"alpha/{t}"].nunique() > 1 for t in teachers)
    ]
    if not panels:
        return []
    canvas, axes = new_canvas(len(panels), (4.4, 3.7))
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
        f"TinyLLM's mean test accuracy in percent, by {metric_text(metric)}, for every pair of α, "
        f"{seeds_a_setting(every)} a cell. "
        + trained_on(every)
        + (f"Hatched: pairs that were not run or did not finish ({missing}). " if missing else "")
        + "Neighbouring cells also differ by chance; the intervals of figure 3 show how much."
    )
    return [Figure("fig3_alpha_grid", "Accuracy over the weights of both teachers", caption, canvas)]
