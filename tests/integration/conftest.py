"""Whole stages, called as the console script calls them, on a student of some ten thousand parameters."""

from __future__ import annotations

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

SMALL = [
    "student.architecture.d_model=32",
    "student.architecture.d_kv=8",
    "student.architecture.d_ff=48",
    "student.architecture.num_layers=1",
    "student.architecture.num_decoder_layers=1",
    "trainer.precision=32-true",
    "trainer.log_every=1",
    "data.limit_train=40",
    "data.limit_valid=24",
    "data.limit_test=24",
    "trainer.batch_size=8",
    "trainer.max_epochs=2",
    "trainer.valid_every=0.5",
    "optimizer.warmup_steps=0",
]
"""Overrides of a run that takes a second or two: 5 steps an epoch, 10 in all."""

Stage = Callable[..., tuple[int, str, str]]


class JsonHandler(BaseHTTPRequestHandler):
    """Of a server that answers in JSON and logs nothing."""

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Stage:
    """Run a stage in this process, in `tmp_path`: returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    # Hydra composes twice, first to look for `hydra.mode`, which no test sets: half a second a call.
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    # A teacher of one's own becomes a set of that name, which the next test may call otherwise.
    monkeypatch.setitem(ConfigStore.instance().repo, "teachers", {})

    def call(*arguments: str) -> tuple[int, str, str]:
        from tinyllm.cli.main import main

        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["tinyllm", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def popen(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The console script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from tinyllm.cli.main import main; main()", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(folder: Path, *arguments: str, timeout: float = 300) -> str:
    """Run the console script to its end and return what it printed; fail where it failed."""
    process = popen(folder, *arguments)
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, out
    return out


def load_script(path: Path) -> ModuleType:
    """A Python file that belongs to no package, as a module; it may import its neighbours, as when it is run."""
    spec = importlib.util.spec_from_file_location(f"script_{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]
    return state


def kill_past(folder: Path, steps: int, *arguments: str) -> Path:
    """Train in a process of its own and SIGKILL it when it has a checkpoint and has logged more than `steps` steps."""
    killed = folder / "killed"
    process = popen(folder, "train", *arguments, "hydra.run.dir=killed")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (killed / "metrics.csv").is_file() and (killed / "checkpoints" / "last.ckpt").is_file():
            rows = [row for row in read_metrics(killed) if row["train/loss"]]
            if len(rows) > steps:
                break
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "result.json").exists()
    return killed
