"""`experiment=authors_code` trains, as it stands."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.conftest import SMALL, Stage

SHAPE = [override for override in SMALL if override.startswith(("student.", "trainer.precision", "data."))]


def test_two_steps_of_what_the_authors_code_does(stage: Stage, tmp_path: Path) -> None:
    code, _, err = stage("rationales", "data.limit_train=70")
    assert code == 0, err
    call = ["experiment=authors_code", *SHAPE, "data.limit_train=70", "trainer.max_steps=2", "hydra.run.dir=run"]
    code, _, err = stage("train", *call)
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2 and result["train_examples"] == 70
    assert result["selected_by"] == "accuracy_exact" and 0 <= result["valid_accuracy"] <= 1
    told = result["deviations"]
    assert told["trainer.batch_size"] == ["8", "64"] and told["loss.reduction"] == ["example", "token"]
    assert told["student.max_source_length"] == ["1024", "100"] and told["data.name"][1] == "minilab"
