"""What the store holds for a run: training texts, teachers' answers and option scores, rationales of the sources."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tinyllm import paper
from tinyllm.config import Engine, ExperimentConfig, Source, Target, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.methods import (
    BY_VALIDATION,
    Stream,
    alpha_of,
    build_streams,
    chosen_teachers,
    prompt_kinds,
    rationale_kind,
    single_teacher,
    teaches,
    two_samples_of,
)
from tinyllm.parsing import clean_rationale, is_right, without_conclusion
from tinyllm.records import Finding, PromptKind, Question, Rationale, Split, asked_hash, text_key
from tinyllm.runs import is_own
from tinyllm.teachers.audit import audit, for_training
from tinyllm.teachers.pool import pool_name
from tinyllm.teachers.prompt_key import confidence_key, prompt_key, scores_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.vocabulary import check_confidence, check_scorer, student_vocabulary

log = logging.getLogger(__name__)
C = TypeVar("C", bound=ExperimentConfig)


def training_texts(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """By teacher of the method, question id -> cleaned text of the training questions.

    Raises:
        UserError: when records are missing from the store, with the command that asks for them.
    """
    texts: dict[str, dict[str, str]] = {}
    kind = rationale_kind(config.method, config.prompt)
    for name in chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop):
        usable = for_training(
            _stored(config, name, kind, questions, Split.train),
            questions,
            kind=kind,
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
    if config.teachers and teaches(config.method, Target.rationale) and not chosen_teachers(*parts[:4]):
        log.warning("no teacher is left: method=%s is full fine-tuning here", config.method.name)
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
        UserError: when the teacher is dropped by the ablation, or has not been asked.
    """
    if not teaches(config.method, Target.teacher_answer):
        return {}
    name = _undropped_single_teacher(config)
    found = _stored(config, name, PromptKind.solve, questions, Split.train)
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
    found = stored_scores(config, name)
    missing = sum(question.id not in found for question in questions)
    if missing:
        raise UserError(
            f"{missing} of {len(questions)} {config.data.name}/train questions lack option scores of {name} in "
            f"{config.store}: run 'tinyllm rationales' with the same method, data, teachers and student"
        )
    check_unchanged(config, questions, found, Split.train)
    return {question.id: tuple(json.loads(found[question.id].text)) for question in questions}


def source_rationales(
    config: ExperimentConfig, questions: Sequence[Question], split: Split
) -> dict[str, tuple[str, ...]]:
    """Question id -> for each option the single teacher's case for it, which stands in that option's source (PINTO).

    Empty for other methods. The texts are cleaned as training texts are, and lose what they say the answer is; none is
    rejected, for some findings look at the right answer, which nobody knows at test. An option whose text is empty has
    no rationale in its source.

    Raises:
        UserError: when the teacher is dropped by the ablation, or has not been asked.
    """
    if not config.method.source_rationale:
        return {}
    name = _undropped_single_teacher(config)
    found = _stored(config, name, PromptKind.per_option, questions, split)
    clean = clean_rationale if config.rationales.clean else str.strip

    def case_for(question: Question, option: int) -> str:
        return without_conclusion(clean(found[text_key(question.id, option)].text), question.choices)

    texts = {q.id: tuple(case_for(q, option) for option in range(len(q.choices))) for q in questions}
    empty = sum(not text for by_option in texts.values() for text in by_option)
    if empty:
        log.warning(
            "%d options of %d %s questions have an empty rationale of %s: their sources stand without one",
            empty, len(questions), split, name,
        )  # fmt: skip
    return shuffle_by_options(texts, config.seed) if config.rationales.shuffle else texts


def solved(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, dict[str, bool]]:
    """By teacher of the method, question id -> whether it solves the training question without being told the answer.

    Raises:
        UserError: when the teachers have not been asked.
    """
    found: dict[str, dict[str, bool]] = {}
    for name in chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop):
        records = _stored(config, name, PromptKind.solve, questions, Split.train)
        found[name] = {q.id: is_right(records[q.id].answer, q.answer) for q in questions}
    return found


def expectations(
    config: ExperimentConfig, questions: Sequence[Question], texts: Mapping[str, Collection[str]]
) -> dict[str, dict[str, float]]:
    """By teacher, question id -> its mean token log-likelihood (nats) of the right answer after its own text.

    Args:
        config: of the run.
        questions: training questions.
        texts: by teacher, ids of the questions that are wanted.

    Raises:
        UserError: when a teacher can't give likelihoods, or has not been asked for them.
    """
    kind = rationale_kind(config.method, config.prompt)
    store = RationaleStore(Path(config.store).expanduser())
    found: dict[str, dict[str, float]] = {}
    for name, ids in texts.items():
        teacher = config.teachers[name]
        check_confidence(teacher)
        key = confidence_key(teacher, stored_key(config, teacher, kind))
        records = store.read(config.data.name, Split.train, teacher.stored_name, key, teacher.sample)
        missing = sum(i not in records for i in ids)
        if missing:
            raise UserError(
                f"weighting=confidence: {missing} of {len(ids)} {config.data.name}/train texts of teacher {name} lack "
                f"a score in {config.store}: run 'tinyllm rationales weighting=confidence' with the same options"
            )
        found[name] = {i: float(json.loads(records[i].text)[0]) for i in ids}
    return found


def conflicts(config: ExperimentConfig, questions: Sequence[Question]) -> set[str]:
    """Ids of the training questions on which a teacher's text contradicts the answer.

    It concludes on another option, or names wrong options and not the right one: a text without a conclusion says what
    it stands for only so. Some that are cut, or rule options out, are among these.

    Raises:
        UserError: when records are missing from the store.
    """
    kind = rationale_kind(config.method, config.prompt)
    found: set[str] = set()
    for name in chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop):
        records = _stored(config, name, kind, questions, Split.train)
        audited = audit(records, questions, clean=config.rationales.clean)  # as it is trained on
        found |= {i for i, reasons in audited.items() if reasons & {Finding.other_answer, Finding.wrong_options}}
    return found


def _undropped_single_teacher(config: ExperimentConfig) -> str:
    name = single_teacher(config.method, config.teachers)
    if name in config.ablation.drop:
        raise UserError(
            f"method={config.method.name} reads {name}, which ablation={config.ablation.name} drops: "
            "set method.teacher=<another>, or ablation=none"
        )
    return name


def _stored(
    config: ExperimentConfig, name: str, kind: PromptKind, questions: Sequence[Question], split: Split
) -> dict[str, Rationale]:
    """The teacher's record of every question, or of every option, by its key."""
    found = stored(config, config.teachers[name], kind, split)
    if kind is PromptKind.per_option:
        keys = {text_key(q.id, option): q.id for q in questions for option in range(len(q.choices))}
    else:
        keys = {question.id: question.id for question in questions}
    missing = {question_id for key, question_id in keys.items() if key not in found}
    if missing:
        teacher = config.teachers[name]
        if teacher.engine is Engine.scripted and config.data.source is not Source.builtin:
            raise UserError(
                f"teachers: {name} is scripted and explains minilab alone, not {config.data.name}: choose others with "
                "teachers=..., or method=full_ft, which reads none"
            )
        store = RationaleStore(Path(config.store).expanduser())
        others = store.prompt_keys(config.data.name, split, teacher.stored_name)
        there = "; there are texts of it that were asked for with other options" if others and not found else ""
        option = "" if split is Split.train else f"rationales.splits=[{split}] and "
        raise UserError(
            f"{len(missing)} of {len(questions)} {config.data.name}/{split} questions have no rationale of teacher "
            f"{name} of the kind that this run needs ({kind}) in {config.store}{there}: run 'tinyllm rationales' with "
            f"{option}the same data, teachers, method, ablation, weighting, prompt and seed options"
        )
    check_unchanged(config, questions, found, split)
    return {key: found[key] for key in keys}


def check_unchanged(
    config: ExperimentConfig, questions: Iterable[Question], found: Mapping[str, Rationale], split: Split
) -> None:
    """Refuse texts about other questions than a dataset of the user's own has under their ids.

    Ids of the paper's datasets and of minilab say which question it is, even where two sources word it differently.

    Raises:
        UserError: naming the first.
    """
    if not is_own(config.data.source, config.data.name):
        return
    asked = {record.question_id: record.asked for record in found.values() if record.asked is not None}
    changed = [q.id for q in questions if q.id in asked and asked[q.id] != asked_hash(q)]
    if changed:
        raise UserError(
            f"{config.data.name}/{split}: {len(changed)} of the questions ({changed[0]} is the first) have other "
            "words, options or answers than when teachers were asked about them: give them new ids, or choose another "
            "data.name or store"
        )


def stored(config: ExperimentConfig, teacher: TeacherConfig, kind: PromptKind, split: Split) -> dict[str, Rationale]:
    """What the store holds of this teacher under this run's prompt, by `Rationale.key`."""
    store = RationaleStore(Path(config.store).expanduser())
    key = stored_key(config, teacher, kind)
    return store.read(config.data.name, split, teacher.stored_name, key, teacher.sample)


def stored_scores(config: ExperimentConfig, name: str) -> dict[str, Rationale]:
    """What the store holds of a teacher's option scores for this student, by question id.

    Raises:
        UserError: the teacher can't give scores to this student.
    """
    teacher = config.teachers[name]
    check_scorer(teacher)
    key = scores_key(teacher, student_vocabulary(config.student))
    store = RationaleStore(Path(config.store).expanduser())
    return store.read(config.data.name, Split.train, teacher.stored_name, key)


def stored_key(config: ExperimentConfig, teacher: TeacherConfig, kind: PromptKind) -> str:
    """The prompt key of this teacher's texts under this run's prompt."""
    store = RationaleStore(Path(config.store).expanduser())
    return prompt_key(
        teacher,
        config.prompt,
        kind,
        config.data.name,
        pool=pool_name(store, teacher, config.prompt, config.data),
        recorded=is_recorded(config, teacher, kind),
    )


def is_recorded(config: ExperimentConfig, teacher: TeacherConfig, kind: PromptKind) -> bool:
    """Whether this teacher's texts are the published ones: the first sample of the paper's two, on the release.

    They were made with the answer and in-context examples given: for any other prompt the teacher has to be asked.
    """
    return (
        kind is PromptKind.forced
        and config.rationales.recorded
        and config.prompt.examples > 0
        and config.data.source is Source.release
        and teacher.sample == 0
        and teacher.stored_name in paper.TEACHERS
    )


def resolve_strongest_teacher(config: C, valid: Sequence[Question]) -> C:
    """The configuration with `ablation.strongest` carried out (`ablation=no_diverse_teachers`; paper, table 2).

    Its teacher set is then the first and the second text of the strongest teacher.

    Args:
        config: returned as it is where `ablation.strongest` is null, or the method learns from no teacher.
        valid: the validation questions.

    Raises:
        UserError: for a teacher outside of the set, or when answers that show the strongest are missing from the store.
    """
    name = config.ablation.strongest
    learns = prompt_kinds(config.method, config.prompt) or teaches(config.method, Target.teacher_options)
    if name is None or not learns:
        return config
    return two_samples_of(config, best_on_validation(config, valid) if name == BY_VALIDATION else name)


def best_on_validation(config: ExperimentConfig, valid: Sequence[Question]) -> str:
    """Name of the teacher with the most right answers to the validation questions, asked without the answer.

    Of equals, the first of the set. Teachers that are dropped or have a weight of 0 are not in question.

    Raises:
        UserError: when answers are missing from the store, with the command that asks for them.
    """
    right: dict[str, int] = {}
    for name, teacher in config.teachers.items():
        if name in config.ablation.drop or alpha_of(config.alpha, name) == 0:
            continue
        answers = stored(config, teacher, PromptKind.solve, Split.valid)
        missing = sum(question.id not in answers for question in valid)
        if missing:
            raise UserError(
                f"ablation.strongest=valid: {name} has not answered {missing} of {len(valid)} validation questions "
                f"itself: run 'tinyllm evaluate teacher={name} teacher.temperature={teacher.temperature:g} "
                f"teacher.max_new_tokens={teacher.max_new_tokens} evaluation.split=valid' with the same data and "
                "prompt, or name the strongest: ablation.strongest=<teacher>"
            )
        check_unchanged(config, valid, answers, Split.valid)
        right[name] = sum(is_right(answers[q.id].answer, q.answer) for q in valid)
    if not right:
        raise UserError("ablation.strongest=valid: expected a teacher that is kept, with a weight above 0, found none")
    best = max(right, key=right.__getitem__)
    counts = ", ".join(f"{name} {count} of {len(valid)}" for name, count in right.items())
    log.info("strongest teacher on validation: %s (%s)", best, counts)
    return best


def shuffle_rationales(texts: Mapping[str, str], seed: int) -> dict[str, str]:
    """Give every question another question's rationale: the control that shows whether content matters.

    The order of a hash, then a shift by one: no text stays with its question (for two questions or more).
    """
    return {question_id: texts[donor] for question_id, donor in _donors(texts, seed).items()}


def shuffle_by_options(texts: Mapping[str, tuple[str, ...]], seed: int) -> dict[str, tuple[str, ...]]:
    """The same for texts by option: a question gets those of another one that has as many options."""
    by_count: dict[int, list[str]] = {}
    for question_id, by_option in texts.items():
        by_count.setdefault(len(by_option), []).append(question_id)
    donors = [donor for ids in by_count.values() for donor in _donors(ids, seed).items()]
    return {question_id: texts[donor] for question_id, donor in donors}


def _donors(ids: Iterable[str], seed: int) -> dict[str, str]:
    order = sorted(ids, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    return {order[i]: order[i - 1] for i in range(len(order))}
