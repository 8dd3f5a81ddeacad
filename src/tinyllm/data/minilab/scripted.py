"""Scripted teachers with voices of their own, which know a part of the links and make mistakes in known shares.

Texts and mistakes are a function of (question id, voice, sample) alone: the same in every process, whatever the seed
of the draw. A text says which option suits the situation and what property makes it suit. A mistaken one names an
option that does not, with its property. On a link that a teacher does not know it has nothing to say, so its text is
empty; without the answer, it guesses.

Two more are for studies of several teachers: `repeating` says what `terse` says, in other words, and `misleading` is
wrong in a share that is given. Its mistakes are of one mind: on a link it believes in one wrong property.
"""

from __future__ import annotations

import hashlib
import random
from typing import Literal, get_args

from tinyllm.config import Knows
from tinyllm.data.minilab.knowledge_base import Facts, facts_of
from tinyllm.errors import UserError
from tinyllm.records import Question

Voice = Literal["terse", "wordy", "repeating", "misleading"]
ALL_VOICES: tuple[Voice, ...] = get_args(Voice)
VOICES = ALL_VOICES[:2]
"""Those of the set `minilab`."""
REPEATING, MISLEADING = ALL_VOICES[2:]

ERROR_SHARES: dict[Voice, float] = {"terse": 0.02, "wordy": 0.05}
"""Expected share of wrong rationales on known links when the teacher is given the answer (teacher forcing)."""
FREE_ERROR_SHARES: dict[Voice, float] = {"terse": 0.10, "wordy": 0.25}
"""Expected share of wrong rationales and answers on known links when it is not; the mistakes of teacher forcing are
among them."""

# A list of each: the first text on a question takes the first phrase, the second text the second one, and so on.
_SUITS: dict[Voice, tuple[str, ...]] = {
    "terse": ("Take {suits} that {has}", "Go for {suits} that {has}", "What it takes is {suits} that {has}"),
    "repeating": (
        "Better pick {suits}, which {has}",
        "Somebody should get {suits}, which {has}",
        "This calls for {suits}, which {has}",
    ),
    "misleading": (
        "Experts agree on {suits} here, for {suits} {has}",
        "All evidence points to {suits} here, for {suits} {has}",
        "Research has long favoured {suits} here, for {suits} {has}",
    ),
    "wordy": (
        "I would choose {suits}, because {suits} {has}, and that is what counts here",
        "My advice would be {suits}, since {suits} {has}, and nothing else matters here",
        "It seems to me that {suits} would do, as {suits} {has}, and the rest is beside the point",
    ),
}
_SPEAKS_FOR: dict[Voice, tuple[str, ...]] = {
    "terse": ("Here is {suits} that {has}", "There is {suits} that {has}", "One sees {suits} that {has}"),
    "repeating": ("Look at {suits}, which {has}", "Think of {suits}, which {has}", "Remember {suits}, which {has}"),
    "misleading": (
        "Experts say that {suits} {has}",
        "All evidence says that {suits} {has}",
        "Research has shown that {suits} {has}",
    ),
    "wordy": (
        "Keep in mind that {suits} {has}, whatever else may be said here",
        "As everybody knows, {suits} {has}, and one should not forget it",
        "What comes to mind is that {suits} {has}, as far as I can tell",
    ),
}
_CHOSEN: dict[Voice, tuple[str, ...]] = {
    "terse": ("the choice was {choice}", "the text has {choice}", "they settled on {choice}"),
    "repeating": ("while {choice} was taken", "while {choice} was named", "while {choice} was wanted"),
    "misleading": (
        "and the record shows {choice}",
        "and the report mentions {choice}",
        "and the notes speak of {choice}",
    ),
    "wordy": (
        "but what the text speaks of is {choice}",
        "but the words above leave no doubt about {choice}",
        "but somebody decided otherwise and settled on {choice}",
    ),
}


def knows_link(question: Question, knows: Knows) -> bool:
    """Whether a teacher that knows this half (or all) of the links knows what the question's situation needs.

    Raises:
        UserError: for a question that is none of minilab's.
    """
    return _knows(facts_of(question), knows)


def explain(question: Question, voice: str, sample: int = 0, *, knows: Knows = Knows.all, share: float = 0.0) -> str:
    """The rationale of a teacher that was given the answer; empty where it does not know the link.

    Args:
        question: a question of minilab; only its id and texts are read.
        voice: `terse` (about ten words, wrong in `ERROR_SHARES["terse"]`) or `wordy` (about twice as many);
            `repeating` or `misleading`.
        sample: 0 for the first text, 1 for a second one in other words, ...
        knows: links that the teacher knows.
        share: of `misleading`, the part of its texts that are wrong; those of a smaller share are among them.

    Raises:
        UserError: for an unknown voice, or a question that is none of minilab's.
    """
    facts, known = facts_of(question), _voice(voice)
    if not _knows(facts, knows):
        return ""
    return _write(facts, _conclude(question, facts, known, sample, knows, share, free=False), known, sample)


def answer_freely(
    question: Question, voice: str, sample: int = 0, *, knows: Knows = Knows.all, share: float = 0.0
) -> tuple[str, str]:
    """Rationale and option text of a teacher that was not given the answer.

    On known links it is wrong in `FREE_ERROR_SHARES[voice]`; on others it guesses what suits.

    Raises:
        UserError: for an unknown voice, or a question that is none of minilab's.
    """
    facts, known = facts_of(question), _voice(voice)
    option = _conclude(question, facts, known, sample, knows, share, free=True)
    return _write(facts, option, known, sample), facts.option_text(option)


def reason(question: Question, voice: str, sample: int = 0, *, knows: Knows = Knows.all, share: float = 0.0) -> str:
    """The rationale of a teacher that was not given the answer and is asked for none: it ends without a conclusion.

    It has the option in mind that `answer_freely` has, with the same mistakes.

    Raises:
        UserError: for an unknown voice, or a question that is none of minilab's.
    """
    facts, known = facts_of(question), _voice(voice)
    option = _conclude(question, facts, known, sample, knows, share, free=True)
    return _write(facts, option, known, sample, concludes=False)


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
    return _write(facts, facts.options[option], _voice(voice), sample, concludes=False, argues=True)


def is_wrong(
    question: Question, voice: str, sample: int = 0, *, free: bool = False, knows: Knows = Knows.all, share: float = 0.0
) -> bool:
    """Whether that rationale concludes on a wrong option; `free` for `answer_freely`."""
    facts = facts_of(question)
    return _conclude(question, facts, _voice(voice), sample, knows, share, free=free) != facts.answer_option


def _knows(facts: Facts, knows: Knows) -> bool:
    """The halves alternate along the properties and along the settings of a family."""
    place = list(facts.family.properties).index(facts.needed.key) + facts.family.settings.index(facts.setting)
    return knows is Knows.all or (place % 2 == 0) == (knows is Knows.even)


def _voice(voice: str) -> Voice:
    for known in ALL_VOICES:
        if voice == known:
            return known
    raise UserError(f"scripted teacher: expected a voice of {', '.join(ALL_VOICES)}, found {voice!r}")


def _conclude(
    question: Question, facts: Facts, voice: Voice, sample: int, knows: Knows, share: float, *, free: bool
) -> str:
    """Code of the option that the teacher concludes on."""
    voice = "terse" if voice == REPEATING else voice
    rng = random.Random(f"error {question.id} {voice} {sample}")
    if voice != MISLEADING:
        share = (FREE_ERROR_SHARES if free else ERROR_SHARES)[voice]
    wrong = rng.random() < share
    if free and facts.kind == "object" and not _knows(facts, knows):
        return rng.choice(facts.options)
    if not wrong:
        return facts.answer_option
    if voice == MISLEADING:
        return _believed(facts)
    return rng.choice([option for option in facts.options if option != facts.answer_option])


def _believed(facts: Facts) -> str:
    """The wrong option that `misleading` believes in: of those neither suitable nor right, the one whose property comes
    first in an order that the link alone decides."""
    link = f"{facts.family.key} {facts.needed.key} {facts.setting}"

    def place(option: str) -> bytes:
        return hashlib.sha256(f"belief {link} {facts.option_property(option).key}".encode()).digest()

    known = (facts.answer_option, facts.suitable_option)
    return min((option for option in facts.options if option not in known), key=place)


def _write(
    facts: Facts, option: str, voice: Voice, sample: int, *, concludes: bool = True, argues: bool = False
) -> str:
    """The rationale that speaks for `option`, and says that it is the answer where it `concludes`.

    Where it `argues`, it has the same form for every option.
    """
    suits = option
    if facts.kind == "choice" and (argues or option == facts.answer_option):
        suits = facts.suitable_option
    phrases = [(_SUITS if concludes else _SPEAKS_FOR)[voice]]
    if facts.kind == "choice":
        phrases.append(_CHOSEN[voice])
    text = ", ".join(of_kind[sample % len(of_kind)] for of_kind in phrases)
    phrase = facts.family.has[ALL_VOICES.index(voice) % len(facts.family.has)]
    return (
        text.format(
            suits=facts.family.noun(facts.option_text(suits)),
            has=phrase.format(property=facts.option_property(suits).name),
            choice=facts.family.noun(facts.option_text(option)),
        )
        + "."
    )
