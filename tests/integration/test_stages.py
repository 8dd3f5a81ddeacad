"""The stages one after the other, on minilab."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tests.integration.conftest import SMALL, Stage, finish, kill_past, read_metrics, weights
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tinyllm import runs
from tinyllm.config import Knows
from tinyllm.data import minilab

RESULT_KEYS = {
    "dataset", "student", "method", "ablation", "teachers", "alpha", "seed", "split", "n", "accuracy", "accuracy_low",
    "accuracy_high", "accuracy_ranked", "unparsed", "valid_accuracy", "train_examples", "wall_seconds", "config_hash",
    "version",
}  # fmt: skip


def test_from_questions_to_a_result_and_back(stage: Stage, tmp_path: Path) -> None:
    code, _, err = stage("rationales")
    assert code == 0, err
    assert not (tmp_path / "store" / "ledger.csv").exists(), "scripted teachers cost nothing"
    code, _, err = stage("train", *SMALL, "hydra.run.dir=run", "evaluation.rationales=true")
    assert code == 0, err
    assert err.count("differs from the paper: data.name=minilab, student.name=tiny and ") == 1
    assert err.count("differs from the paper") == 1, "a run of no row of the paper's tables has one line for all"
    run = tmp_path / "run"
    assert {file.name for file in run.iterdir()} >= {
        "config.yaml", "metrics.csv", "checkpoints", "predictions.jsonl", "result.json",
    }  # fmt: skip
    rows = read_metrics(run)
    assert {"step", "train/loss", "train/loss/answer", "train/loss/terse", "train/loss/wordy", "valid/accuracy"} <= set(
        rows[0]
    )
    assert "train/examples_per_second" in rows[0]
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(10))
    assert sum(bool(row["valid/accuracy"]) for row in rows) == 5  # every 2 of 5 steps, and after the last
    result = json.loads((run / "result.json").read_text())
    assert set(result) >= RESULT_KEYS
    assert (result["n"], result["train_examples"], result["steps"]) == (24, 40, 10)
    others = re.search(r"student.name=tiny and (\d+) other settings", err)
    assert others and int(others[1]) == len(result["deviations"]) - 2 > 5
    assert result["teachers"] == ["terse", "wordy"] and result["alpha"] == {"terse": 3.0, "wordy": 3.0}
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in predictions}) == 24
    assert all(set(row["rationales"]) == {"terse", "wordy"} and len(row["scores"]) == 4 for row in predictions)
    right = sum(row["ranked"] == row["answer"] for row in predictions)
    assert result["accuracy_ranked"] == pytest.approx(right / 24)
    exact = sum(row["generated"].strip() == row["answer"] for row in predictions)
    assert result["accuracy_exact"] == pytest.approx(exact / 24)
    assert all(bool(row["valid/accuracy_exact"]) == bool(row["valid/accuracy"]) for row in rows)
    assert (result["chance"], result["majority"]) == (0.25, None) and all(row["group"] for row in predictions)
    assert (result["precision"], result["device"]) == ("32-true", "cpu")
    assert all(row["ranked"] == row["choices"][row["scores"].index(max(row["scores"]))] for row in predictions)

    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    code, _, err = stage("train", *SMALL, "hydra.run.dir=run", "evaluation.rationales=true")
    assert code == 0 and "finished already" in err
    assert before == {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    assert "store" not in err
    code, _, err = stage("train", *SMALL, "hydra.run.dir=run", "evaluation.rationales=true", "store=other")
    assert code == 0 and "it learned the texts of store=store; for those of other choose another" in err
    code, _, err = stage("train", *SMALL, "hydra.run.dir=run", "seed=1", "data.seed=0")
    assert code == 2 and "hydra.run.dir" in err

    code, _, err = stage("evaluate", "run=run", "evaluation.split=valid")
    assert code == 0, err
    valid = json.loads((run / "evaluation-minilab-valid" / "result.json").read_text())
    assert valid["trained_by"] == result["config_hash"] and valid["precision"] == "32-true"
    assert valid["split"] == "valid" and valid["n"] == 24
    best = max(float(row["valid/accuracy"]) for row in rows if row["valid/accuracy"])
    assert valid["accuracy"] == pytest.approx(best) == pytest.approx(result["valid_accuracy"])

    code, out, err = stage("predict", "run=run", "question='What cuts wood?'", "choices=[saw,spoon]")
    assert code == 0, err
    assert out.splitlines()[0].startswith("answer: ") and "(b) spoon" in out and "wordy: " in out

    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 0, err
    exported = tmp_path / "exported"
    model = AutoModelForSeq2SeqLM.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    best_state = {k.removeprefix("model."): v for k, v in weights(run, "best.ckpt").items()}
    assert all(torch.equal(value, best_state[key]) for key, value in model.state_dict().items())
    assert tokenizer.decode(tokenizer("(b) spoon").input_ids, skip_special_tokens=True) == "(b) spoon"
    card = (exported / "README.md").read_text()
    assert f"{result['accuracy']:.4f}" in card
    assert "chosen by validation accuracy (" in card and "the test split was read once" in card
    assert model.generation_config.max_new_tokens == runs.read_config(run).student.max_target_length
    assert "| terse | terse | Apache-2.0 |" in card and "| wordy | wordy | Apache-2.0 |" in card
    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 2 and "output=" in err
    code, _, err = stage(
        "evaluate", "student.pretrained=exported", "data.limit_test=24", "output=again", "trainer.precision=32-true"
    )
    assert code == 0, err
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert (again["method"], again["accuracy_ranked"]) == ("inference", result["accuracy_ranked"])

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "result.json").write_text('{"foreign": 1}')
    code, out, err = stage("report", "runs=[run,again,broken]", "output=report")
    assert code == 0, err
    assert "broken/result.json" in err and "TinyLLM" in out and "Inference" in out
    assert len((tmp_path / "report" / "results.csv").read_text().splitlines()) == 1 + 3  # run, its evaluation, again


def test_weight_zero_and_ablation_cost_nothing(stage: Stage, tmp_path: Path) -> None:
    """No stream, no column, and no need for the dropped teacher's rationales."""
    code, _, err = stage("rationales", "teachers=minilab", "rationales.splits=[train]", "data.limit_train=40")
    assert code == 0, err
    code, _, err = stage("train", *SMALL, "alpha.wordy=0", "hydra.run.dir=zero")
    assert code == 0, err
    assert "train/loss/wordy" not in read_metrics(tmp_path / "zero")[0]
    code, _, err = stage("train", *SMALL, "ablation=no_llama", "hydra.run.dir=dropped")
    assert code == 0, err
    assert json.loads((tmp_path / "dropped" / "result.json").read_text())["teachers"] == ["terse"]
    first, second = weights(tmp_path / "zero"), weights(tmp_path / "dropped")
    assert all(torch.equal(first[key], second[key]) for key in first if key.startswith("model."))
    code, _, err = stage("train", *SMALL, "method=full_ft", "store=nowhere", "hydra.run.dir=ft")
    assert code == 0, err
    code, _, err = stage("train", *SMALL, "method=one_teacher", "method.teacher=wordy", "hydra.run.dir=single")
    assert code == 0, err
    single = json.loads((tmp_path / "single" / "result.json").read_text())
    assert (single["teachers"], single["alpha"]) == (["wordy"], {"wordy": 3.0})


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps", [pytest.param(12, marks=pytest.mark.nightly, id="first_epoch"), pytest.param(33, id="second_epoch")]
)
def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path, steps: int) -> None:
    """SIGKILL in the middle of an epoch, with dropout on; the last epoch's end is the same to the last bit."""
    finish(tmp_path, "rationales")
    long = [*SMALL, "student.dropout=0.1", "data.limit_train=160", "trainer.max_epochs=2", "trainer.valid_every=0.25"]
    finish(tmp_path, "train", *long, "hydra.run.dir=whole")
    # Past a checkpoint (every 5 steps), in the middle of an epoch of 20.
    killed = kill_past(tmp_path, steps, *long)
    out = finish(tmp_path, "train", *long, "hydra.run.dir=killed")
    assert "resuming from step" in out
    expected, found = weights(tmp_path / "whole"), weights(killed)
    assert all(torch.equal(expected[key], found[key]) for key in expected if key.startswith("model."))
    steps = [int(row["step"]) for row in read_metrics(killed) if row["train/loss"]]
    assert steps == list(range(40))
    fields = ("accuracy", "accuracy_ranked", "valid_accuracy", "steps", "train_loss")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")]
    assert [results[0][f] for f in fields] == [results[1][f] for f in fields]


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["example", "token"])
def test_one_device_accumulation_and_two_processes_give_the_same_update(tmp_path: Path, reduction: str) -> None:
    finish(tmp_path, "rationales", "data.limit_train=40")
    common = [*SMALL, "student.dropout=0", f"loss.reduction={reduction}", "method.teacher=terse"]
    finish(tmp_path, "train", *common, "hydra.run.dir=one")
    finish(tmp_path, "train", *common, "trainer.accumulate_grad_batches=2", "hydra.run.dir=accumulated")
    finish(
        tmp_path, "train", *common, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer.precision=32-true", "hydra.run.dir=two",
    )  # fmt: skip
    one = weights(tmp_path / "one")
    for name in ("accumulated", "two"):
        other = weights(tmp_path / name)
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "accumulated", "two")]
    assert [result["steps"] for result in results] == [10, 10, 10]
    assert len({result["valid_accuracy"] for result in results}) == 1 and results[0]["valid_accuracy"] is not None
    assert set(results[2]["train_loss"]) == {"answer", "terse", "wordy"}
    columns = ("train/loss", "train/loss/answer", "train/loss/terse", "train/loss/wordy")
    logged = [
        [[float(row[name]) for name in columns] for row in read_metrics(tmp_path / name) if row["train/loss"]]
        for name in ("one", "accumulated", "two")
    ]
    for number, rows in enumerate(zip(*logged, strict=True)):
        for row in rows:  # of the same weights at the first step, of nearly the same later
            assert row == pytest.approx(rows[0], rel=1e-3 if number else 1e-5)
            assert row[0] == pytest.approx(row[1] + 3 * sum(row[2:]), rel=1e-6), "answers weigh 1, each teacher 3"
    assert not (tmp_path / "runs").exists() and not (tmp_path / "outputs").exists(), "one folder a run"


@pytest.mark.slow
def test_wandb_offline_records_config_metrics_result_and_predictions(tmp_path: Path) -> None:
    finish(tmp_path, "rationales", "data.limit_train=40")
    finish(
        tmp_path, "train", *SMALL, "logger=wandb", "logger.mode=offline", "logger.project=test", "hydra.run.dir=run"
    )  # fmt: skip
    (recorded,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (file,) = recorded.glob("*.wandb")
    content = file.read_bytes()
    for name in (b"max_source_length", b"train/loss/terse", b"valid/accuracy", b"result/accuracy"):
        assert name in content, name
    (table,) = recorded.glob("files/media/table/predictions*.table.json")
    rows = json.loads(table.read_text())
    assert rows["columns"][:2] == ["id", "question"] and len(rows["data"]) == 24


def test_a_sweep_skips_finished_cells_and_retries_failed_ones(stage: Stage, tmp_path: Path) -> None:
    sweep = ["-m", "method=full_ft,tinyllm", "seed=0,1", *SMALL, "trainer.max_steps=1"]
    code, _, err = stage("train", *sweep)  # no rationales yet: tinyllm can't, full_ft can
    assert code == 2
    assert err.count("teacher terse") == err.count("tinyllm rationales") == 2
    results = sorted(tmp_path.glob("runs/minilab/tiny/*/result.json"))
    assert len(results) == 2 and all("full_ft" in str(path) for path in results)
    assert len(list(tmp_path.glob("runs/minilab/tiny/tinyllm-*/error.txt"))) == 2
    before = [path.stat().st_mtime_ns for path in results]
    for seed in (0, 1):
        assert stage("rationales", f"seed={seed}")[0] == 0
    code, _, err = stage("train", *sweep)
    assert code == 0, err
    assert err.count("finished already") == 2
    assert len(list(tmp_path.glob("runs/minilab/tiny/*/result.json"))) == 4
    assert [path.stat().st_mtime_ns for path in results] == before
    assert not list(tmp_path.glob("runs/minilab/tiny/*/error.txt"))


def test_one_process_at_a_time_is_at_a_run(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one ends with a line, and neither removes nor marks what is not its own."""
    monkeypatch.setattr(runs, "PATIENCE", 0.2)
    call = [*SMALL, "method=full_ft", "trainer.max_steps=1"]
    assert stage("train", *call, "-m")[0] == 0
    (folder,) = tmp_path.glob("runs/minilab/tiny/*")
    (folder / "result.json").unlink()
    for used, extra in ((tmp_path / "run", "hydra.run.dir=run"), (folder, "-m")):
        with runs.alone(used):
            before = sorted(used.iterdir())
            code, _, err = stage("train", *call, extra)
            assert code == 2 and "another process is at this run" in err and "Traceback" not in err
            assert sorted(used.iterdir()) == before
    code, _, err = stage("train", *call, "-m")
    assert code == 0, err


def test_questions_that_changed_are_another_run(stage: Stage, tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "question": f"{i}?", "choices": ["yes", "no"], "answer": "yes", "split": split}
        for i, split in enumerate(["train"] * 8 + ["valid"] * 4 + ["test"] * 4)
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    call = [*SMALL, "method=full_ft", "trainer.max_steps=1", "data=jsonl", "data.root=q.jsonl", "hydra.run.dir=run"]
    assert stage("train", *call)[0] == 0
    code, _, err = stage("train", *call)
    assert code == 0 and "finished already" in err
    file.write_text(file.read_text().replace("3?", "Is it 3?"))
    code, _, err = stage("train", *call)
    assert code == 2 and "q.jsonl: changed since the run in" in err
    (tmp_path / "run" / "result.json").unlink()  # as if it had been killed before
    code, _, err = stage("train", *call)
    assert code == 2 and "q.jsonl: changed since the run in" in err


def test_two_evaluations_of_a_run_both_stay(stage: Stage, tmp_path: Path) -> None:
    assert stage("train", *SMALL, "method=full_ft", "trainer.max_steps=1", "hydra.run.dir=run")[0] == 0
    assert stage("evaluate", "run=run")[0] == 0
    code, _, err = stage("evaluate", "run=run", "data.limit_test=8", "seed=7")
    assert code == 0 and "seed=7 has no effect: the run has its own" in err
    assert stage("evaluate", "run=run", "trainer.precision=bf16-mixed")[0] == 0
    found = [json.loads(file.read_text()) for file in tmp_path.glob("run/evaluation-*/result.json")]
    assert sorted((one["n"], one["precision"]) for one in found) == [
        (8, "32-true"),
        (24, "32-true"),
        (24, "bf16-mixed"),
    ]
    assert len({one["config_hash"] for one in found}) == 3


@pytest.mark.gpu
def test_a_run_on_a_gpu(stage: Stage, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    assert stage("rationales", "data.limit_train=40")[0] == 0
    code, _, err = stage(
        "train", *SMALL, "trainer=gpu", "trainer.precision=bf16-mixed", "hydra.run.dir=run", "student.dropout=0.1"
    )
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 10 and all(0 < loss < 20 for loss in result["train_loss"].values())
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "checkpoints" / "student").dtype is torch.float32


def test_a_pretrained_student_trains_with_dropout(stage: Stage, tmp_path: Path) -> None:
    """transformers loads models in evaluation mode, and Lightning keeps the mode that it finds."""
    assert stage("rationales")[0] == 0
    assert stage("train", *SMALL, "trainer.max_steps=1", "hydra.run.dir=first")[0] == 0
    model = "student.pretrained=first/checkpoints/student"
    first_loss = {}
    for dropout in (0.0, 0.5):
        code, _, err = stage("train", *SMALL, model, f"student.dropout={dropout}", f"hydra.run.dir=run{dropout}")
        assert code == 0, err
        first_loss[dropout] = float(read_metrics(tmp_path / f"run{dropout}")[0]["train/loss"])
    assert first_loss[0.5] != first_loss[0.0]


def test_a_teacher_in_place_of_a_student(stage: Stage, tmp_path: Path) -> None:
    """The scripted teacher guesses on links that it does not know and errs on a share of the others."""
    code, _, err = stage("evaluate", "teacher=wordy", "output=teacher")
    assert code == 0, err
    result = json.loads((tmp_path / "teacher" / "result.json").read_text())
    asked = minilab.generate(0)["test"]
    wrong = sum(minilab.is_wrong(question, "wordy", free=True, knows=Knows.odd) for question in asked)
    assert (result["student"], result["method"], result["n"]) == ("wordy", "teacher", len(asked))
    assert result["accuracy"] == pytest.approx(1 - wrong / len(asked)) and result["accuracy_ranked"] is None
    code, _, err = stage("evaluate", "teacher=wordy", "run=somewhere")
    assert code == 2 and "run=" in err and "teacher=" in err
    code, out, err = stage("report", "runs=teacher", "output=report")
    assert code == 0, err
    assert "teacher" in out


def test_other_settings_and_other_files_are_other_runs(stage: Stage, tmp_path: Path) -> None:
    """A report never averages over settings, and two files of questions never share a run."""
    tiny = [*SMALL, "method=full_ft", "trainer.max_steps=1"]
    code, _, err = stage("train", "-m", *tiny, "optimizer.warmup_steps=0,1", "seed=0,300000000")
    assert code == 0, err
    code, out, err = stage("report", "runs=[runs,runs/minilab]")
    assert code == 0, err
    rows = (tmp_path / "report" / "tables" / "settings.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 and "4 runs" in err, out
    assert "Full fine-tuning" in out and "[optimizer.warmup_steps=" in out
    for name in ("a", "b"):
        lines = [
            {"id": str(i), "question": f"{name} {i}?", "choices": ["yes", "no"], "answer": "yes", "split": split}
            for i, split in enumerate(["train"] * 8 + ["valid"] * 4 + ["test"] * 4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        code, _, err = stage("train", *tiny, "data=jsonl", f"data.root={name}.jsonl")
        assert code == 0 and "finished already" not in err, err
    assert len(list(tmp_path.glob("runs/[ab]/tiny/*/result.json"))) == 2
