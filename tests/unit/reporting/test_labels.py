"""Labels and orders of runs."""

from __future__ import annotations

from typing import Any

import pytest

from tinyllm.paper import ABLATIONS, METHODS
from tinyllm.reporting.labels import label, order, seeds_text

PLAIN = {"method": "step_by_step", "method_teacher": "wordy", "ablation": "none", "variant": "", "student": "tiny"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "Distilling step-by-step (wordy)"),
        ({"variant": "trainer.max_epochs=18"}, "Distilling step-by-step (wordy) [trainer.max_epochs=18]"),
        ({"method": "tinyllm", "method_teacher": "", "ablation": "no_t5"}, "TinyLLM w/o T5"),
        ({"method": "tinyllm", "method_teacher": "", "ablation": "my_own"}, "TinyLLM my own"),
        ({"method": "mine", "method_teacher": ""}, "mine"),
        ({"method": "teacher", "method_teacher": "", "student": "wordy"}, "wordy (teacher)"),
    ],
)
def test_a_label_says_method_teacher_ablation_and_variant(changed: dict[str, Any], expected: str) -> None:
    assert label(PLAIN | changed) == expected


def test_runs_come_in_the_papers_order() -> None:
    def run(method: str, ablation: str = "none", variant: str = "") -> dict[str, Any]:
        return {"method": method, "ablation": ablation, "variant": variant, "student": "s"}

    ordered = [run("teacher"), *(run(method) for method in METHODS), run("a_new_one"), run("full_ft", variant="longer")]
    ordered += [run("tinyllm", ablation) for ablation in (*ABLATIONS, "a_new_one")]
    assert sorted(reversed(ordered), key=order) == ordered


def test_seeds_are_listed_once_and_sorted() -> None:
    assert seeds_text([10, 2, 2, 0]) == "0,2,10"
