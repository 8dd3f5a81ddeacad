"""A full disk, and one that can't be written: one line, exit code 2, and what was there is still there."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import SMALL, Stage, finish, kill_past, weights

pytestmark = pytest.mark.slow


class Disk:
    """A small file system of its own in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    def free(self) -> None:
        self._filler.unlink()

    def lock(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)

    def content(self) -> dict[str, bytes]:
        """Of all files but locks."""
        files = (file for file in self.folder.rglob("*") if file.is_file() and file != self._filler)
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files if file.suffix != ".lock"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def assert_refused(code: int, err: str, reason: str) -> None:
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2 and "Traceback" not in err, err
    assert len(errors) == 1 and reason in errors[0], err


def questions_of(store: Path) -> Counter[str]:
    lines = [line for file in store.rglob("terse/*/*.jsonl") for line in file.read_text().splitlines()]
    return Counter(json.loads(line)["question_id"] for line in lines)


def test_a_full_disk(stage: Stage, tmp_path: Path, disk: Disk) -> None:
    """Under the store, the cache, a report and an export."""
    assert stage("rationales", "store=disk/store", "data.limit_train=40")[0] == 0
    assert stage("train", *SMALL, "store=disk/store", "hydra.run.dir=run", "trainer.max_steps=2")[0] == 0
    report = ["report", "runs=run", "output=disk/report"]
    assert stage(*report, "title=Old")[0] == 0
    before = disk.content()
    disk.fill()
    calls = [
        ["rationales", "store=disk/store", "data.limit_train=2000"],
        [*report, "title=New"],
        ["export", "run=run", "output=disk/exported"],
        ["train", *SMALL, "method=full_ft", "cache=disk/cache", "hydra.run.dir=other"],
        ["train", *SMALL, "method=full_ft", "hydra.run.dir=disk/new"],
    ]
    for call in calls:
        code, _, err = stage(*call)
        assert_refused(code, err, "No space left on device")
        now = disk.content()
        assert {name: now[name] for name in before if name != "store/audit.json"} == {
            name: text for name, text in before.items() if name != "store/audit.json"
        }
        assert not {name for name in now.keys() - before.keys() if not name.startswith("store/")}, "nothing half stays"
    disk.free()
    for call in calls:
        code, _, err = stage(*call)
        assert code == 0, err
    assert set(questions_of(disk.folder / "store").values()) == {1}
    assert len(questions_of(disk.folder / "store")) == 2000


@pytest.mark.nightly
def test_a_disk_that_fills_while_training(tmp_path: Path, disk: Disk) -> None:
    """The checkpoint stays, and with room again the run ends as one that never met a full disk."""
    command = [*SMALL, "method=full_ft", "data.limit_train=160", "trainer.max_epochs=3"]
    finish(tmp_path, "train", *command, "hydra.run.dir=whole")
    kill_past(disk.folder, 12, *command)
    before = disk.content()
    disk.fill()
    code = f"import sys; sys.argv = ['tinyllm', 'train', *{command!r}, 'hydra.run.dir=killed']\n"
    code += "from tinyllm.cli.main import main; main()"
    full = subprocess.run([sys.executable, "-c", code], cwd=disk.folder, capture_output=True, text=True)
    assert_refused(full.returncode, full.stderr, "No space left on device")
    now = disk.content()
    for name in ("killed/checkpoints/last.ckpt", "killed/checkpoints/best.ckpt"):
        assert now[name] == before[name]
    disk.free()
    assert "resuming from step" in finish(disk.folder, "train", *command, "hydra.run.dir=killed")
    expected, found = weights(tmp_path / "whole"), weights(disk.folder / "killed")
    assert all(bool((expected[key] == found[key]).all()) for key in expected)


def test_a_disk_that_can_only_be_read(stage: Stage, tmp_path: Path, disk: Disk) -> None:
    assert stage("rationales", "store=disk/store", "data.limit_train=40")[0] == 0
    assert stage("train", *SMALL, "store=disk/store", "hydra.run.dir=disk/run", "trainer.max_steps=2")[0] == 0
    assert stage("report", "runs=disk/run", "output=disk/report")[0] == 0
    before = disk.content()
    disk.lock()
    calls = [
        (["rationales", "store=disk/store", "data.limit_train=60"], "store"),
        (["train", *SMALL, "method=full_ft", "hydra.run.dir=disk/new"], "disk/new"),
        (["train", *SMALL, "method=full_ft", "cache=disk/cache", "hydra.run.dir=other"], "cache"),
        (["report", "runs=disk/run", "output=disk/report"], "output"),
        (["export", "run=disk/run", "output=disk/exported"], "output"),
        (["evaluate", "run=disk/run", "evaluation.split=valid"], "disk/run"),
    ]
    for call, named in calls:
        code, _, err = stage(*call)
        assert_refused(code, err, named)
        assert disk.content() == before
    # What is only read is still of use: the store and the run.
    assert stage("rationales", "store=disk/store", "data.limit_train=40", "audit=true")[0] == 2  # audit.json goes there
    code, _, err = stage("train", *SMALL, "store=disk/store", "hydra.run.dir=again", "trainer.max_steps=2")
    assert code == 0, err
    assert stage("export", "run=disk/run", "output=exported")[0] == 0


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """The same without the right to mount anything: a limit on the size of a file."""
    finish(tmp_path, "rationales", "data.limit_train=40")
    before = questions_of(tmp_path / "store")
    process = subprocess.run(
        [sys.executable, "-c", "from tinyllm.cli.main import main; main()", "rationales", "data.limit_train=2000"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert_refused(process.returncode, process.stderr, "File too large")
    assert questions_of(tmp_path / "store") >= before
    finish(tmp_path, "rationales", "data.limit_train=2000")
    found = questions_of(tmp_path / "store")
    assert len(found) == 2000 and set(found.values()) == {1}
