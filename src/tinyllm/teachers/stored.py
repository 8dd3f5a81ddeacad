"""From the store to the texts that a run trains on, or reads beside its questions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinyllm.config import ExperimentConfig, Source, Target, TeacherConfig
from tinyllm.data.release import TEACHERS as RECORDED_TEACHERS
from tinyllm.errors import UserError
from tinyllm.methods import Stream, build_streams, chosen_teachers, single_teacher
from tinyllm.parsing import clean_rationale
from tinyllm.records import Question, Rationale, Split
from tinyllm.teachers.audit import for_training
from tinyllm.teachers.option_scores import read_scores
from tinyllm.teachers.prompt_key import prompt_key
from tinyllm.teachers.store import RationaleStore

log = logging.getLogger(__name__)


def training_texts(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """By teacher of the method, question id -> cleaned text of the training questions.

    Raises:
        UserError: when the store lacks records, with the command that asks for them.
    """
    texts: dict[str, dict[str, str]] = {}
    for name in chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop):
        usable = for_training(
            _stored(config, name, questions, Split.train),
            questions,
            reject=config.rationales.reject,
            clean=config.rationales.clean,
        )
        texts[name] = shuffle_rationales(usable, config.seed) if config.rationales.shuffle else dict(usable)
    return texts


def training_streams(config: ExperimentConfig, questions: Sequence[Question]) -> list[Stream]:
    """The method's streams on the training questions, with what the store holds for them.

    Raises:
        UserError: when the store lacks records, with the command that generates them.
    """
    parts = (config.method, config.teachers, config.alpha, config.ablation.drop, questions)
    if not config.method.train:
        return build_streams(*parts, {})
    return build_streams(
        *parts,
        training_texts(config, questions),
        answers=teacher_answers(config, questions),
        scores=option_scores(config, questions),
    )


def teacher_answers(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, str]:
    """Question id -> option that the single teacher chose itself, where its text names one (standard KD).

    Empty where no stream teaches it.

    Raises:
        UserError: when the teacher is told the answer, is dropped by the ablation, or has not been asked.
    """
    if not _teaches(config, Target.teacher_answer):
        return {}
    name = _free_teacher(config, "the teacher's own answers")
    found = _stored(config, name, questions, Split.train)
    return {i: record.answer for i, record in found.items() if record.answer is not None}


def option_scores(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, tuple[float, ...]]:
    """Question id -> the single teacher's score of every option, in nats (standard KD with logits).

    Empty where no stream teaches it.

    Raises:
        UserError: when the teacher can't give scores to this student, or has not been asked for them.
    """
    if not _teaches(config, Target.teacher_options):
        return {}
    return read_scores(config, _not_dropped(config), questions)


def source_rationales(config: ExperimentConfig, questions: Sequence[Question], split: Split) -> dict[str, str]:
    """Question id -> text of the single teacher that stands in the source (PINTO); empty for other methods.

    The text is cleaned as training texts are, but none is rejected: some findings look at the right answer, which
    nobody knows at test. A question whose text is empty has no rationale in its source.

    Raises:
        UserError: when the teacher is told the answer, is dropped by the ablation, or has not been asked.
    """
    if not config.method.source_rationale:
        return {}
    name = _free_teacher(config, "rationales that are read at test")
    found = _stored(config, name, questions, split)
    clean = clean_rationale if config.rationales.clean else str.strip
    texts = {i: text for i, record in found.items() if (text := clean(record.text))}
    if len(texts) < len(questions):
        log.warning(
            "%d of %d %s questions have an empty rationale of %s: their sources stand without one",
            len(questions) - len(texts), len(questions), split, name,
        )  # fmt: skip
    return shuffle_rationales(texts, config.seed) if config.rationales.shuffle else texts


def _teaches(config: ExperimentConfig, target: Target) -> bool:
    return any(stream.target is target and stream.weight != 0 for stream in config.method.streams.values())


def _not_dropped(config: ExperimentConfig) -> str:
    name = single_teacher(config.method, config.teachers)
    if name in config.ablation.drop:
        raise UserError(
            f"method={config.method.name} reads {name}, which ablation={config.ablation.name} drops: "
            "set method.teacher=<another>, or ablation=none"
        )
    return name


def _free_teacher(config: ExperimentConfig, what: str) -> str:
    """The single teacher, of a run whose teachers are not told the answer."""
    name = _not_dropped(config)
    if config.prompt.teacher_forcing:
        raise UserError(
            f"method={config.method.name}: expected {what} to be made without the right answer, found "
            "prompt.teacher_forcing=true (as the published texts are): set prompt.teacher_forcing=false and run "
            "'tinyllm rationales' with it"
        )
    return name


def _stored(config: ExperimentConfig, name: str, questions: Sequence[Question], split: Split) -> dict[str, Rationale]:
    """The teacher's record of every question."""
    found = stored(config, config.teachers[name], split)
    lacking = [question.id for question in questions if question.id not in found]
    if lacking:
        here = "" if split == "train" else f"rationales.splits=[{split}] and "
        raise UserError(
            f"{len(lacking)} of {len(questions)} {config.data.name}/{split} questions lack a {name} rationale in "
            f"{config.store}: run 'tinyllm rationales' with {here}the same data, teachers and prompt options"
        )
    return {question.id: found[question.id] for question in questions}


def stored(config: ExperimentConfig, teacher: TeacherConfig, split: Split) -> dict[str, Rationale]:
    """What the store holds of this teacher under this run's prompt, by question id."""
    key = prompt_key(teacher, config.prompt, config.data.name, recorded=is_recorded(config, teacher))
    store = RationaleStore(Path(config.store).expanduser())
    return store.read(config.data.name, split, teacher.stored_name, key, teacher.sample)


def is_recorded(config: ExperimentConfig, teacher: TeacherConfig) -> bool:
    """Whether this teacher's texts are the published ones: the first sample of the paper's two, on the release.

    They were made with the answer and in-context examples given: without either, the teacher has to be asked.
    """
    return (
        config.rationales.recorded
        and config.prompt.teacher_forcing
        and config.prompt.examples > 0
        and config.data.source is Source.release
        and teacher.sample == 0
        and teacher.stored_name in RECORDED_TEACHERS
    )


def shuffle_rationales(texts: Mapping[str, str], seed: int) -> dict[str, str]:
    """Give every question another question's rationale: the control that shows whether content matters.

    The order of a hash, then a shift by one: no text stays with its question (for two questions or more).
    """
    order = sorted(texts, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    return {order[i]: texts[order[i - 1]] for i in range(len(order))}
