"""The six public datasets as they stand on the Hugging Face hub, arranged in the paper's splits.

One small function a dataset turns a raw row into a `Question`; `data/splits.py` says which question belongs where.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinyllm.data import splits
from tinyllm.data.jsonl import read_text
from tinyllm.errors import UserError
from tinyllm.records import SPLITS, Question, Split

Row = dict[str, Any]

PARQUET_REVISION = "refs/convert/parquet"
"""Branch on which the hub keeps a parquet conversion of each dataset, one folder a config. Needed for datasets that are
scripts (piqa, riddle), which `datasets` 4 and up no longer runs."""


def load(
    dataset: str, *, hub_id: str | None, hub_config: str | None, revision: str | None, root: Path | None
) -> dict[Split, list[Question]]:
    """Reads one dataset and arranges it in the paper's splits: the same ids, in the same order, as `release.load`.

    Args:
        dataset: one of `CONVERSIONS`.
        hub_id: dataset id on the hub, such as `allenai/openbookqa`; unused with `root`.
        hub_config: its config, such as `main`; None for the only one. On `PARQUET_REVISION` it is a folder's name.
        revision: branch, tag or commit; None for the default branch.
        root: None reads the hub. Else a folder of parquet files with the hub's columns,
            `<root>/<dataset>/<hub split>*.parquet` or `<root>/<dataset>/<hub split>/*.parquet`, or the same below
            `<root>/<dataset>/<hub_config>/` (the hub itself lays them out in these ways; hub splits are train,
            validation, test).
            For bioasq: the organisers' training JSON, or a folder that holds such files, itself or as `<root>/bioasq`
            (there is no free copy on the hub).

    Returns:
        Questions by split, in the order of the packaged splits. Rows that the paper's splits leave out (arc questions
        with 3 or 5 options, the hidden test rows of piqa and riddle) are left out.

    Raises:
        UserError: where the data can't be reached, lack a column, hold a bad row, or lack questions of the paper's
            splits (with their number, examples and what to do).
    """
    if dataset not in CONVERSIONS:
        raise UserError(f"no hub conversion for dataset {dataset!r}: expected one of {', '.join(CONVERSIONS)}")
    entries = splits.load(dataset)
    pools: dict[Split, dict[str, Question]] = {}
    if dataset == "bioasq":
        wanted = {entry.id for split in SPLITS for entry in entries[split]}
        pool = _convert(dataset, "training JSON", (row for row in _bioasq_rows(root) if row["id"] in wanted))
        pools = {split: pool for split in SPLITS}
    else:
        hub_splits = CONVERSIONS[dataset].hub_splits
        by_hub_split = {
            hub_split: _convert(dataset, hub_split, _rows(dataset, hub_split, hub_id, hub_config, revision, root))
            for hub_split in sorted(set(hub_splits.values()))
        }
        pools = {split: by_hub_split[hub_split] for split, hub_split in hub_splits.items()}
    return _arrange(dataset, entries, pools)


def obqa(row: Row) -> Question:
    """allenai/openbookqa, config `main`: columns id, question_stem, choices{text, label}, answerKey."""
    return _lettered(row, row["question_stem"])


def arc(row: Row) -> Question:
    """allenai/ai2_arc, config `ARC-Challenge`: columns id, question, choices{text, label}, answerKey.

    Labels are A to E or 1 to 4. The paper's splits hold the questions with four options only.
    """
    return _lettered(row, row["question"])


def piqa(row: Row) -> Question:
    """ybisk/piqa, revision `refs/convert/parquet`: columns goal, sol1, sol2, label.

    The label is 0 or 1; -1 in the test split, whose answers are hidden and which the paper's splits don't use.
    """
    return _checked(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]))


def riddle(row: Row) -> Question:
    """INK-USC/riddle_sense, revision `refs/convert/parquet`: columns question, choices{label, text} (5), answerKey."""
    return _lettered(row, row["question"])


def pubmedqa(row: Row) -> Question:
    """qiaojin/PubMedQA, config `pqa_labeled`: columns pubid, question, context{contexts, ...}, final_decision.

    Sections of the abstract are joined by ` \\n `, as in the authors' published rows.
    """
    options = ["yes", "no", "maybe"]
    context = " \n ".join(row["context"]["contexts"])
    return _checked(row["question"], options, _position(row["final_decision"], options), context)


def bioasq(row: Row) -> Question:
    """BioASQ task B, the organisers' training JSON: questions[].{id, type, body, exact_answer, snippets[].text}.

    Only from http://participants-area.bioasq.org, after registering. `exact_answer` is "yes" or "no", in some years a
    list of it. Snippets are joined as pubmedqa's sections are.
    """
    options = ["yes", "no"]
    answer = row["exact_answer"]
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    context = " \n ".join(snippet["text"].strip() for snippet in row.get("snippets") or [])
    return _checked(row["body"], options, _position(str(answer).strip().lower(), options), context)


@dataclass(frozen=True, slots=True)
class Conversion:
    """How rows of one dataset become questions."""

    convert: Callable[[Row], Question]
    """Raises KeyError, TypeError or ValueError for a bad row; the id of its result is replaced."""
    columns: tuple[str, ...]
    key: Callable[[Row, str, int], str]
    """(row, hub split, row number) -> what `splits` knows the question by: its id, or riddle's hash of the question."""
    hub_splits: dict[Split, str]
    """Hub split that each of the paper's splits is taken from; empty for bioasq."""


_SAME: dict[Split, str] = {Split.train: "train", Split.valid: "validation", Split.test: "test"}
_HALVED: dict[Split, str] = {Split.train: "train", Split.valid: "validation", Split.test: "validation"}
_ONE: dict[Split, str] = {Split.train: "train", Split.valid: "train", Split.test: "train"}

CONVERSIONS: dict[str, Conversion] = {
    "obqa": Conversion(obqa, ("id", "question_stem", "choices", "answerKey"), lambda row, _, __: str(row["id"]), _SAME),
    "arc": Conversion(arc, ("id", "question", "choices", "answerKey"), lambda row, _, __: str(row["id"]), _SAME),
    "piqa": Conversion(
        piqa,
        ("goal", "sol1", "sol2", "label"),
        lambda _, hub_split, number: f"train-{number}" if hub_split == "train" else str(number),
        _HALVED,
    ),
    "riddle": Conversion(
        riddle,
        ("question", "choices", "answerKey"),
        lambda row, _, __: splits.question_hash(row["question"]),
        _HALVED,
    ),
    "pubmedqa": Conversion(
        pubmedqa, ("pubid", "question", "context", "final_decision"), lambda row, _, __: str(row["pubid"]), _ONE
    ),
    "bioasq": Conversion(bioasq, ("id", "type", "body", "exact_answer"), lambda row, _, __: str(row["id"]), {}),
}


def _lettered(row: Row, question: str) -> Question:
    return _checked(question, row["choices"]["text"], _position(row["answerKey"], row["choices"]["label"]))


def _position(answer: str, labels: list[str]) -> int:
    if answer not in labels:
        raise ValueError(f"expected an answer out of {', '.join(labels)}, found {answer!r}")
    return labels.index(answer)


def _checked(question: str, choices: list[str], answer: int, context: str = "") -> Question:
    """A question without its id; texts lose their outer whitespace, as in `release`."""
    if not 0 <= answer < len(choices):
        raise ValueError(f"expected a label from 0 to {len(choices) - 1}, found {answer}")
    options = tuple(choice.strip() for choice in choices)
    return Question("?", question.strip(), options, options[answer], context.strip())


def _convert(dataset: str, hub_split: str, rows: Iterable[Row]) -> dict[str, Question]:
    """Questions by key."""
    source = CONVERSIONS[dataset]
    questions: dict[str, Question] = {}
    for number, row in enumerate(rows):
        try:
            key = source.key(row, hub_split, number)
            questions[key] = replace(source.convert(row), id=key)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{dataset}: {hub_split}, row {number} (from 0): expected a row as the dataset documents it, found "
                f"{type(error).__name__}: {error}: check data.root, data.hub_id and data.hub_revision"
            ) from error
    return questions


def _arrange(
    dataset: str, entries: dict[Split, list[splits.SplitEntry]], pools: dict[Split, dict[str, Question]]
) -> dict[Split, list[Question]]:
    """The paper's splits out of pools of converted questions, by key."""
    arranged: dict[Split, list[Question]] = {}
    absent: list[str] = []
    for split in SPLITS:
        found: list[Question] = []
        for entry in entries[split]:
            key = entry.question_sha256 if dataset == "riddle" and entry.question_sha256 else entry.id
            question = pools[split].get(key)
            # A row number alone may point at another question, when the rows were shuffled or filtered.
            if question is None or entry.question_sha256 not in (None, splits.question_hash(question.question)):
                absent.append(f"{split}/{entry.id}")
            else:
                found.append(replace(question, id=entry.id))
        arranged[split] = found
    if absent:
        total = sum(map(len, entries.values()))
        remedy = {
            "bioasq": "give data.root a training file of task 11b (2023) or later, which holds all earlier years",
            "piqa": "rows must stand in the hub's order and number; use the hub's full train and validation splits",
        }.get(dataset, "use the hub's full, unfiltered splits, or data.source=release")
        raise UserError(
            f"{dataset}: {len(absent)} of the paper's {total} questions are missing or have another text, such as "
            f"{', '.join(absent[:3])}: {remedy}"
        )
    return arranged


def _rows(
    dataset: str, hub_split: str, hub_id: str | None, hub_config: str | None, revision: str | None, root: Path | None
) -> Iterator[Row]:
    import datasets  # type: ignore[import-untyped, unused-ignore]  # here, as it takes seconds and only this needs it

    columns = CONVERSIONS[dataset].columns
    place = f"{hub_id} ({hub_split})"
    try:
        if root is not None:
            files = _parquet_files(Path(root) / dataset, hub_split, hub_config)
            place = f"{files[0].parent} ({hub_split})"
            table = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
        elif not hub_id:
            raise UserError(f"{dataset}: expected a dataset id in data.hub_id or a folder in data.root, found neither")
        elif revision == PARQUET_REVISION and hub_config:
            # The branch has no config of that name, only a folder.
            table = datasets.load_dataset(hub_id, data_dir=hub_config, revision=revision, split=hub_split)
        else:
            table = datasets.load_dataset(hub_id, hub_config, revision=revision, split=hub_split)
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{dataset}: expected to read {place}, found: {reason[0]}: connect to the hub, put parquet files under "
            f"<data.root>/{dataset}/{hub_split}*.parquet, or use data.source=release"
        ) from error
    if lacking := [column for column in columns if column not in table.column_names]:
        raise UserError(
            f"{dataset}: expected columns {', '.join(columns)} in {place}, found {', '.join(table.column_names)} "
            f"(without {', '.join(lacking)}): check data.hub_id, data.hub_config and data.hub_revision"
        )
    for row in table.select_columns(list(columns)):
        yield dict(row)


def _parquet_files(folder: Path, hub_split: str, hub_config: str | None) -> list[Path]:
    folders = [folder / hub_config, folder] if hub_config else [folder]
    for place in folders:
        for pattern in (f"{hub_split}*.parquet", f"{hub_split}/*.parquet"):
            if files := sorted(place.glob(pattern)):
                return files
    raise UserError(
        f"{folder}: expected {hub_split}*.parquet, found no such file: put the hub's parquet files there, or leave "
        "data.root out to read the hub"
    )


def _bioasq_rows(root: Path | None) -> list[Row]:
    """The yes/no questions of the organisers' files; of an id that several files have, the first file's."""
    advice = (
        "BioASQ has no free copy: register at http://participants-area.bioasq.org, download the training set of task "
        "11b or later, and set data.root to that file or its folder"
    )
    if root is None:
        raise UserError(f"bioasq: expected the organisers' training JSON in data.root, found no data.root: {advice}")
    root = Path(root)
    folder = root / "bioasq" if (root / "bioasq").is_dir() else root
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [root]
    if not files or not files[0].is_file():
        raise UserError(f"bioasq: expected the organisers' training JSON at {root}, found no .json file: {advice}")
    rows: dict[str, Row] = {}
    for file in files:
        try:
            content = json.loads(read_text(file))
        except json.JSONDecodeError as error:
            raise UserError(f"{file}: line {error.lineno}: expected JSON, found none ({error.msg}): {advice}") from None
        questions = content.get("questions") if isinstance(content, dict) else None
        if not isinstance(questions, list):
            raise UserError(f"{file}: expected an object with a list `questions`, found none: {advice}")
        for row in questions:
            if isinstance(row, dict) and row.get("type") == "yesno" and isinstance(row.get("id"), str):
                rows.setdefault(row["id"], row)
    return list(rows.values())
