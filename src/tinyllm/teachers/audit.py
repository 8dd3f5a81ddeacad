"""What is wrong with a teacher's texts: findings by rule, a table by teacher, and the texts that may be trained on."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from tinyllm.parsing import clean_rationale, goes_on, is_right, normalise, parse_answer, without_conclusion
from tinyllm.records import Finding, PromptKind, Question, Rationale
from tinyllm.runs import write_whole

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_ENDS_WELL = re.compile(r"[.!?:)\]\"'\u201d\u2019*]\s*$")
_LETTERS_NAMED = re.compile(r"\(([a-zA-Z])\)")  # IGNORECASE would take letters such as İ, too
_DEBRIS = re.compile(
    r"^[ \t]*(?:question|q|a|answer choices|context|human|user|assistant|instruction|input|output)[ \t]*:"
    r"|^[ \t]*#{2,}[ \t]*(?:question|instruction|input|response|answer)"
    r"|<\|\w+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?think>|<extra_id_\d+>|<pad>|<unk>"
    r"|```|^[ \t]*(?:def \w+\(|import \w+$|from \w+ import|#include\b|class \w+[(:]|return \w+;)|\bconsole\.log\(",
    re.IGNORECASE | re.MULTILINE,
)
# Options that stand in any text: only a conclusion names them.
_NEVER_NAMED = frozenset({"yes", "no", "maybe", "true", "false", "a", "an", "it", "none", "all"})
# An English text of some length holds plenty of these; 0.08 lies far under English prose (about 0.4).
_ENGLISH_WORDS = """
    the a an of to in is are was be and or that this it as for with by on not from can which you we they because
    so if at will have has its their
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_FOREIGN_SHARE = 0.08
_AROUND_AN_ANSWER = """
    so thus therefore hence the a an answer option choice correct right is of this question to it be would final
    indeed step by steps reasoning explanation rationale given
"""
_ANSWER_WORDS = frozenset(_AROUND_AN_ANSWER.split())


def findings(text: str, question: Question, finish_reason: str = "stop") -> set[Finding]:
    """All findings of one text but `duplicate`, which takes the other texts to see."""
    if not text.strip() or not clean_rationale(text):
        return {Finding.empty, Finding.cut} if finish_reason == "length" else {Finding.empty}
    found: set[Finding] = set()
    if finish_reason == "length" or (finish_reason == "recorded" and not _ENDS_WELL.search(text)):
        found.add(Finding.cut)
    if _repeats(text):
        found.add(Finding.repeats)
    concluded = parse_answer(text, question.choices)
    if concluded is not None and not is_right(concluded, question.answer):
        found.add(Finding.other_answer)
    right, wrong = _named(text, question)
    if wrong and not right:
        found.add(Finding.wrong_options)
    if _is_answer_only(text, question):
        found.add(Finding.answer_only)
    asked = " ".join((question.context, question.question, *question.choices))
    if _DEBRIS.search(text) or (_is_foreign(text) and not _is_foreign(asked)):
        found.add(Finding.debris)
    return found


def audit(
    rationales: Mapping[str, Rationale], questions: Iterable[Question], *, clean: bool = False
) -> dict[str, set[Finding]]:
    """The findings of every text by its key, of the raw texts or of the cleaned ones.

    Texts on other questions and options than those of `questions` are left out. A text about an option is judged as if
    that were right.
    """
    by_id = {question.id: question for question in questions}
    about = {
        key: _about(by_id[one.question_id], one)
        for key, one in rationales.items()
        if one.question_id in by_id and (one.option or 0) < len(by_id[one.question_id].choices)
    }
    texts = {key: _text(rationales[key], clean) for key in about}
    found = {key: findings(text, about[key], _ended(rationales[key], clean)) for key, text in texts.items()}
    same: defaultdict[str, list[str]] = defaultdict(list)
    for key, text in texts.items():
        same[normalise(text)].append(key)
    for text, keys in same.items():
        if text and len({about[key].question for key in keys}) > 1:
            for key in keys:
                found[key].add(Finding.duplicate)
    return found


def _about(question: Question, rationale: Rationale) -> Question:
    return question if rationale.option is None else replace(question, answer=question.choices[rationale.option])


def for_training(
    rationales: Mapping[str, Rationale],
    questions: Iterable[Question],
    *,
    kind: PromptKind = PromptKind.forced,
    reject: Collection[Finding] = (Finding.empty,),
    clean: bool = True,
) -> dict[str, str]:
    """The texts that may be trained on, by question id: those without a finding in `reject`, and never an empty one.

    The text is judged cleaned or raw, as it would be trained on. Where the teacher was not given the answer, what it
    says the answer is goes after that: the labels are the dataset's (Hsieh et al. 2023, section 3.1).
    """
    rejected = {*reject, Finding.empty}
    by_id = {question.id: question for question in questions}
    found = audit(rationales, by_id.values(), clean=clean)
    texts = {i: _text(rationales[i], clean) for i, reasons in found.items() if not reasons & rejected}
    if kind is not PromptKind.forced:
        texts = {i: without_conclusion(text, by_id[i].choices) for i, text in texts.items()}
    return {i: text for i, text in texts.items() if text}


@dataclass(frozen=True, slots=True)
class Audit:
    """One teacher's audit: counts of texts, raw and after cleaning, and some ids for each finding."""

    teacher: str
    split: str
    kind: PromptKind
    texts: int
    raw: dict[str, int]
    cleaned: dict[str, int]
    examples: dict[str, list[str]]
    """Keys of at most `EXAMPLES` raw texts that have the finding."""
    unparsed: int | None
    """Texts from which no answer of the teacher's own could be read; None where it was asked for none."""
    correct: int | None
    """Texts whose own answer is right; None where it was asked for none."""


EXAMPLES = 20
"""Ids listed for each finding in audit.json."""


def audit_teacher(
    teacher: str,
    split: str,
    rationales: Mapping[str, Rationale],
    questions: Iterable[Question],
    *,
    kind: PromptKind,
) -> Audit:
    """Audits what one teacher wrote about the questions of one split."""
    by_id = {question.id: question for question in questions}
    raw = audit(rationales, by_id.values())
    cleaned = audit(rationales, by_id.values(), clean=True)
    answers = [(rationales[i].answer, by_id[rationales[i].question_id].answer) for i in raw]
    right = sum(is_right(own, answer) for own, answer in answers)
    solved = kind is PromptKind.solve
    return Audit(
        teacher=teacher,
        split=split,
        kind=kind,
        texts=len(raw),
        raw=_counts(raw.values()),
        cleaned=_counts(cleaned.values()),
        examples={str(f): [i for i, found in raw.items() if f in found][:EXAMPLES] for f in Finding},
        unparsed=sum(own is None for own, _ in answers) if solved else None,
        correct=right if solved else None,
    )


def audit_table(audits: Iterable[Audit]) -> Table:
    """Findings by teacher: the raw texts, in brackets what cleaning leaves of them; what no text has is named below."""
    audits = list(audits)
    there = [f for f in Finding if any(one.raw[f] or one.cleaned[f] for one in audits)]
    table = Table("teacher", "split", "asked", "texts", *there, title="Audit of the rationales: raw (after cleaning)")
    if absent := [str(f) for f in Finding if f not in there]:
        table.caption = f"in no text: {', '.join(absent)}"
    for one in audits:
        counts = [f"{one.raw[f]} ({one.cleaned[f]})" for f in there]
        table.add_row(one.teacher, one.split, one.kind, str(one.texts), *counts)
    return table


def write_audit(file: Path, dataset: str, audits: Iterable[Audit]) -> None:
    """Writes audit.json: the dataset, and for each teacher and split what `Audit` holds."""
    rows = [{name: getattr(one, name) for name in Audit.__dataclass_fields__} for one in audits]
    write_whole(file, json.dumps({"dataset": dataset, "audits": rows}, indent=2, ensure_ascii=False) + "\n")


def _text(rationale: Rationale, clean: bool) -> str:
    return clean_rationale(rationale.text) if clean else rationale.text


def _ended(rationale: Rationale, clean: bool) -> str:
    """Why a text ends where it does: not at the limit of tokens, where cleaning takes away what the limit cut."""
    ended = rationale.finish_reason
    return "recorded" if clean and ended == "length" and goes_on(rationale.text) else ended


def _counts(all_findings: Iterable[set[Finding]]) -> dict[str, int]:
    counter = Counter(finding for found in all_findings for finding in found)
    return {str(finding): counter[finding] for finding in Finding}


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _repeats(text: str) -> bool:
    sentences = Counter(tuple(_words(sentence)) for sentence in _SENTENCE_END.split(text))
    if any(count > 1 for sentence, count in sentences.items() if len(sentence) >= 5):
        return True
    words = _words(text)
    runs = Counter(zip(*(words[i:] for i in range(8)), strict=False))
    return any(count >= 3 for count in runs.values())


def _named(text: str, question: Question) -> tuple[bool, bool]:
    """Whether the right option, and whether a wrong one, is named by its text or as `(b)`.

    An option that stands inside a longer one ("water" in "hot water") is looked for outside of that.
    """
    rest = f" {' '.join(_words(text))} "
    named: set[str] = set()
    for choice in sorted(set(question.choices), key=lambda choice: len(choice), reverse=True):
        words = f" {' '.join(_words(choice))} "
        if words.strip() and words.strip() not in _NEVER_NAMED and words in rest:
            named.add(normalise(choice))
            rest = rest.replace(words, " | ")
    for letter in _LETTERS_NAMED.findall(text):
        index = ord(letter.lower()) - ord("a")
        if index < len(question.choices):
            named.add(normalise(question.choices[index]))
    answer = normalise(question.answer)
    return answer in named, bool(named - {answer})


def _is_answer_only(text: str, question: Question) -> bool:
    words = _words(re.sub(r"\([a-z]\)", " ", text.lower()))
    answer = set(_words(question.answer))
    return sum(word not in _ANSWER_WORDS and word not in answer and not word.isdigit() for word in words) < 3


def _is_foreign(text: str) -> bool:
    """Whether a text is in another script, or a longer one has the words of another language than English."""
    letters = [character for character in text if character.isalpha()]
    if letters and sum(ord(character) > 0x24F for character in letters) > 0.2 * len(letters):
        return True
    words = _words(text)
    return len(words) >= 20 and sum(word in _ENGLISH for word in words) < _FOREIGN_SHARE * len(words)
