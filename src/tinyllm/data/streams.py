"""Streams: what a method teaches, as weighted (source prefix, target text) pairs (paper, equations 2 to 4)."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinyllm.config import MethodConfig, Target, TeacherConfig, WhichTeachers
from tinyllm.errors import UserError
from tinyllm.records import Question

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stream:
    """One term of equation 2."""

    name: str
    """`answer`, or the teacher's name."""
    prefix: str
    """Source prefix, with its trailing space."""
    weight: float
    """Factor in the summed loss: 1 for answers, α for a teacher."""
    targets: dict[str, str]
    """Question id -> target text; never an empty text. A question without one is left out of the stream."""


@dataclass(frozen=True, slots=True)
class TargetText:
    """One text, in tokens, that a student is taught or scored on."""

    ids: tuple[int, ...]
    """Token ids with the end token."""
    stream: int = 0
    """Index of its stream; for ranking, of its option."""
    weight: float = 0.0
    """Factor of each of its tokens in the summed loss."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One source and the targets that are decoded from it (one in training, every option in ranking)."""

    source: tuple[int, ...]
    targets: tuple[TargetText, ...]

    @property
    def target_length(self) -> int:
        return sum(len(target.ids) for target in self.targets)


def chosen_teachers(
    method: MethodConfig, teachers: Mapping[str, TeacherConfig], alpha: Mapping[str, float], drop: Sequence[str]
) -> list[str]:
    """Names of the teachers whose rationales a method trains on: those with a weight, and not ablated.

    Raises:
        UserError: for a weight of an unknown teacher or below 0, or a `method.teacher` outside of the set.
    """
    unknown = sorted(name for name, weight in alpha.items() if name not in teachers and weight != 0)
    if unknown:
        raise UserError(
            f"alpha.{unknown[0]}: no such teacher in this set; expected one of {', '.join(teachers) or 'none'}"
        )
    wrong = [name for name, weight in alpha.items() if not (math.isfinite(weight) and weight >= 0)]
    if wrong:
        raise UserError(f"alpha.{wrong[0]}: expected a weight of 0 or more, found {alpha[wrong[0]]}")
    if method.teacher is not None and method.teacher not in teachers:
        raise UserError(f"method.teacher={method.teacher}: expected one of {', '.join(teachers) or 'none'}")
    wanted: set[str] = set()
    for stream in method.streams.values():
        if stream.target is Target.rationale and stream.teachers is WhichTeachers.all:
            wanted.update(teachers)
        elif stream.target is Target.rationale and stream.teachers is WhichTeachers.one:
            if not teachers:
                raise UserError(f"method={method.name}: expected a teacher in the set, found none: choose teachers=...")
            wanted.add(method.teacher or next(iter(teachers)))
    return [name for name in teachers if name in wanted and name not in drop and alpha.get(name, 1.0) > 0]


def answer_prefix(method: MethodConfig) -> str:
    """Prefix of the method's answer stream: with it the student is asked for its answer.

    Raises:
        UserError: when it has none.
    """
    for stream in method.streams.values():
        if stream.target is Target.answer:
            return stream.prefix
    raise UserError(f"method={method.name}: expected a stream with target answer, found none")


def build_streams(
    method: MethodConfig,
    teachers: Mapping[str, TeacherConfig],
    alpha: Mapping[str, float],
    drop: Sequence[str],
    questions: Sequence[Question],
    rationales: Mapping[str, Mapping[str, str]],
) -> list[Stream]:
    """The streams of a method on these questions.

    Args:
        method: its streams; a rationale stream becomes one stream a teacher.
        teachers: the teacher set, by name.
        alpha: weight by teacher; a weight of 0 drops the stream before anything is built.
        drop: teachers that an ablation leaves out.
        questions: training questions.
        rationales: by teacher, question id -> text that may be trained on.

    Raises:
        UserError: as `chosen_teachers`, or when two streams share a prefix.
    """
    active = chosen_teachers(method, teachers, alpha, drop)
    streams: list[Stream] = []
    for name, spec in method.streams.items():
        if spec.weight == 0:
            continue
        if spec.target is Target.answer:
            streams.append(Stream(name, spec.prefix, spec.weight, {q.id: q.answer for q in questions}))
            continue
        for teacher in active:
            texts = rationales.get(teacher, {})
            targets = {q.id: texts[q.id] for q in questions if texts.get(q.id, "").strip()}
            if not targets:
                log.warning("teacher %s has no usable rationale for these questions: its stream is not built", teacher)
                continue
            if len(targets) < len(questions):
                log.warning(
                    "teacher %s: %d of %d training questions have no usable rationale and are left out of its stream",
                    teacher, len(questions) - len(targets), len(questions),
                )  # fmt: skip
            streams.append(Stream(teacher, teachers[teacher].prefix, spec.weight * alpha.get(teacher, 1.0), targets))
    prefixes = [stream.prefix for stream in streams]
    if len(set(prefixes)) < len(prefixes):
        raise UserError(f"expected a prefix of its own for every stream, found {prefixes}: set teachers.<name>.prefix")
    return streams


def shuffle_rationales(texts: Mapping[str, str], seed: int) -> dict[str, str]:
    """Give every question another question's rationale: the control that shows whether content matters.

    The order of a hash, then a shift by one: no text stays with its question (for two questions or more).
    """
    order = sorted(texts, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    return {order[i]: texts[order[i - 1]] for i in range(len(order))}
