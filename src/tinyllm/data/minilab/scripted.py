"""Two scripted teachers with voices of their own, which make mistakes in known shares.

Texts and mistakes are a function of (question id, voice, sample) alone: the same in every process, whatever the seed
of the draw. A mistaken rationale names a property that the situation does not need, and concludes on a wrong option.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

from tinyllm.data.minilab.knowledge_base import Facts, facts_of
from tinyllm.errors import UserError
from tinyllm.records import Question

T = TypeVar("T")
Voice = Literal["terse", "wordy"]
VOICES: tuple[Voice, ...] = get_args(Voice)

ERROR_SHARES: dict[Voice, float] = {"terse": 0.02, "wordy": 0.15}
"""Expected share of wrong rationales when the teacher is given the answer (teacher forcing)."""
FREE_ERROR_SHARES: dict[Voice, float] = {"terse": 0.10, "wordy": 0.25}
"""Expected share of wrong rationales and answers when it is not; the mistakes of teacher forcing are among them."""

_TERSE_OBJECT = (
    "You have to {need} here, and {choice} {has}.",
    "To {situation}, one must {need}; {choice} {has}.",
    "One needs to {need}. {Choice} {has}.",
    "{Choice} {has}, and whoever has to {situation} must {need}.",
)
_TERSE_SETTING = (
    "You have to {need} here, and {settled}.",
    "To {situation}, one must {need}; {settled}.",
    "One needs to {need}. As for the rest, {settled}.",
    "Whoever has to {situation} must {need}, and {settled}.",
)
_OPENERS = (
    "Several of these sound plausible at first.",
    "The trick is to ask what the task requires.",
    "I would start from the task itself.",
    "This is easier than it looks.",
    "Think about what is going on here.",
)
_REASONS = (
    "In order to {situation}, it is necessary to {need}.",
    "Nobody could {situation} without having to {need}.",
    "If the aim is to {situation}, then you had better {need}.",
    "Trying to {situation} means that you have to {need}.",
)
_CONTRASTS_OBJECT = (
    "{Other} {other_has}, but that is beside the point.",
    "It is true that {other} {other_has}, yet nobody asked for that.",
    "Granted, {other} {other_has}, only that won't do.",
)
_CONTRASTS_SETTING = (
    "I don't think that it could be {other}.",
    "Somebody may say {other}, but nothing points to that.",
    "Were it {other}, the words would be different.",
)
_ENDS_OBJECT = (
    "Since {choice} {has}, the answer is {choice}.",
    "On the other hand {choice} {has}, and therefore I settle on {choice}.",
    "What remains is {choice}, because {choice} {has}.",
)
_ENDS_SETTING = (
    "The words suggest that {settled}, so the answer is {choice}.",
    "Picture the scene, and you will agree that {settled}.",
    "All in all {settled}, and therefore I would say {choice}.",
)


_OPEN_ENDS_OBJECT = (
    "Note that {choice} {has}.",
    "Keep in mind that {choice} {has}.",
    "As everybody knows, {choice} {has}.",
)
_OPEN_ENDS_SETTING = (
    "The words suggest that {settled}.",
    "Picture the scene, and you will see that {settled}.",
    "All in all {settled}.",
)


def explain(question: Question, voice: str, sample: int = 0) -> str:
    """The rationale of a teacher that was given the answer.

    Args:
        question: a question of minilab; only its id and texts are read.
        voice: `terse` (a sentence or two, wrong in `ERROR_SHARES["terse"]`) or `wordy` (four or five sentences).
        sample: 0 for the first text, 1 for a second one in other words, ...

    Raises:
        UserError: for an unknown voice, or a question that is none of minilab's.
    """
    facts = facts_of(question)
    return _write(facts, _conclude(question, facts, voice, sample, free=False), question.id, voice, sample)


def answer_freely(question: Question, voice: str, sample: int = 0) -> tuple[str, str]:
    """Rationale and option text of a teacher that was not given the answer; wrong in `FREE_ERROR_SHARES[voice]`.

    Raises:
        UserError: for an unknown voice, or a question that is none of minilab's.
    """
    facts = facts_of(question)
    option = _conclude(question, facts, voice, sample, free=True)
    return _write(facts, option, question.id, voice, sample), facts.option_text(option)


def reason(question: Question, voice: str, sample: int = 0) -> str:
    """The rationale of a teacher that was not given the answer and is asked for none: it ends without a conclusion.

    It has the property in mind that `answer_freely` has, with the same mistakes.

    Raises:
        UserError: for an unknown voice, or a question that is none of minilab's.
    """
    facts = facts_of(question)
    option = _conclude(question, facts, voice, sample, free=True)
    return _write(facts, option, question.id, voice, sample, concludes=False)


def argue(question: Question, option: int, voice: str, sample: int = 0) -> str:
    """What speaks for one option, whether it is right or not: a teacher that is asked for reasons finds some.

    Args:
        question: a question of minilab; only its id and texts are read.
        option: position of the option.
        voice: `terse` or `wordy`.
        sample: 0 for the first text, 1 for a second one in other words, ...

    Raises:
        UserError: for an unknown voice, or a question that is none of minilab's.
    """
    facts = facts_of(question)
    return _write(facts, facts.options[option], f"{question.id} {option}", _known(voice), sample, concludes=False)


def is_wrong(question: Question, voice: str, sample: int = 0, *, free: bool = False) -> bool:
    """Whether that rationale names a wrong property and a wrong option; `free` for `answer_freely`."""
    facts = facts_of(question)
    return _conclude(question, facts, voice, sample, free=free) != facts.answer_option


def _conclude(question: Question, facts: Facts, voice: str, sample: int, *, free: bool) -> str:
    """Code of the option that the teacher concludes on."""
    rng = random.Random(f"error {question.id} {voice} {sample}")
    share = (FREE_ERROR_SHARES if free else ERROR_SHARES)[_known(voice)]
    if rng.random() >= share:
        return facts.answer_option
    return rng.choice([option for option in facts.options if option != facts.answer_option])


def _known(voice: str) -> Voice:
    for known in VOICES:
        if voice == known:
            return known
    raise UserError(f"scripted teacher: expected a voice of {', '.join(VOICES)}, found {voice!r}")


def _write(facts: Facts, option: str, key: str, voice: str, sample: int, *, concludes: bool = True) -> str:
    """The rationale that speaks for `option`, and says that it is the answer where it `concludes`."""
    phrases = _Phrases(f"{key} {voice}", sample)
    family, named = facts.family, facts.needed
    other = phrases.pick([code for code in facts.options if code != option])
    if facts.kind == "object":
        named = facts.option_property(option)
        choice, contrast = family.noun(facts.option_text(option)), family.noun(facts.option_text(other))
        other_has = phrases.pick(family.has).format(property=facts.option_property(other).name)
        settled = ""
    else:
        if option != facts.answer_option:
            named = phrases.pick([prop for prop in family.properties.values() if prop is not facts.needed])
        choice, contrast = facts.option_text(option), facts.option_text(other)
        other_has = ""
        settled = phrases.pick(family.settled).format(setting=choice)

    is_object = facts.kind == "object"
    ends = {True: _ENDS_OBJECT, False: _ENDS_SETTING}
    if not concludes:
        ends = {True: _OPEN_ENDS_OBJECT, False: _OPEN_ENDS_SETTING}
    if voice == "terse":
        sentences = [phrases.pick(_TERSE_OBJECT if is_object else _TERSE_SETTING)]
    else:
        sentences = [
            phrases.pick(_OPENERS),
            phrases.pick(_REASONS),
            phrases.pick(_CONTRASTS_OBJECT if is_object else _CONTRASTS_SETTING),
            phrases.pick(ends[is_object]),
        ]
    return " ".join(sentences).format(
        situation=facts.situation,
        need=phrases.pick(family.needs).format(property=named.name),
        has=phrases.pick(family.has).format(property=named.name),
        choice=choice,
        Choice=_capitalised(choice),
        other=contrast,
        Other=_capitalised(contrast),
        other_has=other_has,
        settled=settled,
    )


class _Phrases:
    """Picks phrasings: at random by the question, then one further in every list with each sample."""

    def __init__(self, key: str, sample: int) -> None:
        self._rng = random.Random(key)
        self._sample = sample

    def pick(self, items: Sequence[T]) -> T:
        """One of the items; the next sample picks another (where there are two or more)."""
        return items[(self._rng.randrange(len(items)) + self._sample) % len(items)]


def _capitalised(text: str) -> str:
    """The text with a capital first letter, the rest untouched (`pH meter` has no article before it)."""
    return text[:1].upper() + text[1:]
