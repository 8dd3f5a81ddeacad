"""What training logs, does to the weights and keeps of them, against sums and steps written by hand."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import HalfPrecision
from tests.conftest import small_t5
from torch import Tensor
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tinyllm.config import Metric, Reduction, StreamLoss, TrainerConfig
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.data.question_batches import QuestionBatch
from tinyllm.data.steps import MicroBatch
from tinyllm.methods import Stream, single_target
from tinyllm.prompts import student_source
from tinyllm.records import Prediction, Question
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
    return F.cross_entropy(model(input_ids=source, labels=target).logits[0], target[0], reduction="none")


def by_hand(model: T5ForConditionalGeneration, step: list[Question], stream: Stream, reduction: Reduction) -> Tensor:
    """A stream's loss on the questions of one step."""
    taught = [question for question in step if question.id in stream.targets]
    texts = [[token_losses(model, q, stream.prefix, t) for t, _ in stream.targets[q.id]] for q in taught]
    if not taught:
        return torch.zeros(())
    if stream.loss is StreamLoss.listwise:
        right = [[text for text, _ in stream.targets[q.id]].index(q.answer) for q in taught]
        scores = [torch.stack([-losses.mean() for losses in own]) for own in texts]
        each = [-F.log_softmax(own, 0)[n] for own, n in zip(scores, right, strict=True)]
        return torch.stack(each).sum() / (len(step) if reduction is Reduction.example else len(taught))
    if reduction is Reduction.token:
        return torch.cat([losses for (losses,) in texts]).mean()
    return torch.stack([losses.mean() for (losses,) in texts]).sum() / len(step)


def planned(student: Student, folder: Path, reduction: Reduction, accumulate: int) -> QuestionDataModule:
    """An epoch of two steps, of four questions and of one."""
    return QuestionDataModule(
        {"train": QUESTIONS, "valid": QUESTIONS}, STREAMS, TOKENIZER, lay_out=student.lay_out,
        max_source_length=200, max_target_length=50, reduction=reduction, batch_size=4,
        accumulate_grad_batches=accumulate, shuffle=False, group_by_length=False, seed=0,
        answer_prefix="predict: ", evaluation_batch_size=3, cache=folder,
    )  # fmt: skip


def trained(
    module: StudentModule,
    folder: Path,
    reduction: Reduction = Reduction.example,
    accumulate: int = 1,
    **settings: object,
) -> tuple[Fit, list[dict[str, str]]]:
    """Train; all rows of `metrics.csv`."""
    data = planned(module.student, folder, reduction, accumulate)
    common = {"precision": "32-true", "batch_size": 4, "log_every": 1, "valid_every": 1.0}
    config = TrainerConfig(**{**common, "accumulate_grad_batches": accumulate, **settings})  # type: ignore[arg-type]
    fitted = fit(module, data, config, folder / "run", [])
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return fitted, list(csv.DictReader(file))


def logged(
    module: StudentModule, folder: Path, reduction: Reduction, accumulate: int
) -> tuple[Fit, list[dict[str, str]]]:
    """Train an epoch; the rows of its two steps in `metrics.csv`."""
    fitted, rows = trained(module, folder, reduction, accumulate)
    rows = [row for row in rows if row["train/loss"]]
    assert [row["step"] for row in rows] == ["0", "1"]
    return fitted, rows


WEIGHTS = {stream.name: stream.weight for stream in STREAMS}


def small_student(folder: Path, dropout: float = 0.0) -> Student:
    return Student(small_t5(vocab=320, dropout=dropout), TOKENIZER, "predict: ", cache=folder)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("reduction", list(Reduction))
def test_what_is_logged_is_what_the_loss_of_a_step_sums(tmp_path: Path, reduction: Reduction, accumulate: int) -> None:
    """The second step has one question: half of it is empty, and no text of owl is in it."""
    plain, student = small_t5(vocab=320), small_student(tmp_path)
    fitted, rows = logged(StudentModule(student, WEIGHTS, lr=0.0), tmp_path, reduction, accumulate)
    for row, step in zip(rows, (QUESTIONS[:4], QUESTIONS[4:]), strict=True):
        expected = {stream.name: by_hand(plain, step, stream, reduction).item() for stream in STREAMS}
        terms = {stream.name: float(row[f"train/loss/{stream.name}"]) for stream in STREAMS}
        assert terms == pytest.approx(expected, rel=1e-5)
        total = sum(stream.weight * terms[stream.name] for stream in STREAMS)
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-6)
    assert fitted.train_loss == pytest.approx(expected, rel=1e-5) and expected["owl"] == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_rate_in_a_row_is_the_one_that_its_step_took(tmp_path: Path, accumulate: int) -> None:
    """Of a warm-up of one step the first has 0: it leaves the weights alone."""
    module = StudentModule(small_student(tmp_path), WEIGHTS, lr=1e-3, warmup_steps=1)
    _, rows = logged(module, tmp_path, Reduction.example, accumulate)
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.0, 1e-3], rel=1e-6)


def test_validation_counts_in_fp32_whatever_the_weights_are(tmp_path: Path) -> None:
    """In bf16, 256 + 1 is 256."""
    module = StudentModule(small_student(tmp_path), WEIGHTS, lr=0.0)
    module = HalfPrecision("bf16-true").convert_module(module)
    module.on_validation_start()
    for index in range(1000):
        module.valid_accuracy.update(float(index % 4 == 0))
    assert float(module.valid_accuracy.compute()) == 0.25


def answered(batch: QuestionBatch, greedy: int, ranked: int, exact: int) -> list[Prediction]:
    """Answers that are right for the first so many of the questions: the parsed one, the ranked one and the text."""
    found = []
    for question in batch.questions:
        place = QUESTIONS.index(question)
        wrong = next(choice for choice in question.choices if choice != question.answer)
        found.append(
            Prediction(
                id=question.id,
                question=question.question,
                choices=question.choices,
                answer=question.answer,
                generated=question.answer if place < exact else "neither",
                predicted=question.answer if place < greedy else wrong,
                ranked=question.answer if place < ranked else wrong,
                scores=tuple(0.0 for _ in question.choices),
            )
        )
    return found


def test_validation_logs_each_accuracy_by_its_own_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five questions, asked in batches of three and of two."""
    module = StudentModule(small_student(tmp_path), WEIGHTS, lr=0.0)
    monkeypatch.setattr(module.student, "answer", lambda batch: answered(batch, greedy=1, ranked=4, exact=2))
    _, rows = trained(module, tmp_path)
    (row,) = (row for row in rows if row["valid/accuracy"])
    names = ("valid/accuracy", "valid/accuracy_ranked", "valid/accuracy_exact")
    assert [float(row[name]) for name in names] == pytest.approx([1 / 5, 4 / 5, 2 / 5], rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "best", "score"),
    [(Metric.accuracy, 2, 4 / 5), (Metric.accuracy_ranked, 3, 1.0), (Metric.accuracy_exact, 1, 3 / 5)],
)
def test_the_weights_are_kept_that_are_best_by_the_chosen_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Metric, best: int, score: float
) -> None:
    """Each accuracy is best at another step, and none at the last one."""
    right = {1: (1, 2, 3), 2: (4, 1, 1), 3: (2, 5, 2), 4: (3, 3, 2)}  # questions by step: greedy, ranked, exact
    module = StudentModule(small_student(tmp_path), WEIGHTS, lr=1e-2)
    seen: dict[int, dict[str, Tensor]] = {}

    def answer(batch: QuestionBatch) -> list[Prediction]:
        step = module.trainer.global_step
        seen[step] = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
        return answered(batch, *right[step])

    monkeypatch.setattr(module.student, "answer", answer)
    fitted, _ = trained(module, tmp_path, max_epochs=2, valid_every=0.5, select_by=metric)
    kept = dict(module.model.named_parameters())
    same = {step: all(torch.equal(kept[name], own[name]) for name in kept) for step, own in seen.items()}
    assert same == {step: step == best for step in (1, 2, 3, 4)}
    assert fitted.valid_accuracy == pytest.approx(score, rel=1e-6)


class PlainDescent(StudentModule):
    """Its step follows the norm of the gradient, as AdamW's first one does not."""

    def configure_optimizers(self) -> torch.optim.Optimizer:  # type: ignore[override]
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("share", [0.2, 5.0])
def test_a_gradient_beyond_the_limit_is_scaled_to_it(tmp_path: Path, share: float, accumulate: int) -> None:
    """Its norm is over all weights and over the whole step; one below the limit is left alone."""
    plain = small_t5(vocab=320)
    terms = [stream.weight * by_hand(plain, QUESTIONS[:4], stream, Reduction.example) for stream in STREAMS]
    torch.stack(terms).sum().backward()
    gradients = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    module = PlainDescent(small_student(tmp_path), WEIGHTS, lr=0.1)
    trained(module, tmp_path, accumulate=accumulate, max_steps=1, gradient_clip=share * norm)
    for name, weight in module.model.named_parameters():
        expected = 0.1 * min(share, 1.0) * gradients[name]
        torch.testing.assert_close(plain.get_parameter(name) - weight, expected, rtol=1e-3, atol=1e-6)


def test_weight_decay_shrinks_matrices_alone(tmp_path: Path) -> None:
    """A first step with it differs from one without by rate * decay * weight, whatever the gradient."""
    lr, decay = 1e-2, 0.5
    before = small_t5(vocab=320)
    modules = [StudentModule(small_student(tmp_path), WEIGHTS, lr=lr, weight_decay=value) for value in (0.0, decay)]
    for number, module in enumerate(modules):
        trained(module, tmp_path / str(number), max_steps=1)
    without, with_decay = (module.model for module in modules)
    for name, weight in before.named_parameters():
        expected = lr * decay * weight if weight.ndim == 2 else torch.zeros_like(weight)
        found = without.get_parameter(name) - with_decay.get_parameter(name)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert {weight.ndim for weight in before.parameters()} == {1, 2}


def test_every_micro_batch_of_a_run_draws_its_own_dropout(tmp_path: Path) -> None:
    """Seed, epoch, batch and process decide, each of them, and nothing else does."""
    student = small_student(tmp_path, dropout=0.5)
    batch = planned(student, tmp_path, Reduction.example, 1).dataset[MicroBatch((0, 1, 2, 3), (0, 1, 2, 3), 1)]

    def loss(seed: int, epoch: int, index: int, rank: int) -> float:
        module = StudentModule(student, WEIGHTS, lr=0.0, seed=seed).train()
        module.trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank, accumulate_grad_batches=100)  # type: ignore[assignment]
        return module.training_step(batch, index).item()

    moments = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    first = {moment: loss(*moment) for moment in moments}
    assert len(set(first.values())) == len(moments)
    assert {moment: loss(*moment) for moment in reversed(moments)} == first


@pytest.mark.parametrize(("accumulate", "rates"), [(1, [16.0, 4.0]), (2, [8.0, 2.0])])
def test_speed_counts_questions_not_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int, rates: list[float]
) -> None:
    """Four questions and one, by a clock that goes on by 1/4 s with every forward pass. An empty pass counts none."""
    clock = itertools.count()
    monkeypatch.setattr("tinyllm.student.module.time", SimpleNamespace(perf_counter=lambda: next(clock) / 4))
    _, rows = logged(StudentModule(small_student(tmp_path), WEIGHTS, lr=0.0), tmp_path, Reduction.example, accumulate)
    assert [float(row["train/examples_per_second"]) for row in rows] == pytest.approx(rates, rel=1e-6)


def test_speed_is_that_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one of two gets two of the step's four questions, and takes 1/4 s."""
    clock = itertools.count()
    monkeypatch.setattr("tinyllm.student.module.time", SimpleNamespace(perf_counter=lambda: next(clock) / 4))
    monkeypatch.setattr(Trainer, "world_size", property(lambda _: 2))
    _, rows = logged(StudentModule(small_student(tmp_path), WEIGHTS, lr=0.0), tmp_path, Reduction.example, 1)
    assert float(rows[0]["train/examples_per_second"]) == pytest.approx(16.0, rel=1e-6)
