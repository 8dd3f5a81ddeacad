"""Datasets of the Hugging Face hub: the paper's six in the paper's splits, and any other in the hub's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tinyllm.config import ColumnsConfig
from tinyllm.data import bioasq, splits
from tinyllm.data.columns import Row, is_hidden, lookup, to_fields, top_columns
from tinyllm.data.rows import check_rows, raise_problems
from tinyllm.errors import UserError
from tinyllm.paper import DATASETS
from tinyllm.pretrained import why
from tinyllm.records import SPLITS, Question, Split

PARQUET_REVISION = "refs/convert/parquet"
"""Branch on which the hub keeps a parquet conversion of each dataset, one folder a config. Needed for datasets that are
scripts (piqa, riddle), which `datasets` 4 and up no longer runs."""

USUAL_NAMES: dict[Split, tuple[str, ...]] = {
    Split.train: ("train",),
    Split.valid: ("validation", "valid", "val", "dev"),
    Split.test: ("test",),
}
"""What the hub calls a split; the first that a dataset has is read."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset's rows are."""

    dataset: str
    hub_id: str | None = None
    hub_config: str | None = None
    revision: str | None = None
    root: Path | None = None


def load(
    dataset: str,
    *,
    hub_id: str | None,
    hub_config: str | None,
    revision: str | None,
    root: Path | None,
    columns: ColumnsConfig | None = None,
) -> dict[Split, list[Question]]:
    """Reads one dataset.

    One of the paper's six comes in the paper's splits: the same ids, in the same order, as `release.load`. Rows that
    they leave out (arc questions with 3 or 5 options, the hidden test rows of piqa and riddle) are left out.

    Any other comes in the hub's splits (`USUAL_NAMES`). Where validation or test is not there, or all its answers are
    hidden, it is taken out of train: the questions that `splits.assign_split` gives to it, about a tenth each. An id is
    the row's own where these are unique over all splits, else `<hub split>-<row number from 0>`.

    Args:
        dataset: its name.
        hub_id: dataset id on the hub, such as `allenai/openbookqa`; unused with `root`.
        hub_config: its config, such as `main`; None for the only one. On `PARQUET_REVISION` it is a folder's name.
        revision: branch, tag or commit; None for the default branch.
        root: None reads the hub. Else a folder of parquet files with the hub's columns,
            `<root>/<dataset>/<hub split>*.parquet` or `<root>/<dataset>/<hub split>/*.parquet`, or the same below
            `<root>/<dataset>/<hub_config>/` (the hub itself lays them out in these ways).
            For bioasq: the organisers' training JSON, or a folder that holds such files, itself or as `<root>/bioasq`
            (there is no free copy on the hub).
        columns: of a dataset that is none of the paper's.

    Raises:
        UserError: where the data can't be reached, lack a column or a split, hold bad rows, or lack questions of the
            paper's splits (with their number, examples and what to do).
    """
    place = Place(dataset, hub_id, hub_config, revision, root)
    if dataset not in DATASETS:
        return _hub_splits(place, columns or ColumnsConfig())
    if columns not in (None, ColumnsConfig()):
        raise UserError(
            f"data.columns: expected none for {dataset}, whose rows are known, found {columns}: remove them, or give "
            "data.name another name"
        )
    return _paper_splits(place)


@dataclass(frozen=True, slots=True)
class Packaged:
    """How rows of one of the paper's datasets become questions."""

    columns: ColumnsConfig
    hub_splits: tuple[str, str, str]
    """Hub splits that the paper's train, valid and test are taken from."""


_OWN = ("train", "validation", "test")
_HALVED = ("train", "validation", "validation")
_ONE = ("train", "train", "train")

PACKAGED: dict[str, Packaged] = {
    "obqa": Packaged(ColumnsConfig(id="id", question="question_stem", answer="answerKey"), _OWN),
    # Labels are A to E or 1 to 4. The paper's splits hold the questions with four options only.
    "arc": Packaged(ColumnsConfig(id="id", answer="answerKey"), _OWN),
    "piqa": Packaged(ColumnsConfig(question="goal", choices=["sol1", "sol2"], answer="label"), _HALVED),
    "riddle": Packaged(ColumnsConfig(answer="answerKey"), _HALVED),
    "pubmedqa": Packaged(
        ColumnsConfig(
            id="pubid",
            fixed_choices=["yes", "no", "maybe"],
            labels=["yes", "no", "maybe"],
            answer="final_decision",
            context="context.contexts",
        ),
        _ONE,
    ),
    "bioasq": Packaged(
        ColumnsConfig(
            id="id",
            question="body",
            fixed_choices=["yes", "no"],
            labels=["yes", "no"],
            answer="exact_answer",
            context="snippets",
        ),
        _ONE,
    ),
}


def _paper_splits(place: Place) -> dict[Split, list[Question]]:
    """The paper's questions, found by id; riddle's, whose rows have none, by the hash of their text."""
    dataset, packaged = place.dataset, PACKAGED[place.dataset]
    entries = splits.load(dataset)
    pools: dict[str, dict[str, Question]] = {}
    for hub_split in sorted(set(packaged.hub_splits)):
        if dataset == "bioasq":
            rows = bioasq.read(place.root, {entry.id for split in SPLITS for entry in entries[split]})
        else:
            rows = _rows(place, hub_split, packaged.columns)
        ids = _ids(rows, packaged.columns.id) if packaged.columns.id else _row_numbers(rows, hub_split)
        questions = _questions(place, hub_split, rows, ids, packaged.columns)
        pools[hub_split] = {splits.question_hash(q.question) if dataset == "riddle" else q.id: q for q in questions}
    arranged: dict[Split, list[Question]] = {}
    absent: list[str] = []
    for split, hub_split in zip(SPLITS, packaged.hub_splits, strict=True):
        arranged[split] = []
        for entry in entries[split]:
            key = entry.id
            if dataset == "riddle" and entry.question_sha256:
                key = entry.question_sha256
            elif dataset == "piqa" and split is not Split.train:
                key = f"validation-{entry.id}"
            question = pools[hub_split].get(key)
            # A row number alone may point at another question, when the rows were shuffled or filtered.
            if question is None or entry.question_sha256 not in (None, splits.question_hash(question.question)):
                absent.append(f"{split}/{entry.id}")
            else:
                arranged[split].append(replace(question, id=entry.id))
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


def _hub_splits(place: Place, columns: ColumnsConfig) -> dict[Split, list[Question]]:
    """The hub's own splits; missing ones are held out from train."""
    present = _split_names(place)
    names = {split: next((name for name in usual if name in present), None) for split, usual in USUAL_NAMES.items()}
    if names[Split.train] is None:
        raise UserError(
            f"{place.dataset}: expected a split named train, found {', '.join(present) or 'none'}: check data.hub_id, "
            f"data.hub_config and data.root (parquet files at <data.root>/{place.dataset}/train*.parquet)"
        )
    rows = {split: _rows(place, name, columns) for split, name in names.items() if name}
    for split in (Split.valid, Split.test):
        if split in rows and all(is_hidden(row, columns) for row in rows[split]):
            del rows[split]
    ids = {split: _ids(rows[split], columns.id or "id") for split in rows}
    if len({id for split in rows for id in ids[split] if id}) < sum(map(len, rows.values())):
        if columns.id is not None:
            raise UserError(
                f"{place.dataset}: data.columns.id={columns.id}: expected an id used once over all splits, found none, "
                "or the same one in several rows: leave it out to number the rows"
            )
        ids = {split: _row_numbers(rows[split], str(names[split])) for split in rows}
    questions = {split: _questions(place, str(names[split]), rows[split], ids[split], columns) for split in rows}
    for split in (Split.valid, Split.test):
        if split not in rows:
            _log.info("%s: no %s split with answers: about a tenth of train is held out for it", place.dataset, split)
            questions[split] = [q for q in questions[Split.train] if splits.assign_split(q) is split]
            questions[Split.train] = [q for q in questions[Split.train] if splits.assign_split(q) is not split]
    if empty := [split for split in SPLITS if not questions[split]]:
        raise UserError(
            f"{place.dataset}: expected questions in every split, found none in {', '.join(empty)}: use a dataset with "
            "more questions, or data=jsonl with a 'split' on every line"
        )
    return {split: questions[split] for split in SPLITS}


def _ids(rows: Sequence[Row], column: str) -> list[str]:
    found: list[str] = []
    for row in rows:
        try:
            value = lookup(row, column, "id")
        except ValueError:
            value = None
        found.append("" if value is None else str(value))
    return found


def _row_numbers(rows: Sequence[Row], hub_split: str) -> list[str]:
    return [f"{hub_split}-{number}" for number in range(len(rows))]


def _questions(
    place: Place, hub_split: str, rows: Sequence[Row], ids: Sequence[str], columns: ColumnsConfig
) -> list[Question]:
    problems: list[str] = []
    fields: list[tuple[str, object]] = []
    for number, (row, id) in enumerate(zip(rows, ids, strict=True)):
        where = f"{place.dataset}: {hub_split}, row {number} (from 0)"
        try:
            fields.append((where, {"id": id, **to_fields(row, columns)}))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    questions = [question for _, question in check_rows(fields, problems, letters=False)]
    raise_problems(problems, f"{place.dataset}: {hub_split} (check data.hub_id, data.hub_revision and data.columns)")
    return questions


def _split_names(place: Place) -> list[str]:
    """The names among `USUAL_NAMES` that a dataset has in its folder, or all that it has on the hub."""
    if place.root is not None:
        usual = [name for names in USUAL_NAMES.values() for name in names]
        return [name for name in usual if _parquet_files(place, name)]
    import datasets  # type: ignore[import-untyped, unused-ignore]  # here, as it takes seconds and only this needs it

    with _reading(place, "its splits"):
        names, options = _hub_arguments(place)
        return list(datasets.get_dataset_split_names(*names, revision=place.revision, **options))


def _rows(place: Place, hub_split: str, columns: ColumnsConfig) -> list[Row]:
    import datasets

    with _reading(place, hub_split):
        if place.root is not None:
            files = _parquet_files(place, hub_split)
            if not files:
                raise UserError(
                    f"{place.root / place.dataset}: expected {hub_split}*.parquet, found no such file: put the hub's "
                    "parquet files there, or leave data.root out to read the hub"
                )
            table = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
        else:
            names, options = _hub_arguments(place)
            table = datasets.load_dataset(*names, revision=place.revision, split=hub_split, **options)
    wanted = top_columns(columns)
    if lacking := [column for column in wanted if column not in table.column_names]:
        raise UserError(
            f"{place.dataset}: expected columns {', '.join(wanted)} in {_name(place)} ({hub_split}), found "
            f"{', '.join(table.column_names)} (without {', '.join(lacking)}): check data.hub_id, data.hub_config, "
            "data.hub_revision and data.columns"
        )
    if columns.id is None and "id" in table.column_names and "id" not in wanted:
        wanted.append("id")
    return [dict(row) for row in table.select_columns(wanted)]


def _name(place: Place) -> str:
    return str(place.root / place.dataset) if place.root is not None else str(place.hub_id)


def _hub_arguments(place: Place) -> tuple[list[str | None], dict[str, str]]:
    """Dataset with config, and further arguments: the conversion branch has no config of a name, only a folder."""
    if not place.hub_id:
        raise UserError(
            f"{place.dataset}: expected a dataset id in data.hub_id or a folder in data.root, found neither"
        )
    if place.revision == PARQUET_REVISION and place.hub_config:
        return [place.hub_id], {"data_dir": place.hub_config}
    return [place.hub_id, place.hub_config], {}


@contextmanager
def _reading(place: Place, what: str) -> Iterator[None]:
    """What goes wrong while reading, as one line with the ways out."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # pyarrow, datasets, the hub's client and its connection have exceptions of their own
        or_release = ", or use data.source=release" if place.dataset in DATASETS else ""
        raise UserError(
            f"{place.dataset}: expected to read {_name(place)} ({what}), found: {why(error)}: connect to the hub, or "
            f"put parquet files under <data.root>/{place.dataset}/<split>*.parquet{or_release}"
        ) from error


def _parquet_files(place: Place, hub_split: str) -> list[Path]:
    """Files of a split below `root`; empty where there are none."""
    folder = Path(place.root or "") / place.dataset
    for below in [folder / place.hub_config, folder] if place.hub_config else [folder]:
        for pattern in (f"{hub_split}*.parquet", f"{hub_split}/*.parquet"):
            if files := sorted(below.glob(pattern)):
                return files
    return []
