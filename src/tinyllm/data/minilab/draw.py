"""The seeded generator: facts -> questions of three splits."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TypeVar

from tinyllm.data.minilab.knowledge_base import FAMILIES, Facts, Family, Property
from tinyllm.records import Question, Split

FAMILIES_DRAWN = 7
"""Families of the knowledge base (of 8) that one draw asks about."""
PROPERTIES_DRAWN = 4
"""Properties of each drawn family (of 7). With more, 1,500 questions are too few a fact for a small student."""
HIDDEN_SETTINGS = 2
"""Settings of each family (of 8) whose situations are hidden: training asks about them in the second kind only.

They are the same for all properties of the family. Otherwise the words of a hidden situation's setting ("patient")
would stand in visible situations of the other properties alone, and point away from the right answer.
"""
TRAIN_ASKS = 3
"""Questions of the first kind on each training pair, with other templates and distractors."""
HELD_OUT_ASKS = 2
"""Questions on each held-out pair, with other templates and distractors."""
SETTING_ASKS = 2
"""Questions of the second kind on every situation in training, with other templates and distractors."""
OPTIONS = 4
"""Options of every question, one of them right."""

T = TypeVar("T")
_Pair = tuple[str, int]  # setting key, index into the property's objects
_Parts = dict[str, list[_Pair]]  # group of questions -> its (situation, object) pairs


def generate(seed: int) -> dict[Split, list[Question]]:
    """The questions of one draw of minilab: 1,456 train, 336 validation and 784 test, with 4 options each.

    A draw takes 7 families with 4 properties each: 28 properties, 112 objects, 224 situations, 56 of them hidden.
    Train: 1,008 questions of the first kind on visible situations, and 448 of the second kind on all situations.
    Validation: 224 visible and 112 hidden, test: 448 visible and 336 hidden, all of the first kind; no two splits
    share a (situation, answer) pair. A held-out pair is asked twice: the pair is the questions' `group`.

    Within each of these groups every object (or setting) is a distractor exactly three times as often as it is the
    answer, every position holds the answer equally often, and the four options belong to four properties.

    Args:
        seed: decides what is drawn, which situations are hidden, which pairs are held out, and all options,
            templates and orders. The same seed gives the same questions, in the same order, in every process.
    """
    rng = random.Random(f"minilab {seed}")
    groups: dict[str, list[Facts]] = {name: [] for name in ("train", "setting", *_HELD_OUT)}
    for family in rng.sample(list(FAMILIES.values()), FAMILIES_DRAWN):
        properties = rng.sample(list(family.properties.values()), PROPERTIES_DRAWN)
        settings = _shuffled(family.settings, rng)
        hidden, visible = settings[:HIDDEN_SETTINGS], settings[HIDDEN_SETTINGS:]
        parts = {prop.key: _partition(prop, hidden, visible, rng) for prop in properties}
        for name in ("train", *_HELD_OUT):
            asks = TRAIN_ASKS if name == "train" else HELD_OUT_ASKS
            groups[name] += _ask_objects(family, {key: part[name] for key, part in parts.items()}, asks, rng)
        groups["setting"] += _ask_settings(family, properties, rng)

    placed = {name: _place_answers(facts, rng) for name, facts in groups.items()}
    questions: dict[Split, list[Question]] = {
        Split.train: [facts.question() for name in ("train", "setting") for facts in placed[name]],
        Split.valid: [],
        Split.test: [],
    }
    for name, (split, subset) in _HELD_OUT.items():
        questions[split] += [facts.question(subset) for facts in placed[name]]
    for split_questions in questions.values():
        rng.shuffle(split_questions)
    return questions


_HELD_OUT: dict[str, tuple[Split, str]] = {
    "valid visible": (Split.valid, "visible"),
    "valid hidden": (Split.valid, "hidden"),
    "test visible": (Split.test, "visible"),
    "test hidden": (Split.test, "hidden"),
}


def _partition(prop: Property, hidden: Sequence[str], visible: Sequence[str], rng: random.Random) -> _Parts:
    """Divides the 8 x 4 (situation, object) pairs of a property: 12 train, 4 + 2 validation, 8 + 6 test.

    The six visible situations take the six different pairs of the four objects for training: each object is the
    answer for three of them. The other two objects of each are held out: per object, one validation and two test.
    """
    indices = range(len(prop.objects))
    pairs = _shuffled(combinations(indices, 2), rng)
    trained = {(setting, i) for setting, pair in zip(visible, pairs, strict=True) for i in pair}
    parts: _Parts = {"train": sorted(trained)} | {name: [] for name in _HELD_OUT}
    for i in indices:
        first, *others = _shuffled((s for s in visible if (s, i) not in trained), rng)
        parts["valid visible"].append((first, i))
        parts["test visible"] += [(setting, i) for setting in others]
    for setting, chosen in zip(hidden, rng.sample(indices, HIDDEN_SETTINGS), strict=True):
        parts["valid hidden"].append((setting, chosen))
        parts["test hidden"] += [(setting, i) for i in indices if i != chosen]
    return parts


def _ask_objects(family: Family, pairs: dict[str, list[_Pair]], asks: int, rng: random.Random) -> list[Facts]:
    """Questions of the first kind, `asks` for each of the (equally many) pairs of every property.

    They are asked in rounds of one question a property, and the distractors of each are answers of its round.
    """
    keys = list(pairs)
    templates = {
        (key, pair): _shuffled(range(len(family.questions)), rng) for key, values in pairs.items() for pair in values
    }
    asked = []
    for turn in range(asks):
        for column in zip(*(_shuffled(pairs[key], rng) for key in keys), strict=True):
            pair_of = dict(zip(keys, column, strict=True))
            codes = {key: f"{key}{index}" for key, (_, index) in pair_of.items()}
            for key, options in _round(codes, rng).items():
                pair = pair_of[key]
                template = templates[key, pair][turn % len(family.questions)]
                asked.append(Facts(family, family.properties[key], pair[0], "object", template, options))
    return asked


def _ask_settings(family: Family, properties: Sequence[Property], rng: random.Random) -> list[Facts]:
    """Questions of the second kind: `SETTING_ASKS` on every situation, in rounds of one question a setting."""
    count = len(family.setting_questions)
    templates = {
        (prop.key, setting): _shuffled(range(count), rng) for prop in properties for setting in prop.situations
    }
    codes = {setting: setting for setting in family.settings}
    asked = []
    for turn in range(SETTING_ASKS):
        orders = {setting: _shuffled(properties, rng) for setting in family.settings}
        for row in range(len(properties)):
            for setting, options in _round(codes, rng).items():
                prop = orders[setting][row]
                template = templates[prop.key, setting][turn % count]
                asked.append(Facts(family, prop, setting, "setting", template, options))
    return asked


def _round(codes: dict[str, str], rng: random.Random) -> dict[str, tuple[str, ...]]:
    """Options of one question a key, the right one first: its own code, and those of three others.

    The others stand at three distances round a shuffled circle, the same for all: so each option is the answer once
    and a distractor three times, and no prior over options tells which.
    """
    circle = _shuffled(codes, rng)
    distances = rng.sample(range(1, len(circle)), OPTIONS - 1)
    return {
        key: (codes[key], *(codes[circle[(place + distance) % len(circle)]] for distance in distances))
        for place, key in enumerate(circle)
    }


def _place_answers(asked: list[Facts], rng: random.Random) -> list[Facts]:
    """Moves the right option, which stands first, to each position equally often; shuffles the distractors."""
    positions = _shuffled((number % OPTIONS for number in range(len(asked))), rng)
    placed = []
    for facts, position in zip(asked, positions, strict=True):
        right, *others = facts.options
        rng.shuffle(others)
        options = (*others[:position], right, *others[position:])
        placed.append(Facts(facts.family, facts.needed, facts.setting, facts.kind, facts.template, options))
    return placed


def _shuffled(items: Iterable[T], rng: random.Random) -> list[T]:
    """A shuffled copy."""
    copy = list(items)
    rng.shuffle(copy)
    return copy
