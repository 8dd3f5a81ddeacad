"""In-context examples (paper, section 3.2): invented by the teacher, drawn from training, or nearest in training.

No example is the question itself, a near-duplicate of it, or a near-duplicate of a validation or test question.
"""

from __future__ import annotations

import json
import logging
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tinyllm.errors import UserError
from tinyllm.parsing import clean_rationale, match_choice, normalise, parse_example, without_thoughts
from tinyllm.prompts import (
    Domain,
    Example,
    example_request,
    invented_answer_request,
    invented_question_request,
    teacher_messages,
    teacher_prompt,
)
from tinyllm.records import Finding, PromptKind, Question
from tinyllm.runs import write_whole
from tinyllm.teachers.audit import findings
from tinyllm.teachers.engines.protocol import Completion, Engine, Request, seed_of
from tinyllm.teachers.store import lock

log = logging.getLogger(__name__)

POOL = 32
"""Training questions that random examples are drawn from: that many zero-shot rationales are made for them."""
INVENTED = 16
"""Examples that a teacher invents for a dataset: the pool that each question draws from."""
SPARE = 2
"""Neighbours looked up beyond those shown: one may be a near-duplicate of the question."""
ROUND = 16
"""Examples asked for at once when a teacher invents them."""
ROUNDS = (2, 4)
"""Rounds of asking for complete examples, and then of asking step by step, at most."""
INVENTION = (0.7, 0.9)
"""Temperature and top_p: greedy decoding would invent the same example each time."""
LONGEST_OPTION = 12
"""Words; what is longer is talk about the task."""
ALIKE = 0.8
"""Two questions are near-duplicates when this share of their words, of both together, is in both (Jaccard)."""


class NearDuplicates:
    """Finds near-duplicates of a set of questions, exactly and without comparing all pairs.

    Two word sets with a Jaccard index of t share at least one of the |A| - ceil(t |A|) + 1 rarest words of each
    (prefix filter of Bayardo et al., 2007), so only questions that share such a word are compared. The question text
    counts, not its context or options.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self._sets = [_word_set(question.question) for question in questions]
        self._often = Counter(word for words in self._sets for word in words)
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        for index, words in enumerate(self._sets):
            for word in self._rarest(words):
                self._by_word[word].append(index)

    def like(self, question: Question) -> bool:
        """Whether one of the set is a near-duplicate of `question`, or equal to it."""
        words = _word_set(question.question)
        candidates = {index for word in self._rarest(words) for index in self._by_word.get(word, ())}
        return any(_jaccard(words, self._sets[index]) >= ALIKE for index in candidates)

    def _rarest(self, words: frozenset[str]) -> list[str]:
        ordered = sorted(words, key=lambda word: (self._often[word], word))
        return ordered[: len(words) - math.ceil(ALIKE * len(words) - 1e-9) + 1]


def domain_of(topic: str, questions: Sequence[Question]) -> Domain:
    """What invented examples are to be like: the topic, and how many options `questions` have, or which ones."""
    if not questions:
        return Domain(topic, 4)
    sets = Counter(question.choices for question in questions)
    (choices, count), *_ = sets.most_common(1)
    if len(questions) > 1 and count == len(questions):
        return Domain(topic, len(choices), choices)
    return Domain(topic, Counter(len(question.choices) for question in questions).most_common(1)[0][0])


def allowed_for_training_examples(training: Sequence[Question], held_out: Iterable[Question]) -> list[Question]:
    """The training questions that may serve as examples: none that validation or test has, nearly or fully."""
    forbidden = NearDuplicates(held_out)
    return [question for question in training if not forbidden.like(question)]


def random_pool(dataset: str, allowed: Sequence[Question]) -> list[Question]:
    """`POOL` questions, the same in every process and, for the same training set, in every run."""
    ordered = sorted(allowed, key=lambda question: seed_of("pool", dataset, question.id))
    return _unlike_each_other(ordered, POOL)


def random_order(pool: Sequence[Question], question: Question) -> list[Question]:
    """The pool in the order in which `question` draws from it."""
    return sorted(pool, key=lambda candidate: seed_of("draw", question.id, candidate.id))


def nearest_orders(allowed: Sequence[Question], questions: Sequence[Question], n: int) -> dict[str, list[Question]]:
    """For each of `questions` (by id) the `n` allowed ones nearest to it, nearest first, and not its near-duplicates.

    Nearness is the cosine of TF-IDF vectors of question and options (the paper's future work, section 5).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    if not allowed or not questions:
        return {question.id: [] for question in questions}
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")  # "3 + 2" has words, too
    known = vectorizer.fit_transform([_embedded(question) for question in allowed])
    # The question itself and its near-duplicates may be the nearest ones; they are dropped below.
    wanted = min(len(allowed), n + 10)
    index = NearestNeighbors(n_neighbors=wanted, metric="cosine", algorithm="brute").fit(known)
    found = index.kneighbors(
        vectorizer.transform([_embedded(question) for question in questions]), return_distance=False
    )
    orders: dict[str, list[Question]] = {}
    for question, row in zip(questions, found, strict=True):
        orders[question.id] = _unlike_each_other((allowed[int(i)] for i in row), n, [question])
    return orders


def pick(order: Iterable[Question], rationales: Mapping[str, str], question: Question, n: int) -> list[Example]:
    """The first `n` of `order` that have a rationale and aren't the question, nearly or fully.

    The first comes last in the prompt, next to the question.
    """
    usable = (candidate for candidate in order if candidate.id in rationales)
    chosen = _unlike_each_other(usable, n, [question])
    return [Example(candidate, rationales[candidate.id]) for candidate in reversed(chosen)]


def pick_invented(examples: Sequence[Example], question: Question, n: int) -> list[Example]:
    """`n` of the examples that aren't near-duplicates of the question, drawn by a hash of its id."""
    by_id = {example.question.id: example for example in examples}
    order = random_order([example.question for example in examples], question)
    return [by_id[kept.id] for kept in _unlike_each_other(order, n, [question])]


def invented_examples(
    file: Path, engine: Engine, domain: Domain, n: int, *, chat: bool, avoid: Sequence[Question], teacher: str
) -> list[Example]:
    """The examples in `file`, which the teacher invents first where there is no such file.

    One process invents while others wait for it; the pool is made once for all of them and all later runs. It has
    `INVENTED` examples, or as many as the teacher managed.

    Raises:
        UserError: there are fewer than the `n` that a prompt shows, or fewer than `INVENTED` because requests failed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as held:
        lock(held.fileno())
        existing = read_examples(file)
        watched = _Watched(engine)
        examples = existing or invent(watched, domain, INVENTED, chat=chat, avoid=avoid)
        if watched.errors and len(examples) < INVENTED:
            raise UserError(
                f"teacher {teacher}: {len(watched.errors)} of {watched.asked} requests for in-context examples failed "
                f"({watched.errors[0]}), and {len(examples)} of {INVENTED} examples were made: run the same command "
                "again (what was answered is kept), or use prompt.example_source=random"
            )
        if len(examples) < n:
            raise UserError(
                f"teacher {teacher} invented {len(examples)} usable in-context examples of the {n} wanted: use "
                f"prompt.example_source=random, or prompt.examples={len(examples)}"
            )
        if existing:
            return existing
        if len(examples) < INVENTED:
            log.warning(
                "teacher %s invented %d usable in-context examples of the %d wanted: questions share them more often",
                teacher, len(examples), INVENTED,
            )  # fmt: skip
        rows = [
            {"question": e.question.question, "choices": e.question.choices, "answer": e.question.answer}
            | {"rationale": e.rationale}
            for e in examples
        ]
        write_whole(file, json.dumps({"about": domain.about, "examples": rows}, indent=2, ensure_ascii=False) + "\n")
        return examples


class _Watched:
    """An engine that keeps count of the failures that another call may mend."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.asked = 0
        self.errors: list[str] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for batch in self._engine.complete(requests):
            self.asked += len(batch)
            self.errors += [done.error for done in batch if done.error is not None and not done.final]
            yield batch


def invent(engine: Engine, domain: Domain, n: int, *, chat: bool, avoid: Sequence[Question]) -> list[Example]:
    """Up to `n` examples that the teacher writes with none shown (paper: in a zero-shot setting).

    Asked for complete examples first; a teacher that can't keep to the form is then led step by step: question, right
    answer, rationale, and the wrong options are its answers to its other questions. Malformed ones, and near-duplicates
    of each other or of `avoid`, are dropped.
    """
    forbidden = NearDuplicates(avoid)
    kept: list[Example] = []
    for ask, rounds in zip((_invent_at_once, _invent_in_steps), ROUNDS, strict=True):
        for round_ in range(rounds):
            if len(kept) >= n:
                break
            made = ask(engine, domain, round_, chat)
            found = _unlike_each_other(
                (e.question for e in made if not forbidden.like(e.question)), n - len(kept), [e.question for e in kept]
            )
            rationales = {e.question.id: e.rationale for e in made}
            kept += [Example(question, rationales[question.id]) for question in found]
    return [
        Example(replace(example.question, id=f"invented-{index}"), example.rationale)
        for index, example in enumerate(kept)
    ]


def _invent_at_once(engine: Engine, domain: Domain, round_: int, chat: bool) -> list[Example]:
    texts = _ask(engine, [example_request(domain)] * ROUND, chat, f"whole {round_}")
    parsed = [
        parse_example(text, f"whole-{round_}-{index}", domain.n_choices, domain.choices)
        for index, text in enumerate(texts)
    ]
    return [good for one in parsed if one is not None and (good := _presentable(one)) is not None]


def _invent_in_steps(engine: Engine, domain: Domain, round_: int, chat: bool) -> list[Example]:
    questions = [
        line
        for text in _ask(engine, [invented_question_request(domain)] * ROUND, chat, f"question {round_}")
        if (line := _first_question(text))
    ]
    right = _ask(engine, [invented_answer_request(q, domain.choices) for q in questions], chat, f"answer {round_}")
    answers: dict[str, str] = {}
    for question, text in zip(questions, right, strict=True):
        line = _first_line(text, "answer")
        answer = match_choice(line, domain.choices) if domain.choices else line
        if answer and len(answer.split()) <= LONGEST_OPTION:
            answers[question] = answer
    made: list[Question] = []
    for index, (question, answer) in enumerate(answers.items()):
        rng = random.Random(seed_of("options", round_, index))
        others = {normalise(other): other for other in answers.values()}
        others.pop(normalise(answer))
        if domain.choices:
            options = list(domain.choices)
        elif len(others) >= domain.n_choices - 1:
            options = [answer, *rng.sample(list(others.values()), domain.n_choices - 1)]
            rng.shuffle(options)
        else:
            continue
        made.append(Question(f"steps-{round_}-{index}", question, tuple(options), answer))
    prompts = [
        teacher_messages(question, [], kind=PromptKind.forced)[0]["content"]
        if chat
        else teacher_prompt(question, [], kind=PromptKind.forced)
        for question in made
    ]
    examples: list[Example] = []
    for stem, text in zip(made, _ask(engine, prompts, chat, f"rationale {round_}"), strict=True):
        example = _presentable(Example(stem, clean_rationale(text)))
        if example is not None:
            examples.append(example)
    return examples


def _presentable(example: Example) -> Example | None:
    """The example with its rationale up to the last whole sentence; None where it would be a bad model.

    A rationale that starts well and then repeats itself or strays is shown up to its second sentence.
    """
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", example.rationale)]
    for end in (ends[-1:], ends[1:2], ends[:1]):
        rationale = example.rationale[: end[0]] if end else ""
        if not findings(rationale, example.question) - {Finding.wrong_options}:
            return Example(example.question, rationale)
    return None


def _ask(engine: Engine, prompts: Sequence[str], chat: bool, step: str) -> list[str]:
    """The teacher's texts in the order of `prompts`, without its thoughts, and empty where it failed."""
    requests = [
        Request(
            str(index),
            [{"role": "user", "content": prompt}] if chat else prompt,
            seed_of("invent", step, index),
            INVENTION,
        )
        for index, prompt in enumerate(prompts)
    ]
    texts = {done.id: without_thoughts(done.text) for batch in engine.complete(requests) for done in batch}
    return [texts.get(request.id, "") for request in requests]


def _first_question(text: str) -> str:
    """The first line that is a question of four words or more; empty where there is none."""
    for line in text.replace("*", "").splitlines():
        cleaned = re.sub(r"^\s*(?:question\s*:|\d+[.)])\s*", "", line, flags=re.IGNORECASE).strip().strip("\"'")
        if cleaned.endswith("?") and len(cleaned.split()) >= 4:
            return cleaned
    return ""


def _first_line(text: str, label: str) -> str:
    """The first line with text in it, without the label that it may repeat, quotes and a final stop."""
    for line in text.replace("*", "").splitlines():
        cleaned = line.strip().strip("\"'")
        if cleaned.lower().startswith(f"{label}:"):
            cleaned = cleaned[len(label) + 1 :].strip()
        if cleaned:
            return cleaned.removesuffix(".") if label == "answer" else cleaned
    return ""


def read_examples(file: Path) -> list[Example]:
    """The examples of a pool; none where there is no such file.

    Raises:
        UserError: where the file holds something else.
    """
    if not file.exists():
        return []
    try:
        rows = json.loads(file.read_text())["examples"]
        return [
            Example(Question(f"invented-{i}", row["question"], tuple(row["choices"]), row["answer"]), row["rationale"])
            for i, row in enumerate(rows)
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: expected examples of this version, found something else ({error}): remove the file, and "
            "'tinyllm rationales' asks for new ones"
        ) from error


def _unlike_each_other(candidates: Iterable[Question], n: int, others: Sequence[Question] = ()) -> list[Question]:
    """The first `n` candidates that are no near-duplicates of one kept before, nor of `others`."""
    ids = {other.id for other in others}
    sets = [_word_set(other.question) for other in others]
    kept: list[Question] = []
    for candidate in candidates:
        if len(kept) == n:
            break
        words = _word_set(candidate.question)
        if candidate.id not in ids and not any(_jaccard(words, other) >= ALIKE for other in sets):
            kept.append(candidate)
            sets.append(words)
    return kept


def _word_set(text: str) -> frozenset[str]:
    return frozenset("".join(c if c.isalnum() else " " for c in text.lower()).split()) or frozenset({text})


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _embedded(question: Question) -> str:
    return f"{question.question} {' '.join(question.choices)}"
