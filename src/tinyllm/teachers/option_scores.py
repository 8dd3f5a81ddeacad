"""A teacher's scores of the options of every question: what a student of the same vocabulary learns by logits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm.config import Engine as EngineName
from tinyllm.config import ExperimentConfig, StudentConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.prompts import student_source
from tinyllm.records import Question, Split
from tinyllm.teachers.engines.protocol import Completion, ScoreRequest
from tinyllm.teachers.engines.transformers import TransformersEngine
from tinyllm.teachers.prompt_key import scores_key
from tinyllm.teachers.store import RationaleStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEDY = (
    "take an encoder-decoder teacher of the student's vocabulary (teachers=flan_t5_xl with student=flan_t5_small), or "
    "method=standard_kd, which reads any teacher's own answers"
)


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that are the same for two tokenizers with the same entries under the same ids."""
    entries = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(entries.encode()).hexdigest()[:16]


def student_vocabulary(student: StudentConfig) -> str:
    """`vocabulary_hash` of a pretrained student's tokenizer.

    Raises:
        UserError: for a student from scratch, whose tokenizer no teacher shares, or a tokenizer that can't be loaded.
    """
    if student.pretrained is None:
        raise UserError(
            f"student={student.name} is made from scratch with a tokenizer of its own, and option scores need the "
            f"teacher's: {_REMEDY}"
        )
    from transformers import AutoTokenizer

    try:
        return vocabulary_hash(AutoTokenizer.from_pretrained(student.pretrained, revision=student.revision))
    except (OSError, ValueError) as error:
        raise UserError(
            f"student.pretrained={student.pretrained}: no tokenizer could be loaded "
            f"({(str(error).strip().splitlines() or ['unknown'])[0]}); give a folder or a hub id"
        ) from error


def check_scorer(teacher: TeacherConfig) -> None:
    """Refuse a teacher that can't score options: only a model in this process can.

    Raises:
        UserError: for a scripted teacher or one behind a server.
    """
    if teacher.engine is not EngineName.transformers:
        raise UserError(f"teacher {teacher.name} ({teacher.engine} engine) gives no option scores: {_REMEDY}")


def ask_scores(
    teacher: TeacherConfig, engine: TransformersEngine, vocabulary: str
) -> Callable[[Iterable[Question]], Iterator[list[Completion]]]:
    """How a teacher is asked for scores; a completion's text is their JSON list, in the order of the options.

    The teacher reads what the student reads, without a prefix: context, question and options. No rationale and no
    instruction stands there, so that its distribution over the options is the one that the student is to have.

    Args:
        teacher: for messages.
        engine: runs it.
        vocabulary: `vocabulary_hash` of the student's tokenizer.
    """

    def ask(questions: Iterable[Question]) -> Iterator[list[Completion]]:
        theirs = vocabulary_hash(engine.tokenizer())
        if theirs != vocabulary:
            raise UserError(f"teacher {teacher.name}: expected the student's vocabulary, found another one: {_REMEDY}")
        yield from engine.score(ScoreRequest(q.id, "".join(student_source(q, "")), q.choices) for q in questions)

    return ask


def read_scores(config: ExperimentConfig, name: str, questions: Sequence[Question]) -> dict[str, tuple[float, ...]]:
    """Scores of training questions from the store, by question id.

    Raises:
        UserError: when this teacher can't give scores to this student, or the store lacks some.
    """
    teacher = config.teachers[name]
    check_scorer(teacher)
    key = scores_key(teacher, student_vocabulary(config.student))
    stored_as = teacher.stored_as or teacher.name
    found = RationaleStore(Path(config.store).expanduser()).read(config.data.name, Split.train, stored_as, key)
    lacking = sum(question.id not in found for question in questions)
    if lacking:
        raise UserError(
            f"{lacking} of {len(questions)} {config.data.name}/train questions lack option scores of {name} in "
            f"{config.store}: run 'tinyllm rationales' with the same method, data, teachers and student"
        )
    return {question.id: tuple(json.loads(found[question.id].text)) for question in questions}
