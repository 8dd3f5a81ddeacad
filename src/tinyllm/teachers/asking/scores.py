"""Asking a teacher for its scores of the options of every question (standard KD with logits)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from tinyllm.config import StudentConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.prompts import student_source
from tinyllm.records import Question
from tinyllm.teachers.asking.ask import Ask, generate
from tinyllm.teachers.asking.budget import Budget
from tinyllm.teachers.asking.plan import Item, Summary, Turn, items_of
from tinyllm.teachers.asking.printing import print_existing
from tinyllm.teachers.engines import open_transformers
from tinyllm.teachers.engines.protocol import Completion, Scorer, ScoreRequest
from tinyllm.teachers.prompt_key import scores_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.vocabulary import REMEDY, check_scorer, student_vocabulary, vocabulary_hash


def ask_for_scores(
    turn: Turn,
    student: StudentConfig,
    store: RationaleStore,
    asked: Sequence[Question],
    budget: Budget,
    console: Console,
) -> Summary:
    """Ask a turn's teacher for the option scores that are missing from the store; its prompt and sample don't matter.

    Args:
        turn: the teacher's, on the split of the questions.
        student: whose vocabulary the teacher must have.
        store: where the scores go, under a key of their own.
        asked: the questions.
        budget: what may be spent on them.
        console: shows plan and progress.

    Raises:
        UserError: the teacher can't give scores to this student.
    """
    check_scorer(turn.teacher)
    vocabulary = student_vocabulary(student)
    scoring = replace(
        turn, teacher=replace(turn.teacher, sample=0), key=scores_key(turn.teacher, vocabulary), published=None
    )
    missing = store.missing(*scoring.part, (question.id for question in asked))
    print_existing(scoring, "option scores", len(asked), len(missing), console)
    by_length = sorted(asked, key=lambda question: -len(question.context + question.question))
    ask = score_options(open_transformers(turn.teacher), turn.teacher, vocabulary, budget)
    return generate(store, ask, items_of(scoring, by_length), scoring, costs=True, console=console)


def score_options(scorer: Scorer, teacher: TeacherConfig, vocabulary: str, budget: Budget) -> Ask:
    """How a teacher is asked for scores; a completion's text is their JSON list, in the order of the options.

    The teacher reads what the student reads, without a prefix: context, question and options. No rationale and no
    instruction stands there, so that its distribution over the options is the one that the student is to have.

    Args:
        scorer: runs the teacher.
        teacher: whose name is in messages, and whose prices count.
        vocabulary: `vocabulary_hash` of the student's tokenizer.
        budget: what may be spent.
    """

    def ask(items: Iterable[Item]) -> Iterator[list[Completion]]:
        if vocabulary_hash(scorer.tokenizer()) != vocabulary:
            raise UserError(f"teacher {teacher.name}: expected the student's vocabulary, found another one: {REMEDY}")
        asked = (item.question for item in items)
        requests = (ScoreRequest(q.id, "".join(student_source(q, "")), q.choices) for q in asked)
        yield from budget.let_through(scorer.score, requests, teacher)

    return ask
