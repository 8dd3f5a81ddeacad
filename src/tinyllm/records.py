"""The records that the stages exchange: frozen dataclasses, joined by question id, never by position."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum


class Split(StrEnum):
    """Part of a dataset."""

    train = "train"
    valid = "valid"
    test = "test"


SPLITS = tuple(Split)


class PromptKind(StrEnum):
    """How a teacher is asked about a question; one form of prompt that differs in one thing each."""

    forced = "forced"
    """The right answer is given: teacher forcing (paper, section 3.2)."""
    unforced = "unforced"
    """The same without the answer; no conclusion is asked for, and none is kept (paper, section 4.4)."""
    solve = "solve"
    """Nothing is given, and the text ends in the teacher's own answer (Hsieh et al. 2023)."""
    per_option = "per_option"
    """A text for each option that says why it might be right, whichever is (PINTO; Wang et al. 2022)."""


class Finding(StrEnum):
    """A reason to distrust a text; `rationales.reject` names those that keep it out of training."""

    empty = "empty"
    """Nothing is there, or nothing is left after cleaning."""
    cut = "cut"
    """Cut off at the token limit; for a published text: it does not end with the end of a sentence."""
    repeats = "repeats"
    """A sentence of five words or more stands twice, or the same eight words in a row three times."""
    wrong_options = "wrong_options"
    """Names wrong options and not the right one."""
    other_answer = "other_answer"
    """Concludes with a wrong option."""
    answer_only = "answer_only"
    """Says the answer and next to nothing else."""
    debris = "debris"
    """A piece of a prompt or of a chat template, code, or another language."""
    duplicate = "duplicate"
    """The text of another question, too."""


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question (paper, section 3.1).

    Raises:
        ValueError: with fewer than two choices, an empty field, or an answer that is none of the choices.
    """

    id: str
    """Unique within its dataset, over all splits."""
    question: str
    choices: tuple[str, ...]
    answer: str
    """The text of the right option. Two options may be equal; both are right then."""
    context: str = ""
    """Passage that the question is about; the only part of a source that may be truncated."""
    subset: str = ""
    """Named part of the split that is also scored apart (minilab: `visible`, `hidden`); empty for none."""
    group: str = ""
    """Questions of one group are not independent, such as one fact asked twice; empty: a group of its own."""

    def __post_init__(self) -> None:
        if not self.id or not self.question.strip():
            raise ValueError(f"question {self.id!r}: expected a non-empty id and question text")
        if len(self.choices) < 2 or not all(choice.strip() for choice in self.choices):
            raise ValueError(f"question {self.id!r}: expected two or more non-empty choices, found {self.choices!r}")
        if self.answer not in self.choices:
            raise ValueError(f"question {self.id!r}: answer {self.answer!r} is none of its choices {self.choices!r}")

    @property
    def answer_index(self) -> int:
        """Position of the (first) right option in `choices`."""
        return self.choices.index(self.answer)


@dataclass(frozen=True, slots=True)
class Rationale:
    """One text that a teacher wrote for one question: a line of the rationale store (paper, equation 1)."""

    dataset: str
    split: Split
    question_id: str
    teacher: str
    sample: int
    """0 for the first text of this teacher under this prompt, 1 for a second one, ..."""
    prompt_key: str
    """Hash of everything that shapes the text: template, teacher forcing, examples, decoding, model and revision."""
    text: str
    """The rationale as the teacher wrote it, before any cleaning."""
    answer: str | None
    """Option that the teacher chose itself; None where the answer was given (teacher forcing) or can't be parsed."""
    finish_reason: str
    """`stop`, `length` (cut at the token limit), `recorded` or `error`."""
    tokens: int
    """Completion tokens; 0 where unknown."""
    created: str
    """UTC, ISO 8601."""
    option: int | None = None
    """Position of the option that the text is about, where the teacher was asked about each (`per_option`)."""
    asked: str | None = None
    """Hash of the question as it was asked; see `asked_hash`. None in records of earlier versions."""

    @property
    def key(self) -> str:
        """What the text is about; see `text_key`."""
        return text_key(self.question_id, self.option)


def text_key(question_id: str, option: int | None = None) -> str:
    """Names a question, or one option of it: what a teacher writes one text about."""
    return question_id if option is None else f"{question_id} option {option}"


def asked_hash(question: Question) -> str:
    """Of context, question, options and answer: what a stored text was written about."""
    parts = [question.context, question.question, list(question.choices), question.answer]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model made of one question: a line of `predictions.jsonl`."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    generated: str
    """Greedy generation, as it came; the text of the ranked option, where each option has a source of its own (PINTO)
    and there is none to generate from."""
    predicted: str | None
    """Option that `generated` names; None where it names none. Equal to `ranked` where nothing was generated."""
    ranked: str | None
    """Option with the highest mean token log-likelihood; None for a teacher, whose likelihoods are not asked."""
    scores: tuple[float, ...]
    """Mean token log-likelihood of each option, in nats, in the order of `choices`; empty for a teacher."""
    subset: str = ""
    rationales: dict[str, str] = field(default_factory=dict)
    """The student's own rationale in each teacher's voice; empty unless asked for."""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Accuracies over some questions: shares of 1.

    Intervals are 95% Wilson intervals, at the effective sample size where questions come in groups.
    """

    n: int
    """Questions scored."""
    accuracy: float
    """By greedy generation (the paper's metric)."""
    accuracy_low: float
    accuracy_high: float
    accuracy_ranked: float | None
    """By mean token log-likelihood of the options; None where no option was ranked."""
    accuracy_ranked_low: float | None
    accuracy_ranked_high: float | None
    unparsed: int
    """Generations that name no option; they count as wrong."""
    accuracy_exact: float | None = None
    """By equality of the generated text and the answer without outer whitespace, as in the authors' code; None for a
    teacher, whose text is no bare answer, and in results of earlier versions."""
    accuracy_exact_low: float | None = None
    accuracy_exact_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Scores):
    """What a run comes to: `result.json`."""

    dataset: str
    student: str
    method: str
    ablation: str
    teachers: tuple[str, ...]
    alpha: dict[str, float]
    seed: int
    split: Split
    valid_accuracy: float | None
    """Best validation accuracy, by which the checkpoint was chosen (`selected_by`); None where nothing was trained."""
    train_examples: int
    wall_seconds: float
    config_hash: str
    version: str
    subsets: dict[str, dict[str, float]] = field(default_factory=dict)
    """The fields of `Scores` on each named subset of the split."""
    context_truncated: int = 0
    """Scored questions whose context was shortened to fit `student.max_source_length`."""
    steps: int = 0
    """Optimizer steps taken."""
    train_loss: dict[str, float] = field(default_factory=dict)
    """Last logged training loss of each stream, in nats."""
    parameters: int = 0
    """Weights of the student."""
    trained_parameters: int = 0
    """Weights that training changed: fewer than `parameters` with LoRA, 0 where nothing was trained."""
    weights: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """What the weighting gave each teacher's texts: teacher -> their `mean`, `spread` (standard deviation) and share of
    `zeros`, over the questions it has a text on; one number each, or one an epoch where weights are learned. Empty
    where all are 1."""
    selected_by: str = "accuracy"
    """Which accuracy `valid_accuracy` is: a `config.Metric`."""
    valid_examples: int = 0
    """Validation questions that `valid_accuracy` is of; 0 where unknown."""
    train_tokens: int = 0
    """Source and target tokens that training has read, over all streams and epochs: what it cost, on any machine."""
    train_seconds: float = 0.0
    """Of `wall_seconds`, those of training and validation."""
    deviations: dict[str, list[str]] = field(default_factory=dict)
    """Key -> [the paper's value, this run's], where this run's settings are not the paper's (section 4.1)."""
    chance: float | None = None
    """Expected accuracy of a blind choice: the mean of 1 / options over the scored questions; None in earlier results.
    """
    majority: float | None = None
    """Share of the scored questions whose answer is the most frequent one of the training questions; None where
    questions differ in their options, and in earlier results."""
    precision: str = ""
    """What `trainer.precision` came to, such as `bf16-mixed`; empty for teachers, and in earlier results."""
    device: str = ""
    """`cpu`, or the name of the GPU; empty where `precision` is."""
    trained_by: str = ""
    """`config_hash` of the run that trained the student, of an evaluation apart from it (`tinyllm evaluate run=`)."""
