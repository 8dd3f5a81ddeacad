"""Streams: what a method teaches, as weighted (source prefix, target text) pairs (paper, equations 2 to 4)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tinyllm.config import (
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    StreamConfig,
    StreamLoss,
    Target,
    TeacherConfig,
    Weighting,
    WhichTeachers,
)
from tinyllm.errors import UserError
from tinyllm.parsing import is_right
from tinyllm.records import PromptKind, Question

log = logging.getLogger(__name__)
C = TypeVar("C", bound=ExperimentConfig)

BY_VALIDATION = "valid"
"""Value of `ablation.strongest` that takes the teacher with the most right answers of its own on validation."""

Texts = tuple[tuple[str, float], ...]
"""What one question's target is: texts with their shares, which add up to 1. Never empty, nor is a text."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One term of equation 2."""

    name: str
    """As in the method, or the teacher's name where it teaches a teacher's rationales."""
    prefix: str
    """Source prefix, with its trailing space."""
    weight: float
    """Factor in the summed loss; of a rationale stream, times α."""
    targets: dict[str, Texts]
    """Question id -> texts; a question without one is left out of the stream.

    Where the loss is listwise, or the student reads each option with a rationale of its own, the texts are all options
    in the order of the question's choices, some with a share of 0.
    """
    loss: StreamLoss = StreamLoss.tokens
    """`tokens`: sum of the texts' cross-entropies, each times its share. `listwise`: cross-entropy of the shares with
    the softmax over the texts' mean token log-likelihoods."""
    mask: float = 0.0
    """Share of the tokens of the source's rationale that are masked."""
    replace: float = 0.0
    """Share of them that are replaced with random tokens; of both, a question and epoch gets one, by a fair coin."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """Question id -> factor of its loss (`weighting`), 0 or more; 1 where none is given. At 0 nothing is computed."""

    def __str__(self) -> str:
        parts = [f"weight {self.weight:g}", f"prefix {self.prefix!r}", f"{len(self.targets)} targets"]
        if self.loss is not StreamLoss.tokens:
            parts.append(f"{self.loss} loss")
        ways = [(self.mask, "masked"), (self.replace, "replaced")]
        perturbed = " or ".join(f"{share:.0%} {way}" for share, way in ways if share)
        if perturbed:
            parts.append(f"tokens of the source's rationale: {perturbed}")
        if self.importance:
            given = [self.importance.get(question_id, 1.0) for question_id in self.targets]
            parts.append(f"importance {sum(given) / len(given):.3f} on average, 0 for {given.count(0)}")
        return f"stream {self.name}: {', '.join(parts)}"


def single_target(texts: Mapping[str, str]) -> dict[str, Texts]:
    """Targets of one text a question."""
    return {question_id: ((text, 1.0),) for question_id, text in texts.items()}


def single_teacher(method: MethodConfig, teachers: Mapping[str, TeacherConfig]) -> str:
    """Name of the teacher of a single-teacher method: `method.teacher`, or the set's first.

    Raises:
        UserError: for a `method.teacher` outside of the set, or an empty set.
    """
    if method.teacher is not None and method.teacher not in teachers:
        raise UserError(f"method.teacher={method.teacher}: expected one of {', '.join(teachers) or 'none'}")
    if not teachers:
        raise UserError(f"method={method.name}: expected a teacher in the set, found none: choose teachers=...")
    return method.teacher or next(iter(teachers))


def teaches(method: MethodConfig, target: Target) -> bool:
    """Whether a stream of the method with a weight has this target."""
    return any(stream.target is target and stream.weight != 0 for stream in method.streams.values())


def uses_single_teacher(method: MethodConfig) -> bool:
    """Whether a method takes answers, option scores or source rationales from `single_teacher`."""
    return method.source_rationale or any(
        teaches(method, target) for target in (Target.teacher_answer, Target.teacher_options)
    )


def prompt_kind(stream: StreamConfig, prompt: PromptConfig) -> PromptKind:
    """How the teachers of a rationale stream are asked."""
    unforced = stream.prompt is PromptKind.forced and not prompt.teacher_forcing
    return PromptKind.unforced if unforced else stream.prompt


def prompt_kinds(method: MethodConfig, prompt: PromptConfig) -> list[PromptKind]:
    """All kinds of texts that a method reads, at training or at test."""
    streams = [stream for stream in method.streams.values() if stream.weight != 0]
    kinds = {prompt_kind(stream, prompt) for stream in streams if stream.target is Target.rationale}
    if teaches(method, Target.teacher_answer):
        kinds.add(PromptKind.solve)
    if method.source_rationale:
        kinds.add(PromptKind.per_option)
    return [kind for kind in PromptKind if kind in kinds]


def kinds_to_ask(config: ExperimentConfig) -> list[PromptKind]:
    """All kinds of texts that a run reads: those of its method, and solutions where its weighting goes by them."""
    kinds = set(prompt_kinds(config.method, config.prompt))
    if weighs_texts(config) and config.weighting.name in (Weighting.correct, Weighting.router):
        kinds.add(PromptKind.solve)
    return [kind for kind in PromptKind if kind in kinds]


def weighs_texts(config: ExperimentConfig) -> bool:
    """Whether a run's method teaches teachers' texts, which a weighting could weigh."""
    return config.method.train and teaches(config.method, Target.rationale)


def rationale_kind(method: MethodConfig, prompt: PromptConfig) -> PromptKind:
    """The kind of the texts that a method's rationale streams teach.

    Raises:
        UserError: for several kinds, or options' texts, which are for sources.
    """
    streams = [stream for stream in method.streams.values() if stream.target is Target.rationale and stream.weight != 0]
    kinds = sorted({prompt_kind(stream, prompt) for stream in streams})
    if len(kinds) > 1 or PromptKind.per_option in kinds:
        raise UserError(
            f"method={method.name}: expected rationale streams of one kind (forced, unforced or solve), found "
            f"{', '.join(kinds)}: set method.streams.<name>.prompt"
        )
    return kinds[0] if kinds else PromptKind.forced


def alpha_of(alpha: Mapping[str, float], teacher: str) -> float:
    """The stream weight of a teacher; 1 where none is given."""
    return alpha.get(teacher, 1.0)


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
    if method.teacher is not None:
        single_teacher(method, teachers)
    wanted: set[str] = set()
    for stream in method.streams.values():
        if stream.target is Target.rationale and stream.teachers is WhichTeachers.all:
            wanted.update(teachers)
        elif stream.target is Target.rationale and stream.teachers is WhichTeachers.one:
            wanted.add(single_teacher(method, teachers))
    return [name for name in teachers if name in wanted and name not in drop and alpha_of(alpha, name) > 0]


def answer_prefix(method: MethodConfig) -> str:
    """Prefix of the method's answer stream: with it the student is asked for its answer.

    Raises:
        UserError: when it has none.
    """
    for stream in method.streams.values():
        if stream.target is Target.answer:
            return stream.prefix
    raise UserError(f"method={method.name}: expected a stream with target answer, found none")


def answer_stream(method: MethodConfig, questions: Sequence[Question]) -> Stream:
    """The right answers alone, at weight 1: what a student that is not trained is asked."""
    return Stream("answer", answer_prefix(method), 1.0, single_target({q.id: q.answer for q in questions}))


def build_streams(
    method: MethodConfig,
    teachers: Mapping[str, TeacherConfig],
    alpha: Mapping[str, float],
    drop: Sequence[str],
    questions: Sequence[Question],
    rationales: Mapping[str, Mapping[str, str]],
    *,
    answers: Mapping[str, str] | None = None,
    scores: Mapping[str, Sequence[float]] | None = None,
) -> list[Stream]:
    """The streams of a method on these questions.

    Args:
        method: its streams; a rationale stream becomes one stream a teacher.
        teachers: the teacher set, by name.
        alpha: weight by teacher; a weight of 0 drops the stream before anything is built.
        drop: teachers that an ablation leaves out.
        questions: training questions.
        rationales: by teacher, question id -> text that may be trained on.
        answers: question id -> option that the single teacher chose itself; only streams of `teacher_answer` read it.
        scores: question id -> the single teacher's score of every option, as mean token log-likelihoods in nats; only
            streams of `teacher_options` read it.

    Raises:
        UserError: as `chosen_teachers`, for a stream whose settings can't work, when a rationale stream has the prefix
            of another stream, or when a method that trains has nothing to learn.
    """
    active = chosen_teachers(method, teachers, alpha, drop)
    streams: list[Stream] = []
    for name, spec in method.streams.items():
        if spec.weight == 0:
            continue
        check_stream(method, name, spec)
        if spec.target is not Target.rationale:
            targets = _option_targets(name, spec, questions, answers or {}, scores or {})
            if spec.loss is StreamLoss.listwise or method.source_rationale:
                targets = {
                    q.id: _listed(q.choices, targets[q.id], spec.smoothing) for q in questions if q.id in targets
                }
            if targets:
                streams.append(Stream(name, spec.prefix, spec.weight, targets, spec.loss, spec.mask, spec.replace))
            continue
        for teacher in active:
            texts = rationales.get(teacher, {})
            targets = single_target({q.id: texts[q.id] for q in questions if texts.get(q.id, "").strip()})
            if not targets:
                log.warning("teacher %s has no usable rationale for these questions: its stream is not built", teacher)
                continue
            if len(targets) < len(questions):
                log.warning(
                    "teacher %s: %d of %d training questions have no usable rationale and are left out of its stream",
                    teacher, len(questions) - len(targets), len(questions),
                )  # fmt: skip
            weight = spec.weight * alpha_of(alpha, teacher)
            streams.append(Stream(teacher, teachers[teacher].prefix, weight, targets))
    if method.train and not streams:
        weighed = ", ".join(name for name, spec in method.streams.items() if spec.weight != 0) or "none with a weight"
        raise UserError(
            f"method={method.name}: expected a target for one training question or more, found none for any of "
            f"{len(questions)} (streams: {weighed}): see what the teachers wrote with 'tinyllm rationales audit=true', "
            "then take other teachers (teachers, method.teacher), or add the gold answers "
            "(method.streams.answer.weight=0.5)"
        )
    names = [stream.name for stream in streams]
    if len(set(names)) < len(names):
        raise UserError(f"expected a name of its own for every stream, found {names}: rename a teacher or a stream")
    prefixes = [stream.prefix for stream in streams]
    voices = [stream.prefix for stream in streams if stream.name in active]
    for prefix in voices:
        if prefixes.count(prefix) > 1:
            same = " and ".join(stream.name for stream in streams if stream.prefix == prefix)
            raise UserError(
                f"expected a prefix of its own for every stream, found {prefix!r} for {same}: "
                "set teachers.<name>.prefix"
            )
    return streams


def check_stream(method: MethodConfig, stream: str, spec: StreamConfig) -> None:
    """Refuse settings of a stream that can't work beside others, or would be without effect.

    Raises:
        UserError: naming the key.
    """
    key = f"method.streams.{stream}"
    kinds = (Target.teacher_answer, Target.teacher_options)
    if spec.target in kinds and spec.teachers is not WhichTeachers.one:
        raise UserError(f"{key}.teachers: expected one for target {spec.target}, found {spec.teachers}")
    if spec.target is Target.rationale and (method.source_rationale or spec.loss is StreamLoss.listwise):
        found = f"{key}.loss=listwise" if spec.loss is StreamLoss.listwise else "method.source_rationale=true"
        raise UserError(f"{key}.target=rationale: expected a target that is one of the options with {found}")
    if spec.target is Target.rationale and spec.teachers is WhichTeachers.none:
        raise UserError(f"{key}.teachers: expected one or all for target rationale, found none")
    if spec.target is Target.rationale and spec.prefix != StreamConfig().prefix:
        raise UserError(f"{key}.prefix: a rationale stream uses its teacher's: set teachers.<name>.prefix")
    if spec.target is not Target.teacher_options and spec.temperature != 1:
        raise UserError(f"{key}.temperature={spec.temperature:g}: expected target teacher_options, found {spec.target}")
    if spec.target is not Target.rationale and spec.prompt is not PromptKind.forced:
        raise UserError(f"{key}.prompt={spec.prompt}: expected target rationale, found {spec.target}")
    if spec.smoothing > 0 and spec.loss is not StreamLoss.listwise:
        raise UserError(f"{key}.smoothing={spec.smoothing}: expected {key}.loss=listwise, found loss={spec.loss}")
    if (spec.mask > 0 or spec.replace > 0) and not method.source_rationale:
        name, share = ("mask", spec.mask) if spec.mask > 0 else ("replace", spec.replace)
        raise UserError(f"{key}.{name}={share}: no source holds a rationale: set method.source_rationale=true")


def _option_targets(
    name: str,
    spec: StreamConfig,
    questions: Sequence[Question],
    answers: Mapping[str, str],
    scores: Mapping[str, Sequence[float]],
) -> dict[str, Texts]:
    """Targets of a stream whose texts are options."""
    if spec.target is Target.answer:
        return single_target({q.id: q.answer for q in questions})
    if spec.target is Target.every_option:
        return {q.id: tuple((choice, 1 / len(q.choices)) for choice in q.choices) for q in questions}
    if spec.target is Target.teacher_options:
        return {q.id: _softened(q.choices, scores[q.id], spec.temperature) for q in questions}
    targets = single_target({q.id: answers[q.id] for q in questions if q.id in answers})
    if len(targets) < len(questions):
        log.warning(
            "stream %s: %d of %d training questions have no answer of the teacher that can be parsed and are left out",
            name, len(questions) - len(targets), len(questions),
        )  # fmt: skip
    return targets


def _listed(choices: Sequence[str], texts: Texts, smoothing: float) -> Texts:
    """All options with their shares, smoothed; options that say the same are right alike and divide a share evenly."""
    shares = [0.0] * len(choices)
    for text, share in texts:
        same = [i for i, choice in enumerate(choices) if is_right(choice, text)]
        for i in same:
            shares[i] += share / len(same)
    even = smoothing / len(choices)
    return tuple((choice, (1 - smoothing) * share + even) for choice, share in zip(choices, shares, strict=True))


def _softened(choices: Sequence[str], scores: Sequence[float], temperature: float) -> Texts:
    """softmax(scores / temperature) over the options (Hinton et al. 2015)."""
    if len(scores) != len(choices):
        raise ValueError(f"expected a score for each of {len(choices)} options, found {len(scores)}")
    top = max(scores)
    powers = [math.exp((score - top) / temperature) for score in scores]
    return tuple((choice, power / sum(powers)) for choice, power in zip(choices, powers, strict=True))


def two_samples_of(config: C, name: str) -> C:
    """The set is `name` and `<name>_2`: the first and the second text of one teacher, each in a stream of its own.

    Raises:
        UserError: for a teacher that is not in the set.
    """
    if name not in config.teachers:
        raise UserError(
            f"ablation.strongest={name}: expected {BY_VALIDATION} or one of {', '.join(config.teachers) or 'none'}"
        )
    first = config.teachers[name]
    again = f"{first.prefix.rstrip().removesuffix(':')} again: "
    second = replace(first, name=f"{name}_2", stored_as=first.stored_name, sample=first.sample + 1, prefix=again)
    weight = alpha_of(config.alpha, name)
    return replace(config, teachers={name: first, second.name: second}, alpha={name: weight, second.name: weight})
