"""What the paper reports (Tian et al., WSDM 2025, tables 1 and 2): accuracies as printed, under our names."""

from __future__ import annotations

from functools import cache
from importlib import resources

import pandas as pd

DATASETS = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")
STUDENTS = ("flan_t5_small", "flan_t5_base", "flan_t5_large")
TEACHERS = ("flan_t5_xl", "llama2_7b_chat")
METHODS = ("inference", "pinto", "lora", "full_ft", "standard_kd", "step_by_step", "tinyllm")
"""In the order of table 1."""
ABLATIONS = ("no_in_context", "no_llama", "no_t5", "no_diverse_teachers", "no_teacher_forcing")
"""In the order of table 2, whose last row is the whole method."""
TOTAL = "total"
"""Column of table 1: mean over the six datasets."""


@cache
def table1() -> pd.DataFrame:
    """Table 1 in percent, two decimals as printed: (student, method) × (datasets, total).

    A teacher's row has its name as student and `teacher` as method; `delta_ff` and `delta_distill` are the Δ rows.
    """
    return _read("table1.csv", ["student", "method"])


@cache
def table2() -> pd.DataFrame:
    """Table 2 in percent, two decimals as printed: (student, ablation) × datasets. `none` is the whole method."""
    return _read("table2.csv", ["student", "ablation"])


def reported(student: str, method: str, column: str, ablation: str = "none") -> float | None:
    """One number of the paper as a share of 1; None where it reports none.

    Args:
        student: or a teacher, with the method `teacher`.
        method: of table 1; also `delta_ff` and `delta_distill`.
        column: a dataset, or `total`.
        ablation: of table 2; `none` reads table 1.
    """
    if ablation == "none":
        table, row = table1(), (student, method)
    elif method == "tinyllm":
        table, row = table2(), (student, ablation)
    else:
        return None
    if row not in table.index or column not in table.columns:
        return None
    return float(table.loc[row, column]) / 100  # type: ignore[arg-type]


def _read(name: str, index: list[str]) -> pd.DataFrame:
    with resources.files("tinyllm.reporting").joinpath("paper_numbers", name).open(encoding="utf-8") as file:
        return pd.read_csv(file).set_index(index)
