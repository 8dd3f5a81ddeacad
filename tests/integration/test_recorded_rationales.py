"""The published questions and rationales, from import to a trained student; skips where they are absent."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.conftest import SMALL, Stage


def test_recorded_rationales_train_like_generated_ones(stage: Stage, tmp_path: Path, shared: Path) -> None:
    data = ["data=obqa", "data.source=release", f"data.root={shared / 'data' / 'release'}", "teachers=paper"]
    code, _, err = stage("rationales", *data)
    assert code == 0, err
    code, _, err = stage("train", *data, *SMALL, "trainer.max_steps=4", "alpha.flan_t5_xl=0.5", "hydra.run.dir=run")
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["alpha"] == {"flan_t5_xl": 0.5, "llama2_7b_chat": 1.0}
    assert (result["dataset"], result["n"]) == ("obqa", 24)
    assert set(result["train_loss"]) == {"answer", "flan_t5_xl", "llama2_7b_chat"}
    audit = json.loads((tmp_path / "store" / "audit.json").read_text())
    assert "llama2_7b_chat" in json.dumps(audit)


def test_a_teacher_without_texts_has_no_stream(stage: Stage, tmp_path: Path, shared: Path) -> None:
    """PIQA has no LLaMA-2 text at all: its stream is not built, and the run says so."""
    data = ["data=piqa", "data.source=release", f"data.root={shared / 'data' / 'release'}", "teachers=paper"]
    assert stage("rationales", *data, "data.limit_train=40", "data.limit_valid=24")[0] == 0
    code, _, err = stage("train", *data, *SMALL, "trainer.max_steps=2", "hydra.run.dir=run")
    assert code == 0, err
    assert "llama2_7b_chat has no usable rationale" in err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["teachers"] == ["flan_t5_xl"]
