"""The paper (Tian et al., WSDM 2025): its α grid, its tables' rows and columns, and the numbers that it prints."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ALPHA_GRID = (0.01, 0.1, 0.5, 1, 2, 3)
"""The paper's grid of stream weights (section 4.1)."""

DATASETS = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")
STUDENTS = ("flan_t5_small", "flan_t5_base", "flan_t5_large")
TEACHERS = ("flan_t5_xl", "llama2_7b_chat")
METHODS = {
    "inference": "Inference",
    "pinto": "PINTO",
    "lora": "LoRA",
    "full_ft": "Full fine-tuning",
    "standard_kd": "Standard KD",
    "step_by_step": "Distilling step-by-step",
    "tinyllm": "TinyLLM",
}
"""Method -> label, in the order of table 1."""
ONE_TEACHER = "one_teacher"
"""A method beside the paper's: answers and one teacher's rationales, written with the answer given. The paper calls it
TinyLLM without a teacher (table 2); Distilling step-by-step asks its teacher without the answer."""
GAINS = {"delta_ff": ("Δ_FF", "full_ft"), "delta_distill": ("Δ_Distill", "step_by_step")}
"""Rows of table 1 with TinyLLM's relative gain -> (label, the method that it is a gain over)."""
ABLATIONS = {
    "no_in_context": "w/o in-context",
    "no_llama": "w/o LLaMA",
    "no_t5": "w/o T5",
    "no_diverse_teachers": "w/o diverse teachers",
    "no_teacher_forcing": "w/o teacher-forcing",
}
"""Ablation -> label, in the order of table 2, whose last row is TinyLLM without ablation."""
TOTAL = "total"
"""Column of table 1: mean over the six datasets."""


def paper_first(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names, each once: those that the paper has in its order, then the others by name.

    Args:
        names: in any order.
        known: one of the paper's lists, such as `DATASETS`.
    """
    found = set(names)
    listed = [name for name in known if name in found]
    return [*listed, *sorted(found.difference(listed))]


@cache
def table1() -> pd.DataFrame:
    """Table 1 in percent, two decimals as printed: (student, method) × (datasets, total).

    A teacher's row has its name as student and `teacher` as method; `delta_ff` and `delta_distill` are the Δ rows.
    """
    return _read("table1.csv", ["student", "method"])


@cache
def table2() -> pd.DataFrame:
    """Table 2 in percent, two decimals as printed: (student, ablation) × datasets. `none` is TinyLLM itself."""
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
    import pandas as pd  # not every reader of the paper's names wants it

    with resources.files("tinyllm").joinpath("paper_numbers", name).open(encoding="utf-8") as file:
        return pd.read_csv(file).set_index(index)
