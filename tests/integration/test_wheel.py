"""A wheel built from the tree works outside of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from tests.integration.conftest import SMALL

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_runs_in_a_new_environment(tmp_path: Path) -> None:
    """Dependencies are those of this environment (a path file); tinyllm itself comes from the wheel alone."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True, env=clean)
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    site = Path(where.stdout.strip())
    # A plain path line brings the dependencies, but not this environment's editable install of tinyllm.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    command = str(tmp_path / "env" / "bin" / "tinyllm")
    told = subprocess.run(
        [python, "-c", "import tinyllm; print(tinyllm.__file__)"], capture_output=True, text=True, cwd=outside
    )
    assert str(site) in told.stdout, told
    for arguments in (
        ["rationales"],
        ["train", *SMALL, "trainer.max_steps=3", "hydra.run.dir=run"],
        ["train", "--help"],
    ):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, cwd=outside, env=clean)
        assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((outside / "run" / "result.json").read_text())["steps"] == 3
