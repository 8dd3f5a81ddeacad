"""The figures of a report, a file each. A new figure is a function of the study in a file of its own, and a line here.

Figures of methods show what validation chose, as tables do; figures of α show every setting.
"""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl

from tinyllm.reporting.figures.alpha import alpha
from tinyllm.reporting.figures.alpha_grid import alpha_grid
from tinyllm.reporting.figures.cost import cost
from tinyllm.reporting.figures.drawing import STYLE, Figure
from tinyllm.reporting.figures.learning_curves import learning_curves
from tinyllm.reporting.figures.teachers import teachers
from tinyllm.reporting.figures.train_size import train_size
from tinyllm.reporting.figures.weights import misleading, weights_by_epoch
from tinyllm.reporting.study import Study

FIGURES: tuple[Callable[[Study], list[Figure]], ...] = (
    train_size,
    alpha,
    alpha_grid,
    learning_curves,
    cost,
    teachers,
    weights_by_epoch,
    misleading,
)


def all_figures(study: Study) -> list[Figure]:
    """Every figure for which there are runs, in the order of the report."""
    with mpl.rc_context(STYLE):
        return [figure for make in FIGURES for figure in make(study)]
