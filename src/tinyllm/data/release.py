"""The folder that the paper's authors published: questions, and what the two teachers wrote on each.

    <root>/<dataset>/<dataset>_{train,valid,test}.json    {id, question, choices, answer}: a JSON array or JSON lines
    <root>/<dataset>/llm/{train,valid,test}_CoT_<k>.json  arrays of strings; the n-th of all strings is on the n-th row

Source: folder `datasets` of the repository YikunHan42/TinyLLM (Apache-2.0).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from tinyllm.data.rows import check_rows, decode, is_text, raise_problems, read_rows, read_text
from tinyllm.errors import UserError
from tinyllm.paper import DATASETS, TEACHERS
from tinyllm.records import SPLITS, Question, Split

WITH_CONTEXT = ("obqa", "pubmedqa", "bioasq")
"""Datasets whose `question` may be a context, a newline and the question proper. In the published obqa none is, so its
questions are single lines; every pubmedqa question has a context, its sections joined by ` \\n `."""

NO_TEXT = ("", "nan")
"""What a teacher that wrote nothing has in the files: they were written from a table, whose gaps became `nan`."""

_log = logging.getLogger(__name__)


def load(root: Path, dataset: str) -> dict[Split, list[Question]]:
    """Reads the published questions, in the order of the files.

    Texts lose their outer whitespace (a few piqa options end in a space). In `WITH_CONTEXT`, what stands before the
    last newline becomes `Question.context`. An id of piqa's train becomes `train-<id>`: published ids are row
    numbers that count from 0 in train and in validation, and an id must be unique within the dataset.

    Args:
        root: the folder that holds the datasets' folders.
        dataset: one of the paper's.

    Raises:
        UserError: for a missing file, and for bad rows: each with file, line (JSON lines) or row (array), both counted
            from 1, and field.
    """
    folder = _folder(root, dataset)
    questions = {split: _read_questions(folder, dataset, split) for split in SPLITS}
    seen: dict[str, Split] = {}
    for split in SPLITS:
        for question in questions[split]:
            if question.id in seen:
                raise UserError(
                    f"{folder}: field 'id': expected an id used once, found {question.id!r} in {seen[question.id]} and "
                    f"{split}: give each question an id of its own"
                )
            seen[question.id] = split
    return questions


def load_rationales(root: Path, dataset: str, split: Split, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """Reads what the teachers wrote on these questions: teacher (`TEACHERS`) -> question id -> text.

    A string holds `{FLAN-T5 rationale} Thus, the answer is ({letter}) {option}`, the question with its options, perhaps
    `A: ...`, and ` llama rationale: {LLaMA-2 rationale}`. Strings are cut at the text of their own question, which is
    known, so a rationale may itself hold "Q:", "Thus, the answer is" or "llama rationale:".

    FLAN-T5's text is the rationale proper, without the concluding formula: that names the option which the student's
    other stream is trained on, and was written with the answer given, so it tells nothing of the teacher's own choice.
    Texts are otherwise as recorded, without outer whitespace. A teacher that wrote nothing on a question (`NO_TEXT`, or
    LLaMA-2 on all of piqa) lacks its id: `missing` lists them, and a warning counts them.

    Args:
        root: as in `load`.
        dataset: as in `load`.
        split: the split that the questions belong to.
        questions: whose rationales are wanted, in any order; joined by id.

    Raises:
        UserError: for missing files, an id that the split lacks, or a string that isn't about the row in its place
            (with file, index in the file from 0, and id).
    """
    folder = _folder(root, dataset)
    rows = _read_questions(folder, dataset, split)
    strings = _read_strings(folder, split)
    if len(strings) != len(rows):
        raise UserError(
            f"{folder / 'llm'}: expected {len(rows)} strings in {split}_CoT_*.json, one a row of the questions' file, "
            f"found {len(strings)}: restore the published files"
        )
    wanted = {question.id for question in questions}
    if absent := sorted(wanted - {row.id for row in rows}):
        raise UserError(
            f"{len(absent)} of {len(wanted)} {dataset}/{split} questions are not in {folder}, such as "
            f"{', '.join(absent[:3])}: use data.source=release, or hub (the same questions)"
        )
    texts: dict[str, dict[str, str]] = {teacher: {} for teacher in TEACHERS}
    for row, (file, index, string) in zip(rows, strings, strict=True):
        parts = split_string(string, row)
        if parts is None:
            raise UserError(
                f"{file}: string {index}: expected the text of question {row.id!r} and its options, found "
                f"{_asked(string)!r}: restore the published order of strings and rows"
            )
        if row.id in wanted:
            for teacher, text in zip(TEACHERS, parts, strict=True):
                if text not in NO_TEXT:
                    texts[teacher][row.id] = text
    for teacher, ids in missing(texts, questions).items():
        if ids:
            _log.warning(
                "%d of %d %s/%s questions lack a %s rationale", len(ids), len(questions), dataset, split, teacher
            )
    return texts


def missing(texts: Mapping[str, Mapping[str, str]], questions: Iterable[Question]) -> dict[str, list[str]]:
    """Ids of the questions that a teacher wrote nothing on, by teacher, in the order of the questions."""
    ids = [question.id for question in questions]
    return {teacher: [id for id in ids if id not in by_id] for teacher, by_id in texts.items()}


def split_string(string: str, question: Question) -> tuple[str, str] | None:
    """FLAN-T5's and LLaMA-2's rationale from one recorded string, "" for one that is absent.

    None where the string isn't about this question: its text and options, compared word by word, stand nowhere in it
    with what may follow them (nothing, ` llama rationale:` or `A:`).
    """
    options = [f"({chr(ord('a') + i)}) {choice}" for i, choice in enumerate(question.choices)]
    words = ["Q:", *question.context.split(), *question.question.split(), "Answer", "Choices:"]
    words += " ".join(options).split()
    fallback: tuple[str, str] | None = None
    for start in re.finditer(r"(?:\n|\A)\s*(?=Q:)", string):
        spans = list(islice(re.compile(r"\S+").finditer(string, start.end()), len(words)))
        if [span.group() for span in spans] != words:
            continue
        after = re.fullmatch(
            r"(?:\s*\nA:.*?)??(?:\s+llama rationale:(?P<llama>.*))?\s*|\s*\nA:.*", string[spans[-1].end() :], re.DOTALL
        )
        if after is None:
            continue
        llama = (after["llama"] or "").strip()
        before = string[: start.start()].strip()
        rationale = _without_conclusion(before, options)
        if rationale is not None:
            return rationale, llama
        fallback = fallback or (before, llama)
    return fallback


def _without_conclusion(text: str, options: list[str]) -> str | None:
    """The text before a final `Thus, the answer is {option}`; None where it doesn't end so."""
    for formula in re.finditer(r"Thus, the answer is", text):
        tail = text[formula.end() :].split()
        if any(tail == option.split() for option in options):
            return text[: formula.start()].strip()
    return None


def _folder(root: Path, dataset: str) -> Path:
    if dataset not in DATASETS:
        raise UserError(f"no published data for dataset {dataset!r}: expected one of {', '.join(DATASETS)}")
    folder = Path(root) / dataset
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected a folder with {dataset}_train.json, found none: set data.root to the folder "
            "`datasets` of the published data (YikunHan42/TinyLLM)"
        )
    return folder


def _read_questions(folder: Path, dataset: str, split: Split) -> list[Question]:
    file = folder / f"{dataset}_{split}.json"
    problems: list[str] = []
    rows = read_rows(file, problems)
    if dataset in WITH_CONTEXT:
        rows = ((place, _split_context(row)) for place, row in rows)
    questions = [question for _, question in check_rows(rows, problems, letters=False, seen={})]
    raise_problems(problems, str(file))
    if not questions:
        raise UserError(f"{file}: expected rows, found none: restore the published file")
    if dataset == "piqa" and split == Split.train:
        return [replace(question, id=f"train-{question.id}") for question in questions]
    return questions


def _split_context(row: object) -> object:
    text = row.get("question") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(text, str):
        return row
    context, _, question = text.strip().rpartition("\n")
    return row | {"question": question, "context": context}


def _read_strings(folder: Path, split: Split) -> list[tuple[Path, int, str]]:
    """All recorded strings of a split with file and index, in the order of the files' numbers (10 after 9)."""
    numbered: dict[int, Path] = {}
    for file in (folder / "llm").glob(f"{split}_CoT_*.json"):
        if match := re.fullmatch(rf"{split}_CoT_(\d+)\.json", file.name):
            numbered[int(match[1])] = file
    if sorted(numbered) != list(range(len(numbered))) or not numbered:
        found = ", ".join(map(str, sorted(numbered))) or "no such file"
        raise UserError(
            f"{folder / 'llm'}: expected {split}_CoT_0.json and so on without a gap, found {found}: restore the "
            "published files"
        )
    strings: list[tuple[Path, int, str]] = []
    for _, file in sorted(numbered.items()):
        content = decode(read_text(file), file, "a JSON array")
        if not isinstance(content, list):
            raise UserError(f"{file}: expected a JSON array of strings, found {type(content).__name__}")
        for index, string in enumerate(content):
            if not is_text(string):
                raise UserError(f"{file}: string {index}: expected a text, found {type(string).__name__}")
            strings.append((file, index, string))
    return strings


def _asked(string: str) -> str:
    """The start of the question that a string is about, for messages."""
    _, marker, question = string.partition("Q: ")
    return (question if marker else string)[:60]
