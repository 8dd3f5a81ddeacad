"""What training logs: every stream's term of an optimizer step's loss, against sums written by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from tests.conftest import small_t5
from torch import Tensor
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tinyllm.config import Reduction, StreamLoss, TrainerConfig
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.methods import Stream, single_target
from tinyllm.prompts import student_source
from tinyllm.records import Question
from tinyllm.student.module import StudentModule
from tinyllm.student.student import Student
from tinyllm.student.tokenizer import train_tokenizer
from tinyllm.student.training import Fit, fit

QUESTIONS = [
    Question("q1", "What keeps soup warm?", ("a flask", "a wide sieve", "ice"), "a flask"),
    Question("q2", "What lifts a piano?", ("a spoon", "a tall crane"), "a tall crane"),
    Question("q3", "What marks the hour?", ("a bell", "a brick", "fog", "a pile of sand"), "a bell"),
    Question("q4", "What cuts wood?", ("a saw", "a pile of ice"), "a saw"),
    Question("q5", "What is white?", ("snow", "a crane", "coal"), "snow"),
]
TEXTS = {"q1": "A flask is a bell.", "q2": "A tall crane lifts a piano, and a brick too.", "q4": "A saw cuts."}
STREAMS = [
    Stream("answer", "predict: ", 1.0, single_target({q.id: q.answer for q in QUESTIONS})),
    Stream("owl", "explain: ", 0.5, single_target(TEXTS)),
    Stream(
        "options", "predict: ", 2.0, {q.id: tuple((c, float(c == q.answer)) for c in q.choices) for q in QUESTIONS},
        StreamLoss.listwise,
    ),
]  # fmt: skip
TOKENIZER = train_tokenizer(
    ["".join(student_source(q, "predict: explain: ", TEXTS.get(q.id, ""))) for q in QUESTIONS], max_size=300
)


def token_losses(model: T5ForConditionalGeneration, question: Question, prefix: str, text: str) -> Tensor:
    """Cross-entropy of every token of a text, by transformers."""
    source, target = (
        torch.tensor([TOKENIZER(part, add_special_tokens=False)["input_ids"] + [1]])
        for part in ("".join(student_source(question, prefix)), text)
    )
    with torch.no_grad():
        return F.cross_entropy(model(input_ids=source, labels=target).logits[0], target[0], reduction="none")


def by_hand(model: T5ForConditionalGeneration, step: list[Question], stream: Stream, reduction: Reduction) -> float:
    """A stream's loss on the questions of one step."""
    taught = [question for question in step if question.id in stream.targets]
    texts = [[token_losses(model, q, stream.prefix, t) for t, _ in stream.targets[q.id]] for q in taught]
    if not taught:
        return 0.0
    if stream.loss is StreamLoss.listwise:
        right = [[text for text, _ in stream.targets[q.id]].index(q.answer) for q in taught]
        scores = [torch.stack([-losses.mean() for losses in own]) for own in texts]
        each = [-F.log_softmax(own, 0)[n] for own, n in zip(scores, right, strict=True)]
        return float(sum(each) / (len(step) if reduction is Reduction.example else len(taught)))
    if reduction is Reduction.token:
        return float(torch.cat([losses for (losses,) in texts]).mean())
    return float(sum(losses.mean() for (losses,) in texts) / len(step))


def logged(
    module: StudentModule, student: Student, folder: Path, reduction: Reduction, accumulate: int
) -> tuple[Fit, list[dict[str, str]]]:
    """Train two steps, of four questions and of one; the rows of the steps in `metrics.csv`."""
    data = QuestionDataModule(
        {"train": QUESTIONS, "valid": QUESTIONS}, STREAMS, TOKENIZER, lay_out=student.lay_out,
        max_source_length=200, max_target_length=50, reduction=reduction, batch_size=4,
        accumulate_grad_batches=accumulate, shuffle=False, group_by_length=False, seed=0,
        answer_prefix="predict: ", evaluation_batch_size=3, cache=folder,
    )  # fmt: skip
    settings = TrainerConfig(
        precision="32-true", batch_size=4, accumulate_grad_batches=accumulate, log_every=1, valid_every=1.0
    )
    fitted = fit(module, data, settings, folder / "run", [])
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [row["step"] for row in rows] == ["0", "1"]
    return fitted, rows


WEIGHTS = {stream.name: stream.weight for stream in STREAMS}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("reduction", list(Reduction))
def test_what_is_logged_is_what_the_loss_of_a_step_sums(tmp_path: Path, reduction: Reduction, accumulate: int) -> None:
    """The second step has one question: half of it is empty, and no text of owl is in it."""
    plain, student = small_t5(vocab=320), Student(small_t5(vocab=320), TOKENIZER, "predict: ", cache=tmp_path)
    fitted, rows = logged(StudentModule(student, WEIGHTS, lr=0.0), student, tmp_path, reduction, accumulate)
    for row, step in zip(rows, (QUESTIONS[:4], QUESTIONS[4:]), strict=True):
        expected = {stream.name: by_hand(plain, step, stream, reduction) for stream in STREAMS}
        terms = {stream.name: float(row[f"train/loss/{stream.name}"]) for stream in STREAMS}
        assert terms == pytest.approx(expected, rel=1e-5)
        total = sum(stream.weight * terms[stream.name] for stream in STREAMS)
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-6)
    assert fitted.train_loss == pytest.approx(expected, rel=1e-5) and expected["owl"] == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_rate_in_a_row_is_the_one_that_its_step_took(tmp_path: Path, accumulate: int) -> None:
    """Of a warm-up of one step the first has 0: it leaves the weights alone."""
    student = Student(small_t5(vocab=320), TOKENIZER, "predict: ", cache=tmp_path)
    module = StudentModule(student, WEIGHTS, lr=1e-3, warmup_steps=1)
    _, rows = logged(module, student, tmp_path, Reduction.example, accumulate)
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.0, 1e-3], rel=1e-6)


def test_validation_counts_in_fp32_whatever_the_weights_are(tmp_path: Path) -> None:
    """In bf16, 256 + 1 is 256."""
    student = Student(small_t5(vocab=320), TOKENIZER, "predict: ", cache=tmp_path)
    module = StudentModule(student, WEIGHTS, lr=0.0)
    module = HalfPrecision("bf16-true").convert_module(module)
    module.on_validation_start()
    for index in range(1000):
        module.valid_accuracy.update(float(index % 4 == 0))
    assert float(module.valid_accuracy.compute()) == 0.25
