"""Asking a teacher how much it expects the right answer after its own text (`weighting=confidence`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from tinyllm.config import TeacherConfig
from tinyllm.parsing import clean_rationale
from tinyllm.prompts import student_source
from tinyllm.records import PromptKind, Question
from tinyllm.teachers.asking.ask import Ask, generate
from tinyllm.teachers.asking.budget import Budget
from tinyllm.teachers.asking.plan import Item, Summary, Turn, items_of
from tinyllm.teachers.asking.printing import print_existing
from tinyllm.teachers.engines import open_transformers
from tinyllm.teachers.engines.protocol import Completion, Scorer, ScoreRequest
from tinyllm.teachers.prompt_key import confidence_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.vocabulary import check_confidence


def ask_for_confidence(
    turn: Turn, store: RationaleStore, asked: Sequence[Question], budget: Budget, console: Console
) -> Summary:
    """Score the right answer after each of a turn's texts, where the store has the text and not the score.

    Args:
        turn: whose texts; all of them are in the store by now.
        store: where the scores go, under a key of their own.
        asked: the questions.
        budget: what may be spent on them.
        console: shows plan and progress.

    Raises:
        UserError: the teacher has no likelihoods.
    """
    check_confidence(turn.teacher)
    texts = {i: clean_rationale(one.text) for i, one in store.read(*turn.part, turn.teacher.sample).items()}
    key = confidence_key(turn.teacher, turn.prompt_key)
    scoring = replace(turn, key=key, published=None, kind=PromptKind.forced)
    about = sorted((q for q in asked if texts.get(q.id)), key=lambda q: -len(q.context + q.question + texts[q.id]))
    missing = store.missing(*scoring.part, (q.id for q in about), sample=turn.teacher.sample)
    print_existing(
        scoring, "scores of the right answer after its texts (confidence)", len(about), len(missing), console
    )
    ask = _score(open_transformers(turn.teacher), turn.teacher, texts, budget)
    return generate(store, ask, items_of(scoring, about), scoring, costs=True, console=console)


def _score(scorer: Scorer, teacher: TeacherConfig, texts: Mapping[str, str], budget: Budget) -> Ask:
    """The teacher reads question, options and its cleaned text; a completion's text is a JSON list of one score."""

    def ask(items: Iterable[Item]) -> Iterator[list[Completion]]:
        asked = (item.question for item in items)
        requests = (ScoreRequest(q.id, source_of(q, texts[q.id]), (q.answer,)) for q in asked)
        yield from budget.let_through(lambda let: scorer.score(let, continues=True), requests, teacher)

    return ask


def source_of(question: Question, text: str) -> str:
    """What a teacher reads before the answer: context, question, options and its text."""
    return "".join(student_source(question, "", text)) + "\nAnswer:"
