"""Finished cells of an experiment in one file, from which its report can be made anew on any machine.

`experiments/<name>/<scale>/runs.tar.xz` holds what a report reads of a run: its result, configuration, metrics and
predictions. Weights are left out, and later evaluations of a run, and the texts of questions and options, which belong
to the dataset: unpacking reads them there.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tinyllm import runs
from tinyllm.errors import UserError
from tinyllm.records import Question

NAME = "runs.tar.xz"
CHOSEN = ("answer", "predicted", "ranked", "generated")
"""Fields of a prediction that hold the text of an option, or may."""
DECIMALS = 4
"""Of the options' scores, in nats."""


def pack(folders: Iterable[Path], path: Path) -> int:
    """Add finished run folders to an archive, in place of what it has of them.

    Args:
        folders: relative to the current folder.
        path: of the archive.

    Returns:
        How many finished runs it has now.

    Raises:
        UserError: for an archive that can't be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # another call may be packing
        return _add(folders, path)
    finally:
        os.close(descriptor)


def _add(folders: Iterable[Path], path: Path) -> int:
    members = _read(path) if path.exists() else {}
    for folder in folders:
        if not (folder / runs.RESULT).is_file():
            continue
        members = {name: content for name, content in members.items() if folder.as_posix() != _folder(name)}
        for file in sorted(folder.iterdir()):
            if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
                content = file.read_bytes()
                members[file.as_posix()] = _without_texts(content) if file.name == runs.PREDICTIONS else content
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:  # the same bytes for the same runs
        for name in sorted(members, key=lambda name: (PurePosixPath(name).name, name)):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            archive.addfile(info, io.BytesIO(members[name]))
    runs.write_whole(path, buffer.getvalue())
    return sum(PurePosixPath(name).name == runs.RESULT for name in members)


def unpack(wanted: Mapping[Path, Callable[[], Iterable[Question]]], path: Path) -> list[Path]:
    """Write those runs of an archive that are wanted, and not finished in the current folder.

    Args:
        wanted: run folder -> reads the questions of its dataset.
        path: of the archive.

    Returns:
        The folders that were written.

    Raises:
        UserError: for an archive that can't be read, or questions that are not those of the run.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file: expected the cells that an earlier call has packed (--pack)")
    members = _read(path)
    written = []
    for folder, questions in wanted.items():
        own = {PurePosixPath(name).name: content for name, content in members.items() if _folder(name) == str(folder)}
        if runs.RESULT not in own or (folder / runs.RESULT).is_file():
            continue
        if runs.PREDICTIONS in own:
            own[runs.PREDICTIONS] = _with_texts(own[runs.PREDICTIONS], list(questions()), folder)
        for name in sorted(own, key=lambda name: name == runs.RESULT):  # it says that the others are there
            runs.write_whole(folder / name, own[name])
        written.append(folder)
    return written


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _read(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path, mode="r:xz") as archive:
            files = [(info.name, archive.extractfile(info)) for info in archive if info.isfile()]
            return {name: file.read() for name, file in files if file is not None}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{path}: expected an archive of runs, found another file ({error})") from error


def _without_texts(lines: bytes) -> bytes:
    rows = []
    for line in filter(None, lines.decode().split("\n")):
        row = json.loads(line)
        choices = row.pop("choices")
        row["asked"] = _digest(row.pop("question"), choices)
        for field in CHOSEN:
            row[field] = choices.index(row[field]) if row[field] in choices else row[field]
        row["scores"] = [round(score, DECIMALS) for score in row["scores"] or ()]
        rows.append(json.dumps(row, ensure_ascii=False))
    return ("\n".join(rows) + "\n").encode()


def _with_texts(lines: bytes, questions: Iterable[Question], folder: Path) -> bytes:
    known = {question.id: question for question in questions}
    rows = []
    for line in filter(None, lines.decode().split("\n")):
        row: dict[str, Any] = json.loads(line)
        question = known.get(row["id"])
        if question is None or row.pop("asked") != _digest(question.question, question.choices):
            found = "no such question" if question is None else "another one under this id"
            raise UserError(f"{folder}: {row['id']}: expected the question of the run, found {found}: see data.root")
        for field in CHOSEN:
            row[field] = question.choices[row[field]] if isinstance(row[field], int) else row[field]
        first = {"id": row["id"], "question": question.question, "choices": question.choices}
        rows.append(json.dumps(first | row, ensure_ascii=False))
    return ("\n".join(rows) + "\n").encode()


def _digest(question: str, choices: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps([question, *choices]).encode()).hexdigest()[:12]
