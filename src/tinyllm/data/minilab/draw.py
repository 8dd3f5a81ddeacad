"""The seeded generator: facts -> questions of three splits."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from tinyllm.config import World
from tinyllm.data.minilab.knowledge_base import FAMILIES, Facts, Family, Property
from tinyllm.records import Question, Split

FAMILIES_DRAWN = 4
"""Families of the knowledge base (of 8) that one draw asks about."""
PROPERTIES_DRAWN = 4
"""Properties of each drawn family (of 7)."""
HIDDEN_SETTINGS = 3
"""Settings of each family (of 8) whose situations are hidden.

They are the same for all properties of the family. Otherwise the words of a hidden situation's setting ("patient")
would stand in visible situations of the other properties alone, and point away from the right answer.
"""
TRAIN_ASKS = 28
"""Questions of the first kind on each training pair, with other distractors: a small student needs many a fact."""
CHOICE_ASKS = 20
"""Questions of the second kind on every situation in training."""
HELD_OUT_ASKS = {"visible": 4, "hidden": 8}
"""Questions on each held-out pair by subset, with other distractors."""
OPTIONS = 4
"""Options of every question, one of them right."""

T = TypeVar("T")
_Pair = tuple[str, int]  # setting key, index into the property's objects
_HELD_OUT = {
    "valid visible": (Split.valid, "visible"),
    "valid hidden": (Split.valid, "hidden"),
    "test visible": (Split.test, "visible"),
    "test hidden": (Split.test, "hidden"),
}


def generate(seed: int, world: World = World.links_in_rationales) -> dict[Split, list[Question]]:
    """The questions of one draw of minilab, with 4 options each.

    A draw takes 4 families with 4 properties each: 16 properties, 64 objects, 128 situations, 48 of them hidden. Each
    situation has one of the property's four objects held out: in training nothing pairs the two, and validation and
    test ask about such pairs alone. The questions on one held-out pair are a `group`.

    Train: 6,720 questions of the first kind on visible situations (`answers_suffice`: 10,752 on all), and 2,560 of the
    second kind on all situations. Validation: 64 visible and 128 hidden, test: 256 of each, all of the first kind, and
    the same in both worlds.

    Within each of these groups every object is a distractor exactly three times as often as it is the answer, every
    position holds the answer equally often, and the four options belong to four properties.

    Args:
        seed: decides what is drawn, which situations are hidden, which pairs are held out, and all options,
            templates and orders. The same seed gives the same questions, in the same order, in every process.
        world: what training answers tell.
    """
    rng = random.Random(f"minilab 3 {seed}")
    groups: dict[str, list[Facts]] = {name: [] for name in (*_HELD_OUT, "train", "choice", "train hidden")}
    for family in rng.sample(list(FAMILIES.values()), FAMILIES_DRAWN):
        properties = rng.sample(list(family.properties.values()), PROPERTIES_DRAWN)
        hidden, visible = _hide(family.settings, rng)
        held_out = {prop.key: _hold_out(prop, (*hidden, *visible), rng) for prop in properties}
        parts = {
            "valid visible": (visible[:1], HELD_OUT_ASKS["visible"]),
            "test visible": (visible[1:], HELD_OUT_ASKS["visible"]),
            "valid hidden": (hidden[:1], HELD_OUT_ASKS["hidden"]),
            "test hidden": (hidden[1:], HELD_OUT_ASKS["hidden"]),
        }
        for name, (settings, asks) in parts.items():
            pairs = {key: [(setting, out[setting]) for setting in settings] for key, out in held_out.items()}
            groups[name] += _ask_objects(family, pairs, asks, rng)
        trained = {prop.key: _trained(prop, held_out[prop.key]) for prop in properties}
        for name, settings in (("train", visible), ("train hidden", hidden)):
            pairs = {key: [(s, i) for s in settings for i in by_setting[s]] for key, by_setting in trained.items()}
            groups[name] += _ask_objects(family, pairs, TRAIN_ASKS, rng)
        groups["choice"] += _ask_choices(family, properties, trained, rng)

    placed = {name: _place_answers(facts, rng) for name, facts in groups.items()}
    told = ("train", "choice", "train hidden") if world is World.answers_suffice else ("train", "choice")
    questions: dict[Split, list[Question]] = {
        Split.train: [facts.question() for name in told for facts in placed[name]],
        Split.valid: [],
        Split.test: [],
    }
    for name, (split, subset) in _HELD_OUT.items():
        questions[split] += [facts.question(subset) for facts in placed[name]]
    for split in (Split.valid, Split.test, Split.train):  # train last: it is what the world changes
        rng.shuffle(questions[split])
    return questions


def _hide(settings: Sequence[str], rng: random.Random) -> tuple[list[str], list[str]]:
    """Hidden and visible settings, shuffled.

    The last two of the hidden ones, which test asks about, stand at an even and at an odd place in the family: each
    half of the links (`scripted.knows`) then holds as many of them.
    """
    tested = [rng.choice(settings[::2]), rng.choice(settings[1::2])]
    others = _shuffled((setting for setting in settings if setting not in tested), rng)
    count = HIDDEN_SETTINGS - len(tested)
    return others[:count] + _shuffled(tested, rng), others[count:]


def _hold_out(prop: Property, settings: Sequence[str], rng: random.Random) -> dict[str, int]:
    """Setting -> index of the object that training never pairs with its situation: each object for two of eight."""
    indices = _shuffled((number % len(prop.objects) for number in range(len(settings))), rng)
    return dict(zip(settings, indices, strict=True))


def _trained(prop: Property, held_out: Mapping[str, int]) -> dict[str, list[int]]:
    """Setting -> indices of the objects that training pairs with its situation."""
    return {setting: [i for i in range(len(prop.objects)) if i != out] for setting, out in held_out.items()}


def _ask_objects(family: Family, pairs: Mapping[str, list[_Pair]], asks: int, rng: random.Random) -> list[Facts]:
    """Questions of the first kind, `asks` for each of the (equally many) pairs of every property.

    They are asked in rounds of one question a property, and the distractors of each are answers of its round.
    """
    keys = list(pairs)
    asked = []
    for _ in range(asks):
        for column in zip(*(_shuffled(pairs[key], rng) for key in keys), strict=True):
            pair_of = dict(zip(keys, column, strict=True))
            codes = {key: f"{key}{index}" for key, (_, index) in pair_of.items()}
            for key, options in _round(codes, rng).items():
                asked.append(Facts(family, family.properties[key], pair_of[key][0], "object", 0, options))
    return asked


def _ask_choices(
    family: Family,
    properties: Sequence[Property],
    trained: Mapping[str, Mapping[str, Sequence[int]]],
    rng: random.Random,
) -> list[Facts]:
    """Questions of the second kind: `CHOICE_ASKS` on every situation, in rounds of one question a property.

    Which object was chosen says nothing about the situation: it suits in one question of four. The object that does
    suit is on offer as well, and never the one that is held out.
    """
    keys = [prop.key for prop in properties]
    asked = []
    for _ in range(CHOICE_ASKS):
        for setting in family.settings:
            codes = {key: f"{key}{rng.choice(trained[key][setting])}" for key in keys}
            needed = dict(zip(keys, _shuffled(properties, rng), strict=True))
            for key, options in _round(codes, rng).items():
                asked.append(Facts(family, needed[key], setting, "choice", 0, options, chosen=options[0]))
    return asked


def _round(codes: Mapping[str, str], rng: random.Random) -> dict[str, tuple[str, ...]]:
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
    """Moves the right option, which stands first, to each position equally often; the rest is drawn: the order of the
    distractors and the template, so that no question is asked twice."""
    positions = _shuffled((number % OPTIONS for number in range(len(asked))), rng)
    placed: dict[str, Facts] = {}
    for facts, position in zip(asked, positions, strict=True):
        right, *others = facts.options
        templates = facts.family.templates(facts.kind)
        while True:
            rng.shuffle(others)
            options = (*others[:position], right, *others[position:])
            candidate = replace(facts, template=rng.randrange(len(templates)), options=options)
            if (identifier := candidate.question().id) not in placed:
                break
        placed[identifier] = candidate
    return list(placed.values())


def _shuffled(items: Iterable[T], rng: random.Random) -> list[T]:
    """A shuffled copy."""
    copy = list(items)
    rng.shuffle(copy)
    return copy
