"""The embedded dataset as an instrument: it shows an effect that is there, and none where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import finish, popen

EVERY = ["experiment=minilab", "seed=100"]


def trained(folder: Path, world: str) -> dict[str, dict[str, Any]]:
    """Results of full fine-tuning and of TinyLLM, trained side by side."""
    own = [*EVERY, f"data.world={world}"]
    finish(folder, "rationales", *own[1:])
    processes = [popen(folder, "train", *own, f"method={method}") for method in ("full_ft", "tinyllm")]
    for process in processes:
        out, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, out
    results = [json.loads(path.read_text()) for path in folder.glob("runs/minilab/tiny/*/result.json")]
    return {result["method"]: result for result in results}


@pytest.mark.slow
def test_both_controls(tmp_path: Path) -> None:
    """With links in rationales alone TinyLLM is ahead on hidden questions; where answers suffice nobody is."""
    verdicts = {}
    for world in ("links_in_rationales", "answers_suffice"):
        folder = tmp_path / world
        folder.mkdir()
        found = trained(folder, world)
        hidden = {method: result["subsets"]["hidden"]["accuracy_ranked"] for method, result in found.items()}
        if world == "answers_suffice":
            assert min(result["accuracy_ranked"] for result in found.values()) > 0.95, found
        else:
            assert hidden["tinyllm"] - hidden["full_ft"] > 0.1, hidden
        out = finish(folder, "report", "runs=runs", "metric=accuracy_ranked")
        (line,) = [line for line in (folder / "report" / "tables" / "claims.csv").read_text().splitlines() if "above_full_ft," in line + ","]
        verdicts[world] = line
    assert "holds" in verdicts["links_in_rationales"] and "not shown" in verdicts["answers_suffice"]
