"""Rules beside the schema's fields: there is one for every key that needs one, and each is found wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import pytest

from tinyllm.checks import broken_rules
from tinyllm.compose import SCHEMAS
from tinyllm.config import Amount, Count, Name, Rule, Seed, Text

FREE = {
    "TeacherConfig.licence",  # may be empty
    "PredictConfig.context",
    "PredictConfig.rationales",
    "StudentConfig.architecture",  # fields of the model's own: checks.py and the model's configuration
    "TrainerConfig.strategy_options",  # Lightning's
}
"""Keys of numbers and texts without a rule."""


def classes(owner: type) -> Iterator[type]:
    yield owner
    for hint in get_type_hints(owner).values():
        for one in (hint, *get_args(hint)):
            if isinstance(one, type) and is_dataclass(one):
                yield from classes(one)


OWNERS = sorted({one for schema in SCHEMAS.values() for one in classes(schema)}, key=lambda one: one.__name__)


def has_rule(hint: Any) -> bool:
    return any(isinstance(one, Rule) for one in getattr(hint, "__metadata__", ())) or any(map(has_rule, get_args(hint)))


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_every_number_and_text_has_a_rule(owner: type) -> None:
    plain, ruled = get_type_hints(owner), get_type_hints(owner, include_extras=True)
    for one in fields(owner):
        numbers_or_texts = {int, float, str} & {plain[one.name], *get_args(plain[one.name])}
        inside = any(map(is_dataclass, get_args(plain[one.name])))  # a mapping of names to a section
        if numbers_or_texts and not inside and f"{owner.__name__}.{one.name}" not in FREE:
            assert has_rule(ruled[one.name]), f"{owner.__name__}.{one.name}"


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_the_schemas_own_defaults_keep_the_rules(owner: type) -> None:
    """But for what has to be given."""
    given = ("streams", "choices")
    assert [line for line in broken_rules(owner()) if line.partition(":")[0].rpartition(".")[2] not in given] == []


@dataclass
class Inner:
    count: Count = 1
    share: Amount | None = None


@dataclass
class Outer:
    seed: Seed = 0
    name: Name = "n"
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    texts: list[Text] = field(default_factory=list)
    weights: dict[str, Amount] = field(default_factory=dict)
    inners: dict[str, Inner] = field(default_factory=dict)
    pair: Annotated[list[Text], Rule("two texts", lambda texts: len(texts) == 2)] = field(
        default_factory=lambda: ["a", "b"]
    )


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (Outer(seed=2**32), "seed: expected 0 to 4294967295, found 4294967296"),
        (Outer(name="a/b"), "name: expected a name of 80 bytes or fewer, without / and line breaks, found a/b"),
        (Outer(name="a\nb"), r"name: expected a name of 80 bytes or fewer, without / and line breaks, found 'a\nb'"),
        (Outer(name=".."), "name: expected a name of 80 bytes or fewer, without / and line breaks, found .."),
        (Outer(inner=Inner(0)), "inner.count: expected 1 or more, found 0"),
        (Outer(maybe=Inner(share=float("nan"))), "maybe.share: expected 0 or more, found nan"),
        (Outer(inner=Inner(share=float("inf"))), "inner.share: expected 0 or more, found inf"),
        (Outer(texts=["a", " "]), "texts[1]: expected a non-empty text, found ' '"),
        (Outer(weights={"a": 1.0, "b": -0.5}), "weights.b: expected 0 or more, found -0.5"),
        (Outer(inners={"a": Inner(), "b": Inner(-1)}), "inners.b.count: expected 1 or more, found -1"),
        (Outer(pair=["a"]), "pair: expected two texts, found [a]"),
        (Outer(pair=["a", ""]), "pair[1]: expected a non-empty text, found ''"),
    ],
)
def test_a_broken_rule_is_named_with_its_key_wherever_it_stands(config: Outer, line: str) -> None:
    assert list(broken_rules(config)) == [line]


def test_every_broken_rule_is_found_and_good_values_are_none() -> None:
    bad = Outer(seed=-1, inner=Inner(0, -1.0), texts=[""])
    assert [line.split(":")[0] for line in broken_rules(bad)] == ["seed", "inner.count", "inner.share", "texts[0]"]
    good = Outer(2**32 - 1, "ä b", Inner(1, 0.0), Inner(), ["x"], {"a": 0.0}, {"b": Inner(9)}, ["c", "d"])
    assert list(broken_rules(good)) == []
