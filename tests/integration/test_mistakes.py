"""Every mistake gives one line that names the key, and exit code 2; help is there for every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.integration.conftest import SMALL, Stage

from tinyllm.cli.main import STAGES

without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")

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
    (["train", "method=standard_kd", "ablation=shuffled_rationales"], ["rationales.shuffle", "standard_kd"]),
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
    # Values outside of what their key takes: nothing is read before they are refused.
    (["train", "seed=-1"], ["seed: expected 0 to 4294967295, found -1"]),
    (["train", "store=''"], ["store", "non-empty", "''"]),
    (["train", "cache=' '"], ["cache", "non-empty"]),
    (["train", "data.name=else/where"], ["data.name", "/", "found else/where"]),
    (["train", "data.name=../x"], ["data.name", "found ../x"]),
    (["train", "student.name=../../x"], ["student.name", "found ../../x"]),
    (["train", "student.name=.."], ["student.name", "found .."]),
    (["train", "method.name=/abs"], ["method.name", "found /abs"]),
    (["train", f"data.name={'n' * 300}"], ["data.name", "80 bytes"]),
    (["train", f"hydra.run.dir={'n' * 300}"], ["hydra.run.dir", "too long"]),
    (["train", "method=full_ft", f"cache={'n' * 300}"], ["cache", "too long"]),
    (["rationales", f"store={'n' * 300}"], ["store", "too long"]),
    (["report", f"output={'n' * 300}"], ["output", "too long"]),
    (["evaluate", f"run={'n' * 300}"], ["nnn", "too long"]),
    (["train", "method=full_ft", "data=jsonl", f"data.root={'n' * 300}"], ["data.name", "80 bytes"]),
    (["rationales", "teachers.terse.stored_as=../x"], ["teachers.terse.stored_as", "found ../x"]),
    (["rationales", "teachers.terse.base_url=http://me:pw@host"], ["teachers.terse.base_url", "password"]),
    (["rationales", "teachers.terse.api_key_env=sk-1"], ["teachers.terse.api_key_env", "in capitals"]),
    (["train", "data.seed=4294967296"], ["data.seed", "4294967296"]),
    (["train", "data.train_fraction=0"], ["data.train_fraction", "above 0", "found 0"]),
    (["train", "data.train_fraction=nan"], ["data.train_fraction", "found nan"]),
    (["train", "data.limit_train=-1"], ["data.limit_train", "1 or more", "found -1"]),
    (["train", "data.limit_valid=2.5"], ["data.limit_valid", "a whole number, found 2.5"]),
    (["train", "data.topic=''"], ["data.topic", "non-empty"]),
    (["train", "data=obqa", "data.columns.choices=[]"], ["data.columns.choices"]),
    (["train", "data=obqa", "data.columns.fixed_choices=[yes]"], ["data.columns.fixed_choices", "found [yes]"]),
    (["train", "data=obqa", "data.columns.labels=[a, '']"], ["data.columns.labels[1]", "non-empty"]),
    (["train", "student.name=."], ["student.name", "found ."]),
    (["train", "student.max_source_length=0"], ["student.max_source_length", "1 or more", "found 0"]),
    (["train", "student.max_target_length=1"], ["student.max_target_length", "2 or more", "found 1"]),
    (["train", "student.dropout=1"], ["student.dropout", "below 1", "found 1"]),
    (["train", "student.architecture.d_model=0"], ["student.architecture.d_model", "1 or more", "found 0"]),
    (["train", "student.architecture.dropout_rate=-0.5"], ["student.architecture.dropout_rate", "found -0.5"]),
    (["train", "teachers.terse.name=other"], ["teachers.terse.name", "expected terse", "found other"]),
    (["train", "teachers.terse.prefix=''"], ["teachers.terse.prefix", "non-empty"]),
    (["train", "teachers.terse.sample=-1"], ["teachers.terse.sample", "0 or more"]),
    (["rationales", "teachers.wordy.max_new_tokens=0"], ["teachers.wordy.max_new_tokens", "found 0"]),
    (["rationales", "teachers.wordy.temperature=-0.1"], ["teachers.wordy.temperature", "found -0.1"]),
    (["rationales", "teachers.wordy.temperature=inf"], ["teachers.wordy.temperature", "found inf"]),
    (["rationales", "teachers.wordy.top_p=0"], ["teachers.wordy.top_p", "above 0 and up to 1"]),
    (["rationales", "teachers.wordy.batch_size=0"], ["teachers.wordy.batch_size", "1 or more"]),
    (["rationales", "teachers.wordy.dtype=int8"], ["teachers.wordy.dtype", "float32", "found int8"]),
    (
        ["rationales", "teachers.wordy.base_url=localhost:8000"],
        ["teachers.wordy.base_url", "http://", "localhost:8000"],
    ),
    (["rationales", "teachers.wordy.concurrency=0"], ["teachers.wordy.concurrency", "1 or more"]),
    (["rationales", "teachers.wordy.timeout=0"], ["teachers.wordy.timeout", "above 0"]),
    (["rationales", "teachers.wordy.max_retries=-1"], ["teachers.wordy.max_retries", "0 or more"]),
    (["rationales", "teachers.wordy.price_prompt=-1"], ["teachers.wordy.price_prompt", "0 or more"]),
    (["rationales", "prompt.examples=-1"], ["prompt.examples", "0 to 16", "found -1"]),
    (["rationales", "prompt.examples=17"], ["prompt.examples", "0 to 16", "found 17"]),
    (
        ["rationales", "prompt.template=authors"],
        ["prompt.template=authors", "prompt.example_source=random", "generated"],
    ),
    (["rationales", "rationales.splits=[]"], ["rationales.splits", "one split or more"]),
    (["rationales", "rationales.splits=[train, train]"], ["rationales.splits", "each once"]),
    (["rationales", "shard.count=0"], ["shard.count", "1 or more"]),
    (["rationales", "shard.index=-1"], ["shard.index", "0 or more"]),
    (["rationales", "audit=perhaps"], ["audit", "true or false", "perhaps"]),
    (["train", "rationales.reject=[empty, nonsense]"], ["rationales.reject", "nonsense", "empty, cut, repeats"]),
    (["train", "rationales.reject=cut"], ["rationales.reject", "list"]),
    (["train", "alpha.terse=nan"], ["alpha.terse", "found nan"]),
    (["train", "alpha.wordy=inf"], ["alpha.wordy", "found inf"]),
    (["train", "method.streams.answer.weight=-1"], ["method.streams.answer.weight", "found -1"]),
    (["train", "method.streams.rationale.weight=nan"], ["method.streams.rationale.weight", "found nan"]),
    (["train", "method=full_ft", "method.streams.answer.weight=0"], ["method.streams", "above 0", "method.train"]),
    (
        ["train", "method=standard_kd_logits", "method.streams.teacher_options.temperature=0"],
        ["temperature", "above 0"],
    ),
    (["train", "method=pinto", "method.streams.counterfactual.smoothing=1.5"], ["counterfactual.smoothing", "0 to 1"]),
    (["train", "method=pinto", "method.streams.counterfactual.mask=-0.1"], ["counterfactual.mask", "0 to 1", "-0.1"]),
    (["train", "method.lora.r=8"], ["method.lora.r", "null"]),
    (["train", "data=jsonl", "data.root=fragenü.jsonl"], ["data.root", "inside of the shell's: 'data.root=\"...\"'"]),
    (["report", "runs.x=1"], ["runs.x: no such key; there are none here"]),
    (["train", "method.streams.rationale.teachers=none"], ["method.streams.rationale.teachers", "one or all"]),
    (["train", "method.streams.rationale.prefix=why"], ["method.streams.rationale.prefix", "teachers.<name>.prefix"]),
    (["train", "method.streams.answer.temperature=2"], ["method.streams.answer.temperature=2", "teacher_options"]),
    (["train", "method.streams.answer.prompt=solve"], ["method.streams.answer.prompt=solve", "target rationale"]),
    (["train", "method.streams.answer.mask=0.5"], ["method.streams.answer.mask", "method.source_rationale"]),
    (["train", "method=lora", "method.lora.r=0"], ["method.lora.r", "1 or more"]),
    (["train", "method=lora", "method.lora.alpha=0"], ["method.lora.alpha", "above 0"]),
    (["train", "method=lora", "method.lora.dropout=1"], ["method.lora.dropout", "below 1"]),
    (["train", "method=lora", "method.lora.target_modules=[]"], ["method.lora.target_modules", "one name or more"]),
    (["train", "ablation.drop=[ters]"], ["ablation.drop", "terse, wordy", "found ters"]),
    (["train", "ablation.drop=[terse, ters]"], ["ablation.drop", "terse, wordy", "found ters"]),
    (["train", "ablation=no_t5", "method=step_by_step"], ["step_by_step reads terse", "ablation=no_t5 drops"]),
    (["train", "alpha.terse=0", "method=one_teacher"], ["one_teacher reads terse", "alpha.terse is 0"]),
    (["train", "ablation=no_t5", "teachers=smollm2"], ["ablation.drop", "smollm2", "flan_t5_xl"]),
    (["train", "ablation.strongest=nobody"], ["ablation.strongest=nobody", "valid", "terse, wordy"]),
    (["train", "ablation.strongest=terse", "ablation.drop=[terse]"], ["ablation.strongest=terse", "is kept"]),
    (["train", "ablation.strongest=terse", "alpha.terse=0"], ["ablation.strongest=terse", "weight above 0"]),
    (["train", "optimizer.lr=0"], ["optimizer.lr", "above 0", "found 0"]),
    (["train", "optimizer.lr=nan"], ["optimizer.lr", "found nan"]),
    (["train", "optimizer.weight_decay=-1"], ["optimizer.weight_decay", "0 or more"]),
    (["train", "optimizer.warmup_steps=-1"], ["optimizer.warmup_steps", "0 or more"]),
    (["train", "trainer.devices=0"], ["trainer.devices", "1 or more, or -1"]),
    (["train", "trainer.num_nodes=0"], ["trainer.num_nodes", "1 or more"]),
    (["train", "trainer.precision=half"], ["trainer.precision", "bf16-mixed", "found half"]),
    (["train", "trainer.batch_size=0"], ["trainer.batch_size: expected 1 or more, found 0"]),
    (["train", "trainer.accumulate_grad_batches=0"], ["trainer.accumulate_grad_batches", "1 or more"]),
    (["train", "trainer.max_epochs=0"], ["trainer.max_epochs", "1 or more"]),
    (["train", "trainer.max_steps=0"], ["trainer.max_steps", "1 or more, or -1"]),
    (["train", "trainer.gradient_clip=0"], ["trainer.gradient_clip", "above 0"]),
    (["train", "trainer.valid_every=0"], ["trainer.valid_every", "above 0"]),
    (["train", "trainer.log_every=0"], ["trainer.log_every", "1 or more"]),
    (["train", "evaluation.batch_size=0"], ["evaluation.batch_size", "1 or more"]),
    (["train", "weighting.drop_conflicts=true", "rationales.shuffle=true"], ["weighting.drop_conflicts", "shuffle"]),
    (["train", "weighting=confidence", "ablation=shuffled_rationales"], ["weighting.name=confidence", "shuffle"]),
    (["evaluate", "evaluation.max_rationale_tokens=0"], ["evaluation.max_rationale_tokens", "1 or more"]),
    (["evaluate", "teacher=terse", "teacher.max_new_tokens=0"], ["teacher.max_new_tokens", "1 or more"]),
    (["evaluate", "teacher=terse", "run=here"], ["run=", "teacher="]),
    (["train", "logger=wandb", "logger.project=''"], ["logger.project", "non-empty"]),
    (["report", "resamples=0"], ["resamples", "1 or more"]),
    (["report", "seed=-1"], ["seed", "0 to 4294967295"]),
    (["report", "runs=[]"], ["runs", "a list of one folder or more"]),
    (["report", "runs={a: b}"], ["runs", "a list of one folder or more"]),
    (["report", "output=''"], ["output", "non-empty"]),
    (["predict", "run=r", "question=''", "choices=[a, b]"], ["question", "non-empty"]),
    (["predict", "run=r", "question=Q", "choices=[a]"], ["choices", "two options or more", "found [a]"]),
    (["predict", "run=r", "question=Q", "choices=[a, '']"], ["choices[1]", "non-empty"]),
    (["predict", "run=r", "question=Q", "choices=[a, b]"], ["r: expected a run folder"]),
    (["predict", "run=r", "question=Q", "choices=[a, b]", "max_rationale_tokens=0"], ["max_rationale_tokens"]),
    # What isn't there, or can't be read as a call.
    pytest.param(["evaluate", "trainer=gpu"], ["trainer.accelerator=gpu"], marks=without_a_gpu),
    pytest.param(["train", "method=inference", "trainer=gpu"], ["trainer.accelerator=gpu"], marks=without_a_gpu),
    (["evaluate", "run=nowhere"], ["nowhere", "config.yaml"]),
    (["evaluate", "student.pretrained=no_such_folder"], ["student.pretrained=no_such_folder"]),
    (["train", "trainer.batch_size"], ["trainer.batch_size", "key=value"]),
    (["train", "data.root=[a"], ["data.root=[a", "key=value"]),
    (["train", "data=3"], ["data=3", "names of options", "--help"]),
    (["train", "seed=${nothing}"], ["nothing"]),
    (["train", "data.name=null"], ["data.name", "found null"]),
    (["train", "data.hub_id=[a]"], ["data.hub_id"]),
    (["train", "--config-dir=nowhere"], ["nowhere"]),
    (["train", "-cn", "report"], ["-cn", "--config-dir"]),
    (["train", "-m", "seed=0,1", "--info"], ["--info", "-m"]),
    (["train", "hydra.run.dir='~/x'"], ["hydra.run.dir", "~", "$HOME"]),
    (["train", "seed=~/x"], ["seed=~/x", "key=value"]),
    (["predict", "run=x", "question=why", "choices=[true,false]"], ["choices", "true", "True", "quote"]),
    (["evaluate", "method=full_ft"], ["run=", "student.pretrained", "method=full_ft"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_gives_one_line_and_exit_code_2_and_leaves_nothing(
    stage: Stage, tmp_path: Path, arguments: list[str], named: list[str]
) -> None:
    code, _, err = stage(*arguments)
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2, err
    assert len(lines) == 1 and all(name in lines[0] for name in named), err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists() and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_teachers_of_minilab_explain_no_other_questions(stage: Stage, tmp_path: Path) -> None:
    row = {"id": "q", "question": "Why?", "choices": ["a", "b"], "answer": "a", "split": "train"}
    rows = [{**row, "id": split, "split": split} for split in ("train", "valid", "test")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    code, _, err = stage("train", "data=jsonl", "data.root=mine.jsonl")
    assert code == 2 and "terse is scripted and explains minilab alone, not mine" in err, err
    (tmp_path / "pretty.jsonl").write_text(json.dumps(row, indent=1))
    code, _, err = stage("train", "data=jsonl", "data.root=pretty.jsonl", "method=full_ft")
    assert code == 2 and "pretty.jsonl: line 1: expected one JSON object a line" in err and len(err) < 300, err


def test_a_training_that_diverges_ends_in_one_line(stage: Stage) -> None:
    code, _, err = stage(
        "train", *SMALL, "method=full_ft", "trainer.max_steps=20", "optimizer.lr=1e30", "optimizer.warmup_steps=0"
    )
    assert code == 2 and "training diverged: the loss is" in err and "optimizer.lr" in err and "Traceback" not in err, (
        err
    )


LATE = [
    (["method=full_ft", "student.pretrained=no_such_folder"], "student.pretrained"),
    (["method=lora", "method.lora.target_modules=[wheel]"], "method.lora.target_modules"),
    (["method=full_ft", "student.architecture.feed_forward_proj=foo"], "student.architecture"),
    pytest.param(["method=full_ft", "trainer=gpu"], "trainer.accelerator", marks=without_a_gpu),
]
"""Mistakes that show when the student or the trainer is made, after the run has written its configuration."""


@pytest.mark.parametrize(("mistake", "named"), LATE)
def test_the_corrected_command_takes_the_folder_of_a_mistake(stage: Stage, mistake: list[str], named: str) -> None:
    small = [*SMALL, "trainer.max_epochs=1", "hydra.run.dir=deep/run"]
    code, _, err = stage("train", *small, *mistake)
    assert code == 2 and named in err and not Path("deep").exists(), err
    code, _, err = stage("train", *small, "method=full_ft")
    assert code == 0 and Path("deep/run/result.json").is_file(), err


def test_a_mistake_in_the_folder_of_another_run_leaves_that_as_it_is(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (tmp_path / "run" / name).write_text("mine")
    code, _, err = stage("train", "method=full_ft", "trainer.batch_size=0", "hydra.run.dir=run")
    assert code == 2 and "trainer.batch_size" in err
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == {
        "config.yaml": "mine", "metrics.csv": "mine",
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["fsdp", "deepspeed"])
def test_a_run_goes_on_with_the_kind_of_trainer_that_began_it(stage: Stage, tmp_path: Path, layout: str) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    (last if layout == "deepspeed" else last.parent).mkdir(parents=True)
    progress = {"global_step": 3, "callbacks": {"Progress": {"layout": layout}}}
    torch.save(progress, last / "progress.ckpt" if layout == "deepspeed" else last)
    code, _, err = stage("train", *SMALL, "method=full_ft", "hydra.run.dir=run")
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err
    assert f"go on with trainer={layout}" in lines[0] and last.exists()


@pytest.mark.parametrize("missing", ["valid", "test"])
def test_questions_of_ones_own_without_a_split_are_refused(stage: Stage, tmp_path: Path, missing: str) -> None:
    rows = [
        {"id": f"{split}-{i}", "question": f"Which is number {i}?", "choices": [f"it is {i}", "no"], "answer": "a"}
        | {"split": split}
        for split in {"train", "valid", "test"} - {missing}
        for i in range(8)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, err = stage("train", *SMALL, "data=jsonl", "data.root=own.jsonl", "method=full_ft", "hydra.run.dir=run")
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2 and len(lines) == 1 and "own.jsonl" in lines[0] and f"questions in {missing}," in lines[0], err
    assert not (tmp_path / "run").exists()


FILES_FOR_FOLDERS = [
    (["train", "method=full_ft", "hydra.run.dir=file"], "hydra.run.dir"),
    (["train", "method=full_ft", "hydra.run.dir=file/below"], "hydra.run.dir"),
    (["train", "method=full_ft", "cache=file"], "cache=file"),
    (["rationales", "store=file/below"], "store=file/below"),
    (["report", "output=file"], "output=file"),
    (["evaluate", "method=full_ft", "output=file/below"], "output=file/below"),
    (["export", "run=run", "output=file"], "output=file"),
]


@pytest.mark.parametrize(("arguments", "named"), FILES_FOR_FOLDERS, ids=lambda value: " ".join(value)[:60])
def test_a_file_in_the_place_of_a_folder_is_one_line(
    stage: Stage, tmp_path: Path, arguments: list[str], named: str
) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, err = stage(*arguments)
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2 and len(lines) == 1 and named in lines[0] and "file" in lines[0], err
    assert "Traceback" not in err and [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_mistake_in_a_job_of_a_sweep_gives_a_line_for_each_job(stage: Stage, tmp_path: Path) -> None:
    code, _, err = stage("train", "-m", "seed=0,1", "data.train_fraction=1.5")
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2 and "Traceback" not in err
    assert len(lines) == 2 and all("data.train_fraction" in line for line in lines), err
    assert [f"seed={seed}" in line for seed, line in enumerate(lines)] == [True, True], err
    marks = list(tmp_path.glob("runs/minilab/tiny/*/error.txt"))
    assert len(marks) == 2 and all("data.train_fraction" in mark.read_text() for mark in marks)


def test_a_sweep_with_names_of_other_folders_stays_in_its_own(stage: Stage, tmp_path: Path) -> None:
    code, _, err = stage("train", "-m", "data.name=../x", "student.name=..")
    assert code == 2 and "data.name" in err, err
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", ".cache"} and not (tmp_path.parent / "x").exists()


BAD_ROWS = [
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"]}', "answer"),
    ('{"id": "a", "question": "Q?", "choices": ["x"], "answer": "x"}', "choices"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "z"}', "answer"),
    ('{"id": "a", "question": "", "choices": ["x", "y"], "answer": "x"}', "question"),
    ('{"id": "a", "question": "Q?", "choices": "xy", "answer": "x"}', "choices"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "x", "split": "dev"}', "split"),
    ('{"id": "a", "question"', "JSON"),
    ("[1, 2]", "object"),
    ('{"id": "\\ud83d", "question": "Q?", "choices": ["x", "y"], "answer": "x"}', "id"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "\\udc00"], "answer": "x"}', "choices"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "x", "splitt": "train"}', "splitt"),
    ('{"id": "g", "question": "Q?", "choices": ["x", "y"], "answer": "x"}', "id"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "x", "context": 5}', "context"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": ' + "9" * 5000 + "}", "JSON"),
    ("[" * 100_000, "JSON"),
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


def test_bad_rows_of_a_file_have_a_line_each(stage: Stage, tmp_path: Path) -> None:
    row = {"id": "q", "question": "Why?", "choices": ["a", "b"], "answer": "a"}
    rows = [{**row, "answer": "two\nlines"}, {**row, "id": "r", "splt": "train"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    code, _, err = stage("train", "data=jsonl", "data.root=mine.jsonl", "method=full_ft")
    assert code == 2
    assert err.splitlines()[-3:] == [
        "error: mine.jsonl: 2 problems; fix these rows:",
        "- mine.jsonl: line 1: field 'answer': expected the text of an option or a letter from a to b, "
        "found 'two\\nlines', options ['a', 'b']",
        "- mine.jsonl: line 2: field 'splt': there is no such field; did you mean 'split'?",
    ]
