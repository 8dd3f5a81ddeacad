"""Weightings through the stages: what is asked for them, what a run stores, and that a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.integration.conftest import SMALL, Stage, finish, kill_past, read_metrics, weights

from tinyllm.config import Knows
from tinyllm.data import minilab


def test_what_a_weighting_reads_is_asked_for_and_its_weights_are_in_the_result(stage: Stage, tmp_path: Path) -> None:
    code, _, err = stage("rationales", "data.limit_train=40")
    assert code == 0, err
    code, _, err = stage("train", *SMALL, "weighting=correct", "hydra.run.dir=run")
    assert code == 2 and "(solve)" in err and "tinyllm rationales" in err
    code, out, err = stage("rationales", "data.limit_train=40", "weighting=correct")
    assert code == 0, err
    assert "weighting=correct: every teacher is asked for its own answers (solve) too" in out
    assert "terse: minilab/train has 40 of 40 rationales (forced)" in out
    assert "terse: minilab/train has 0 of 40 rationales (solve), 40 to ask" in out
    code, _, err = stage("train", *SMALL, "weighting=correct", "hydra.run.dir=run")
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())

    # A teacher has a text on the links that it knows: no two of these teachers have one on the same question.
    zeros = {}
    for voice, knows in (("terse", Knows.even), ("wordy", Knows.odd)):
        known = [q for q in minilab.generate(0)["train"][:40] if minilab.knows_link(q, knows)]
        wrong = [q for q in known if minilab.answer_freely(q, voice, knows=knows)[1] != q.answer]
        zeros[voice] = len(wrong) / len(known)
    assert {name: own["zeros"] for name, own in result["weights"].items()} == {
        name: [pytest.approx(share)] for name, share in zeros.items()
    }
    assert {name: own["mean"] for name, own in result["weights"].items()} == {
        name: [pytest.approx(1 - share)] for name, share in zeros.items()
    }
    assert sum(zeros.values()) > 0
    code, _, err = stage("train", *SMALL, "hydra.run.dir=uniform")
    assert code == 0, err
    uniform = json.loads((tmp_path / "uniform" / "result.json").read_text())
    assert uniform["weights"] == {} and uniform["train_tokens"] > result["train_tokens"]


@pytest.mark.slow
def test_learned_weights_of_a_killed_run_end_as_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    options = [*SMALL, "weighting=learned", "weighting.lr=0.1", "trainer.max_epochs=6"]
    finish(tmp_path, "rationales", "data.limit_train=40")
    finish(tmp_path, "train", *options, "hydra.run.dir=whole")
    killed = kill_past(tmp_path, 7, *options)
    before = weights(killed)["log_variance"]
    out = finish(tmp_path, "train", *options, "hydra.run.dir=killed")
    assert "resuming from step" in out
    whole, again = weights(tmp_path / "whole"), weights(killed)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert not torch.equal(before, again["log_variance"]) and before.abs().max() > 0
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")]
    assert results[0]["weights"] == results[1]["weights"]
    assert {name: len(own["mean"]) for name, own in results[0]["weights"].items()} == {"terse": 6, "wordy": 6}
    rows = [row for row in read_metrics(killed) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == list(range(30))
