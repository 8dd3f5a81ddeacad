"""`experiments/archive.py`: finished runs in one file, and back."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.conftest import load_script

from tinyllm import runs
from tinyllm.errors import UserError
from tinyllm.records import Prediction, Question

archive = load_script(Path(__file__).parents[2] / "experiments" / "archive.py")
FOLDER = Path("runs/own/tiny/full_ft-seed0-0a")
QUESTIONS = [
    Question(id="a", question="Which is red?", choices=("blood", "grass"), answer="blood"),
    Question(id="b", question="Which\u2028is wet?", choices=("sand", "rain", "sand"), answer="rain", group="g"),
]


def prediction(question: Question, generated: str, predicted: str | None, ranked: str) -> Prediction:
    return Prediction(
        id=question.id, question=question.question, choices=question.choices, answer=question.answer,
        generated=generated, predicted=predicted, ranked=ranked, scores=(-1.25,) * len(question.choices),
        group=question.group, rationales={"terse": "Because."},
    )  # fmt: skip


PREDICTIONS = [prediction(QUESTIONS[0], "grass", "grass", "blood"), prediction(QUESTIONS[1], "0", None, "sand")]


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of one finished run; the current folder has no runs any more."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (FOLDER / "checkpoints").mkdir(parents=True)
    (FOLDER / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    runs.write_predictions(PREDICTIONS, FOLDER)
    (FOLDER / "result.json").write_text("{}")
    (FOLDER / "config.yaml").write_text("seed: 0\n")
    unfinished = FOLDER.with_name("full_ft-seed1-0b")
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text("seed: 1\n")
    path: Path = tmp_path / "report" / "runs.tar.xz"
    assert archive.pack([FOLDER, unfinished], path) == 1
    monkeypatch.chdir(tmp_path / "there")
    return path


def test_a_run_comes_back_without_weights(packed: Path) -> None:
    assert archive.unpack({FOLDER: lambda: QUESTIONS, Path("runs/other"): list}, packed) == [FOLDER]
    assert runs.read_predictions(FOLDER) == PREDICTIONS
    assert {p.name for p in FOLDER.iterdir()} == {"config.yaml", "predictions.jsonl", "result.json"}
    (FOLDER / "result.json").write_text("mine")
    assert archive.unpack({FOLDER: lambda: QUESTIONS}, packed) == [], "a run that is finished here stays"
    assert (FOLDER / "result.json").read_text() == "mine"


def test_no_text_of_a_question_is_in_the_archive(packed: Path) -> None:
    with tarfile.open(packed) as tar:
        text = "".join(file.read().decode() for info in tar if (file := tar.extractfile(info)))
    for word in ("is red", "blood", "grass", "wet", "rain", "sand", "weights"):
        assert word not in text
    assert "Because." in text


def test_packing_again_replaces_a_run_and_keeps_the_others(packed: Path) -> None:
    before = packed.read_bytes()
    assert archive.pack([FOLDER], packed) == 1, "not there: the archive keeps it"
    assert packed.read_bytes() == before
    other = FOLDER.with_name("full_ft-seed2-0c")
    for folder, seed in ((FOLDER, 5), (other, 2)):
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"seed": seed}))
    assert archive.pack([FOLDER, other], packed) == 2
    with tarfile.open(packed) as tar:
        assert sorted(tar.getnames()) == [f"{FOLDER}/result.json", f"{other}/result.json"]


@pytest.mark.parametrize(
    ("questions", "found"),
    [
        (QUESTIONS[:1], "b: .* no such question"),
        ([QUESTIONS[0], replace(QUESTIONS[1], choices=("rain", "sand", "sand"))], "b: .* another one under this id"),
    ],
)
def test_questions_of_other_data_are_refused(packed: Path, questions: list[Question], found: str) -> None:
    with pytest.raises(UserError, match=found):
        archive.unpack({FOLDER: lambda: questions}, packed)
    assert not FOLDER.exists()


def test_no_archive_and_a_broken_one_are_told(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(UserError, match=r"runs\.tar\.xz: expected an archive of runs"):
        archive.unpack({FOLDER: list}, packed)
    packed.unlink()
    with pytest.raises(UserError, match=r"no such file.*--pack"):
        archive.unpack({FOLDER: list}, packed)
