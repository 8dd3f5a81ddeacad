"""One text a question: of the teacher that is expected to solve it, or of a random one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tinyllm.prompts import options
from tinyllm.records import Question


def route(
    questions: Sequence[Question],
    solved: Mapping[str, Mapping[str, bool]],
    texts: Mapping[str, Sequence[str]],
    folds: int,
) -> dict[str, dict[str, float]]:
    """1 for the teacher with the highest chance of solving a question, of those that have a text on it; 0 for others.

    The chance is a logistic regression's on the TF-IDF of question and options, one for each teacher. It is
    cross-fitted: a classifier never sees the questions that it decides on, nor others of their groups. Of equals, a
    hash of the id chooses.

    Args:
        questions: training questions.
        solved: teacher -> question id -> whether it solves the question.
        texts: teacher -> ids of the questions that it has a text on.
        folds: parts of the questions, by a hash of the group (or the id).
    """
    chance = {m: solving_chances(questions, solved[m], folds) for m in texts}
    return _one_each(texts, lambda i, names: max(names, key=lambda m: (chance[m][i], _hash(f"{i}/{m}"))))


def solving_chances(questions: Sequence[Question], solved: Mapping[str, bool], folds: int) -> dict[str, float]:
    """Question id -> chance that a teacher solves it, as a classifier trained on the other folds says."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = [f"{q.question}\n{options(q.choices)}" for q in questions]
    right = np.array([solved[q.id] for q in questions])
    fold = np.array([fold_of(q, folds) for q in questions])
    chances: NDArray[np.float64] = np.empty(len(questions))
    for number in range(folds):
        here, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not len(here):
            continue
        share = float(right[others].mean()) if len(others) else 0.5
        if share in (0.0, 1.0) or not len(others):
            chances[here] = share
            continue
        vectors = TfidfVectorizer(sublinear_tf=True)
        model = LogisticRegression(max_iter=1000)
        model.fit(vectors.fit_transform([words[i] for i in others]), right[others])
        chances[here] = model.predict_proba(vectors.transform([words[i] for i in here]))[:, 1]
    return {q.id: float(chance) for q, chance in zip(questions, chances, strict=True)}


def fold_of(question: Question, folds: int) -> int:
    """The part that a question belongs to, with all of its group."""
    return _hash(question.group or question.id) % folds


def random_route(texts: Mapping[str, Sequence[str]], seed: int) -> dict[str, dict[str, float]]:
    """1 for one of the teachers that have a text on a question, drawn evenly by seed and id; 0 for the others."""
    return _one_each(texts, lambda i, names: names[_hash(f"{seed}/{i}") % len(names)])


def _one_each(
    texts: Mapping[str, Sequence[str]], choose: Callable[[str, list[str]], str]
) -> dict[str, dict[str, float]]:
    names: dict[str, list[str]] = {}
    for m, ids in texts.items():
        for i in ids:
            names.setdefault(i, []).append(m)
    taken = {i: choose(i, own) for i, own in names.items()}
    return {m: {i: float(taken[i] == m) for i in ids} for m, ids in texts.items()}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
