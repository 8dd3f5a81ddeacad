"""Twenty kills at random moments: nothing is lost, and nothing is paid twice but what was under way.

A command runs in a process group of its own. Once it has begun to work, the group is killed (SIGKILL) after a random
part of the time that the work takes undisturbed. It is started again and killed again, and in the end it may finish.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.conftest import SMALL, JsonHandler, finish, read_metrics, weights

pytestmark = pytest.mark.slow

START = "from tinyllm.cli.main import main; main()"
SLOW_DISK = """
import os, shutil, time
def slowed(call):
    def slow(*arguments, **options):
        time.sleep(0.05)
        return call(*arguments, **options)
    return slow
os.replace, shutil.copy2 = slowed(os.replace), slowed(shutil.copy2)
"""
"""Makes the moments between two files long, so that kills fall into them."""


class Kills:
    """Kills a command again and again, at a random moment of its work.

    Args:
        seed: of the moments.
        folder: where it runs.
        before: code in front of it.
    """

    def __init__(self, seed: int, folder: Path, *, before: str = "") -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.code = before + START
        self.seconds = 0.0
        """Of work, that the undisturbed run took."""
        self.injected = 0

    def undisturbed(self, sign: Callable[[], object], *arguments: str) -> None:
        """Run the command to its end. `sign` gives another value once it has begun to work."""
        process = self._start(*arguments)
        self._wait_for_work(process, sign, sign())
        started = time.monotonic()
        assert process.wait(300) == 0, self._log()
        self.seconds = time.monotonic() - started

    def kill(self, sign: Callable[[], object], *arguments: str) -> bool:
        """Start the command and kill it; False where it was faster."""
        before = sign()
        process = self._start(*arguments)
        self._wait_for_work(process, sign, before)
        try:
            code = process.wait(self.seconds * self.dice.random())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.injected += 1
            return True
        assert code == 0, self._log()
        return False

    def _wait_for_work(self, process: subprocess.Popen[bytes], sign: Callable[[], object], before: object) -> None:
        deadline = time.monotonic() + 300
        while sign() == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    def finish(self, *arguments: str) -> str:
        assert self._start(*arguments).wait(300) == 0, self._log()
        return self._log()

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-c", self.code, *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def _log(self) -> str:
        return (self.folder / "log").read_text()


def changed(file: Path) -> Callable[[], object]:
    """A sign of work: a file or folder is made or written."""
    return lambda: file.stat().st_mtime_ns if file.exists() else None


AT_ONCE = 3
"""Requests in flight."""


class Teacher(ThreadingHTTPServer):
    """An OpenAI-compatible server that writes down what it was asked, by the first part of its address."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.served: dict[str, list[tuple[str, int]]] = {}
        """What was asked, and the tokens of the answer."""


class _Answering(JsonHandler):
    server: Teacher

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = "\n".join(message["content"] for message in body["messages"])
        time.sleep(0.3)
        text = f"It follows from what is known: {len(prompt)} things. The rest is no matter."
        if prompt.startswith("Write one new"):
            n = body["seed"]
            text = (
                f"Question: Which{n} of{n} these{n} is{n} warm?\nAnswer Choices:\n(a) fire\n(b) ice\n(c) snow\n"
                f"(d) frost\nAnswer: (a)\nRationale: Fire {n} burns wood, which gives off much heat."
            )
        tokens = len(text.split())
        self.server.served.setdefault(self.path.split("/")[1], []).append((f"{body.get('seed')} {prompt}", tokens))
        answer = {
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": tokens, "total_tokens": 0},
        }
        self.answer(200, json.dumps(answer).encode())


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    server = Teacher()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def rows_of(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in store.rglob("*.jsonl") for line in file.read_text().splitlines()]


def test_generation(tmp_path: Path, teacher: Teacher, record_property: Callable[[str, object], None]) -> None:
    """Of the questions and of the pool of in-context examples, which the teacher invents first."""

    def call(name: str) -> list[str]:
        return [
            *("rationales", "teachers=openai", "teachers.openai.model=m", f"store={name}", "data.limit_train=40"),
            f"teachers.openai.base_url=http://127.0.0.1:{teacher.server_port}/{name}/v1",
            f"teachers.openai.concurrency={AT_ONCE}",
        ]

    def served(name: str) -> Callable[[], object]:
        return lambda: len(teacher.served.get(name, ()))

    kills = Kills(1, tmp_path)
    kills.undisturbed(served("whole"), *call("whole"))
    requests = {asked for asked, _ in teacher.served["whole"]}
    assert len(requests) == len(teacher.served["whole"]) >= 40 + 16
    for round_ in range(8):
        if kills.injected >= 5:
            break
        name, before = f"round{round_}", kills.injected
        while kills.injected < 5 and kills.kill(served(name), *call(name)):
            pass
        kills.finish(*call(name))
        here, rows, paid_for = kills.injected - before, rows_of(tmp_path / name), teacher.served[name]
        assert sorted(Counter(row["question_id"] for row in rows).values()) == [1] * 40
        times = Counter(asked for asked, _ in paid_for)
        assert set(times) == requests, "the same was asked as without kills: the pool is the same"
        assert len(paid_for) - len(times) <= here * AT_ONCE, "what was under way is all that was asked twice"
        paid = sum(tokens for _, tokens in paid_for)
        kept = sum(row["tokens"] for row in rows)
        with (tmp_path / name / "ledger.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        counted = sum(int(line["completion_tokens"]) for line in lines if line["split"] == "train")
        most = max(tokens for _, tokens in paid_for)
        assert 0 <= counted - kept <= here * AT_ONCE * most
        everything = sum(int(line["completion_tokens"]) for line in lines)
        assert 0 <= paid - everything <= here * AT_ONCE * most
        record_property(
            name, f"{here} kills, {len(paid_for) - len(times)} requests under way, {paid - everything} tokens"
        )
    assert kills.injected == 5


LONG = [*SMALL, "student.dropout=0.1", "data.limit_train=160", "trainer.max_epochs=2", "trainer.valid_every=0.25"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


@pytest.mark.parametrize(
    ("seed", "times", "options"),
    [pytest.param(2, 4, [], id="one process"), pytest.param(3, 3, TWO, id="two processes", marks=pytest.mark.nightly)],
)
def test_training(tmp_path: Path, seed: int, times: int, options: list[str]) -> None:
    """The weights are those of the undisturbed run to the last bit; no step is lost from the metrics or there twice."""
    finish(tmp_path, "rationales", "data.limit_train=160")
    command = ["train", *LONG, *options]
    kills = Kills(seed, tmp_path)
    kills.undisturbed(changed(tmp_path / "whole" / "metrics.csv"), *command, "hydra.run.dir=whole")
    for round_ in range(6):
        if kills.injected >= times:
            break
        folder = tmp_path / f"round{round_}"
        while kills.injected < times and kills.kill(
            changed(folder / "metrics.csv"), *command, f"hydra.run.dir={folder.name}"
        ):
            pass
        kills.finish(*command, f"hydra.run.dir={folder.name}")
        for name in ("last.ckpt", "best.ckpt"):
            expected, found = weights(tmp_path / "whole", name), weights(folder, name)
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[key], found[key]) for key in expected)
        metrics = [
            [(r["step"], r["train/loss"], r["valid/accuracy"]) for r in read_metrics(f)]
            for f in (tmp_path / "whole", folder)
        ]
        assert metrics[0] == metrics[1]
        same = ("accuracy", "accuracy_ranked", "valid_accuracy", "steps", "train_loss", "train_tokens")
        results = [json.loads((f / "result.json").read_text()) for f in (tmp_path / "whole", folder)]
        assert [results[0][key] for key in same] == [results[1][key] for key in same]
        assert (folder / "predictions.jsonl").read_text() == (tmp_path / "whole" / "predictions.jsonl").read_text()
        assert not [file for file in folder.rglob(".*") if file.is_file()], "no draft stays"
    assert kills.injected == times


@pytest.mark.nightly
def test_a_sweep_with_joblib(tmp_path: Path) -> None:
    """Every cell ends as in the undisturbed sweep; one that had finished is not run again."""
    command = ["train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "method=full_ft", "seed=0,1,2,3"]
    command += [*SMALL, "data.limit_train=80"]

    def results(folder: Path) -> dict[str, Path]:
        return {file.parent.name: file for file in folder.glob("minilab/tiny/*/result.json")}

    def written() -> object:
        return {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/minilab/tiny/*/metrics.csv")}

    kills = Kills(4, tmp_path)
    kills.undisturbed(written, *command)
    (tmp_path / "runs").rename(tmp_path / "whole")
    whole = results(tmp_path / "whole")
    assert len(whole) == 4
    for round_ in range(6):
        if kills.injected >= 3:
            break
        while kills.injected < 3 and kills.kill(written, *command):
            pass
        done = {name: file.stat().st_mtime_ns for name, file in results(tmp_path / "runs").items()}
        kills.finish(*command)
        found = results(tmp_path / "runs")
        assert found.keys() == whole.keys()
        assert done == {name: found[name].stat().st_mtime_ns for name in done}
        for name, file in found.items():
            expected, again = weights(whole[name].parent), weights(file.parent)
            assert all(torch.equal(expected[key], again[key]) for key in expected)
        (tmp_path / "runs").rename(tmp_path / f"round{round_}")
    assert kills.injected == 3


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.nightly
def test_report_and_export(tmp_path: Path) -> None:
    """The page is the old one or the new one, never a half; the exported folder is whole or not there."""
    finish(tmp_path, "train", "-m", *SMALL, "method=full_ft", "seed=0,1", "trainer.max_steps=2")
    run = str(next(tmp_path.glob("runs/minilab/tiny/*")))
    report = ["report", "runs=runs"]
    kills = Kills(5, tmp_path, before=SLOW_DISK)
    kills.undisturbed(changed(tmp_path / "whole" / ".draft"), *report, "title=New", "output=whole")
    new = content(tmp_path / "whole")
    kills.finish(*report, "title=Old", "output=page")
    page = tmp_path / "page" / "index.html"
    old = page.read_bytes()
    assert old != new["index.html"] and b"</html>" in old[-20:]
    (tmp_path / "page" / "mine.txt").write_text("a file of the user's")
    for _ in range(8):
        if kills.injected == 3:
            break
        kills.kill(changed(tmp_path / "page" / ".draft"), *report, "title=New", "output=page")
        assert page.read_bytes() in (old, new["index.html"])
    assert kills.injected == 3
    kills.finish(*report, "title=New", "output=page")
    assert content(tmp_path / "page") == new | {"mine.txt": b"a file of the user's"}

    export = ["export", f"run={run}"]
    kills.undisturbed(changed(tmp_path / ".exported.draft"), *export, "output=exported")
    expected = content(tmp_path / "exported")
    for round_ in range(8):
        if kills.injected == 5:
            break
        folder = tmp_path / f"round{round_}"
        kills.kill(changed(tmp_path / f".{folder.name}.draft"), *export, f"output={folder.name}")
        assert not folder.exists() or content(folder) == expected
        if not folder.exists():
            kills.finish(*export, f"output={folder.name}")
            assert content(folder) == expected
        assert not list(tmp_path.glob(f".{folder.name}*")), "no draft stays"
    assert kills.injected == 5
