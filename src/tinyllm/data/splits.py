"""Which question is in train, valid or test: the paper's splits of the six public datasets, and a rule for the others.

The files of `paper_splits/` travel in the wheel. They hold ids alone, and for the two datasets whose hub rows carry no
id (piqa, riddle) also a hash of the question. Source: the data that the paper's authors published (YikunHan42/TinyLLM).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files

from tinyllm.errors import UserError
from tinyllm.paper import DATASETS
from tinyllm.records import SPLITS, Question, Split


@dataclass(frozen=True, slots=True)
class SplitEntry:
    """One question's place in the paper's splits; its position in the list is its position in the published file."""

    id: str
    """`Question.id`. Of piqa: the row number in the hub's validation split, and `train-<row number>` in train, as the
    two count from 0 each and an id is unique within a dataset."""
    question_sha256: str | None = None
    """`question_hash` of the question; None where the hub's rows carry an id, and for piqa's train (all rows)."""


def question_hash(text: str) -> str:
    """First 16 hex digits of the SHA-256 of the stripped text, in UTF-8."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def assign_split(question: Question) -> Split:
    """Split of a question for which nobody chose one: 80% train, 10% valid, 10% test, by a hash of its group or id.

    The same question falls into the same split on every machine, whatever others the dataset holds, and a group stays
    together: test would else ask what training told in other words. So shares are exact only on average: of 10
    questions, none may be in test.
    """
    share = int.from_bytes(hashlib.sha256((question.group or question.id).encode()).digest()[:8]) / 2**64
    return Split.train if share < 0.8 else Split.valid if share < 0.9 else Split.test


def load(dataset: str) -> dict[Split, list[SplitEntry]]:
    """Reads the packaged splits of one dataset: all three splits, in the published order.

    Raises:
        UserError: for a name that is not in `DATASETS`.
    """
    if dataset not in DATASETS:
        raise UserError(f"no splits for dataset {dataset!r}: expected one of {', '.join(DATASETS)}")
    packed = json.loads(files("tinyllm.data").joinpath("paper_splits", f"{dataset}.json").read_text(encoding="utf-8"))
    return {split: _entries(packed[split]) for split in SPLITS}


def _entries(packed: dict[str, object]) -> list[SplitEntry]:
    match packed:
        case {"prefix": str(prefix), "rows": int(rows)}:
            return [SplitEntry(f"{prefix}{row}") for row in range(rows)]
        case {"ids": list(ids), "question_sha256": list(hashes)}:
            return [SplitEntry(id, digest) for id, digest in zip(ids, hashes, strict=True)]
        case {"ids": list(ids)}:
            return [SplitEntry(id) for id in ids]
        case _:
            raise ValueError(f"expected ids or prefix and rows, found {sorted(packed)}")
