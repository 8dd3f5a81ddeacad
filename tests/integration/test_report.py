"""`tinyllm report` on run folders made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from tests.integration.conftest import Stage
from tests.unit.reporting import conftest as by_hand
from tests.unit.reporting.conftest import MakeRun

make_run = by_hand.make_run


@pytest.fixture
def runs(make_run: MakeRun, tmp_path: Path) -> Path:
    """Two students and a teacher, one choice by validation, a broken result and a foreign one."""
    for seed in range(2):
        make_run("tinyllm", seed=seed, right=0.8)
        make_run("full_ft", seed=seed, right=0.3)
        for teacher, valid in (("terse", 0.2), ("wordy", 0.5)):
            make_run("step_by_step", seed=seed, teacher=teacher, alpha={teacher: 1.0}, valid=valid)
    make_run("tinyllm", student="flan_t5_small", dataset="obqa", right=0.6)
    make_run("inference", student="wordy", right=0.9, valid=None, result={"method": "teacher", "train_examples": 0})
    folder = tmp_path / "runs"
    for name, text in (("broken", '{"dataset": '), ("foreign", '{"model": "bert", "accuracy": 0.9}')):
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(text)
    return folder


def test_a_report_is_whole(stage: Stage, runs: Path, tmp_path: Path) -> None:
    code, out, err = stage("report", "runs=runs", "output=out/report", "title=Trees", "resamples=200")
    assert code == 0, err
    output = tmp_path / "out" / "report"
    for name in ("broken", "foreign"):
        assert f"runs/{name}/result.json" in err
        for file in ("report.md", "index.html"):
            assert f"Skipped: {name}/result.json" in (output / file).read_text()
    assert "10 runs, 2 skipped" in err
    assert all(f"## Table 1: methods, student {student}\n" in out for student in ("tiny", "flan_t5_small"))
    assert "49.40" in out  # the paper's TinyLLM on obqa, 80M
    names = {path.name for path in (output / "tables").iterdir()}
    stems = ("table1_tiny", "table1_flan_t5_small", "comparisons", "settings")
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("md", "tex", "csv")}

    frame = pd.read_csv(output / "results.csv")
    assert len(frame) == 10 and set(frame["setting"].value_counts()) == {1, 2}
    assert all((runs / folder / "result.json").is_file() for folder in frame["folder"])
    assert str(tmp_path) not in (output / "results.csv").read_text()

    report = (output / "report.md").read_text()
    assert report.startswith("# Trees\n") and str(tmp_path) not in report
    assert "step_by_step: wordy α wordy=1 of 2 by validation" in report
    for heading in ("Comparisons in points", "All settings", "Figure 4: cases"):
        assert f"## {heading}" in report
    pictures = [line.split("](")[1].rstrip(")") for line in report.splitlines() if line.startswith("![")]
    assert pictures and all((output / picture).is_file() for picture in pictures)
    page = (output / "index.html").read_text()
    assert page.lower().startswith("<!doctype html>") and "Trees" in page and str(tmp_path) not in page


def test_a_new_report_leaves_nothing_of_an_earlier_one(stage: Stage, runs: Path, tmp_path: Path) -> None:
    stale = [tmp_path / "out" / name for name in ("tables/table2_tiny.md", "tables/old.tex", "figures/fig3_alpha.pdf")]
    kept = [tmp_path / "out" / name for name in ("tables/notes.txt", "figures/drawing.svg", "mine.md")]
    for path in (*stale, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("earlier")
    code, _, err = stage("report", f"runs={runs}", "output=out", "resamples=100")
    assert code == 0, err
    assert not any(path.exists() for path in stale) and all(path.read_text() == "earlier" for path in kept)
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "In grey: the paper" in page and "In parentheses the paper" not in page
    assert "In parentheses the paper" in (tmp_path / "out" / "tables" / "table1_flan_t5_small.tex").read_text()


def test_the_same_runs_make_the_same_report(stage: Stage, runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        code, _, err = stage("report", "runs=runs", f"output={name}", "resamples=200", "metric=accuracy_ranked")
        assert code == 0, err
    for path in sorted((tmp_path / "one").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_run_folders_can_be_named_one_by_one(stage: Stage, runs: Path, tmp_path: Path) -> None:
    folders = [str(path.parent.relative_to(tmp_path)) for path in sorted(runs.rglob("tinyllm-*/result.json"))]
    code, _, err = stage("report", f"runs=[{','.join(folders)}]")
    assert code == 0, err
    frame = pd.read_csv(tmp_path / "report" / "results.csv")
    assert sorted(frame["folder"]) == sorted(Path(folder).name for folder in folders)


def test_mistakes_are_one_line(stage: Stage, make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = make_run("full_ft", result={"split": "valid"})
    row = json.loads((folder / "result.json").read_text())
    assert row["split"] == "valid"
    for arguments, expected in (
        (["runs=empty"], "no result.json below empty"),
        (["runs=nowhere"], "expected a folder, found none at nowhere"),
        (["runs=[]"], "expected a folder or a list of folders"),
        (["runs=3"], "expected a folder or a list of folders"),
        (["runs=runs"], "expected evaluations on the test split, found only valid"),
        (["runs=runs", "resamples=0"], "resamples: expected 1 or more, found 0"),
        (["runs=runs", "metric=f1"], "metric"),
    ):
        code, out, err = stage("report", *arguments)
        assert code == 2 and expected in err and out == "", (arguments, err)
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1 and "Traceback" not in err
