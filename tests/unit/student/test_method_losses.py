"""The loss of standard KD and of PINTO, from streams to the packed batch, against references written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.conftest import small_t5
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tinyllm.config import MethodConfig, Reduction, StreamConfig, StreamLoss, Target, TeacherConfig, WhichTeachers
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.data.steps import MicroBatch
from tinyllm.methods import build_streams
from tinyllm.prompts import student_source
from tinyllm.records import Question
from tinyllm.student.cpu_speed import accelerate
from tinyllm.student.encoder_decoder import lay_out
from tinyllm.student.module import StudentModule
from tinyllm.student.student import Student
from tinyllm.student.tokenizer import train_tokenizer

QUESTIONS = [
    Question("q1", "What keeps soup warm?", ("a flask", "a wide sieve", "ice"), "a flask"),
    Question("q2", "What lifts a piano?", ("a spoon", "a tall crane"), "a tall crane"),
    Question("q3", "What marks the hour?", ("a bell", "a brick", "fog", "a pile of sand"), "a bell"),
]
RATIONALES = {
    "q1": ("A flask holds heat.", "A sieve lets it out.", ""),
    "q2": ("Spoons lift soup.", "Cranes lift heavy things."),
    "q3": ("Bells ring.", "Bricks are silent.", "Fog hides clocks.", "Sand runs."),
}
TOKENIZER = train_tokenizer(
    ["".join(student_source(q, "predict: ", " ".join(RATIONALES[q.id]))) for q in QUESTIONS], max_size=300
)
CONFIG = small_t5().config
TEACHERS = {"owl": TeacherConfig(name="owl", prefix="owl: ")}


def ours(model: T5ForConditionalGeneration, streams, cache: Path, rationales=None, epoch: int = 0) -> torch.Tensor:
    data = QuestionDataModule(
        {"train": QUESTIONS, "valid": QUESTIONS}, streams, TOKENIZER,
        lay_out=lambda pairs: lay_out(pairs, CONFIG), max_source_length=200, max_target_length=50,
        reduction=Reduction.example, batch_size=3, accumulate_grad_batches=1,
        shuffle=False, group_by_length=False, seed=5,
        answer_prefix="predict: ", evaluation_batch_size=3, cache=cache, rationales=rationales,
    )  # fmt: skip
    module = StudentModule(Student(model, TOKENIZER, "predict: "), {s.name: s.weight for s in streams}, lr=1.0)
    return module.losses(data.dataset[MicroBatch((0, 1, 2), (0, 1, 2), 1, epoch)])[0]


def text_loss(model: T5ForConditionalGeneration, source: str, target: str) -> torch.Tensor:
    """Mean token cross-entropy of one text, by transformers."""
    ids = [TOKENIZER(text, add_special_tokens=False)["input_ids"] + [1] for text in (source, target)]
    loss: torch.Tensor = model(input_ids=torch.tensor([ids[0]]), labels=torch.tensor([ids[1]])).loss
    return loss


def model(tied: bool = False) -> T5ForConditionalGeneration:
    made = small_t5(vocab=320, tied=tied)
    assert len(TOKENIZER) <= 320
    return made


def same(found: torch.Tensor, mine: T5ForConditionalGeneration, expected: torch.Tensor, plain) -> None:
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(mine.get_parameter(name).grad, weight.grad, rtol=1e-3, atol=1e-5)


def test_labels_of_the_teacher_are_mixed_with_gold(tmp_path: Path) -> None:
    method = MethodConfig(name="standard_kd", streams={
        "answer": StreamConfig(Target.answer, weight=0.5),
        "teacher_answer": StreamConfig(Target.teacher_answer, WhichTeachers.one, weight=0.25),
    })  # fmt: skip
    own = {"q1": "ice", "q3": "a bell"}  # nothing could be parsed of the answer to q2
    mine, plain = model(), model()
    accelerate(mine)
    streams = build_streams(method, TEACHERS, {}, (), QUESTIONS, {}, answers=own)
    expected = torch.zeros(())
    for question in QUESTIONS:
        source = "".join(student_source(question, "predict: "))
        expected = expected + 0.5 * text_loss(plain, source, question.answer) / 3
        if question.id in own:
            expected = expected + 0.25 * text_loss(plain, source, own[question.id]) / 3
    same(ours(mine, streams, tmp_path), mine, expected, plain)


def test_logits_of_the_teacher_weigh_every_option(tmp_path: Path) -> None:
    method = MethodConfig(name="standard_kd_logits", streams={
        "answer": StreamConfig(Target.answer, weight=0.5),
        "teacher_options": StreamConfig(Target.teacher_options, WhichTeachers.one, weight=0.5, temperature=2.0),
    })  # fmt: skip
    scores = {"q1": (-0.2, -3.0, -1.0), "q2": (-4.0, -0.5), "q3": (-1.0, -1.0, -2.0, -9.0)}
    mine, plain = model(), model()
    accelerate(mine)
    streams = build_streams(method, TEACHERS, {}, (), QUESTIONS, {}, scores=scores)
    expected = torch.zeros(())
    for question in QUESTIONS:
        source = "".join(student_source(question, "predict: "))
        expected = expected + 0.5 * text_loss(plain, source, question.answer) / 3
        total = sum(math.exp(score / 2.0) for score in scores[question.id])
        for option, score in zip(question.choices, scores[question.id], strict=True):
            expected = expected + 0.5 * math.exp(score / 2.0) / total * text_loss(plain, source, option) / 3
    same(ours(mine, streams, tmp_path), mine, expected, plain)


PINTO = MethodConfig(name="pinto", source_rationale=True, streams={
    "answer": StreamConfig(Target.answer, loss=StreamLoss.listwise),
    "counterfactual": StreamConfig(
        Target.answer, weight=0.3, loss=StreamLoss.listwise, smoothing=0.1, mask=1.0
    ),
})  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
def test_pinto_scores_each_option_with_its_own_rationale(tmp_path: Path, tied: bool) -> None:
    """All of a rationale is masked in the counterfactual term, so that the reference needs no draw."""
    mine, plain = model(tied), model(tied)
    accelerate(mine)
    streams = build_streams(PINTO, TEACHERS, {}, (), QUESTIONS, {})
    expected = torch.zeros(())
    for question in QUESTIONS:
        clear, masked = [], []
        bare = TOKENIZER("".join(student_source(question, "predict: ")), add_special_tokens=False)["input_ids"]
        label = TOKENIZER("\nRationale:", add_special_tokens=False)["input_ids"]
        for option, text in zip(question.choices, RATIONALES[question.id], strict=True):
            clear.append(-text_loss(plain, "".join(student_source(question, "predict: ", text)), option))
            hidden = [TOKENIZER.unk_token_id] * len(TOKENIZER(text, add_special_tokens=False)["input_ids"])
            labels = torch.tensor([TOKENIZER(option, add_special_tokens=False)["input_ids"] + [1]])
            source = torch.tensor([[*bare, *(label + hidden if hidden else []), 1]])
            masked.append(-plain(input_ids=source, labels=labels).loss)
        for weight, smoothing, scores in ((1.0, 0.0, clear), (0.3, 0.1, masked)):
            right = torch.tensor([question.choices.index(question.answer)])
            term = F.cross_entropy(torch.stack(scores)[None], right, label_smoothing=smoothing)
            expected = expected + weight * term / 3
    same(ours(mine, streams, tmp_path, {"train": RATIONALES, "valid": RATIONALES}), mine, expected, plain)


def test_spoilt_rationales_change_with_the_epoch(tmp_path: Path) -> None:
    how = MethodConfig(name="pinto", source_rationale=True, streams={
        "answer": StreamConfig(Target.answer, weight=0.0),
        "counterfactual": StreamConfig(Target.answer, loss=StreamLoss.listwise, replace=0.5),
    })  # fmt: skip
    streams = build_streams(how, TEACHERS, {}, (), QUESTIONS, {})
    rationales = {"train": RATIONALES, "valid": RATIONALES}
    losses = [ours(model(), streams, tmp_path, rationales, epoch).item() for epoch in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
