"""`experiments/run.py` and every sweep.yaml: what is planned is what runs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from tests.integration.conftest import SMALL, load_script

from tinyllm import runs
from tinyllm.compose import compose, config_folder
from tinyllm.errors import UserError
from tinyllm.records import PromptKind
from tinyllm.runs import run_name
from tinyllm.teachers.stored import stored_key

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
NAMES = sorted(path.parent.name for path in EXPERIMENTS.glob("*/sweep.yaml"))
SCALES = [(name, scale) for name in NAMES for scale in yaml.safe_load((EXPERIMENTS / name / "sweep.yaml").read_text())]
experiments = load_script(EXPERIMENTS / "run.py")


def test_the_papers_tables_and_figures_are_there_at_both_scales() -> None:
    paper = {"table1", "table2_ablation", "fig2_train_size", "fig3_alpha", "fig4_cases"}
    assert {name for name, scale in SCALES if scale == "paper"} == {*paper, "teachers"}
    assert {name for name, scale in SCALES if scale == "minilab"} == {*paper, "teachers", "minilab"}
    assert set(NAMES) <= {path.stem for path in (config_folder() / "experiment").glob("*.yaml")}
    for name in NAMES:
        first = next(scale for other, scale in SCALES if other == name and scale != "choose")
        text = (EXPERIMENTS / name / "sweep.yaml").read_text()
        assert text.startswith(f"# make experiment NAME={name} SCALE={first}")


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_cells_have_folders_of_their_own(name: str, scale: str) -> None:
    """A cell of each sweep, and for every key that the sweep varies a cell that differs in this key alone."""
    draw = random.Random(f"{name} {scale}")
    for stage, overrides in experiments.sweeps(name, scale):
        if stage == "report":
            compose(stage, overrides)
            continue
        jobs = experiments.jobs(stage, overrides)
        assert len(set(jobs)) == len(jobs)
        chosen = draw.choice(jobs)
        if stage == "rationales":
            compose(stage, chosen)
            continue
        sample = [chosen]
        for place, override in enumerate(chosen):
            others = [job for job in jobs if job[place] != override and differing(job, chosen) == 1]
            sample += [draw.choice(others)] if others else []
        assert len({experiments.cell(stage, job).folder for job in sample}) == len(sample), sample
        if stage == "train":
            composed = compose(stage, chosen)
            planned = experiments.cell(stage, chosen)
            assert planned.folder == Path("runs") / run_name(composed)
            assert planned.on_gpu == (composed.trainer.accelerator.value == "gpu") == (scale == "paper")


def differing(job: tuple[str, ...], other: tuple[str, ...]) -> int:
    return sum(one != two for one, two in zip(job, other, strict=True))


@pytest.mark.parametrize(
    "job",
    [
        ["seed=3", "alpha.terse=0.5", "trainer.max_epochs=2"],
        ["method=lora", "method.lora.r=4", "experiment=minilab", "data.train_fraction=0.5"],
        ["teachers=paper", "data=obqa", "ablation=no_llama", "experiment=table1", "student=flan_t5_base", "seed=1"],
        ["+student.architecture.own=32", "rationales.reject=[empty,cut]", "student.dropout=null"],
        ["data=jsonl", "data.root='a, b.jsonl'"],
    ],
)
def test_a_planned_cell_is_the_one_that_hydra_composes(job: list[str]) -> None:
    assert experiments.composed_cell("train", job) == compose("train", job)


def test_a_sweep_is_expanded_as_hydra_does() -> None:
    found = experiments.jobs(
        "train", ["seed=range(0,2)", "method=full_ft,tinyllm", "seed=0,1", "store='a,b'", "hydra.verbose=true"]
    )
    assert found == [
        ("seed=0", "method=full_ft", "store='a,b'"),
        ("seed=0", "method=tinyllm", "store='a,b'"),
        ("seed=1", "method=full_ft", "store='a,b'"),
        ("seed=1", "method=tinyllm", "store='a,b'"),
    ]
    grid = experiments.jobs("train", ["alpha=grid", "teachers=paper"])
    staged = experiments.jobs("train", ["alpha=staged", "teachers=paper", "seed=0,1"])
    assert len(set(staged)) == len(staged) == 8, "the cells of the second stage are not known yet"
    assert len(grid) == 36 and "alpha.flan_t5_xl=0.01" in grid[0] and "alpha.llama2_7b_chat=0.01" in grid[0]


def test_the_strongest_teacher_is_looked_for_where_its_answers_are() -> None:
    """Table 2 at the paper's scale: the evaluation writes under the key that training reads."""
    experiment = ["experiment=table2_ablation", "data=obqa"]
    train = OmegaConf.to_object(compose("train", [*experiment, "ablation=no_diverse_teachers"]))
    ((_, line),) = [
        (stage, line) for stage, line in experiments.sweeps("table2_ablation", "paper") if stage == "evaluate"
    ]
    own = [one for one in line if not one.startswith(("experiment=", "data=", "teacher="))]
    for name, teacher in train.teachers.items():
        asked = OmegaConf.to_object(compose("evaluate", [*experiment, f"teacher={name}", *own]))
        free = runs.asked_freely(asked, asked.teacher)
        assert stored_key(free, asked.teacher, PromptKind.solve) == stored_key(train, teacher, PromptKind.solve)


@pytest.mark.parametrize("finished", [True, False])
def test_no_report_where_every_cell_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    """The exit code is that of the sweeps, not of a report without runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "minilab", "minilab", "seed=0"])
    monkeypatch.setattr(experiments, "HERE", Path(experiments.__file__).parent)
    monkeypatch.setattr(experiments, "log_call", lambda file, row: None)
    monkeypatch.setattr(experiments, "run_plan", lambda plan, own: [1])
    monkeypatch.setattr(experiments, "state", lambda folder: "finished" if finished else "failed")
    reported: list[object] = []
    monkeypatch.setattr(experiments, "write_report", lambda *arguments: reported.append(arguments))
    assert experiments.main() == 1
    assert bool(reported) is finished
    assert ("no cell is finished" in capsys.readouterr().err) is not finished


def test_processors_are_counted_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert experiments.processors() == 3


@pytest.mark.parametrize(("name", "scale", "named"), [("large", "paper", "NAME=large"), ("table1", "big", "SCALE=big")])
def test_an_unknown_experiment_or_scale_is_refused(name: str, scale: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        experiments.sweeps(name, scale)


@pytest.mark.slow
def test_an_experiment_runs_its_cells_and_reports(tmp_path: Path) -> None:
    """The script behind `make experiment`, on a sweep of its own: cells, state, report, log of calls."""
    home = tmp_path / "experiments"
    (home / "small").mkdir(parents=True)
    lines = {
        "rationales": ["data.limit_train=40"],
        "evaluate": ["teacher=terse,wordy data.limit_test=24"],
        "train": [" ".join(["method=full_ft,tinyllm", *SMALL, "trainer.max_steps=1"])],
        "report": ["metric=accuracy_ranked"],
    }
    (home / "small" / "sweep.yaml").write_text(yaml.safe_dump({"minilab": lines}, sort_keys=False))
    for script in ("run.py", "archive.py"):
        (home / script).write_text((EXPERIMENTS / script).read_text())

    def call(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "experiments/run.py", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    code, out = call("small", "minilab", "--list")
    assert code == 0 and "2 cells (2 new)" in out, out
    code, out = call("small", "minilab", "hydra/launcher=basic")
    assert code == 0 and "2 cells (2 new)" in out and "small: 2 finished" in out, out
    output = home / "small" / "minilab"
    assert {"results.csv", "report.md", "index.html", "calls.csv"} <= {path.name for path in output.iterdir()}
    code, out = call("small", "minilab", "hydra/launcher=basic")
    assert code == 0 and "2 cells (2 finished)" in out, out
    assert len(list(tmp_path.glob("runs/minilab/tiny/*"))) == 2, "the planned folders are those that runs take"
    report = (output / "report.md").read_bytes()
    code, out = call("small", "minilab", "--pack")
    assert code == 0 and "4 finished cells" in out, out
    packed = (output / "runs.tar.xz").read_bytes()
    shutil.move(tmp_path / "runs", tmp_path / "before")
    code, out = call("small", "minilab", "--unpack")
    assert code == 0 and "4 finished cells taken" in out, out
    code, out = call("small", "minilab", "--report")
    assert code == 0 and (output / "report.md").read_bytes() == report, "the same report on another machine"
    code, out = call("small", "minilab", "--pack")
    assert code == 0 and (output / "runs.tar.xz").read_bytes() == packed, out
    (output / "report.md").unlink()
    (next(tmp_path.glob("runs/minilab/tiny/full_ft-*")) / "result.json").unlink()
    code, out = call("small", "minilab", "--report")
    assert code == 0 and (output / "report.md").exists() and "full_ft" not in (output / "results.csv").read_text(), out
    calls = (output / "calls.csv").read_text().splitlines()
    assert len(calls) == 3 and calls[0].startswith("started,cells,finished_before")
    code, out = call("large", "minilab")
    assert code == 2 and "NAME=large" in out and "Traceback" not in out, out
    code, out = call("small", "minilab", "trainer.bath_size=3")
    assert code == 2 and "trainer.bath_size" in out and "Traceback" not in out, out


def test_an_override_of_the_call_takes_the_place_of_the_sweeps_own() -> None:
    own = [
        ("train", ["experiment=table1", "data=obqa,arc", "+trainer.x=1", "seed=0,1"]),
        ("report", ["metric=accuracy"]),
    ]
    assert experiments.narrowed(own, ["data=obqa", "trainer.x=2"]) == [
        ("train", ["experiment=table1", "seed=0,1", "data=obqa", "trainer.x=2"]),
        own[1],
    ]
    assert experiments.narrowed(own, []) == own


def test_a_method_of_the_call_chooses_among_the_sweeps() -> None:
    plan = experiments.sweeps("minilab", "minilab")
    left = experiments.narrowed(plan, ["method=full_ft", "seed=0"])
    assert [overrides for stage, overrides in left if stage == "train"] == [
        ["experiment=minilab", "method=full_ft", "seed=0"],
        ["experiment=minilab", "method=full_ft", "trainer.max_epochs=12", "trainer.valid_every=12", "seed=0"],
    ]
    assert "rationales" not in {stage for stage, _ in left}
    for given in (["seed=0"], ["method=full_ft,one_teacher", "seed=0"]):
        assert [o for stage, o in experiments.narrowed(plan, given) if stage == "rationales"] == [["seed=0"]]
    plan = experiments.sweeps("table1", "minilab")
    texts = [o for stage, o in plan if stage == "rationales"]
    for method in ("standard_kd", "tinyllm,standard_kd", "step_by_step"):  # it reads the texts of step_by_step
        left = experiments.narrowed(plan, [f"method={method}"])
        assert [o for stage, o in left if stage == "rationales"] == texts
    plan = experiments.sweeps("table2_ablation", "minilab")
    left = experiments.narrowed(plan, ["ablation=no_llama,no_t5"])
    assert [o for stage, o in left if stage == "rationales"] == [o for stage, o in plan if stage == "rationales"]
    plan = experiments.sweeps("minilab", "minilab")
    (shuffled,) = [o for stage, o in experiments.narrowed(plan, ["ablation=shuffled_rationales"]) if stage == "train"]
    assert "ablation=shuffled_rationales" in shuffled
    with pytest.raises(UserError, match="method=pinto: the experiment has no such cells"):
        experiments.narrowed(plan, ["method=pinto"])
