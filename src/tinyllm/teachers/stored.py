"""What the store holds for a run: training texts, teachers' answers and option scores, rationales of the sources."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tinyllm import paper
from tinyllm.config import ExperimentConfig, Source, Target, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.methods import (
    BY_VALIDATION,
    Stream,
    build_streams,
    chosen_teachers,
    single_teacher,
    teaches,
    two_samples_of,
)
from tinyllm.parsing import clean_rationale, normalise
from tinyllm.records import Question, Rationale, Split
from tinyllm.teachers.audit import for_training
from tinyllm.teachers.prompt_key import prompt_key, scores_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.vocabulary import check_scorer, student_vocabulary

log = logging.getLogger(__name__)
C = TypeVar("C", bound=ExperimentConfig)


def training_texts(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """By teacher of the method, question id -> cleaned text of the training questions.

    Raises:
        UserError: when records are missing from the store, with the command that asks for them.
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
        UserError: when the teacher is given the right answer, is dropped by the ablation, or has not been asked.
    """
    if not teaches(config.method, Target.teacher_answer):
        return {}
    name = _unforced_teacher(config, "the teacher's own answers")
    found = _stored(config, name, questions, Split.train)
    return {i: record.answer for i, record in found.items() if record.answer is not None}


def option_scores(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, tuple[float, ...]]:
    """Question id -> the single teacher's score of every option, in nats (standard KD with logits).

    Empty where no stream teaches it.

    Raises:
        UserError: when the teacher can't give scores to this student, or has not been asked for them.
    """
    if not teaches(config.method, Target.teacher_options):
        return {}
    name = _undropped_single_teacher(config)
    teacher = config.teachers[name]
    check_scorer(teacher)
    key = scores_key(teacher, student_vocabulary(config.student))
    found = RationaleStore(Path(config.store).expanduser()).read(
        config.data.name, Split.train, teacher.stored_name, key
    )
    missing = sum(question.id not in found for question in questions)
    if missing:
        raise UserError(
            f"{missing} of {len(questions)} {config.data.name}/train questions lack option scores of {name} in "
            f"{config.store}: run 'tinyllm rationales' with the same method, data, teachers and student"
        )
    return {question.id: tuple(json.loads(found[question.id].text)) for question in questions}


def source_rationales(config: ExperimentConfig, questions: Sequence[Question], split: Split) -> dict[str, str]:
    """Question id -> text of the single teacher that stands in the source (PINTO); empty for other methods.

    The text is cleaned as training texts are, but none is rejected: some findings look at the right answer, which
    nobody knows at test. A question whose text is empty has no rationale in its source.

    Raises:
        UserError: when the teacher is given the right answer, is dropped by the ablation, or has not been asked.
    """
    if not config.method.source_rationale:
        return {}
    name = _unforced_teacher(config, "rationales that are read at test")
    found = _stored(config, name, questions, split)
    clean = clean_rationale if config.rationales.clean else str.strip
    texts = {i: text for i, record in found.items() if (text := clean(record.text))}
    if len(texts) < len(questions):
        log.warning(
            "%d of %d %s questions have an empty rationale of %s: their sources stand without one",
            len(questions) - len(texts), len(questions), split, name,
        )  # fmt: skip
    return shuffle_rationales(texts, config.seed) if config.rationales.shuffle else texts


def _undropped_single_teacher(config: ExperimentConfig) -> str:
    name = single_teacher(config.method, config.teachers)
    if name in config.ablation.drop:
        raise UserError(
            f"method={config.method.name} reads {name}, which ablation={config.ablation.name} drops: "
            "set method.teacher=<another>, or ablation=none"
        )
    return name


def _unforced_teacher(config: ExperimentConfig, what: str) -> str:
    """The single teacher, of a run whose teachers are not given the right answer."""
    name = _undropped_single_teacher(config)
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
    missing = sum(question.id not in found for question in questions)
    if missing:
        option = "" if split is Split.train else f"rationales.splits=[{split}] and "
        raise UserError(
            f"{missing} of {len(questions)} {config.data.name}/{split} questions lack a rationale of teacher {name} in "
            f"{config.store}, written as this run needs it: run 'tinyllm rationales' with {option}the same data, "
            "teachers, method, ablation and prompt options"
        )
    return {question.id: found[question.id] for question in questions}


def stored(config: ExperimentConfig, teacher: TeacherConfig, split: Split) -> dict[str, Rationale]:
    """What the store holds of this teacher under this run's prompt, by question id."""
    recorded = is_recorded(config, teacher)
    key = prompt_key(teacher, config.prompt, config.data.name, config.data.topic, recorded=recorded)
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
        and teacher.stored_name in paper.TEACHERS
    )


def resolve_strongest_teacher(config: C, valid: Sequence[Question]) -> C:
    """The configuration with `ablation.strongest` carried out (`ablation=no_diverse_teachers`; paper, table 2).

    Its teacher set is then the first and the second text of the strongest teacher.

    Args:
        config: returned as it is where `ablation.strongest` is null.
        valid: the validation questions.

    Raises:
        UserError: for a teacher outside of the set, or when answers that show the strongest are missing from the store.
    """
    name = config.ablation.strongest
    if name is None:
        return config
    return two_samples_of(config, best_on_validation(config, valid) if name == BY_VALIDATION else name)


def best_on_validation(config: ExperimentConfig, valid: Sequence[Question]) -> str:
    """Name of the teacher with the most right answers to the validation questions, asked without the answer.

    Of equals, the first of the set.

    Raises:
        UserError: when answers are missing from the store, with the command that asks for them.
    """
    free = replace(config, prompt=replace(config.prompt, teacher_forcing=False))
    right: dict[str, int] = {}
    for name, teacher in config.teachers.items():
        answers = stored(free, teacher, Split.valid)
        missing = sum(question.id not in answers for question in valid)
        if missing:
            raise UserError(
                f"ablation.strongest=valid: {name} has not answered {missing} of {len(valid)} validation questions "
                f"itself: run 'tinyllm evaluate teacher={name} evaluation.split=valid' with the same data and prompt, "
                "or name the strongest: ablation.strongest=<teacher>"
            )
        right[name] = sum(normalise(answers[q.id].answer or "") == normalise(q.answer) for q in valid)
    best = max(right, key=right.__getitem__)
    counts = ", ".join(f"{name} {count} of {len(valid)}" for name, count in right.items())
    log.info("strongest teacher on validation: %s (%s)", best, counts)
    return best


def shuffle_rationales(texts: Mapping[str, str], seed: int) -> dict[str, str]:
    """Give every question another question's rationale: the control that shows whether content matters.

    The order of a hash, then a shift by one: no text stays with its question (for two questions or more).
    """
    order = sorted(texts, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    return {order[i]: texts[order[i - 1]] for i in range(len(order))}
