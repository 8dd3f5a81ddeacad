"""The methods lora, pinto and standard_kd from questions to an exported student, on minilab."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.integration.conftest import SMALL, Stage, finish, kill_past, weights
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

FEW = ["data.limit_train=40", "data.limit_valid=24", "data.limit_test=24"]


def result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


def columns(folder: Path) -> set[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return set(next(csv.reader(file)))


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_adapters_from_training_to_export(stage: Stage, tmp_path: Path) -> None:
    """Only adapters train; what is evaluated, exported and asked is a plain student with them merged."""
    code, _, err = stage("train", *SMALL, "method=lora", "hydra.run.dir=run")
    assert code == 0, err
    run = tmp_path / "run"
    state = weights(run, "best.ckpt")
    expected = sum(value.numel() for name, value in state.items() if "lora_" in name)
    found = result(run)
    assert found["trained_parameters"] == expected == 3 * 2 * 2 * 16 * 32  # 3 attentions, q and v, two matrices each
    assert found["parameters"] > found["trained_parameters"] and found["method"] == "lora"
    code, _, err = stage("evaluate", "run=run", "trainer.precision=32-true")
    assert code == 0, err
    assert predictions(run / "evaluation-minilab-test") == predictions(run)
    code, out, err = stage("predict", "run=run", "question='What cuts wood?'", "choices=[saw,spoon]")
    assert code == 0 and "(b) spoon" in out, err
    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 0, err
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported")
    base = {name.replace(".base_layer", ""): w for name, w in state.items() if "lora_" not in name}
    adapter = tmp_path / "exported" / "adapter"
    assert {file.name for file in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported")
    plain.load_state_dict({name.removeprefix("model."): w for name, w in base.items()})
    merged = peft.PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    changed = 0
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], weight, rtol=1e-5, atol=1e-7)
        changed += not torch.equal(weight, base[f"model.{name}"])
    assert changed == 3 * 2, "q and v of three attentions"
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "low-rank adapters (rank 16, alpha 32.0, on q, v)" in card
    assert "licence" not in card, "it had no teacher"


def test_adapters_go_with_any_streams(stage: Stage, tmp_path: Path) -> None:
    assert stage("rationales", "data.limit_train=40")[0] == 0
    code, _, err = stage(
        "train", *SMALL, "method=tinyllm_lora", "method.lora.r=2", "method.lora.target_modules=[v]", "hydra.run.dir=run"
    )  # fmt: skip
    assert code == 0, err
    found = result(tmp_path / "run")
    assert (found["method"], found["teachers"]) == ("tinyllm_lora", ["terse", "wordy"])
    assert found["trained_parameters"] == 3 * 2 * 2 * 32
    code, _, err = stage("train", *SMALL, "method=lora", "method.lora.target_modules=[query]", "hydra.run.dir=wrong")
    assert code == 2 and "method.lora.target_modules" in err and "k, lm_head, o, q" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [pytest.param("lora", 12, marks=pytest.mark.nightly), ("pinto", 28)])
def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path, method: str, steps: int) -> None:
    """Dropout of adapters is drawn as before; so are the perturbed rationales, in the second epoch."""
    long = [*SMALL, f"method={method}", "data.limit_train=160", "trainer.valid_every=0.25"]
    if method == "lora":
        long.append("method.lora.dropout=0.3")
    else:
        finish(tmp_path, "rationales", *long[-3:-1], *FEW[1:])
    finish(tmp_path, "train", *long, "hydra.run.dir=whole")
    # Past a checkpoint (every 5 steps), in the middle of an epoch of 20.
    killed = kill_past(tmp_path, steps, *long)
    assert "resuming from step" in finish(tmp_path, "train", *long, "hydra.run.dir=killed")
    expected, found = weights(tmp_path / "whole"), weights(killed)
    assert any("lora_" in name for name in expected) == (method == "lora")
    assert all(torch.equal(expected[name], found[name]) for name in expected if name.startswith("model."))
    same = ("accuracy", "accuracy_ranked", "valid_accuracy", "steps", "train_loss", "train_tokens")
    assert [result(tmp_path / "whole")[key] for key in same] == [result(killed)[key] for key in same]


@pytest.mark.slow
def test_two_processes_train_the_same_adapters(tmp_path: Path) -> None:
    common = [*SMALL, "method=lora", "method.lora.dropout=0"]
    finish(tmp_path, "train", *common, "hydra.run.dir=one")
    finish(
        tmp_path, "train", *common, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer.precision=32-true", "hydra.run.dir=two",
    )  # fmt: skip
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    results = [result(tmp_path / name) for name in ("one", "two")]
    keys = ("steps", "train_tokens", "trained_parameters", "parameters", "valid_accuracy")
    assert [results[0][key] for key in keys] == [results[1][key] for key in keys]
    assert (tmp_path / "two" / "checkpoints" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_rationale_in_every_source_from_training_to_export(stage: Stage, tmp_path: Path) -> None:
    code, _, err = stage("train", *SMALL, "method=pinto", "hydra.run.dir=run")
    assert code == 2 and all(part in err for part in ("40 of 40", "minilab/train", "terse", "tinyllm rationales"))
    assert stage("rationales", "method=pinto", *FEW)[0] == 0
    code, _, err = stage("train", *SMALL, "method=pinto", "hydra.run.dir=run")
    assert code == 0, err
    run = tmp_path / "run"
    assert {"train/loss/answer", "train/loss/counterfactual"} <= columns(run)
    assert result(run)["teachers"] == ["terse"]
    assert "each option is read together with terse's rationale for it" in err and "100% masked or 30% replaced" in err
    assert all(row["generated"] == row["predicted"] == row["ranked"] for row in predictions(run))
    code, _, err = stage("evaluate", "run=run", "trainer.precision=32-true", "output=again")
    assert code == 0, err
    assert predictions(tmp_path / "again") == predictions(run)

    # Another rationale of a test question is another source: of that question alone.
    (file,) = _test_records(tmp_path / "store")
    lines = file.read_text().splitlines()
    changed = json.loads(lines[0])
    changed["text"] = "So it is something else, and the answer is (d)."
    file.write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    code, _, err = stage("evaluate", "run=run", "trainer.precision=32-true", "output=changed")
    assert code == 0, err
    before, after = predictions(run), predictions(tmp_path / "changed")
    moved = [a["id"] for a, b in zip(before, after, strict=True) if a["scores"] != pytest.approx(b["scores"], abs=1e-4)]
    assert moved == [changed["question_id"]]

    code, _, err = stage("evaluate", "run=run", "store=nowhere")
    assert code == 2 and all(part in err for part in ("24 of 24", "minilab/test", "terse", "nowhere"))
    ask = ["predict", "run=run", "question='What cuts wood?'", "choices=[saw,spoon]"]
    code, _, err = stage(*ask)
    assert code == 2 and "rationales=[...]" in err and "2 texts" in err
    code, first, err = stage(*ask, "rationales=[A saw has teeth.,'']")
    assert code == 0, err
    assert first.splitlines()[0].removeprefix("answer: ") in ("saw", "spoon")
    code, second, err = stage(*ask, "rationales=[A saw has teeth.,'Spoons, spoons and spoons.']")
    scores = [[line.split("(")[-1] for line in out.splitlines()[1:3]] for out in (first, second)]
    assert scores[0][0] == scores[1][0] and scores[0][1] != scores[1][1], "of the option whose rationale is another"
    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 0, err
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "a line `Rationale: {rationale}`: what terse writes" in card
    assert "| terse | terse | Apache-2.0 |" in card and "| wordy |" not in card


def _test_records(store: Path) -> list[Path]:
    """The file of terse's texts on test questions."""
    found = []
    for file in sorted(store.rglob("*.jsonl")):
        line = json.loads(file.read_text().splitlines()[0])
        if line.get("teacher") == "terse" and line.get("split") == "test":
            found.append(file)
    return found


@pytest.mark.parametrize(("method", "kind"), [("pinto", "per_option"), ("standard_kd", "solve")])
def test_texts_made_with_the_answer_stand_in_for_no_others(stage: Stage, method: str, kind: str) -> None:
    assert stage("rationales", *FEW)[0] == 0
    code, _, err = stage("train", *FEW, f"method={method}")
    (line,) = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2 and all(part in line for part in ("40 of 40", "minilab/train", "terse", f"({kind})"))


def test_the_teachers_own_answers_are_taught(stage: Stage, tmp_path: Path) -> None:
    assert stage("rationales", "method=standard_kd", "data.limit_train=40")[0] == 0
    code, _, err = stage("train", *SMALL, "method=standard_kd", "method.teacher=wordy", "hydra.run.dir=run")
    assert code == 0, err
    run = tmp_path / "run"
    assert "train/loss/teacher_answer" in columns(run) and "train/loss/answer" not in columns(run)
    assert result(run)["teachers"] == ["wordy"]
    code, out, err = stage("predict", "run=run", "question='What cuts wood?'", "choices=[saw,spoon]")
    assert code == 0 and "wordy: " not in out, "the student has no voice of a teacher that gave labels"
    assert stage("evaluate", "run=run")[0] == 0
    assert stage("export", "run=run", "output=exported")[0] == 0


def test_logits_of_a_teacher_with_the_students_vocabulary(stage: Stage, tmp_path: Path) -> None:
    """The teacher and the student are two runs' students with one tokenizer."""
    for seed, name in ((0, "teacher"), (1, "student")):
        code, _, err = stage(
            "train", *SMALL, "method=full_ft", f"seed={seed}", "data.seed=0", "trainer.max_steps=2",
            f"hydra.run.dir={name}",
        )  # fmt: skip
        assert code == 0, err
    folders = {name: tmp_path / name / "checkpoints" / "student" for name in ("teacher", "student")}
    assert len({AutoTokenizer.from_pretrained(folder).vocab_size for folder in folders.values()}) == 1
    kd = [
        "method=standard_kd_logits", "teachers=flan_t5_xl", f"teachers.flan_t5_xl.model={folders['teacher']}",
        "teachers.flan_t5_xl.revision=null", "teachers.flan_t5_xl.dtype=float32", "prompt.examples=0",
        "teachers.flan_t5_xl.max_new_tokens=4",
    ]  # fmt: skip
    own = [f"student.pretrained={folders['student']}"]
    code, _, err = stage("train", *SMALL, *kd, "hydra.run.dir=scratch")
    assert code == 2 and "student=tiny" in err and "method=standard_kd" in err
    code, _, err = stage("train", *SMALL, *kd, *own, "hydra.run.dir=run")
    assert code == 2 and "flan_t5_xl" in err and "tinyllm rationales" in err
    code, out, err = stage("rationales", *kd, *own, "data.limit_train=40")
    assert code == 0 and "40 to ask" in out, err
    code, _, err = stage("train", *SMALL, *kd, *own, "hydra.run.dir=run")
    assert code == 0, err
    assert "train/loss/teacher_options" in columns(tmp_path / "run")
    code, _, err = stage("train", *SMALL, "method=standard_kd_logits", *own, "hydra.run.dir=scripted")
    assert code == 2 and "terse" in err and "method=standard_kd" in err
