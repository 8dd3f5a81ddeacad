"""Whether a teacher can score options for a student: it must have likelihoods, and the student's vocabulary."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tinyllm.config import StudentConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.pretrained import folder_of, loading, why

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REMEDY = (
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
            f"teacher's: {REMEDY}"
        )
    from transformers import AutoTokenizer

    folder = folder_of(student.pretrained)
    try:
        source, _ = loading(student.revision, student.gguf_file)
        return vocabulary_hash(AutoTokenizer.from_pretrained(folder, **source))
    except Exception as error:  # at a broken file tokenizers raises exceptions of its own
        raise UserError(
            f"student.pretrained={student.pretrained}: no tokenizer could be loaded ({why(error)}); give a folder or a "
            "hub id"
        ) from error


def check_confidence(teacher: TeacherConfig) -> None:
    """Refuse a teacher that can't say how much it expects an answer.

    Raises:
        UserError: for a scripted teacher or one behind a server.
    """
    if not teacher.scores_options:
        raise UserError(
            f"weighting=confidence: expected teachers with engine=transformers, which have likelihoods, found "
            f"{teacher.name} ({teacher.engine} engine): choose another weighting"
        )


def check_scorer(teacher: TeacherConfig) -> None:
    """Refuse a teacher whose likelihoods can't be read.

    Raises:
        UserError: for a scripted teacher or one behind a server.
    """
    if not teacher.scores_options:
        raise UserError(f"teacher {teacher.name} ({teacher.engine} engine) gives no option scores: {REMEDY}")
