"""Runs in several processes: FSDP2, DeepSpeed, every way to start them, and the signals of a cluster.

On processors DeepSpeed needs what `without_cards/tinyllm` replaces. Where there are two cards the same tests run there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import byte_level, small_decoder
from tests.integration.conftest import SMALL, finish, popen, read_metrics, weights
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tinyllm.data import minilab
from tinyllm.prompts import student_prompt

pytestmark = pytest.mark.slow

TRAINERS = {
    "fsdp": ["trainer=fsdp"],
    "zero2": ["trainer=deepspeed_zero2"],
    # By default weights of fewer than 1e5 numbers, here all of them, would stay whole.
    "zero3": ["trainer=deepspeed_zero3", "+trainer.strategy_options.config=zero3.json"],
}
ZERO3 = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
}
TWO = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
LONG = [
    *SMALL,
    "data.limit_train=80",
    "trainer.gradient_clip=4.0",
    "trainer.accumulate_grad_batches=2",
    "optimizer.warmup_steps=2",
]
"""20 steps of two passes each, a validation every 5; norms are 4.1 to 6.7: at half the scale none would be clipped."""


def nightly(*trainers: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.nightly) for name in trainers]


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> list[str]:
    """Overrides behind a trainer of several devices."""
    if request.param == "gpu" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    return [f"trainer.accelerator={request.param}", *TWO[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With stored rationales, and a tiny random Llama in `model`."""
    made = tmp_path_factory.mktemp("shards")
    finish(made, "rationales", "data.limit_train=80")
    questions = minilab.generate(0)["train"][:100]
    tokenizer = byte_level(["".join(student_prompt(q)) for q in questions], size=600)
    model = small_decoder(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(made / "model")
    tokenizer.save_pretrained(made / "model")
    (made / "zero3.json").write_text(json.dumps(ZERO3))
    return made


def start(folder: Path, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A command; `tinyllm` is the console script, or what stands in for it without cards."""
    here = [] if torch.cuda.is_available() else [str(Path(__file__).parent / "without_cards")]
    path = os.pathsep.join([*here, str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, **(env or {})},
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == code, out
    return out


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return start(folder, "torchrun", "--standalone", "--no-python", "--nproc-per-node=2", "tinyllm", *arguments)


def wait_for(process: subprocess.Popen[str], holds: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None and not holds():
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]


def steps(run: Path) -> list[int]:
    """Of the training rows so far."""
    return (
        [int(row["step"]) for row in read_metrics(run) if row["train/loss"]] if (run / "metrics.csv").is_file() else []
    )


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to torchrun and its processes, which have sessions of their own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def same_curves(one: Path, two: Path, rel: float) -> None:
    rows = [read_metrics(run) for run in (one, two)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        for name in set(first) - {"train/examples_per_second"}:
            assert bool(first[name]) == bool(second[name])
            if first[name]:
                assert float(second[name]) == pytest.approx(float(first[name]), rel=rel), (first["step"], name)


@pytest.fixture(scope="module")
def one_process(folder: Path) -> Callable[[str, list[str]], Path]:
    """The run of the same settings in one process, computed once."""

    def call(name: str, settings: list[str]) -> Path:
        if not (folder / name).exists():
            finish(folder, "train", *settings, f"hydra.run.dir={name}")
        return folder / name

    return call


@pytest.mark.parametrize("trainer", ["fsdp", *nightly("zero2", "zero3")])
def test_a_sharded_run_is_killed_resumed_and_ends_as_one_process_does(
    folder: Path, one_process: Callable[[str, list[str]], Path], trainer: str, device: list[str]
) -> None:
    """A T5, all weights: SIGKILL to all processes past a checkpoint; curves, best weights, scores and export."""
    if trainer != "fsdp":
        pytest.importorskip("deepspeed", reason="needs DeepSpeed: sh .ci/install deepspeed")
    one = one_process("one", LONG)
    run = folder / f"{trainer}-{device[0][-3:]}"
    command = ["train", *LONG, *TRAINERS[trainer], *device, f"hydra.run.dir={run.name}"]
    process = torchrun(folder, *command)
    wait_for(process, lambda: (run / "checkpoints/last.ckpt").exists() and len(steps(run)) > 7)
    kill(process)
    out = ended(torchrun(folder, *command))
    assert out.count("resuming from step") == 1 and out.count("run folder:") == 1, "the first process speaks alone"
    same_curves(one, run, rel=1e-5)
    results = [json.loads((path / "result.json").read_text()) for path in (one, run)]
    for name in (
        "n",
        "accuracy_ranked",
        "valid_accuracy",
        "steps",
        "trained_parameters",
        "train_tokens",
        "config_hash",
    ):
        assert results[0][name] == results[1][name], name
    finish(folder, "export", f"run={run.name}", f"output={run.name}-exported")
    exported = AutoModelForSeq2SeqLM.from_pretrained(folder / f"{run.name}-exported").state_dict()
    best, of_one = weights(run, "best.ckpt"), weights(one, "best.ckpt")
    for name, value in exported.items():
        assert torch.equal(value, best[f"model.{name}"]), name
        torch.testing.assert_close(
            value, of_one[f"model.{name}"], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert not [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]


def test_an_optimizer_in_the_machines_memory_trains_as_one_on_the_card(
    folder: Path, one_process: Callable[[str, list[str]], Path]
) -> None:
    pytest.importorskip("deepspeed", reason="needs DeepSpeed: sh .ci/install deepspeed")
    run = folder / "offload"
    one = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true"]
    offload = ["trainer=deepspeed_zero2", "trainer.strategy_options.offload_optimizer=true"]
    ended(start(folder, "tinyllm", "train", *LONG, *offload, *one, f"hydra.run.dir={run.name}"))
    same_curves(one_process("one", LONG), run, rel=1e-5)


def test_deepspeed_without_a_card_is_refused_in_one_line(folder: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs DeepSpeed: sh .ci/install deepspeed")
    settings = [*SMALL, "method=full_ft", "trainer=deepspeed_zero2", "trainer.accelerator=cpu", "trainer.devices=1"]
    process = popen(folder, "train", *settings, "hydra.run.dir=no-card")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and "trainer.strategy=deepspeed: it needs a GPU" in out and "Traceback" not in out


@pytest.mark.parametrize("trainer", ["zero3", *nightly("fsdp", "zero2")])
def test_adapters_of_a_decoder_train_in_shards(
    folder: Path, one_process: Callable[[str, list[str]], Path], trainer: str, device: list[str]
) -> None:
    """A Llama whose weights are frozen: only its adapters are trained, merged at the end."""
    if trainer != "fsdp":
        pytest.importorskip("deepspeed", reason="needs DeepSpeed: sh .ci/install deepspeed")
    llama = ["student=smollm2", "student.gguf_file=null", "student.pretrained=model", "method=tinyllm_lora"]
    settings = [*SMALL[5:], *llama, "method.lora.dropout=0", "optimizer.lr=1e-2"]
    one = one_process("llama", settings)
    run = folder / f"llama-{trainer}-{device[0][-3:]}"
    ended(torchrun(folder, "train", *settings, *TRAINERS[trainer], *device, f"hydra.run.dir={run.name}"))
    same_curves(one, run, rel=1e-4)
    merged = AutoModelForCausalLM.from_pretrained(run / "checkpoints/student").state_dict()
    before = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    expected = AutoModelForCausalLM.from_pretrained(one / "checkpoints/student").state_dict()
    changed = {name for name in merged if not torch.equal(merged[name], before[name])}
    assert changed and all("proj" in name for name in changed)
    for name in changed:
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-3, atol=1e-4)


def test_slurm_starts_the_processes_and_the_first_alone_speaks(folder: Path) -> None:
    """What `srun` sets, in two processes; a mistake is one line."""
    env = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NAME": "tinyllm",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1",
    }

    def srun(*arguments: str) -> list[subprocess.Popen[str]]:
        ranks = [{**env, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
        return [start(folder, "tinyllm", "train", *SMALL, "trainer=fsdp", *TWO, *arguments, env=own) for own in ranks]

    outs = [ended(process, 2) for process in srun("store=nowhere", "hydra.run.dir=mistake")]
    assert [out.count("error:") for out in outs] == [1, 0] and not (folder / "mistake").exists()
    (alone, _) = (ended(process, 2) for process in srun("trainer.devices=1", "hydra.run.dir=mistake"))
    assert "expected 1 process, found 2" in alone and not (folder / "mistake").exists()
    (idle, _) = (ended(process, 2) for process in srun("method=full_ft", "data.limit_valid=1", "hydra.run.dir=idle"))
    assert "for each of 2 processes, found 1" in idle and idle.count("error:") == 1
    first, second = (ended(process) for process in srun("method=full_ft", "trainer.max_steps=2", "hydra.run.dir=slurm"))
    assert "run folder:" in first and "run folder:" not in second
    assert json.loads((folder / "slurm/result.json").read_text())["steps"] == 2


def test_a_run_in_two_processes_starts_them_itself_and_its_mistake_is_one_line(folder: Path) -> None:
    """No torchrun, under -m too: the first cell can't, the second runs."""
    sweep = ["-m", "method=tinyllm,full_ft", *SMALL, "trainer.max_steps=2", "trainer=fsdp", *TWO]
    process = popen(folder, "train", *sweep, "store=nowhere", "hydra.sweep.dir=alone")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 2, out
    errors = [line for line in out.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "tinyllm rationales" in errors[0] and "Traceback" not in out
    (result,) = folder.glob("alone/minilab/tiny/*/result.json")
    assert "full_ft" in result.parent.name and json.loads(result.read_text())["steps"] == 2
    assert len(list(folder.glob("alone/minilab/tiny/*"))) == 2 and (out.count("run folder:"), out.count("job:")) == (
        1,
        2,
    )


def test_two_processes_that_submitit_starts_write_one_folder_a_cell(tmp_path: Path) -> None:
    sweep = ["-m", "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "method=full_ft", "seed=0,1"]
    finish(tmp_path, "train", *sweep, *SMALL, "trainer.max_steps=2", "trainer=fsdp", *TWO, timeout=600)
    assert len(list(tmp_path.glob("runs/minilab/tiny/*"))) == 2
    assert [json.loads(p.read_text())["steps"] for p in tmp_path.glob("runs/minilab/tiny/*/result.json")] == [2, 2]


def test_ctrl_c_saves_the_step_that_it_finds(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = popen(tmp_path, "train", "method=full_ft", *LONG, "trainer.max_epochs=3", "hydra.run.dir=run")
    wait_for(process, lambda: len(steps(run)) > 3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted: run the same command again to resume" in out, out
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == steps(run)[-1] + 1 and "Traceback" not in out, out
    log = finish(tmp_path, "train", "method=full_ft", *LONG, "trainer.max_epochs=3", "hydra.run.dir=run")
    assert f"resuming from step {last['global_step']}" in log and steps(run) == list(range(30))


def test_a_signalled_job_of_submitit_is_saved_requeued_and_resumed(tmp_path: Path, folder: Path) -> None:
    """SIGUSR1 to a job of its local executor, which has started two processes of its own."""
    sweep = ["-m", "hydra/launcher=submitit_local", "method=full_ft", *LONG, "trainer.max_epochs=3"]
    process = popen(tmp_path, "train", *sweep, "trainer=ddp", *TWO)

    def run() -> Path:
        return next(tmp_path.glob("runs/minilab/tiny/full_ft-*"), tmp_path)

    wait_for(process, lambda: len(steps(run())) > 6)
    os.kill(job_of_submitit(tmp_path), signal.SIGUSR1)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    log = "".join(path.read_text() for path in tmp_path.rglob("*_log.err"))
    assert log.count("stopped by a signal after step") == log.count("resuming from step") == 1
    assert steps(run()) == list(range(30))


def job_of_submitit(folder: Path) -> int:
    """The process that runs a function for submitit; its arguments name the folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if b"submitit.core._submit" in arguments and any(str(folder).encode() in one for one in arguments):
            return int(path.parent.name)
    raise AssertionError("no job of submitit runs")


@pytest.mark.nightly
def test_one_history_and_the_same_weights_whatever_ends_the_run(folder: Path, tmp_path: Path) -> None:
    """SIGTERM saves the step that it finds, SIGUSR1 and SIGKILL follow; Weights & Biases sees one run."""
    settings = [*LONG, "student.dropout=0.1", "logger=wandb", "logger.mode=offline", f"store={folder / 'store'}"]
    finish(tmp_path, "train", *settings[:-3], settings[-1], "hydra.run.dir=whole")
    run = tmp_path / "run"

    def interrupted(after: int, number: int) -> tuple[int, str]:
        process = popen(tmp_path, "train", *settings, "hydra.run.dir=run")
        wait_for(process, lambda: len(steps(run)) > 0 and steps(run)[-1] >= after)
        process.send_signal(number)
        return process.wait(timeout=300), process.communicate()[0]

    for after, number in ((1, signal.SIGTERM), (7, signal.SIGUSR1)):
        code, out = interrupted(after, number)
        assert code == 144, out
        last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        assert last["global_step"] == steps(run)[-1] + 1 and f"after step {last['global_step']}:" in out
    assert interrupted(12, signal.SIGKILL)[0] == -signal.SIGKILL
    unwritten = set(range(last["global_step"], steps(run)[-1] + 1))
    """Steps that Weights & Biases may have had in memory alone when the run was killed."""
    assert "resuming from step" in finish(tmp_path, "train", *settings, "hydra.run.dir=run")
    expected, found = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert steps(run) == list(range(20))
    logs = sorted((run / "wandb").glob("offline-run-*"))
    assert len(logs) == 4 and len({path.name.rpartition("-")[2] for path in logs}) == 1, "one id"
    rows = [row for path in logs for row in history(next(path.glob("*.wandb")))]
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    assert set(range(20)) - {row["_step"] for row in rows if "train/loss" in row} <= unwritten
    of_csv = {int(row["step"]): float(row["train/loss"]) for row in read_metrics(run) if row["train/loss"]}
    assert all(row["train/loss"] == pytest.approx(of_csv[row["_step"]]) for row in rows if "train/loss" in row)


def history(file: Path) -> list[dict[str, float]]:
    """The history of an offline run: a log of blocks (LevelDB's format) that hold protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    content, place, record, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record.FromString(record)
            record = b""
            if message.HasField("history"):
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in message.history.item}
                rows.append({"_step": message.history.step.num, **row})
    return rows
