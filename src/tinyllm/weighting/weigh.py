"""The weighting of a run: streams -> the same streams with an importance for every question."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tinyllm.config import ExperimentConfig, Weighting
from tinyllm.errors import UserError
from tinyllm.methods import Stream
from tinyllm.records import Question
from tinyllm.student.student import Student
from tinyllm.teachers.stored import conflicts, expectations, solved
from tinyllm.weighting.routing import random_route, route
from tinyllm.weighting.similarity import agreement
from tinyllm.weighting.surprisal import rank_surprisal_ratios

log = logging.getLogger(__name__)

Merits = Mapping[str, Mapping[str, float]]
"""Teacher -> question id -> what its text is worth beside the others' on the question, 0 or more."""


def weigh(
    config: ExperimentConfig, questions: Sequence[Question], streams: Sequence[Stream], student: Student
) -> list[Stream]:
    """The streams of teachers' texts with their importance; the others, and all under `uniform`, as they are.

    The importances of a question's texts add up to the number of its texts, unless all are worth nothing.

    Args:
        config: `weighting` and what the store is read with.
        questions: training questions.
        streams: of these questions.
        student: untrained; `surprisal` asks it.

    Raises:
        UserError: when the store lacks what the weighting reads.
    """
    texts = {s.name: {i: own[0][0] for i, own in s.targets.items()} for s in streams if s.name in config.teachers}
    changes = config.weighting.name not in (Weighting.uniform, Weighting.learned) or config.weighting.drop_conflicts
    if not texts or not changes:
        return list(streams)
    given = normalised(_merits(config, questions, texts, streams, student))
    if config.weighting.drop_conflicts:
        dropped = conflicts(config, questions)
        log.info("weighting: the texts of %d questions are dropped: a teacher contradicts the answer", len(dropped))
        given = {m: {i: 0.0 if i in dropped else w for i, w in own.items()} for m, own in given.items()}
    weighed = [replace(s, importance=given[s.name]) if s.name in given else s for s in streams]
    _warn_where_uniform(config, max(_totals(_with_one(texts)).values(), default=0))
    return weighed


def _warn_where_uniform(config: ExperimentConfig, most: float) -> None:
    """Say where a weighting that compares a question's texts has nothing to compare; `most` are on one question."""
    own = config.weighting
    alone = own.name in (Weighting.uniform, Weighting.learned) or (own.name is Weighting.correct and own.floor == 0)
    if own.name is Weighting.consensus and most < 3:
        log.warning("weighting=consensus: no question has three texts; two are as alike as each other, so all weigh 1")
    elif not alone and most < 2:
        log.warning(
            "weighting=%s: no question has two texts that could be compared, so all weigh 1, as with uniform", own.name
        )


def left(streams: Sequence[Stream]) -> list[Stream]:
    """Of weighted streams, those of which something is left to teach.

    Raises:
        UserError: when nothing is.
    """
    found = [stream for stream in streams if not stream.importance or any(stream.importance.values())]
    for name in (stream.name for stream in streams if stream not in found):
        log.warning("weighting: no text of teacher %s is left", name)
    if streams and not found:
        raise UserError("weighting: no text is left, and no stream is without: use another weighting, or teach answers")
    return found


def _with_one(texts: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
    """Every text is worth 1."""
    return {m: dict.fromkeys(ids, 1.0) for m, ids in texts.items()}


def _merits(
    config: ExperimentConfig,
    questions: Sequence[Question],
    texts: Mapping[str, Mapping[str, str]],
    streams: Sequence[Stream],
    student: Student,
) -> Merits:
    own = config.weighting
    with_text = {m: list(by_id) for m, by_id in texts.items()}
    match own.name:
        case Weighting.correct:
            right = solved(config, questions)
            return {m: {i: 1.0 if right[m][i] else own.floor for i in ids} for m, ids in with_text.items()}
        case Weighting.consensus:
            return softmax(agreement(texts, own.embeddings), own.temperature)
        case Weighting.confidence:
            return softmax(expectations(config, questions, with_text), own.temperature)
        case Weighting.surprisal:
            ratios = rank_surprisal_ratios(
                student, questions, [s for s in streams if s.name in texts], config.student.max_target_length,
                config.evaluation.batch_size, config.trainer.accelerator,
            )  # fmt: skip
            return softmax({m: {i: -math.log(r) for i, r in by.items()} for m, by in ratios.items()}, own.temperature)
        case Weighting.router:
            return route(questions, solved(config, questions), with_text, own.folds)
        case Weighting.random_router:
            return random_route(with_text, config.seed)
        case _:
            return _with_one(with_text)


def softmax(scores: Merits, temperature: float) -> dict[str, dict[str, float]]:
    """softmax(score / temperature) over the teachers that have a text, question by question."""
    top: dict[str, float] = {}
    for by_id in scores.values():
        for i, score in by_id.items():
            top[i] = max(score, top.get(i, -math.inf))
    powers = {m: {i: math.exp((s - top[i]) / temperature) for i, s in by_id.items()} for m, by_id in scores.items()}
    total = _totals(powers)
    return {m: {i: power / total[i] for i, power in by_id.items()} for m, by_id in powers.items()}


def normalised(merits: Merits) -> dict[str, dict[str, float]]:
    """Importances in proportion to the merits; a question's add up to its number of texts, or to 0 without merit."""
    total = _totals(merits)
    count = _totals(_with_one(merits))
    return {
        m: {i: value * count[i] / total[i] if total[i] else 0.0 for i, value in by_id.items()}
        for m, by_id in merits.items()
    }


def _totals(merits: Merits) -> dict[str, float]:
    total: dict[str, float] = {}
    for by_id in merits.values():
        for i, value in by_id.items():
            total[i] = total.get(i, 0.0) + value
    return total


def summary(
    streams: Sequence[Stream], teachers: Sequence[str], learned: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, list[float]]]:
    """`Result.weights`: what each teacher's texts were given.

    Args:
        streams: of `weigh`.
        teachers: of the set; of those without a stream nothing is told.
        learned: factors of the streams at the end of each epoch; they multiply the importances.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for stream in streams:
        if stream.name not in teachers or not (stream.importance or stream.name in learned):
            continue
        given = [stream.importance.get(i, 1.0) for i in stream.targets]
        factors = learned.get(stream.name, [1.0])
        found[stream.name] = {
            "mean": [factor * statistics.fmean(given) for factor in factors],
            "spread": [factor * statistics.pstdev(given) for factor in factors],
            "zeros": [given.count(0) / len(given)] * len(factors),
        }
    return found
