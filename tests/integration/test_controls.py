"""The embedded dataset as an instrument: it shows an effect that is there, and none where there is none.

One seed of the experiment `minilab` each. The bounds are wide: another processor rounds otherwise, and another student
comes out.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.integration.conftest import finish, popen


def lead(folder: Path, *own: str, epochs: int) -> float:
    """TinyLLM's hidden accuracy after 4 epochs, less full fine-tuning's after so many."""
    finish(folder, "rationales", *own)
    longer = (f"trainer.max_epochs={epochs}", f"trainer.valid_every={epochs}")
    processes = [
        popen(folder, "train", "experiment=minilab", *own, f"method={method}", *more)
        for method, more in (("full_ft", longer), ("tinyllm", ()))
    ]
    for process in processes:
        out, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, out
    results = [json.loads(path.read_text()) for path in folder.glob("runs/minilab/tiny/*/result.json")]
    hidden = {result["method"]: float(result["subsets"]["hidden"]["accuracy_ranked"]) for result in results}
    return hidden["tinyllm"] - hidden["full_ft"]


@pytest.mark.slow
def test_rationales_help_where_they_tell_more_than_answers(tmp_path: Path) -> None:
    assert lead(tmp_path, "seed=4", epochs=4) > 0.1


@pytest.mark.slow
@pytest.mark.nightly
def test_rationales_help_nobody_where_answers_suffice(tmp_path: Path) -> None:
    """Against full fine-tuning for twice the epochs: in 4 it has not learned all that answers tell."""
    assert abs(lead(tmp_path, "seed=1", "data.world=answers_suffice", epochs=8)) < 0.08
