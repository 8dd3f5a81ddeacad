"""What runs are called in tables, figures and cases, and in which order they come: the paper's, where it has one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinyllm import paper
from tinyllm.runs import TEACHER

METHODS = {**paper.METHODS, paper.ONE_TEACHER: "One teacher, forced"}
"""Method -> label: the paper's, and what stands beside them."""
_METHODS = [TEACHER, *paper.METHODS]
_METHODS.insert(_METHODS.index("step_by_step") + 1, paper.ONE_TEACHER)
_ABLATIONS = ("none", *paper.ABLATIONS)


def label(run: Mapping[str, Any]) -> str:
    """`Distilling step-by-step (wordy)`, `TinyLLM w/o in-context`, `Full fine-tuning [trainer.max_epochs=18]`.

    Args:
        run: a row of the frame, or its `student`, `method`, `ablation`, `variant` and `method_teacher`; the last two
            may be left out.
    """
    method = run["method"]
    parts = [f"{run['student']} (teacher)" if method == TEACHER else METHODS.get(method, method)]
    if run.get("method_teacher"):
        parts.append(f"({run['method_teacher']})")
    if run["ablation"] != "none":
        parts.append(paper.ABLATIONS.get(run["ablation"], run["ablation"].replace("_", " ")))
    if run.get("variant"):
        parts.append(f"[{run['variant']}]")
    return " ".join(parts)


def named(run: Mapping[str, Any]) -> str:
    """`label` of a row of the frame, with the learning rate where its family has several."""
    return label(run) + (f" at learning rate {run['learning_rate']}" if run["learning_rate"] else "")


def fraction_text(fraction: float) -> str:
    """What a title adds where not all questions were trained on."""
    return "" if fraction == 1 else f" · {100 * fraction:g}% of the training questions"


def order(run: Mapping[str, Any]) -> tuple[bool, int, int, str]:
    """Sort key of a run: teachers, the paper's methods, other methods; then ablations and variants in the same way."""
    changed = run["ablation"] != "none" or bool(run.get("variant"))
    return changed, _index(run["method"], _METHODS), _index(run["ablation"], _ABLATIONS), label(run)


def _index(name: str, known: Sequence[str]) -> int:
    return known.index(name) if name in known else len(known)


def seeds_text(seeds: Iterable[int]) -> str:
    """`0,1,2`."""
    return ",".join(map(str, sorted({int(seed) for seed in seeds})))
