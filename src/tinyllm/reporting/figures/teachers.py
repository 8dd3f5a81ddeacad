"""What each teacher brings: accuracy over the number of teachers, and Shapley values."""

from __future__ import annotations

import math

from matplotlib.ticker import MaxNLocator

from tinyllm.reporting.figures.drawing import GREY, LOOKS, Figure, add_legend, errorbar, metric_text, new_canvas
from tinyllm.reporting.study import Study
from tinyllm.reporting.subsets import lattices, shapley
from tinyllm.reporting.tables.teachers import Point, count_curve

_LINES = ("first in the set's order", "mean over all sets of this size")


def teachers(study: Study) -> list[Figure]:
    """Two panels for every set of teachers of which parts were run too."""
    found = [(lattice, count_curve(study, lattice)) for lattice in lattices(study)]
    found = [(lattice, curve) for lattice, curve in found if len(curve) > 1]
    if not found:
        return []
    canvas, axes = new_canvas(2 * len(found))
    for place, (lattice, curve) in enumerate(found):
        left, right = axes[2 * place], axes[2 * place + 1]
        for which, name in enumerate(_LINES):
            points = [(float(n), *_percent(own[which])) for n, own in curve.items() if own[which] is not None]
            if points:
                errorbar(left, points, *LOOKS[which], name)
        left.set_title(lattice.title, fontsize=9, loc="left")  # long: it goes on over the panel beside it
        left.set_xlabel("teachers")
        left.set_ylabel("accuracy (%)")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        pairs = {m: shapley(study, lattice, m) for m in lattice.teachers}
        known = {m: pair for m, pair in pairs.items() if pair is not None}
        for row, (_, one) in enumerate(zip(known, study.differences([[p] for p in known.values()]), strict=True)):
            whiskers = [[100 * (one.mean - one.low)], [100 * (one.high - one.mean)]]
            right.errorbar(100 * one.mean, row, xerr=whiskers, color=LOOKS[2][0], marker="o", capsize=2.5)
        right.axvline(0, color=GREY, linewidth=1)
        right.set_yticks(range(len(known)), list(known))
        right.invert_yaxis()
        right.set_xlabel("Shapley value (points)")
        if not known:
            right.text(0.5, 0.5, "not every set was run", transform=right.transAxes, ha="center", color=GREY)
    add_legend(canvas, axes)
    caption = (
        f"Left: accuracy by {metric_text(study.metric.value)} over the number of teachers; 0 is full fine-tuning. "
        "Right: exact Shapley values, which add up to the whole set minus full fine-tuning. 95% intervals, where there "
        "is one."
    )
    return [Figure("teachers", "What each teacher brings", caption, canvas)]


def _percent(point: Point | None) -> Point:
    assert point is not None
    mean, low, high = (100 * value for value in point)
    return (mean, mean, mean) if math.isnan(low) else (mean, low, high)
