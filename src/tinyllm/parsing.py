"""Text -> answer, rationale or example. Pure functions; what can't be parsed is None, never a guess."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tinyllm.prompts import Example
from tinyllm.records import Question

_LEADING_LETTER = re.compile(r"^\(([a-z])\)\s*(?=[^\s.])", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_LEAD_IN = re.compile(
    r"^\s*(?:(?:rationale|explanation|reasoning)\s*:|(?:sure[,!.]?\s+)?let(?:'|\u2019)?s think(?: about (?:it|this))?"
    r"(?: step[ -]by[ -]step)?\s*[.:!]+|let us think step[ -]by[ -]step\s*[.:!]+)\s*",
    re.IGNORECASE,
)
# What a model that reasons writes before its answer; the opening mark may stand in its chat template.
_THOUGHTS = re.compile(r".*</(?:think|thinking|thought|reasoning)>", re.IGNORECASE | re.DOTALL)
_OPEN_THOUGHTS = re.compile(r"<(?:think|thinking|thought|reasoning)>.*", re.IGNORECASE | re.DOTALL)
_ANSWER_LABEL = re.compile(r"\banswer(?:\s+key)?\W*$", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{([^{}]*)\}|([^{}]*))\s*\}")
_SET_APART = re.compile(r"`([^`]*)`|\$(\(?[A-Za-z]\)?)\$")
_LETTER_CALLED = re.compile(r"\((?:letter|option)\)\s*(?=\(?[A-Za-z]\b)", re.IGNORECASE)
_PROMPT_REPEATS = re.compile(
    r"^[ \t]*(?:#+[ \t]*)?(?:question|answer choices|context)\s*:"
    r"|(?<=\n)[ \t]*(?:#+[ \t]*)?(?:(?:qu\w*|q)[ \t]*\.?[ \t]*\d+[ \t]*[.:)]|q[.:](?=\s))",
    re.IGNORECASE | re.MULTILINE,
)
_CONCLUSION = re.compile(
    r"\b(?:answer|choice|option)(?:\s+(?:to\s+(?:the|this)\s+question|choice|option))?"
    r"\s*(?:is|would be|must be|:)\s*:?\s*",
    re.IGNORECASE,
)
# "The second option is ..." describes an option, "the wrong answer is ..." excludes one.
_NO_CONCLUSION = re.compile(
    r"\b(?:first|second|third|fourth|fifth|last|next|one|other|another|each|which|wrong|incorrect|worst|least\s+\w+"
    r"|not(?:\s+the)?)\s+$",
    re.IGNORECASE,
)
_OR = re.compile(r",?\s+or\s+", re.IGNORECASE)
_AND = re.compile(r",?\s+and\s+|,\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
# (b) or B) or B. or a letter that stands alone; a bare lower-case `a` before a word is an article.
_LETTER = re.compile(
    r"(?:option\s+|choice\s+)?(?:\(([A-Za-z])\)|([A-Za-z])\)|([A-Za-z])(?=\s*(?:[.,:;]|$))|([B-Z])\b)\s*(?:[:.\-](?![.\d]))?\s*"
)
_BETWEEN_SENTENCES = re.compile(r"((?<=[.!?])\s+|\n+)")
_LABEL_ON_ITS_OWN = re.compile(r":[ \t]*\n\s*")
# What stands between a reason and the verdict that follows it in the same sentence.
_CONNECTORS = re.compile(
    r"(?:[\s,;:\u2014-]|\b(?:so|thus|therefore|hence|and|then|which|means|that|i|we|think|believe|conclude|would|say|the|my"
    r"|our|correct|right|best|final|most likely|overall|in conclusion|to sum up)\b)+$",
    re.IGNORECASE,
)
# "X is the right answer", "(b) is correct": the option comes first.
_VERDICT_AFTER = re.compile(
    r"\b(?:is|are|be|seems|was)\s+(?:(?!not\b)\w+\s+)?(?:(?:the|my)\s+(?:\w+\s+){0,2}(?:answer|choice|option|one)\b"
    r"|(?:right|correct)(?=\s*(?:[.,;!]|$|because|since|as\b)))",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r"^[^.!?]*?\b(?:because|since)\s+(?=\w)", re.IGNORECASE)
_FEWEST_WORDS = 2
_EXAMPLE = re.compile(
    r"question\s*:\s*(?P<question>.+?)\s*answer choices\s*:\s*(?P<options>.+?)\s*^\s*(?:right |correct )?answer\s*:\s*"
    r"(?P<answer>.+?)\s*^\s*(?:rationale|explanation)\s*:\s*(?P<rationale>.+)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_OPTION_LINE = re.compile(r"^\s*\(?([a-z])[).:]\s*(.+?)\s*$", re.IGNORECASE)


def normalise(text: str) -> str:
    """Lower case, single spaces, no final stop, and no leading `(b)` where more follows: how texts name an option."""
    return _trimmed(text).lower()


def _trimmed(text: str) -> str:
    """`normalise` with its capitals."""
    return _LEADING_LETTER.sub("", single_spaces(text)).removesuffix(".").strip()


def single_spaces(text: str) -> str:
    """Without outer white space, and one space in place of any inside: what equal options share."""
    return _SPACES.sub(" ", text).strip()


def match_choice(generated: str, choices: Sequence[str]) -> str | None:
    """The option that `generated` names, or None.

    The whole text must be one option after `normalise`; a bare `(b)` names the second one. Of options that differ in
    case alone, such as genotypes, it must be one as it stands.
    """
    if (written := generated.strip()) in choices:
        return written
    letter_alone = re.fullmatch(r"\s*\(([a-z])\)\s*\.?\s*", generated.lower())
    if letter_alone:
        index = ord(letter_alone[1]) - ord("a")
        return choices[index] if index < len(choices) else None
    wanted = normalise(generated)
    return _only([choice for choice in choices if wanted and normalise(choice) == wanted], _trimmed(generated))


def _only(named: Sequence[str], text: str) -> str | None:
    """Of options that are equal but for their case, the one that `text` begins with as it stands."""
    if len({single_spaces(choice) for choice in named}) > 1:
        named = [choice for choice in named if _begins_with(text, _unquoted(choice))]
    return named[0] if len({single_spaces(choice) for choice in named}) == 1 else None


def parse_answer(text: str, choices: Sequence[str]) -> str | None:
    """The option that a teacher's free text concludes on, or None.

    The last `the answer is ...` (or `Answer: ...`) that names an option counts, by letter, by text or by both; both
    must agree, and no second option may follow behind an `or` or `and`. Without one, the last `\\boxed{...}`, or else
    the last line, counts where it is nothing but an option, and no line before it is another. A letter alone needs
    brackets, the box, a line above it that says `Answer`, or to be all that there is. Anything else is None: a text
    that only mentions options (`the second option is ...`) concludes on none, and so do a model's thoughts
    (`<think>...</think>`) and what follows where it goes on to another question.
    """
    said = _on_this_question(without_thoughts(text))
    text = _unmarked(said)
    for conclusion in reversed(_conclusions(text)):
        rest = text[conclusion.end() :]
        named = _named_at_start(rest, choices)
        if named is not None:
            return None if _leaves_open(rest, named, choices) else named
        if _LETTER.match(rest):
            return None  # a letter that no option has, or a letter and a text that disagree
    boxed = [found[1] or found[2] for found in _BOXED.finditer(said)]
    lines = boxed or [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    labelled = bool(boxed) or len(lines) == 1 or _ANSWER_LABEL.search(lines[-2]) is not None
    last = _nothing_but(lines[-1], choices, bare=labelled)
    listed = not boxed and any(_nothing_but(line, choices) not in (None, last) for line in lines)
    return None if listed else last


def _nothing_but(text: str, choices: Sequence[str], *, bare: bool = False) -> str | None:
    """The option that a text is, as `match_choice` has it, or by a letter without brackets and its text: `C. salt`.

    bare: the letter alone will do: `C`. At the end of prose it may be the first one of a word that was cut off.
    """
    text = text.strip()
    found = _LETTER.match(text)
    if (named := match_choice(text, choices)) is not None or found is None:
        return named
    by_letter = _named_at_start(found[0], choices)
    rest = text[found.end() :].removesuffix(".")
    if by_letter is None or not rest:
        return by_letter if bare else None
    return by_letter if match_choice(rest, choices) == by_letter else None


def without_thoughts(text: str) -> str:
    """What follows a model's thoughts (`<think>...</think>`); nothing, where these were cut off."""
    return _OPEN_THOUGHTS.sub("", _THOUGHTS.sub("", text))


def _unmarked(text: str) -> str:
    """Without the marks of Markdown and LaTeX around an answer."""
    text = _BOXED.sub(lambda found: found[1] or found[2] or "", text.replace("*", ""))
    text = _SET_APART.sub(lambda found: found[1] or found[2] or "", text)
    return _LETTER_CALLED.sub("", text).strip()


def _conclusions(text: str) -> list[re.Match[str]]:
    return [found for found in _CONCLUSION.finditer(text) if not _NO_CONCLUSION.search(text[: found.start()])]


def _leaves_open(text: str, named: str, choices: Sequence[str]) -> bool:
    """Whether another option follows the named one: `(a) or (b)`, or at once `(a) and (b)`."""
    sentence = _BETWEEN_SENTENCES.split(text.strip())[0]
    first, *others = _AND.split(sentence, maxsplit=1)
    others = others if match_choice(first, choices) is not None else []
    others += [] if _OR.search(named) else _OR.split(sentence)[1:]
    return any(_named_at_start(other, choices) not in (None, named) for other in others)


def clean_rationale(text: str) -> str:
    """What of a teacher's text is its rationale; may be empty.

    Three things go: a model's thoughts (`<think>...</think>`), what leads in (`Rationale:`, `Let's think step by
    step.`), and everything from the line where the prompt repeats or another question comes (a line that begins with
    `Question:`, `Answer Choices:`, `Context:`, `Q2.` or the like). `Q:` inside a sentence is text as any other.
    """
    text = without_thoughts(text)
    while lead_in := _LEAD_IN.match(text):
        text = text[lead_in.end() :]
    return _up_to_repeat(text).strip()


def goes_on(text: str) -> bool:
    """Whether the prompt or another question follows the rationale, which cleaning takes away."""
    return _PROMPT_REPEATS.search(without_thoughts(text)) is not None


def _on_this_question(text: str) -> str:
    """Without another question at its end; a text that begins with its own is left as it is."""
    return _up_to_repeat(text).strip() or text


def _up_to_repeat(text: str) -> str:
    """Up to the line where the prompt repeats, or another question comes."""
    repeats = _PROMPT_REPEATS.search(text)
    return text[: repeats.start()] if repeats else text


def without_conclusion(text: str, choices: Sequence[str]) -> str:
    """The text without what it says the answer is, sentence by sentence; may be empty.

    A verdict names an option, by letter or text, behind `the answer is` (or `choice`, `option`) or before
    `is the right answer`. A reason in the same sentence stays: of `Sand sinks, so the answer is (b) sand.` and of `The
    answer is (b) sand because sand sinks.` there is `Sand sinks.` A sentence that only mentions an option stays whole.
    """
    parts = _BETWEEN_SENTENCES.split(_LABEL_ON_ITS_OWN.sub(": ", _on_this_question(text).strip()))
    reasons = [_reason(sentence, choices) for sentence in parts[::2]]
    while reasons and (not reasons[-1] or _nothing_but(_unmarked(reasons[-1]), choices, bare=True) is not None):
        reasons.pop()
    gaps = ["", *parts[1::2]]
    return "".join(gap + reason for gap, reason in zip(gaps, reasons, strict=False) if reason).strip()


def _reason(sentence: str, choices: Sequence[str]) -> str:
    """A sentence up to its verdict, or what follows it behind a `because`; empty where neither says anything."""
    plain = _unmarked(sentence)
    for found in _conclusions(plain):
        rest = plain[found.end() :]
        if _named_at_start(rest, choices) is not None or _LETTER.match(rest):
            return _closed(_CONNECTORS.sub("", plain[: found.start()])) or _because(rest)
    for found in _VERDICT_AFTER.finditer(plain):
        subject = plain[: found.start()]
        clause = re.split(r"[,;:]\s|\b(?:so|therefore|thus|hence|because|since)\b", subject)[-1]
        if _named_at_start(clause.strip(), choices) is not None or _LETTER.match(clause.strip()):
            before = _closed(_CONNECTORS.sub("", subject[: len(subject) - len(clause)]))
            return before or _because(plain[found.end() :])
    return sentence.strip()


def _because(rest: str) -> str:
    """The reason behind a verdict, as a sentence."""
    found = _BECAUSE.match(rest)
    reason = rest[found.end() :].strip() if found else ""
    return reason[0].upper() + reason[1:] if len(reason.split()) >= _FEWEST_WORDS else ""


def _closed(head: str) -> str:
    """The part of a sentence with a stop at its end; empty where it says next to nothing."""
    return f"{head.strip()}." if len(head.split()) >= _FEWEST_WORDS else ""


def parse_example(text: str, name: str, n_choices: int, choices: Sequence[str] = ()) -> Example | None:
    """The example in an answer to `prompts.example_request`, or None where it is malformed.

    Well formed is: a question, `n_choices` different options (or just `choices`, where these are given), an answer that
    is one of them, and a rationale that is left after cleaning and doesn't conclude on another option. `...` fills
    nothing.
    """
    found = _EXAMPLE.search(text.replace("*", ""))
    if found is None:
        return None
    lines = [_OPTION_LINE.match(line) for line in found["options"].splitlines() if line.strip()]
    written = [line[2] for line in lines if line]
    if len(written) != len(lines) or len({normalise(option) for option in written}) != len(written):
        return None
    if choices and [normalise(option) for option in written] != [normalise(choice) for choice in choices]:
        return None
    answer = _named_at_start(found["answer"], written)
    rationale = clean_rationale(found["rationale"].split("\n\n")[0])
    question = _SPACES.sub(" ", found["question"])
    parts = [question, rationale, *written]
    if len(written) != n_choices or answer is None or not all(part.strip().strip(" .") for part in parts):
        return None
    if parse_answer(rationale, written) not in (None, answer):
        return None
    return Example(Question(name, question, tuple(written), answer), rationale)


def _named_at_start(text: str, choices: Sequence[str]) -> str | None:
    """The option that `text` begins with: its letter, its text or both; None where there is none or they disagree."""
    by_letter: str | None = None
    found = _LETTER.match(text)
    if found:
        index = ord((found[1] or found[2] or found[3] or found[4]).lower()) - ord("a")
        by_letter = choices[index] if index < len(choices) else None
    by_text = _longest_at_start(text[found.end() :] if found else text, choices)
    if found is None:
        return by_text
    # `C-reactive protein`: a letter without brackets may be the first of an option.
    if (found[3] or found[4]) and (whole := _longest_at_start(text, choices)) is not None:
        return whole
    if by_letter is None or (by_text is not None and not is_right(by_text, by_letter)):
        return None
    return by_letter


def _longest_at_start(text: str, choices: Sequence[str]) -> str | None:
    found = [choice for choice in choices if _begins_with(_bare(text), _bare(choice))]
    longest = max((len(choice) for choice in found), default=0)
    return _only([choice for choice in found if len(choice) == longest], _unquoted(text))


def _bare(text: str) -> str:
    return _unquoted(text).lower()


def _unquoted(text: str) -> str:
    """Without an article or a quotation mark at its start."""
    return _ARTICLE.sub("", _trimmed(text).lstrip("\"'\u201c\u2018"))


def _begins_with(text: str, option: str) -> bool:
    """With a whole word or number."""
    return bool(option) and re.match(rf"{re.escape(option)}(?!\w|[.,]\d)", text) is not None


def is_exact(generated: str, answer: str) -> bool:
    """True when both texts are equal but for outer whitespace, as the authors' code has it."""
    return generated.strip() == answer.strip()


def is_right(choice: str | None, answer: str) -> bool:
    """True when a chosen option is the right one, or reads the same; options that differ in case are two."""
    return choice is not None and single_spaces(choice) == single_spaces(answer)
