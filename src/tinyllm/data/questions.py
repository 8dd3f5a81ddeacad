"""A dataset's questions by split: the right source, the seeded training subset and the limits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tinyllm.config import ColumnsConfig, DataConfig, Source, World
from tinyllm.data import hub, jsonl, minilab, release
from tinyllm.errors import UserError
from tinyllm.records import Question, Split


def load_questions(data: DataConfig) -> dict[Split, list[Question]]:
    """All splits of a dataset, the training split cut to `train_fraction` and each to its limit.

    Raises:
        UserError: when the source lacks what it needs, or holds rows that can't be used.
    """
    return limited(load_whole(data), data)


def load_whole(data: DataConfig) -> dict[Split, list[Question]]:
    """`load_questions` without the limits: what in-context examples must keep away from, however few are asked.

    Raises:
        UserError: as there.
    """
    splits = dict(_read(data))
    splits[Split.train] = training_subset(splits[Split.train], data.train_fraction, data.seed)
    return splits


def limited(splits: Mapping[Split, Sequence[Question]], data: DataConfig) -> dict[Split, list[Question]]:
    """The first questions of each split, as many as its limit allows."""
    limits: dict[Split, int | None] = {
        Split.train: data.limit_train, Split.valid: data.limit_valid, Split.test: data.limit_test,
    }  # fmt: skip
    return {split: list(splits[split][: limits[split]]) for split in limits}


def check_splits(questions: Mapping[Split, Sequence[Question]], needed: Iterable[Split], data: DataConfig) -> None:
    """That there are questions where a stage needs them.

    Raises:
        UserError: naming the splits without.
    """
    if empty := [split for split in dict.fromkeys(needed) if not questions[split]]:
        where = data.root or data.name
        raise UserError(
            f"{where}: expected questions in {' and '.join(empty)}, found none: "
            + ("give every line a 'split', or add lines" if data.source is Source.jsonl else "choose other data")
        )


def _read(data: DataConfig) -> dict[Split, list[Question]]:
    root = Path(data.root).expanduser() if data.root else None
    if data.source is Source.builtin:
        if data.name != "minilab":
            raise UserError(
                f"data.source=builtin: expected data=minilab, found data={data.name}: choose another source"
            )
        return minilab.generate(data.seed, data.world or World.links_in_rationales)
    if data.name == "minilab":
        raise UserError(f"data=minilab: expected data.source=builtin, found {data.source}: minilab is embedded")
    if data.world is not None:
        raise UserError(f"data.world={data.world}: expected data=minilab, found data={data.name}: leave the key out")
    if data.source is not Source.hub and data.columns != ColumnsConfig():
        raise UserError(f"data.columns: expected data.source=hub, found {data.source}, whose fields have fixed names")
    if data.source is Source.hub:
        return hub.load(
            data.name,
            hub_id=data.hub_id,
            hub_config=data.hub_config,
            revision=data.hub_revision,
            columns=data.columns,
            root=root,
        )
    if root is None:
        raise UserError(f"data.source={data.source}: expected data.root=<folder or file>, found none")
    return release.load(root, data.name) if data.source is Source.release else jsonl.load(root)


def training_subset(questions: Sequence[Question], fraction: float, seed: int) -> list[Question]:
    """The first `fraction` of the questions in a seeded order, in their own order; nested for one seed.

    With 1.0 all; the 12.5% of a seed lie inside its 25% (paper, section 4.3).
    """
    count = max(1, math.ceil(len(questions) * fraction - 1e-9))
    order = sorted(questions, key=lambda q: hashlib.sha256(f"{seed}/{q.id}".encode()).digest())
    kept = {question.id for question in order[:count]}
    return [question for question in questions if question.id in kept]
