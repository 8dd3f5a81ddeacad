"""Random rows at every reader of data, and random completions at what reads a teacher's text: nothing but UserError."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinyllm import runs
from tinyllm.config import ColumnsConfig
from tinyllm.data import bioasq, hub, jsonl, release
from tinyllm.errors import UserError
from tinyllm.parsing import clean_rationale, match_choice, parse_answer, parse_example, without_conclusion
from tinyllm.records import SPLITS, PromptKind, Question, Rationale, Split
from tinyllm.teachers.audit import audit, audit_teacher, for_training
from tinyllm.teachers.examples import read_examples
from tinyllm.teachers.store import RationaleStore

quick = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

TEXTS = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["a", "(b)", "yes", " ", "\u2028", "\ud83d", "-1", "9" * 5000]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
CHOICES = st.lists(TEXTS, max_size=5) | st.fixed_dictionaries({"text": VALUES, "label": VALUES}) | VALUES
FIELDS = {
    "id": TEXTS | VALUES,
    "question": TEXTS | VALUES,
    "choices": CHOICES,
    "answer": TEXTS | VALUES,
    "context": TEXTS | VALUES,
    "split": st.sampled_from(["train", "valid", "test", "dev", ""]) | VALUES,
    "group": VALUES,
}
ROWS = st.fixed_dictionaries({}, optional=FIELDS) | VALUES
GOOD = {"id": "g", "question": "Q?", "choices": ["x", "y"], "answer": "x", "context": "c"}


def nothing_but_user_errors(read: Callable[[], object]) -> None:
    """And one whose message can be printed."""
    try:
        read()
    except UserError as error:
        assert str(error).encode()


@quick
@given(st.lists(ROWS, max_size=4), st.booleans())
@example([GOOD | {"id": "\ud800"}], False)
@example([GOOD | {"choices": ["x", "\udfff"], "answer": "x"}], True)
def test_a_users_questions(rows: list[object], as_array: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mine.jsonl")
        file.write_text(json.dumps(rows) if as_array else "\n".join(map(json.dumps, rows)))
        nothing_but_user_errors(lambda: jsonl.load(file))


@quick
@given(st.binary(max_size=60) | st.text('[]{}":,0eE-.\n', max_size=60).map(str.encode))
@example(b"[" * 5000)
@example(b"{}\n" + b"[" * 100_000)
@example(b"9" * 5000)
@example(b"[" + b"9" * 5000 + b"]")
@example("\ufeff[]".encode())
def test_a_file_of_anything(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mine.jsonl")
        file.write_bytes(content)
        nothing_but_user_errors(lambda: jsonl.load(file))
        nothing_but_user_errors(lambda: bioasq.read(file, {"1"}))


COLUMNS = st.sampled_from(
    [
        ColumnsConfig(),
        ColumnsConfig(context="context", group="group"),
        ColumnsConfig(answer="answer.key", question="question.stem"),
        ColumnsConfig(fixed_choices=["no", "yes"], labels=["0", "1"]),
        ColumnsConfig(id="id", choices=["question", "context"]),
    ]
)


@quick
@given(st.lists(st.fixed_dictionaries({}, optional=FIELDS) | st.just(GOOD), max_size=4), COLUMNS)
@example([GOOD | {"answer": {"key": 5}}, GOOD | {"answer": None}], ColumnsConfig(answer="answer.key"))
@example([GOOD | {"answer": "9" * 5000}], ColumnsConfig())
def test_rows_of_the_hub(rows: list[dict[str, object]], columns: ColumnsConfig) -> None:
    with (
        patch.object(hub, "_rows", lambda place, hub_split, columns: rows),
        patch.object(hub, "_split_names", lambda place: ["train", "validation", "test"]),
    ):
        nothing_but_user_errors(
            lambda: hub.load("own", hub_id="a/b", hub_config=None, revision=None, root=None, columns=columns)
        )


@quick
@given(
    st.sampled_from(["obqa", "riddle", "piqa", "pubmedqa"]),
    st.lists(ROWS.filter(lambda r: isinstance(r, dict)), max_size=3),
)
def test_rows_of_the_papers_datasets(dataset: str, rows: list[dict[str, object]]) -> None:
    with patch.object(hub, "_rows", lambda place, hub_split, columns: rows):
        nothing_but_user_errors(lambda: hub.load(dataset, hub_id="a/b", hub_config=None, revision=None, root=None))


SNIPPETS = st.lists(st.fixed_dictionaries({"text": VALUES}) | VALUES, max_size=2) | VALUES


@quick
@given(
    st.fixed_dictionaries({"id": st.just("1"), "type": st.just("yesno"), "exact_answer": VALUES, "snippets": SNIPPETS})
)
@example({"id": "1", "type": "yesno", "exact_answer": "yes", "snippets": 5})
def test_rows_of_bioasq(row: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bioasq.json")
        file.write_text(json.dumps({"questions": [row]}))
        (found,) = bioasq.read(file, {"1"})
        with patch.object(hub.bioasq, "read", lambda root, wanted: [found]):
            nothing_but_user_errors(lambda: hub.load("bioasq", hub_id=None, hub_config=None, revision=None, root=file))


@quick
@given(
    st.sampled_from(["obqa", "piqa", "pubmedqa"]),
    st.lists(ROWS | st.just(GOOD), max_size=3),
    st.lists(TEXTS | VALUES, max_size=3),
)
@example("obqa", [GOOD], ["\ud800 \nQ: Q?"])
def test_the_published_folder(dataset: str, rows: list[object], strings: list[object]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, dataset)
        (folder / "llm").mkdir(parents=True)
        for split in SPLITS:
            own = [row | {"id": f"{split}-{row.get('id')}"} if isinstance(row, dict) else row for row in rows]
            (folder / f"{dataset}_{split}.json").write_text(json.dumps(own))
            (folder / "llm" / f"{split}_CoT_0.json").write_text(json.dumps(strings))
        nothing_but_user_errors(lambda: release.load(Path(root), dataset))
        nothing_but_user_errors(lambda: release.load_rationales(Path(root), dataset, Split.train, []))


WORDS = [
    "the answer is",
    "Answer:",
    "(a)",
    "(b) a hen",
    "(\u0130)",
    "(\u0131)",
    "a hen",
    "an owl",
    "is the right answer",
    "so",
    "**",
]
LINES = [
    "\n",
    ". ",
    ": ",
    "Question:",
    "Answer Choices:",
    "Right answer:",
    "Rationale:",
    "a)",
    "b) \t",
    "\u3000",
    "\ud83d",
]
COMPLETIONS = st.lists(st.sampled_from(WORDS + LINES) | st.text(st.characters(), max_size=5), max_size=20).map(" ".join)
OWL = Question("q", "Who hunts at night?", ("an owl", "a hen", "(a)", "\u0130"), "an owl")


@settings(quick, max_examples=200)
@given(COMPLETIONS)
@example("Question: Who?\nAnswer Choices:\na) \t\nb) x\nAnswer: b\nRationale: because it is so")
def test_completions_are_parsed_and_cleaned(text: str) -> None:
    """What comes out is an option, a part of the text or nothing."""
    assert parse_answer(text, OWL.choices) in (None, *OWL.choices)
    assert match_choice(text, OWL.choices) in (None, *OWL.choices)
    assert clean_rationale(text) in text
    assert len(without_conclusion(text, OWL.choices)) <= 2 * len(text) + 1
    made = parse_example(text, "e", 2)
    assert made is None or (made.question.answer in made.question.choices and made.rationale.strip())


def written(text: str, key: str = "q", option: int | None = None) -> Rationale:
    return Rationale("d", Split.train, key, "t", 0, "k", text, None, "stop", 1, "2026-01-01", option)


@quick
@given(st.lists(COMPLETIONS, min_size=1, max_size=4), st.none() | st.integers(0, 9), st.booleans())
@example(["A hen (\u0130) sleeps."], None, False)
@example(["A text about an option that the question has no longer."], 9, True)
def test_completions_are_audited(texts: list[str], option: int | None, clean: bool) -> None:
    records = {
        one.key: one for i, text in enumerate(texts) for one in [written(text, "q" if i == 0 else f"q{i}", option)]
    }
    questions = [Question(f"q{i}" if i else "q", OWL.question, OWL.choices, OWL.answer) for i in range(len(texts))]
    assert set(audit(records, questions, clean=clean)) == (set(records) if (option or 0) < 4 else set())
    audit_teacher("t", "train", records, questions, kind=PromptKind.solve)
    if option is None:
        assert all(for_training(records, questions, kind=PromptKind.solve, clean=clean).values())


@quick
@given(COMPLETIONS)
@example("half of a \ud83d")
def test_completions_are_stored(text: str) -> None:
    """Half a character, which UTF-8 has no bytes for, becomes a question mark."""
    with tempfile.TemporaryDirectory() as folder:
        store = RationaleStore(Path(folder))
        store.append([written(text)])
        (found,) = store.read("d", Split.train, "t", "k").values()
        assert found.text == text.encode(errors="replace").decode()


@quick
@given(st.dictionaries(st.sampled_from(list(asdict(written("")))), VALUES), st.booleans())
@example({"text": 5}, False)
def test_broken_records_of_the_store_are_no_records(fields: dict[str, object], whole: bool) -> None:
    row = asdict(written("A text.")) | fields
    with tempfile.TemporaryDirectory() as folder:
        store = RationaleStore(Path(folder))
        store.append([written("Another one.", "other")])
        (file,) = Path(folder).rglob("*.jsonl")
        with file.open("a") as stream:
            stream.write(json.dumps(row if whole else fields) + "\n")
        found = store.read("d", Split.train, "t", "k")
        assert "other" in found and all(isinstance(one.text, str) for one in found.values())


SECTION = st.sampled_from(["trainer", "data", "method", "alpha", "seed", "name", "n", "dataset", "choices", "examples"])
CONTENTS = st.dictionaries(SECTION, VALUES | st.dictionaries(SECTION, VALUES, max_size=3), max_size=4) | VALUES


@quick
@given(CONTENTS)
@example("a text")
@example({"trainer": None})
@example({"\U00011cbe": None})  # escaped in JSON it is a pair, which YAML reads as two halves
@example({"examples": [{"question": "Q?", "choices": 5}]})
def test_files_of_a_run_and_of_a_pool(content: object) -> None:
    """The files of results say ValueError, which the report counts and shows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("config.yaml", "result.json", "predictions.jsonl", "pool.json"):
            (folder / file).write_text(json.dumps(content))
        nothing_but_user_errors(lambda: runs.read_config(folder))
        nothing_but_user_errors(lambda: read_examples(folder / "pool.json"))
        for read in (lambda: runs.read_result(folder / "result.json"), lambda: runs.read_predictions(folder)):
            with suppress(ValueError):
                read()


def test_a_good_row_is_read() -> None:
    """So the rows above are not all refused for what they share."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mine.jsonl")
        file.write_text(json.dumps(GOOD))
        assert sum(map(len, jsonl.load(file).values())) == 1
