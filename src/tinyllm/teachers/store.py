"""The rationale store: one folder of append-only JSON lines, one line a record (`records.Rationale`).

Layout: `<dataset>/<split>/<teacher>/<prompt_key>/<host>-<pid>-<random>.jsonl`, each name percent-encoded.

- One folder for each (dataset, split, teacher, prompt key), so a reader opens only what it asked for: its time and
  memory follow that part and not the store.
- One file a writer process, so jobs on many nodes write at once without relying on the atomicity of appends, which
  network file systems don't give.
- A batch is one fsync'd write of whole lines under an exclusive lock of the writer's own file. What a killed process
  left after the last newline is moved to a `.torn` file next to it, once, by the next reader that gets the lock:
  holding it proves that nobody is still writing there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from urllib.parse import quote, unquote

from tinyllm.errors import UserError
from tinyllm.records import Rationale, Split

log = logging.getLogger(__name__)

_FIELDS = frozenset(field.name for field in fields(Rationale))
_LATER_FIELDS = frozenset({"option", "asked"})
"""Fields that records of earlier versions lack; such a record has their defaults."""


class RationaleStore:
    """Reads and appends rationales; safe for many processes and threads at once.

    Raises:
        UserError: where `folder` is a file, or can't be written when something is appended.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"expected a folder for the rationale store, found a file: {folder}; set store=<folder>")
        self.folder = folder
        self._thread_lock = threading.Lock()
        self._writer = ""
        self._writer_pid = -1

    def append(self, records: Iterable[Rationale]) -> None:
        """Write `records` so that they survive a crash of the machine once this returns.

        A batch is written whole or, when the process is killed meanwhile, up to some line.
        """
        lines: dict[Path, list[str]] = {}
        for record in records:
            part = self._part(record.dataset, record.split, record.teacher, record.prompt_key)
            lines.setdefault(part, []).append(json.dumps(_row(record), ensure_ascii=False))
        with self._thread_lock:
            for part, batch in lines.items():
                append_lines(part / f"{self._writer_name()}.jsonl", batch)

    def read(self, dataset: str, split: Split, teacher: str, prompt_key: str, sample: int = 0) -> dict[str, Rationale]:
        """The records of one part of the store by `Rationale.key`; of two with the same the first written wins."""
        found: dict[str, Rationale] = {}
        for record in self._records(self._part(dataset, split, teacher, prompt_key)):
            if record.sample != sample:
                continue
            kept = found.get(record.key)
            if kept is None or record.created < kept.created:
                found[record.key] = record
        return found

    def missing(
        self,
        dataset: str,
        split: Split,
        teacher: str,
        prompt_key: str,
        keys: Iterable[str],
        sample: int = 0,
    ) -> list[str]:
        """Those of `keys` (`records.text_key`), in their order, that have no record."""
        part = self._part(dataset, split, teacher, prompt_key)
        existing = {record.key for record in self._records(part) if record.sample == sample}
        return [key for key in keys if key not in existing]

    def prompt_keys(self, dataset: str, split: Split, teacher: str) -> list[str]:
        """The prompt keys under which this teacher has texts, sorted: says what a run could have meant."""
        folder = self._part(dataset, split, teacher, "x").parent
        if not folder.is_dir():
            return []
        return sorted(unquote(entry.name) for entry in folder.iterdir() if any(entry.glob("*.jsonl")))

    def examples_file(self, dataset: str, teacher: str, prompt_key: str) -> Path:
        """Where the in-context examples that a teacher invented for a dataset are kept."""
        return self.folder / _file_name(dataset) / "examples" / _file_name(teacher) / f"{_file_name(prompt_key)}.json"

    @contextmanager
    def claims(self, dataset: str, split: Split, teacher: str, prompt_key: str, sample: int = 0) -> Iterator[Claims]:
        """Claims on the questions of one part, given up when the block (or the process) ends."""
        part = self._part(dataset, split, teacher, prompt_key)
        part.mkdir(parents=True, exist_ok=True)
        claims = Claims(part, f"{self._writer_name()}-{secrets.token_hex(2)}", sample)
        try:
            yield claims
        finally:
            claims.close()

    def _part(self, dataset: str, split: Split, teacher: str, prompt_key: str) -> Path:
        return self.folder.joinpath(*(_file_name(name) for name in (dataset, split, teacher, prompt_key)))

    def _writer_name(self) -> str:
        """A name that no other process has; a forked child gets its own."""
        if self._writer_pid != os.getpid():
            self._writer_pid = os.getpid()
            host = _file_name(socket.gethostname()[:32] or "host")
            self._writer = f"{host}-{self._writer_pid}-{secrets.token_hex(4)}"
        return self._writer

    def _records(self, part: Path) -> Iterator[Rationale]:
        for file in sorted(part.glob("*.jsonl")):
            for number, line in enumerate(complete_lines(file), start=1):
                record = _parse(line, file, number)
                if record is not None:
                    yield record


class Claims:
    """Who asks what: keeps two processes on the same questions from paying twice.

    A claim is a line in this process's claim file, which it holds locked as long as it lives; a file that can be
    locked belongs to a dead process and counts for nothing.
    """

    def __init__(self, part: Path, writer: str, sample: int) -> None:
        self._part = part
        self._sample = sample
        self._own = part / f"{writer}.claims"
        self._read_up_to: dict[Path, int] = {}
        self._answered: set[str] = set()
        self._open: dict[str, None] = {}
        self._lines = 0
        with self._alone():
            self._file = self._own.open("x", encoding="utf-8")
            lock(self._file.fileno())

    def take(self, keys: Sequence[str]) -> list[str]:
        """Claim those of `keys` that nobody has answered or claimed; the rest need not be asked."""
        with self._alone():
            # Claims before records: an answer is appended before its claim is given up, so one of the two is seen.
            others = self._others()
            self._refresh()
            taken = [i for i in keys if i not in self._answered and i not in others]
            self._open.update(dict.fromkeys(taken))
            self._lines += len(taken)
            new: Iterable[str] = taken
            if self._lines > 256 and self._lines > 2 * len(self._open):
                # Only what is still open stays in the file, so that others read little however long this one runs.
                self._file.seek(0)
                self._file.truncate()
                self._lines, new = len(self._open), self._open
            self._file.writelines(json.dumps([self._sample, key]) + "\n" for key in new)
            self._file.flush()
        return taken

    def close(self) -> None:
        """Give all claims up."""
        self._own.unlink(missing_ok=True)
        self._file.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes, takes or clears claims."""
        with (self._part / "claims.lock").open("w") as held:
            lock(held.fileno())
            yield

    def _refresh(self) -> None:
        """Read what was appended since the last time, by whichever process."""
        for file in sorted(self._part.glob("*.jsonl")):
            start = self._read_up_to.get(file, 0)
            if file.stat().st_size == start:
                continue
            with file.open("rb") as stream:
                stream.seek(start)
                tail = stream.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            self._read_up_to[file] = start + len(whole)
            for line in whole.splitlines():
                record = _parse(line, file, None)
                if record is not None and record.sample == self._sample:
                    self._answered.add(record.key)
                    self._open.pop(record.key, None)

    def _others(self) -> set[str]:
        claimed: set[str] = set()
        for file in self._part.glob("*.claims"):
            if file == self._own:
                continue
            try:
                with file.open("r+", encoding="utf-8") as stream:
                    try:
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        rows = [json.loads(line) for line in stream if line.endswith("\n")]
                        claimed.update(key for sample, key in rows if sample == self._sample)
                    except OSError:
                        continue
                    else:
                        file.unlink(missing_ok=True)
            except FileNotFoundError:
                continue
        return claimed


def _file_name(name: str) -> str:
    """Percent-encoded, so that no name leaves its folder: `a/b` is `a%2Fb`, `..` is `%2E%2E`."""
    if not name:
        raise ValueError("expected a non-empty name for a part of the store")
    encoded = quote(name, safe="")
    return encoded.replace(".", "%2E") if set(encoded) == {"."} else encoded


def _row(record: Rationale) -> dict[str, object]:
    row = asdict(record)
    for optional in ("option", "asked"):
        if row[optional] is None:
            del row[optional]
    return row


def lock(descriptor: int) -> None:
    """Wait for the exclusive lock; where the file system has no locks, go on: no two processes share a file."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def append_lines(file: Path, lines: Sequence[str]) -> None:
    """Append whole lines, so that they survive a crash of the machine.

    Raises:
        UserError: the file can't be written; it is then as it was.
    """
    payload = "".join(line + "\n" for line in lines).encode(errors="replace")  # a model can write half a character
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"can't write to the rationale store: {error}; set store=<a folder you can write>") from error
    try:
        lock(descriptor)
        before = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(payload):
                written += os.write(descriptor, payload[written:])
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, before)
            raise UserError(f"writing to the rationale store failed: {error}; free space and run again") from error
    finally:
        os.close(descriptor)
    if new:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def complete_lines(file: Path) -> Iterator[bytes]:
    """The lines of `file` that end in a newline; a torn last one is set aside first unless its writer is at work."""
    with file.open("rb") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                _mend(file)
        stream.seek(0)
        for line in stream:
            if line.endswith(b"\n"):
                yield line


def _mend(file: Path) -> None:
    """Move what stands after the last newline of `file` to `<file>.torn`; nothing where a writer holds the file.

    A whole record that lacks only its newline gets it and stays.
    """
    aside = file.with_name(file.name + ".torn")
    try:
        with file.open("r+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            content = stream.read()
            whole = content.rfind(b"\n") + 1
            tail = content[whole:]
            if not tail:
                return
            if _parse(tail, file, None) is not None:
                stream.write(b"\n")
                return
            with aside.open("ab") as saved:
                saved.write(tail + b"\n")
                saved.flush()
                os.fsync(saved.fileno())
            stream.truncate(whole)
            os.fsync(stream.fileno())
    except OSError as error:
        log.warning("%s ends in a torn line, which is ignored (it can't be set aside: %s)", file, error)
    else:
        log.warning("%s ended in a torn line (a killed process): moved to %s next to it", file, aside.name)


def _parse(line: bytes, file: Path, number: int | None) -> Rationale | None:
    """The record of one line; None, with a warning that names file and line, where it is broken."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not row.keys() >= _FIELDS - _LATER_FIELDS:
            raise ValueError("not a rationale record")
        texts = ("question_id", "text", "finish_reason", "created")
        if not all(isinstance(row[name], str) for name in texts) or type(row["sample"]) is not int:
            raise ValueError("a field of another type")
        return Rationale(**{name: row[name] for name in _FIELDS & row.keys()})
    except (ValueError, RecursionError) as error:
        if number is not None:
            log.warning("%s, line %d is broken and ignored (%s): its question counts as missing", file, number, error)
        return None
