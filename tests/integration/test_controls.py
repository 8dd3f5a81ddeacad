"""The embedded dataset as an instrument: it shows an effect that is there, and none where there is none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import finish, popen


def compared(folder: Path, world: str) -> tuple[str, dict[str, Any]]:
    """TinyLLM's verdict against full fine-tuning at equal compute, at half of the epochs, and both results."""
    own = ["seed=0", f"data.world={world}"]
    finish(folder, "rationales", *own)
    processes = [
        popen(folder, "train", "experiment=minilab", *own, f"method={method}", *epochs)
        for method, epochs in (
            ("full_ft", ("trainer.max_epochs=6", "trainer.valid_every=6")),
            ("tinyllm", ("trainer.max_epochs=2", "trainer.valid_every=2")),
        )
    ]
    for process in processes:
        out, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, out
    finish(folder, "report", "metric=accuracy_ranked", "output=report")
    with (folder / "report" / "tables" / "claims.csv").open(newline="") as file:
        (verdict,) = [row["verdict"] for row in csv.DictReader(file) if row["id"] == "above_full_ft"]
    found = [json.loads(path.read_text()) for path in folder.glob("runs/minilab/tiny/*/result.json")]
    return verdict, {result["method"]: result for result in found}


@pytest.mark.slow
def test_rationales_help_where_they_tell_more_than_answers(tmp_path: Path) -> None:
    verdict, found = compared(tmp_path, "links_in_rationales")
    hidden = {method: result["subsets"]["hidden"]["accuracy_ranked"] for method, result in found.items()}
    assert verdict == "holds" and hidden["tinyllm"] > hidden["full_ft"] + 0.1, hidden


@pytest.mark.slow
def test_rationales_help_nobody_where_answers_suffice(tmp_path: Path) -> None:
    verdict, found = compared(tmp_path, "answers_suffice")
    assert verdict == "not shown"
    assert min(result["accuracy_ranked"] for result in found.values()) > 0.85, found
