"""The hand-written facts of minilab (`knowledge/*.yaml`) and the ids that point into them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, cast, get_args

from omegaconf import OmegaConf

from tinyllm.errors import UserError
from tinyllm.records import Question

Kind = Literal["object", "choice"]
"""`object`: the first kind of question, what suits a situation, which needs the property. `choice`: the second kind,
what somebody chose in it, which the question itself says."""

_ASKED = re.compile(rf"({'|'.join(get_args(Kind))})(\d)(\w*)")
"""Kind, template and, of the second kind, the chosen option."""
_FAMILY_FILES = ("instrument", "material", "animal", "device", "plant", "food", "vehicle", "expert")


@dataclass(frozen=True, slots=True)
class Property:
    """The middle of the two hops."""

    key: str
    name: str
    """Noun phrase that rationales use."""
    objects: tuple[str, ...]
    """4 objects that have the property."""
    situations: dict[str, str]
    """Setting key -> verb phrase of the situation that needs the property; one a setting (8), so that the setting
    says nothing about the property."""


@dataclass(frozen=True, slots=True)
class Family:
    """7 properties whose objects are the options of one another's questions."""

    key: str
    article: bool
    """Whether a sentence puts `a` or `an` before an object."""
    questions: tuple[str, ...]
    """Templates of the first kind, with `{situation}`."""
    choice: str
    """What a question of the second kind adds to one of the first, with `{object}`: somebody's choice, and which it
    was. It repeats the question, so that a hidden situation stands in the same words in training as in test."""
    settings: tuple[str, ...]
    """8 places, occasions or persons that the situations belong to."""
    has: tuple[str, ...]
    """Verb phrases with `{property}`: what an object has; they fit one object or many."""
    properties: dict[str, Property]

    def templates(self, kind: Kind) -> tuple[str, ...]:
        """Questions of one kind, with `{situation}` and, of the second kind, `{object}`."""
        return self.questions if kind == "object" else tuple(f"{question} {self.choice}" for question in self.questions)

    def noun(self, thing: str) -> str:
        """`thing` as it stands in a sentence: `an hourglass`, `a pH meter`, `cork`."""
        if not self.article:
            return thing
        return f"{'an' if thing[0] in 'aeio' or thing.startswith('hour') else 'a'} {thing}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What one question is made of: everything that its id encodes."""

    family: Family
    needed: Property
    """The property that the situation needs."""
    setting: str
    """Key of the situation's setting."""
    kind: Kind
    template: int
    """Index into the family's templates of this kind."""
    options: tuple[str, ...]
    """Codes in the order of the choices: `<property key><index into its objects>`."""
    chosen: str = ""
    """Code of the option that somebody chose, in a question of the second kind."""

    @property
    def situation(self) -> str:
        """Verb phrase of the situation."""
        return self.needed.situations[self.setting]

    @property
    def choices(self) -> tuple[str, ...]:
        """Option texts, in the order of `options`."""
        return tuple(self.option_text(option) for option in self.options)

    @property
    def answer_option(self) -> str:
        """Code of the right option."""
        return self.chosen if self.kind == "choice" else self.suitable_option

    @property
    def suitable_option(self) -> str:
        """Code of the one option that has the property."""
        return next(option for option in self.options if self.option_property(option) is self.needed)

    def option_text(self, option: str) -> str:
        """The text that the option with this code shows."""
        return self.option_property(option).objects[int(option[-1])]

    def option_property(self, option: str) -> Property:
        """The property of the object with this code."""
        return self.family.properties[option[:-1]]

    def question(self, subset: str = "") -> Question:
        """The question that these facts make; the same facts give the same id and texts, whatever the seed.

        Questions on one (situation, answer) pair are a group.
        """
        named = self.family.noun(self.option_text(self.answer_option))
        text = self.family.templates(self.kind)[self.template].format(situation=self.situation, object=named)
        digest = hashlib.sha256("\n".join((text, *self.choices)).encode()).hexdigest()[:8]
        where = f"{self.family.key}.{self.needed.key}.{self.setting}.{self.kind}{self.template}{self.chosen}"
        identifier = f"{where}.{'-'.join(self.options)}.{digest}"
        answer = self.answer_option
        group = f"{self.family.key}.{self.needed.key}.{self.setting}.{self.kind}.{answer}"
        return Question(identifier, text, self.choices, self.option_text(answer), subset=subset, group=group)


def facts_of(question: Question) -> Facts:
    """The facts behind a minilab question, read from its id.

    Raises:
        UserError: where the question is none of minilab's, or its texts are not those that the id stands for.
    """
    try:
        family_key, property_key, setting, asked, options, _ = question.id.split(".")
        family = FAMILIES[family_key]
        match = _ASKED.fullmatch(asked)
        if match is None:
            raise ValueError(f"unknown kind {asked!r}")
        kind, template, chosen = match.groups()
        facts = Facts(
            family,
            family.properties[property_key],
            setting,
            cast(Kind, kind),
            int(template),
            tuple(options.split("-")),
            chosen,
        )
        rebuilt = facts.question(question.subset)
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise UserError(
            f"question {question.id!r} is not from minilab: its scripted teachers explain no other questions, "
            "so choose data=minilab or other teachers"
        ) from error
    if (rebuilt.id, rebuilt.question, rebuilt.choices) != (question.id, question.question, question.choices):
        raise UserError(
            f"question {question.id!r}: expected the text {rebuilt.question!r} with the choices {rebuilt.choices!r}, "
            f"found {question.question!r} with {question.choices!r}: it was changed, or comes from another version "
            "of minilab"
        )
    return facts


def _load_family(key: str) -> Family:
    """Reads one file of the knowledge base."""
    text = (files("tinyllm.data.minilab") / "knowledge" / f"{key}.yaml").read_text(encoding="utf-8")
    raw = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(text)))
    properties = {
        name: Property(name, value["name"], tuple(value["objects"]), dict(value["situations"]))
        for name, value in raw.pop("properties").items()
    }
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return Family(key=key, properties=properties, **fields)


FAMILIES: dict[str, Family] = {key: _load_family(key) for key in _FAMILY_FILES}
"""The whole knowledge base, by family key: 8 families, 56 properties, 224 objects, 448 situations."""
