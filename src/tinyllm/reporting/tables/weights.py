"""What each weighting gave each teacher's texts."""

from __future__ import annotations

import json
from typing import Any, cast

import pandas as pd

from tinyllm.evaluation.statistics import t_interval
from tinyllm.reporting.labels import fraction_text, named, order
from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Cell, Table


def weights(study: Study) -> list[Table]:
    """One table, a line for each setting that weighs texts and each of its teachers."""
    lines = []
    for name, runs in settings_of(study):
        for teacher in dict.fromkeys(m for text in runs["weights"] for m in json.loads(text)):
            own = [json.loads(text).get(teacher) for text in runs["weights"]]
            last = {
                key: [one[key][-1] if one else (1.0 if key == "zeros" else 0.0) for one in own]
                for key in ("mean", "spread", "zeros")
            }
            mean, low, high = t_interval(last["mean"]) if len(own) > 1 else (last["mean"][0], None, None)
            numbers = [Cell(mean, low, high), *(Cell(sum(last[key]) / len(own)) for key in ("spread", "zeros"))]
            where = (*(str(runs[column].iloc[0]) for column in ("dataset", "student", "weighting")), name, teacher)
            lines.append((*(Cell(text=text) for text in where), *numbers, Cell(text=str(len(own)))))
    if not lines:
        return []
    table = Table(
        "weights",
        "Weights of the teachers' texts",
        ("dataset", "student", "weighting", "method", "teacher", "mean weight", "spread", "share of zeros", "seeds"),
        tuple(lines),
        (
            "Over the training questions for which the teacher has a text; the loss multiplies a weight by α. The "
            "weights of a question's texts add up to their number, unless all are 0. Learned weights don't; theirs are "
            "those of the last epoch. Spread: standard deviation over questions. A teacher with no text left has 0.",
            "Interval of the mean: Student's t over the seeds.",
        ),
        percent=False,
    )
    return [table]


def settings_of(study: Study) -> list[tuple[str, pd.DataFrame]]:
    """(label, runs) of every setting with weights, in the order of labels."""
    frame = study.frame[study.frame["weights"] != ""]
    found = []
    for _, runs in frame.groupby(["dataset", "student", "setting"], sort=False):
        first = cast(dict[str, Any], runs.iloc[0].to_dict())
        found.append(
            (order(first), f"{named(first)} at α {first['alpha']}{fraction_text(first['train_fraction'])}", runs)
        )
    return [(name, runs) for _, name, runs in sorted(found, key=lambda one: one[0])]
