"""Runs that differ in their teachers alone, side by side: what each teacher brings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd

from tinyllm.reporting.labels import fraction_text, named
from tinyllm.reporting.paired import Pair
from tinyllm.reporting.study import Study

Teachers = frozenset[str]


@dataclass(frozen=True, eq=False)
class Lattice:
    """TinyLLM's runs on sets of teachers inside of one whole set; all else is the same."""

    dataset: str
    student: str
    name: str
    """Of the whole, as `labels.named` has it."""
    alpha: str
    """Of the whole: `terse=3 wordy=3`, and the training fraction where not all questions were trained on."""
    teachers: tuple[str, ...]
    """The whole set, in its order."""
    runs: Mapping[Teachers, pd.DataFrame]
    """By the teachers that were taught; full fine-tuning under the empty set."""

    @property
    def title(self) -> str:
        return f"{self.dataset} · {self.student} · {self.name} at α {self.alpha}"

    @property
    def whole(self) -> Teachers:
        return frozenset(self.teachers)

    @property
    def complete(self) -> bool:
        """Whether every subset was run, the empty one too."""
        return len(self.runs) == 1 << len(self.teachers)

    def of_size(self, count: int) -> list[Teachers] | None:
        """All sets of so many teachers; None where one of them was not run."""
        found = [frozenset(one) for one in combinations(self.teachers, count)]
        return found if all(one in self.runs for one in found) else None


def lattices(study: Study) -> list[Lattice]:
    """One for every whole set of two teachers or more of which a part was run too."""
    frame = study.frame
    found = []
    keys = ["dataset", "student", "without_teachers"]
    taught = frame[(frame["method"] == "tinyllm") & (frame["taught"] != "")]
    for (dataset, student, _), group in taught.groupby(keys, sort=False):
        sets = {text: frozenset((m, *map(str, how)) for m, how in json.loads(text).items()) for text in group["taught"]}
        for text, whole in sets.items():
            if len(whole) < 2 or any(whole < other for other in sets.values()):
                continue
            parts = [one for one, own in sets.items() if own <= whole]
            # One set may have been reached twice, as by `ablation=no_t5` and `teachers=[...]`: a seed counts once.
            runs = {frozenset(json.loads(one)): _once(group[group["taught"] == one]) for one in parts}
            first = group[group["taught"] == text].iloc[0]
            empty = frame[
                (frame["method"] == "full_ft") & (frame["dataset"] == dataset) & (frame["student"] == student)
                & (frame["ablation"] == "none") & (frame["untaught"] == first["untaught"])
            ]  # fmt: skip
            if len(runs) > 1:
                runs |= {frozenset(): _once(empty)} if len(empty) else {}
                order = tuple(m for m in first["teacher_set"].split("+") if m in frozenset(json.loads(text)))
                alpha = f"{first['alpha']}{fraction_text(first['train_fraction'])}"
                found.append(Lattice(str(dataset), str(student), named(first.to_dict()), alpha, order, runs))
    return found


def _once(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.drop_duplicates(["seed", "data_seed"])


def brings(study: Study, lattice: Lattice, teacher: str, without: Teachers) -> Pair | None:
    """`without` and the teacher against `without` alone; None where one of the two was not run."""
    both = lattice.runs.get(without | {teacher}), lattice.runs.get(without)
    return None if both[0] is None or both[1] is None else study.pair(both[0], both[1])


def shapley(study: Study, lattice: Lattice, teacher: str) -> Pair | None:
    """A teacher's Shapley value as a pair of mixtures: their difference is the value (Shapley 1953).

    The first is the weighted mean of the accuracies of all sets with the teacher, the second that of the same sets
    without it; a set S of the M - 1 others has the weight |S|! (M - |S| - 1)! / M!. Over the teachers the values add up
    to the whole set minus full fine-tuning. On the seeds and questions that all sets have.

    Returns:
        None where a subset was not run, or they share no question.
    """
    if not lattice.complete:
        return None
    together = study.together(lattice.runs)
    if together is None:
        return None
    others = [m for m in lattice.teachers if m != teacher]
    size = len(lattice.teachers)
    weights = {
        frozenset(part): factorial(count) * factorial(size - count - 1) / factorial(size)
        for count in range(size)
        for part in combinations(others, count)
    }
    return Pair(
        tuple(np.sum([w * seed[part | {teacher}] for part, w in weights.items()], axis=0) for seed in together.right),
        tuple(np.sum([w * seed[part] for part, w in weights.items()], axis=0) for seed in together.right),
        same_questions=together.same_questions,
        questions=together.questions,
        seeds=together.seeds,
        groups=together.groups,
    )
