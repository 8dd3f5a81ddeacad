"""Every mistake gives one line that names the key, and exit code 2; help is there for every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.integration.conftest import Stage

from tinyllm.cli.main import STAGES

# Arguments, and what the line must name: the key or file, and the values that are allowed.
MISTAKES = [
    (["trian"], ["trian", "rationales, train, evaluate"]),
    (["train", "trainer.bath_size=3"], ["trainer.bath_size", "accelerator", "batch_size"]),
    (["train", "dta=obqa"], ["dta", "ablation", "data"]),
    (["train", "data=obqb"], ["data=obqb", "arc, bioasq", "obqa"]),
    (["train", "student=flan_t5_xxl"], ["student=flan_t5_xxl", "flan_t5_base"]),
    (["train", "method=tinylm"], ["method=tinylm", "mean tinyllm"]),
    (["train", "trainer.batch_size=many"], ["trainer.batch_size", "many"]),
    (["train", "data.source=hubb"], ["data.source", "hubb", "hub, release, builtin, jsonl"]),
    (["train", "loss.reduction=mean"], ["loss.reduction", "mean", "example, token"]),
    (["train", "trainer.strategy=horovod"], ["trainer.strategy", "horovod", "auto, ddp, deepspeed, fsdp"]),
    (["train", "trainer.accelerator=tpu"], ["trainer.accelerator", "tpu", "cpu, gpu"]),
    (["train", "evaluation.split=tset"], ["evaluation.split", "tset", "train, valid, test"]),
    (["train", "rationales.reject=[emtpy]"], ["rationales.reject", "emtpy", "empty, cut, repeats"]),
    (["train", "rationales.splits=[dev]"], ["rationales.splits", "dev", "train, valid, test"]),
    (["train", "logger.name=foo"], ["logger.name", "foo", "csv, wandb"]),
    (["train", "trainer.select_by=loss"], ["trainer.select_by", "loss", "accuracy, accuracy_ranked"]),
    (["train", "alpha.gpt=1"], ["alpha.gpt", "terse, wordy"]),
    (["train", "alpha.terse=-1"], ["alpha.terse", "-1"]),
    (["train", "+extra=1"], ["extra"]),
    (["train", "+trainer.extra=1"], ["trainer.extra"]),
    (["train", "method.teacher=nobody"], ["method.teacher=nobody", "terse, wordy"]),
    (["train", "trainer.precision=16-mixed"], ["trainer.precision", "16-mixed"]),
    (["train", "data.train_fraction=1.5"], ["data.train_fraction", "1.5"]),
    (["train", "data.limit_test=0"], ["data.limit_test", "found 0"]),
    (["train", "data=obqa", "data.source=builtin"], ["data.source=builtin", "data=minilab", "data=obqa"]),
    (["train", "data.source=jsonl"], ["data=minilab", "data.source=builtin", "jsonl"]),
    (["train", "data=jsonl"], ["data.root"]),
    (["train", "data=obqa", "data.source=release", "data.root=nowhere"], ["nowhere"]),
    (["train"], ["9280 of 9280", "minilab/train", "terse", "tinyllm rationales"]),
    (["train", "method=full_ft", "trainer.accumulate_grad_batches=3"], ["trainer.batch_size"]),
    (["train", "method=full_ft", "student.pretrained=no_such_folder"], ["student.pretrained=no_such_folder"]),
    (["train", "method=full_ft", "+student.architecture.d_modell=3"], ["student.architecture", "d_modell", "d_model"]),
    (["train", "method.lora={r: 8}"], ["method.lora"]),
    (["train", "-m", "alpha=grid,uniform"], ["alpha=grid"]),
    (["train", "-m", "seed=0,1", "--cfg", "job"], ["--cfg", "-m"]),
    (["report", "data=obqa"], ["data", "--help"]),
    (["train", "teacher=openai"], ["teacher", "teachers"]),
    (["train", "seed=0,1"], ["seed", "-m"]),
    (["train", "paper=true"], ["paper", "seed", "trainer"]),
    (["train", "method=pinto"], ["per_option", "tinyllm rationales"]),
    (["evaluate", "run=."], ["config.yaml"]),
    (["predict"], ["run", "run=..."]),
    (["export", "run=."], ["output", "output=..."]),
    (["report", "runs=nowhere"], ["runs", "nowhere"]),
    (["report", "runs=."], ["result.json"]),
    (["rationales", "shard.index=3", "shard.count=2"], ["shard"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_gives_one_line_and_exit_code_2(stage: Stage, arguments: list[str], named: list[str]) -> None:
    code, _, err = stage(*arguments)
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2, err
    assert len(lines) == 1 and all(name in lines[0] for name in named), err
    assert "Traceback" not in err


def test_a_mistake_in_a_job_of_a_sweep_gives_a_line_for_each_job(stage: Stage, tmp_path: Path) -> None:
    code, _, err = stage("train", "-m", "seed=0,1", "data.train_fraction=1.5")
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2 and "Traceback" not in err
    assert len(lines) == 2 and all("data.train_fraction" in line for line in lines), err
    assert [f"seed={seed}" in line for seed, line in enumerate(lines)] == [True, True], err
    marks = list(tmp_path.glob("runs/minilab/tiny/*/error.txt"))
    assert len(marks) == 2 and all("data.train_fraction" in mark.read_text() for mark in marks)


BAD_ROWS = [
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"]}', "answer"),
    ('{"id": "a", "question": "Q?", "choices": ["x"], "answer": "x"}', "choices"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "z"}', "answer"),
    ('{"id": "a", "question": "", "choices": ["x", "y"], "answer": "x"}', "question"),
    ('{"id": "a", "question": "Q?", "choices": "xy", "answer": "x"}', "choices"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "x", "split": "dev"}', "split"),
    ('{"id": "a", "question"', "JSON"),
    ("[1, 2]", "object"),
]


@pytest.mark.parametrize(("row", "field"), BAD_ROWS)
def test_a_bad_row_is_named_by_file_line_and_field(stage: Stage, tmp_path: Path, row: str, field: str) -> None:
    good = json.dumps({"id": "g", "question": "Q?", "choices": ["x", "y"], "answer": "x"})
    (tmp_path / "mine.jsonl").write_text(f"{good}\n{row}\n")
    code, _, err = stage("train", "data=jsonl", "data.root=mine.jsonl", "method=full_ft")
    assert code == 2 and "Traceback" not in err
    assert err.count("error:") == 1, err
    assert any("mine.jsonl" in text and "line 2" in text and field in text for text in err.splitlines()), err


@pytest.mark.parametrize("name", list(STAGES))
def test_every_stage_has_help_and_shows_its_config(stage: Stage, name: str) -> None:
    code, out, err = stage(name, "--help")
    assert code == 0, err
    assert f"tinyllm {name}" in out
    given = {"predict": ["run=r", "question=q", "choices=[a,b]"], "export": ["run=r", "output=o"]}.get(name, [])
    code, out, err = stage(name, *given, "--cfg", "job")
    assert code == 0 and ":" in out, err


def test_no_arguments_shows_the_stages(stage: Stage) -> None:
    code, out, _ = stage()
    assert code == 0 and all(name in out for name in STAGES)
