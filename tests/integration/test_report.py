"""`tinyllm report` on run folders made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from tests.integration.conftest import Stage
from tests.unit.reporting import conftest as by_hand
from tests.unit.reporting.conftest import MakeRun

from tinyllm.records import Prediction

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
    lines = [line.strip() for line in out.splitlines()]
    assert max(map(len, lines)) <= 100 and lines[-1] == "out/report/index.html"
    assert [line for line in lines if line.startswith("Table")] == [
        f"Table 1: methods, student {student}" for student in ("flan_t5_small", "tiny")
    ]
    assert "49.40" in out  # the paper's TinyLLM on obqa, 80M
    assert "Δ_FF" in out and not {"|", "&", "**"} & set(out) and "\x1b" not in out
    names = {path.name for path in (output / "tables").iterdir()}
    stems = ("claims", "table1_tiny", "table1_flan_t5_small", "comparisons", "settings")
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("md", "tex", "csv")}

    frame = pd.read_csv(output / "results.csv")
    assert len(frame) == 10 and set(frame["setting"].value_counts()) == {1, 2}
    assert all((runs / folder / "result.json").is_file() for folder in frame["folder"])
    assert str(tmp_path) not in (output / "results.csv").read_text()

    report = (output / "report.md").read_text()
    assert report.startswith("# Trees\n") and str(tmp_path) not in report
    assert report.index("## The paper's claims\n") < report.index("## Table 1")
    for heading in ("Comparisons of methods in points", "All settings", "How to read the tables", "Figure 4: cases"):
        assert f"## {heading}\n" in report
    assert "did not all compute" not in report
    notes = [line for line in report.splitlines() if line.startswith("- ")]
    assert sum("teacher wordy, α wordy=1, one of 2 settings" in line for line in notes) == 1
    for said_once in ("95% confidence intervals", "selected on the validation split", "In parentheses", "bootstrap"):
        assert sum(said_once in line for line in notes) == 1, said_once
    pictures = [line.split("](")[1].rstrip(")") for line in report.splitlines() if line.startswith("![")]
    assert pictures and all((output / picture).is_file() for picture in pictures)
    page = (output / "index.html").read_text()
    assert page.lower().startswith("<!doctype html>") and "Trees" in page and str(tmp_path) not in page


def test_a_new_report_leaves_nothing_of_an_earlier_one(stage: Stage, runs: Path, tmp_path: Path) -> None:
    stale = [tmp_path / "out" / name for name in ("tables/table2_tiny.md", "tables/old.tex", "figures/fig3_alpha.pdf")]
    kept = [tmp_path / "out" / name for name in ("tables/related_work.tex", "figures/architecture.pdf", "mine.md")]
    for path in (*stale, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("earlier")
    names = "/".join(path.name for path in stale) + "/../mine.md"
    (tmp_path / "out" / "index.html").write_text(f'<meta name="tinyllm-files" content="{names}">')
    code, _, err = stage("report", f"runs={runs}", "output=out", "resamples=100")
    assert code == 0, err
    assert not any(path.exists() for path in stale) and all(path.read_text() == "earlier" for path in kept)
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text()
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("In grey: the paper") == 1 and "In parentheses: the paper" not in page
    for ending in ("tex", "md"):  # read by itself: all that it takes to understand it
        alone = (tmp_path / "out" / "tables" / f"table1_flan_t5_small.{ending}").read_text()
        for note in ("In parentheses: the paper", "confidence intervals", "selected on the validation split"):
            assert note in alone


def test_a_report_of_two_methods_has_just_those_rows(stage: Stage, make_run: MakeRun, tmp_path: Path) -> None:
    for student, dataset in (("tiny", "minilab"), ("flan_t5_small", "obqa")):
        make_run("tinyllm", student=student, dataset=dataset, right=0.8)
        make_run("full_ft", student=student, dataset=dataset, right=0.3)
    code, out, err = stage("report", "resamples=100")
    assert code == 0, err
    for student, dataset in (("tiny", "minilab"), ("flan_t5_small", "obqa")):
        table = pd.read_csv(tmp_path / "report" / "tables" / f"table1_{student}.csv")
        assert list(table["Method"]) == ["Full fine-tuning", "TinyLLM", "Δ_FF"]
        assert table[dataset].notna().all()
        assert set(table.columns) <= {"Method", *(f"{dataset}{end}" for end in ("", " low", " high", " paper"))} | {
            f"{dataset}/{part}{end}" for part in ("visible", "hidden") for end in ("", " low", " high")
        }
    assert "PINTO" not in out


def test_a_report_says_where_students_computed_in_different_ways(
    stage: Stage, make_run: MakeRun, tmp_path: Path
) -> None:
    on_card = {"precision": "bf16-mixed", "device": "NVIDIA H100"}
    on_cpu = {"precision": "32-true", "device": "cpu"}
    make_run("tinyllm", right=0.8, result=on_card)
    make_run("full_ft", right=0.3)  # of a version that did not say
    for seed, where in ((1, on_card), (2, on_cpu)):
        make_run("tinyllm", seed=seed, right=0.8, result=where)
    code, _, err = stage("report", "resamples=100")
    assert code == 0, err
    report = (tmp_path / "report" / "report.md").read_text()
    assert "did not all compute in the same way (2 in bf16-mixed on NVIDIA H100, 1 in 32-true on cpu)" in report


def test_predictions_are_read_once(
    stage: Stage, runs: Path, monkeypatch: pytest.MonkeyPatch, make_run: MakeRun
) -> None:
    from tinyllm.reporting import predictions

    for alpha in (0.1, 3.0):  # a figure of α, and its line of chance
        make_run("tinyllm", alpha={"terse": alpha, "wordy": 1.0}, valid=0.1)
    read = predictions.read_predictions
    folders: list[Path] = []

    def counted(folder: Path) -> list[Prediction]:
        folders.append(folder)
        return read(folder)

    monkeypatch.setattr(predictions, "read_predictions", counted)
    code, _, err = stage("report", "resamples=100")
    assert code == 0, err
    assert len(folders) >= 8 and len(folders) == len(set(folders))


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
        (["runs=[]"], "runs: "),
        (["runs=3"], "runs: "),
        (["runs=runs"], "valid"),
        (["runs=runs", "resamples=0"], "resamples: expected 1 or more, found 0"),
        (["runs=runs", "metric=f1"], "metric"),
    ):
        code, out, err = stage("report", *arguments)
        assert code == 2 and expected in err and out == "", (arguments, err)
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1 and "Traceback" not in err
