"""Asking again, with a higher limit of tokens, for texts that have a finding (`rationales.retry`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinyllm.records import Question, Rationale
from tinyllm.runs import write_whole
from tinyllm.teachers.asking.plan import Item, Turn
from tinyllm.teachers.audit import audit
from tinyllm.teachers.pool import invented_file
from tinyllm.teachers.store import RationaleStore


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a turn makes of its teacher's texts of lower limits."""

    limits: tuple[int, ...]
    """Those that the store has texts of."""
    texts: int
    """Without a finding, and so under today's key now."""
    again: frozenset[str]
    """Keys of the items to ask again."""


def take_over(turn: Turn, store: RationaleStore, items: Sequence[Item]) -> TakenOver:
    """Put the texts of lower limits that have none of the turn's findings under its own key.

    A text that ended by itself is what the higher limit gives, too. Of several the newest is taken; all stay where they
    are. Items that have a text under the turn's own key are left alone.
    """
    sample, questions = turn.teacher.sample, _questions(items)
    passing: dict[str, Rationale] = {}
    failing: set[str] = set()
    lower = _lower(turn, store)
    for one in lower:
        records = store.read(*one.part, sample)
        found = audit(records, questions, clean=turn.clean)
        for key, findings in found.items():
            if findings & turn.retry:
                failing.add(key)
            elif key not in passing or passing[key].created < records[key].created:
                passing[key] = records[key]
    existing = store.read(*turn.part, sample)
    wanted = [item.key for item in items if item.key not in existing]
    with store.claims(*turn.part, sample=sample) as claims:
        taken = claims.take([key for key in wanted if key in passing])
        store.append(replace(passing[key], prompt_key=turn.prompt_key) for key in taken)
    limits = tuple(one.teacher.max_new_tokens for one in lower)
    return TakenOver(limits, len(taken), frozenset(key for key in wanted if key in failing - passing.keys()))


def outcome(turn: Turn, store: RationaleStore, items: Sequence[Item], taken: TakenOver) -> str:
    """What came of it, in a line: how many were asked again, and how many texts still have a finding."""
    texts = store.read(*turn.part, turn.teacher.sample)
    found = audit(texts, _questions(items), clean=turn.clean)
    still = sum(bool(found[item.key] & turn.retry) for item in items if item.key in found)
    name, limit = turn.teacher.name, turn.teacher.max_new_tokens
    below = " and ".join(map(str, taken.limits)) or "a lower limit, of which the store has none"
    line = (
        f"{name}: {turn.dataset}/{turn.split}: {len(taken.again & texts.keys())} texts asked again with "
        f"{limit} tokens at most, {taken.texts} taken over from {below}; {still} still have a finding of "
        f"rationales.retry=[{','.join(sorted(turn.retry))}]"
    )
    return f"{line}: a higher teachers.{name}.max_new_tokens asks them again" if still else line


def keep_pool(turn: Turn, store: RationaleStore) -> None:
    """Let a turn show the examples that its teacher invented under a lower limit, where it has none under its own.

    Other examples would make another prompt, of which the store has no text.
    """
    file = invented_file(store, turn.teacher, turn.dataset, turn.topic)
    if file.exists() or not file.parent.is_dir():
        return
    there = set(file.parent.glob("*.json"))
    for limit in reversed(range(1, turn.teacher.max_new_tokens)):
        lower = invented_file(store, replace(turn.teacher, max_new_tokens=limit), turn.dataset, turn.topic)
        if lower in there:
            write_whole(file, lower.read_bytes())
            return


def _lower(turn: Turn, store: RationaleStore) -> list[Turn]:
    """The turns under lower limits that the store has texts of, lowest first: a key does not tell its limit."""
    keys = set(store.prompt_keys(turn.dataset, turn.split, turn.teacher.stored_name))
    turns = (
        replace(turn, teacher=replace(turn.teacher, max_new_tokens=limit))
        for limit in range(1, turn.teacher.max_new_tokens)
    )
    return [one for one in turns if one.prompt_key in keys]


def _questions(items: Sequence[Item]) -> list[Question]:
    return list({item.question.id: item.question for item in items}.values())
