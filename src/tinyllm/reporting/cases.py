"""Predictions of several runs -> cases: a question, what everybody answered, and why they say so (paper, figure 4)."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tinyllm.config import Metric
from tinyllm.prompts import letter
from tinyllm.records import Prediction
from tinyllm.reporting.labels import label, order
from tinyllm.reporting.paired import answered
from tinyllm.reporting.study import Study
from tinyllm.runs import TEACHER
from tinyllm.shown import UNPRINTABLE

KINDS = {
    "tinyllm_only": "TinyLLM is right, and the students of all other methods are wrong",
    "teachers_differ": "One teacher is wrong, another is right, and so is TinyLLM",
    "teacher_misleads": "A teacher is wrong and a student of it chooses the same option",
    "tinyllm_wrong": "TinyLLM is wrong where another student is right",
}
"""Kinds of cases, with their headings; a case may be of several kinds or of none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model answered."""

    who: str
    chosen: str | None
    """Text of the option; None where the generation names none."""
    generated: str
    """Its text, as it came."""
    right: bool
    method: str
    """As in the result; `teacher` for a teacher."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What one model gave as its reason."""

    who: str
    voice: str
    """Teacher in whose voice a student speaks; empty for a teacher itself."""
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """One test question as the runs of one student and one seed answered it, and the teachers."""

    dataset: str
    student: str
    seed: int
    id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    subset: str
    kinds: tuple[str, ...]
    """Keys of `KINDS`."""
    answers: tuple[Answer, ...]
    """The teachers first, then the students in the paper's order."""
    rationales: tuple[Reasoning, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """A run with its predictions by question."""

    row: Mapping[str, Any]
    who: str
    by_question: dict[tuple[Any, ...], Prediction]

    @property
    def ablated(self) -> bool:
        return bool(self.row["ablation"] != "none")


def _key(prediction: Prediction) -> tuple[Any, ...]:
    """An id names a question within one sample of a dataset; with its text it can't stand for two."""
    return prediction.id, prediction.question, prediction.choices


def cases(study: Study) -> list[Case]:
    """Every test question that a student answered, joined over `Study.runs` by dataset, seed and question id.

    Of every student, these are the runs with the largest fraction of the training questions. A teacher's answer comes
    from its run with the same seed, else from any run in which it was asked the same question with the same id; it is
    always the one that it generated, whatever the metric.

    Returns:
        Sorted by dataset, student, seed and id.
    """
    rows = sorted(
        cast(list[dict[str, Any]], study.runs.to_dict("records")),
        key=lambda row: (order(row), str(row["setting"]), row["seed"]),
    )
    teachers: dict[str, list[_Run]] = defaultdict(list)
    students: dict[tuple[str, str, int], list[_Run]] = defaultdict(list)
    for row in rows:
        run = _Run(row, label(row), {_key(p): p for p in study.predictions.of(row["folder"])})
        if row["method"] == TEACHER:
            teachers[row["dataset"]].append(run)
        else:
            students[row["dataset"], row["student"], int(row["seed"])].append(run)
    found: list[Case] = []
    for dataset, student, seed in sorted(students):
        asked = students[dataset, student, seed]
        own_seed_first = sorted(teachers[dataset], key=lambda run: run.row["seed"] != seed)
        for key in sorted({key for run in asked for key in run.by_question}):
            answering = [*_first_of_each(own_seed_first, key), *asked]
            found.append(_case(dataset, student, seed, key, answering, study.metric))
    return found


def _first_of_each(teachers: Sequence[_Run], key: tuple[Any, ...]) -> list[_Run]:
    by_who: dict[str, _Run] = {}
    for run in teachers:
        if key in run.by_question:
            by_who.setdefault(run.who, run)
    return [by_who[who] for who in sorted(by_who)]


def _case(
    dataset: str,
    student: str,
    seed: int,
    key: tuple[Any, ...],
    runs: Sequence[_Run],
    metric: Metric,
) -> Case:
    given = [(run, run.by_question[key]) for run in runs if key in run.by_question]
    answers, rationales = [], []
    for run, prediction in given:
        teacher = run.row["method"] == TEACHER
        ranks = metric is Metric.accuracy_ranked and not teacher
        chosen = prediction.ranked if ranks else prediction.predicted
        right = answered(prediction, Metric.accuracy if teacher else metric)
        answers.append(Answer(run.who, chosen, prediction.generated, right, run.row["method"]))
        if teacher:
            rationales.append(Reasoning(run.who, "", prediction.generated))
        rationales += [Reasoning(run.who, voice, text) for voice, text in sorted(prediction.rationales.items())]
    question = given[0][1]
    return Case(
        dataset, student, seed, question.id, question.question, question.choices, question.answer, question.subset,
        _kinds([run for run, _ in given], answers), tuple(answers), tuple(rationales),
    )  # fmt: skip


def _kinds(runs: Sequence[_Run], answers: Sequence[Answer]) -> tuple[str, ...]:
    """Ablations of TinyLLM are neither TinyLLM nor "another student"."""
    pairs = [(run, answer) for run, answer in zip(runs, answers, strict=True) if not run.ablated]
    tinyllm = [a for _, a in pairs if a.method == "tinyllm"]
    others = [a for _, a in pairs if a.method not in ("tinyllm", TEACHER)]
    kinds = []
    if tinyllm and others and all(a.right for a in tinyllm) and not any(a.right for a in others):
        kinds.append("tinyllm_only")
    teachers = [a.right for _, a in pairs if a.method == TEACHER]
    if tinyllm and all(a.right for a in tinyllm) and any(teachers) and not all(teachers):
        kinds.append("teachers_differ")
    wrong = {run.row["student"]: a.chosen for run, a in pairs if a.method == TEACHER and not a.right and a.chosen}
    if any(
        a.chosen is not None and a.chosen == wrong.get(teacher)
        for run, a in pairs
        if a.method != TEACHER
        for teacher in str(run.row["teachers"]).split("+")
    ):
        kinds.append("teacher_misleads")
    if tinyllm and not any(a.right for a in tinyllm) and any(a.right for a in others):
        kinds.append("tinyllm_wrong")
    return tuple(kinds)


HOW_DRAWN = (
    "Cases are drawn by a hash of dataset, student, seed and question id, independent of their content; those with "
    "rationales of more models come first."
)


def draw(cases: Iterable[Case]) -> Iterator[Case]:
    """The cases in a fixed order that does not look at what they say, the groups (dataset, student, kind) in turn.

    A case of several kinds comes once. `HOW_DRAWN` says it to a reader.
    """
    groups: dict[tuple[str, str, str], list[Case]] = defaultdict(list)
    for case in sorted(cases, key=_draw_key):
        for kind in case.kinds or ("",):
            groups[case.dataset, case.student, kind].append(case)
    rank = {kind: i for i, kind in enumerate([*KINDS, ""])}
    queues = [iter(groups[group]) for group in sorted(groups, key=lambda g: (rank[g[2]], g))]
    seen: set[tuple[str, str, int, str]] = set()
    while queues:
        for queue in list(queues):
            new = next((case for case in queue if _identity(case) not in seen), None)
            if new is None:
                queues.remove(queue)
                continue
            seen.add(_identity(new))
            yield new


def _identity(case: Case) -> tuple[str, str, int, str]:
    return case.dataset, case.student, case.seed, f"{case.id}\n{case.question}\n{case.choices}"


def _draw_key(case: Case) -> tuple[int, str]:
    text = "\n".join([case.dataset, case.student, str(case.seed), case.id])
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
    return -len({rationale.who for rationale in case.rationales}), digest


_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$!])")


def escape(text: str) -> str:
    """Model text as one line of Markdown that shows just its characters: no markup, HTML or table cell of its own."""
    flat = " ".join(UNPRINTABLE.sub(" ", text).split())
    return _SPECIAL.sub(r"\\\1", flat)


def markdown(cases: Sequence[Case], per_kind: int = 2) -> str:
    """Figure 4 as Markdown: some cases of every kind, with every answer and rationale.

    Args:
        cases: all of them; the function draws.
        per_kind: cases of a kind at most.
    """
    drawn = list(draw(cases))
    lines = [
        f"{len(cases)} cases, each one question with one student and seed. {HOW_DRAWN} None was picked by hand.",
        "",
    ]
    shown: set[tuple[str, str, int, str]] = set()
    for kind, heading in KINDS.items():
        of_kind = [case for case in drawn if kind in case.kinds]
        picked = [case for case in of_kind if _identity(case) not in shown][:per_kind]
        shown |= {_identity(case) for case in picked}
        lines += [f"### {heading}", "", f"{len(of_kind)} of {len(cases)} cases; {len(picked)} shown.", ""]
        for case in picked:
            lines += _one(case)
    return "\n".join(lines).rstrip() + "\n"


def _one(case: Case) -> list[str]:
    where = [case.dataset, *([case.subset] if case.subset else []), case.student, f"seed {case.seed}", case.id]
    lines = [f"**Question.** {escape(case.question)} ({escape(', '.join(where))})", ""]
    lines += [f"- {letter(i)} {escape(choice)}" for i, choice in enumerate(case.choices)]
    lines += ["", "| | answer | | generated |", "| --- | --- | --- | --- |"]
    lines.append(f"| Ground truth | {_option(case, case.answer)} | | |")
    for answer in case.answers:
        mark = "✓" if answer.right else "✗"
        # A teacher's text is among the rationales; it is too long for a table.
        text = "" if answer.method == TEACHER else escape(answer.generated)
        lines.append(f"| {escape(answer.who)} | {_option(case, answer.chosen)} | {mark} | {text} |")
    lines.append("")
    for rationale in case.rationales:
        voice = f", in the voice of {escape(rationale.voice)}" if rationale.voice else ""
        lines.append(f"- **{escape(rationale.who)}{voice}:** {escape(rationale.text) or '(empty)'}")
    return [*lines, ""]


def _option(case: Case, chosen: str | None) -> str:
    if chosen is None:
        return "none of them"
    index = next((i for i, choice in enumerate(case.choices) if choice == chosen), None)
    return f"{letter(index)} {escape(chosen)}" if index is not None else escape(chosen)
