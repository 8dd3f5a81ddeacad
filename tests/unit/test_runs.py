"""The files of a run folder: they come back as they went, and a foreign or broken one is said to be so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tinyllm import runs
from tinyllm.config import (
    DataConfig,
    Engine,
    EvaluateConfig,
    ExperimentConfig,
    MethodConfig,
    Reduction,
    Schedule,
    Source,
    StreamConfig,
    StudentConfig,
    Target,
    TeacherConfig,
    WhichTeachers,
)
from tinyllm.errors import UserError
from tinyllm.records import Prediction, Result


def config() -> ExperimentConfig:
    return ExperimentConfig(
        seed=3,
        data=DataConfig(name="own", source=Source.jsonl, root="/somewhere/own.jsonl", limit_test=5),
        student=StudentConfig(name="tiny", architecture={"vocab_size": 100, "feed_forward_proj": "relu", "rate": 0.5}),
        teachers={
            "owl": TeacherConfig(name="owl", model="m/owl", prefix="explain: "),
            "fox": TeacherConfig(name="fox", model="m/fox", prefix="rationale: "),
        },
        alpha={"owl": 0.5, "fox": 1.0},
        method=MethodConfig(
            name="tinyllm",
            streams={
                "answer": StreamConfig(Target.answer),
                "rationale": StreamConfig(Target.rationale, WhichTeachers.all),
            },
        ),
    )


RESULT = Result(
    dataset="own",
    student="tiny",
    method="tinyllm",
    ablation="none",
    teachers=("owl", "fox"),
    alpha={"owl": 0.5, "fox": 1.0},
    seed=3,
    split="test",
    n=8,
    accuracy=0.5,
    accuracy_low=0.2,
    accuracy_high=0.8,
    accuracy_ranked=0.75,
    accuracy_ranked_low=0.4,
    accuracy_ranked_high=0.9,
    unparsed=1,
    valid_accuracy=None,
    train_examples=40,
    wall_seconds=1.5,
    config_hash="0123456789ab",
    version="0.0.0",
    subsets={"visible": {"n": 4, "accuracy": 0.5}},
    context_truncated=2,
    steps=10,
    train_loss={"answer": 1.25},
)


def test_a_configuration_comes_back_as_it_went(tmp_path: Path) -> None:
    runs.write_config(config(), tmp_path / "new" / "run")
    found = runs.read_config(tmp_path / "new" / "run")
    assert found == config()
    assert type(found.data) is DataConfig and found.data.source is Source.jsonl
    assert runs.hash_of(found) == runs.hash_of(config())


def test_a_call_of_evaluate_changes_the_keys_of_data_that_it_names(tmp_path: Path) -> None:
    runs.write_config(config(), tmp_path)
    call = EvaluateConfig(data=DataConfig(name="minilab", source=Source.builtin, root="/moved", limit_test=7))
    data = config().data

    def evaluated(*overrides: str) -> DataConfig:
        return runs.with_evaluation_of(tmp_path, call, overrides).data

    assert evaluated("evaluation.split=valid") == data
    assert evaluated("data.root=/moved") == replace(data, root="/moved")
    assert evaluated("data.root=/moved", "+data.limit_test=7") == replace(data, root="/moved", limit_test=7)
    assert evaluated("data=minilab", "data.limit_test=7") == call.data


def test_a_folder_without_a_configuration_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml"):
        runs.read_config(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "seed: 1\nunknown_key: 2\n",
        "seed: many\n",
        "optimizer: {lr: high}\n",
        "data: {source: moon}\n",
        "",  # nothing in it: no dataset, no student
    ],
)
def test_a_configuration_of_another_version_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: .*\(.+\)") as caught:
        runs.read_config(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["seed: [1\n", "data:\n\t- torn"])
def test_a_configuration_that_is_no_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: "):
        runs.read_config(tmp_path)


def test_a_result_comes_back_as_it_went(tmp_path: Path) -> None:
    runs.write_result(RESULT, tmp_path)
    assert runs.read_result(tmp_path / "result.json") == RESULT
    row = json.loads((tmp_path / "result.json").read_text())
    assert row == json.loads(json.dumps(asdict(RESULT)))
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]  # no draft is left


def test_a_result_of_a_later_version_is_read_without_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**asdict(RESULT), "carbon": 12}))
    assert runs.read_result(path) == RESULT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON"),
        ('{"dataset": "own"', "JSON"),
        ("[1, 2]", "object"),
        ('{"foreign": 1}', r"accuracy, accuracy_high, .*student"),
        (json.dumps({k: v for k, v in asdict(RESULT).items() if k != "config_hash"}), "config_hash"),
        (json.dumps({k: v for k, v in asdict(RESULT).items() if k != "wall_seconds"}), "wall_seconds"),
    ],
)
def test_a_broken_or_foreign_result_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        runs.read_result(path)
    assert str(path) in str(caught.value)


def test_a_result_whose_teachers_are_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**asdict(RESULT), "teachers": None}))
    with pytest.raises(ValueError, match="not a result of this version"):
        runs.read_result(path)


def test_bytes_that_are_no_text_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "result.json", tmp_path / "none.json"):
        with pytest.raises(ValueError, match="JSON"):
            runs.read_result(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.write_result(RESULT, tmp_path)
    before = (tmp_path / "result.json").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.write_result(replace(RESULT, n=9), tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


def test_predictions_are_a_line_a_question(tmp_path: Path) -> None:
    rows = [
        Prediction(
            "1", "Was ist \u00fcber\nuns?", ("Himmel", "Erde"), "Himmel", "himmel", "Himmel", "Erde", (-0.5, -0.25)
        ),
        Prediction(
            "2", "Up?", ("yes", "no"), "no", "?", None, "no", (-1.0, 0.0), "hidden", {"owl": "It is \u2191."}, "up"
        ),
    ]
    runs.write_predictions(iter(rows), tmp_path)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first == {
        "id": "1",
        "question": "Was ist \u00fcber\nuns?",
        "choices": ["Himmel", "Erde"],
        "answer": "Himmel",
        "generated": "himmel",
        "predicted": "Himmel",
        "ranked": "Erde",
        "scores": [-0.5, -0.25],
    }
    assert second["predicted"] is None
    assert (second["subset"], second["rationales"], second["group"]) == ("hidden", {"owl": "It is \u2191."}, "up")
    assert runs.read_predictions(tmp_path) == rows


def changed(*changes: Callable[[ExperimentConfig], Any]) -> str:
    values = config()
    for change in changes:
        change(values)
    return runs.hash_of(values)


def put(path: str, value: Any) -> Callable[[ExperimentConfig], None]:
    *parents, last = path.split(".")

    def change(values: ExperimentConfig) -> None:
        target: Any = values
        for name in parents:
            target = target[name] if isinstance(target, dict) else getattr(target, name)
        if isinstance(target, dict):
            target[last] = value
        else:
            setattr(target, last, value)

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("store", "/elsewhere/store"),
        ("cache", "/elsewhere/cache"),
        ("trainer.devices", 4),
        ("trainer.num_nodes", 2),
        ("trainer.accelerator", "gpu"),
        ("trainer.strategy", "ddp"),
        ("trainer.strategy_options", {"stage": 2}),
        ("trainer.log_every", 1),
        ("trainer.progress_bar", False),
        ("evaluation.batch_size", 1),
        ("logger.name", "wandb"),
        ("logger.project", "another"),
        ("rationales.retry", ["cut"]),
        ("teachers.owl.base_url", "http://node7:8000/v1"),
        ("teachers.owl.concurrency", 3),
        ("teachers.owl.timeout", 9.0),
        ("teachers.owl.price_prompt", 1.5),
        ("teachers.owl.licence", "MIT"),
        ("teachers.owl.batch_size", 3),
    ],
)
def test_paths_devices_and_loggers_leave_the_hash(path: str, value: Any) -> None:
    assert changed(put(path, value)) == runs.hash_of(config())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 4),
        ("alpha.owl", 0.6),
        ("alpha.elk", 1.0),
        ("optimizer.lr", 1e-4),
        ("optimizer.schedule", Schedule.constant),
        ("loss.reduction", Reduction.token),
        ("trainer.batch_size", 16),
        ("trainer.max_steps", 10),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.shuffle", False),
        ("data.name", "other"),
        ("data.seed", 1),
        ("data.train_fraction", 0.25),
        ("data.limit_test", 6),
        ("student.architecture.vocab_size", 101),
        ("student.pretrained", "a/folder"),
        ("student.max_source_length", 99),
        ("teachers.owl.prefix", "say: "),
        ("teachers.owl.model", "m/owl2"),
        ("method.name", "full_ft"),
        ("method.streams.rationale.weight", 2.0),
        ("ablation.drop", ["owl"]),
        ("prompt.teacher_forcing", False),
        ("rationales.clean", False),
        ("rationales.shuffle", True),
        ("evaluation.split", "valid"),
    ],
)
def test_what_shapes_a_result_changes_the_hash(path: str, value: Any) -> None:
    assert changed(put(path, value)) != runs.hash_of(config())


def test_the_hash_does_not_follow_the_order_of_keys_or_the_stage() -> None:
    def turn(values: ExperimentConfig) -> None:
        values.alpha = dict(reversed(values.alpha.items()))
        values.student.architecture = dict(reversed(values.student.architecture.items()))

    assert changed(turn) == runs.hash_of(config())
    stage = EvaluateConfig(**vars(config()), run="runs/one", output="elsewhere")
    assert runs.hash_of(stage) == runs.hash_of(config())
    assert len(runs.hash_of(config())) == 12


def test_a_root_names_the_questions_of_ones_own_alone() -> None:
    """The paper's datasets may lie anywhere; a user's own file or folder is the dataset itself."""
    moved = put("data.root", "/elsewhere/own.jsonl")
    assert changed(moved) != runs.hash_of(config())
    release = put("data.source", Source.release)
    assert changed(release, moved) == changed(release)
    hub, of_the_paper = put("data.source", Source.hub), put("data.name", "obqa")
    assert changed(hub, of_the_paper, moved) == changed(hub, of_the_paper)
    assert changed(hub, moved) != changed(hub)


def test_a_teachers_own_accuracy_is_one_result_with_and_without_teacher_forcing() -> None:
    call = EvaluateConfig(**vars(config()))
    teacher = call.teachers["owl"]
    free = replace(call, prompt=replace(call.prompt, teacher_forcing=False))
    assert runs.teacher_folder(call, teacher) == runs.teacher_folder(free, teacher)


def test_an_evaluation_takes_no_folder_of_another_or_of_a_run(tmp_path: Path) -> None:
    runs.check_output(tmp_path / "new", "abc")
    evaluated = tmp_path / "evaluated"
    runs.write_config(config(), evaluated)
    runs.write_result(replace(RESULT, config_hash="abc"), evaluated)
    runs.check_output(evaluated, "abc")
    with pytest.raises(UserError, match=r"output=.*the evaluation of other settings"):
        runs.check_output(evaluated, "def")
    (evaluated / runs.CHECKPOINTS).mkdir()
    with pytest.raises(UserError, match=r"output=.*a training run"):
        runs.check_output(evaluated, "abc")
    runs.write_config(config(), tmp_path / "unfinished")
    with pytest.raises(UserError, match="a training run"):
        runs.check_output(tmp_path / "unfinished", "abc")
    runs.check_output(tmp_path / "unfinished", runs.hash_of(config()))  # its own, on a disk that was full
    (tmp_path / "unfinished" / runs.METRICS).touch()
    with pytest.raises(UserError, match="a training run"):
        runs.check_output(tmp_path / "unfinished", runs.hash_of(config()))


SEPARATORS = "\n \r \r\n \t \x0b \x0c \x1c \x1d \x1e \x85 \xa0 \u2028 \u2029 \ufeff"
"""All that `str.splitlines` or a file in text mode takes for the end of a line, and more."""


@pytest.mark.parametrize("text", [*SEPARATORS.split(" "), SEPARATORS, "", "\\", '"'])
def test_predictions_come_back_whatever_their_texts_hold(tmp_path: Path, text: str) -> None:
    rows = [
        Prediction(
            f"{number}{text}", f"?{text}", (f"a{text}", "b"), f"a{text}", f"x{text}y",
            predicted, ranked, scores, subset, {"owl": text} if text else {},
        )
        for number, (predicted, ranked, scores, subset) in enumerate(
            [(f"a{text}", "b", (-0.5, -0.25), "hidden"), (None, None, (), "")]
        )
    ]  # fmt: skip
    runs.write_predictions(rows, tmp_path)
    assert runs.read_predictions(tmp_path) == rows
    assert (tmp_path / "predictions.jsonl").read_bytes().count(b"\n") == len(rows)


def test_no_predictions_come_back_as_none(tmp_path: Path) -> None:
    runs.write_predictions([], tmp_path)
    assert runs.read_predictions(tmp_path) == []


@pytest.mark.parametrize(
    "text", ['{"id": "q"', "[1]", "3", '{"id": "q", "choices": ["a"], "scores": []}', '{"id": "q"}', "\ud800"]
)
def test_broken_predictions_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        runs.read_predictions(tmp_path)


def test_missing_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"predictions\.jsonl"):
        runs.read_predictions(tmp_path)


def test_a_mistake_leaves_another_runs_files_and_those_that_are_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runs.write_config(config(), folder)
    (folder / "metrics.csv").write_text("step")
    runs.discard(folder, "another hash")
    runs.discard(folder, None)
    with runs.alone(folder):
        runs.discard(folder, runs.hash_of(config()))
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "metrics.csv"]
    runs.discard(folder, runs.hash_of(config()))
    assert list(folder.iterdir()) == []


def test_files_of_ones_own_are_noted_and_compared(tmp_path: Path) -> None:
    """Parquet files, and texts of a teacher: what is in them is not in the hash."""
    own = config()
    (tmp_path / "data").mkdir()
    questions, texts = tmp_path / "data" / "train.parquet", tmp_path / "texts.jsonl"
    for file in (questions, texts):
        file.write_text("first")
    own.data.source, own.data.root = Source.hub, str(questions.parent)
    own.teachers["owl"].engine, own.teachers["owl"].model = Engine.file, str(texts)
    runs.check_files(own, tmp_path / "run")
    runs.check_files(own, tmp_path / "run")
    for file in (questions, texts):
        file.write_text("second")
        with pytest.raises(UserError, match=f"{file.name}: changed since the run in .*run began"):
            runs.check_files(own, tmp_path / "run")
        file.write_text("first")
    own.method.streams = {name: s for name, s in own.method.streams.items() if s.target is Target.answer}
    texts.write_text("second")
    runs.check_files(own, tmp_path / "run")  # nothing is read of it
