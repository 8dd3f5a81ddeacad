"""The store loses nothing and pays nothing twice: killed writers, several writers, torn and broken lines."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tinyllm.errors import UserError
from tinyllm.records import Rationale
from tinyllm.teachers.store import RationaleStore

PART = ("obqa", "train", "flan", "key")

# Appends batches of five records without end, and says after each that it is safe on disk.
WRITER = """
import sys
from pathlib import Path
from tinyllm.records import Rationale
from tinyllm.teachers.store import RationaleStore
store, name, batches = RationaleStore(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for batch in range(batches):
    ids = [f"{name}-{batch}-{i}" for i in range(5)]
    store.append(
        Rationale("obqa", "train", i, "flan", 0, "key", "why " * 2000, None, "stop", 1, "2026-01-01") for i in ids
    )
    print("\\n".join(ids), flush=True)
"""


def record(question_id: str, **changes: object) -> Rationale:
    made = Rationale("obqa", "train", question_id, "flan", 0, "key", "Because.", None, "stop", 2, "2026-01-01T00:00:00")
    return replace(made, **changes)  # type: ignore[arg-type]


def files(folder: Path, pattern: str = "*.jsonl") -> list[Path]:
    return sorted(folder.rglob(pattern))


def start_writer(folder: Path, name: str, batches: int = 10**9) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(batches)], stdout=subprocess.PIPE, text=True
    )


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [
        record("q1", text="line\none\u2028two", answer='a "b"'),
        record("q2", sample=1),
        record("q3", teacher="other"),
        record("q4", dataset="my/own data", split="test"),
    ]
    RationaleStore(tmp_path).append(written)
    store = RationaleStore(tmp_path)
    assert store.read(*PART) == {"q1": written[0]}
    assert store.read(*PART, sample=1) == {"q2": written[1]}
    assert store.read("obqa", "train", "other", "key") == {"q3": written[2]}
    assert store.read("my/own data", "test", "flan", "key") == {"q4": written[3]}
    assert store.read("arc", "train", "flan", "key") == {}


def test_a_line_is_the_record_of_the_contract(tmp_path: Path) -> None:
    RationaleStore(tmp_path).append([record("q1")])
    (file,) = files(tmp_path)
    row = asdict(record("q1"))
    del row["option"], row["asked"]
    assert json.loads(file.read_text()) == row


@pytest.mark.parametrize("name", ["..", ".", "a/../../b", "/etc"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    store = RationaleStore(tmp_path / "store")
    store.append([record("q1", teacher=name)])
    assert set(store.read("obqa", "train", name, "key")) == {"q1"}
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert len(files(tmp_path / "store")) == 1


def test_missing_keeps_the_order_asked_for(tmp_path: Path) -> None:
    store = RationaleStore(tmp_path)
    store.append([record("q2"), record("q1", sample=1)])
    assert store.missing(*PART, ["q3", "q2", "q1"]) == ["q3", "q1"]
    assert store.prompt_keys("obqa", "train", "flan") == ["key"]
    assert store.prompt_keys("obqa", "valid", "flan") == []


def test_of_duplicates_the_first_written_wins(tmp_path: Path) -> None:
    late, early = RationaleStore(tmp_path), RationaleStore(tmp_path)
    late.append([record("q1", text="late", created="2026-01-01T00:00:02")])
    early.append([record("q1", text="early", created="2026-01-01T00:00:01"), record("q1", text="same time")])
    assert RationaleStore(tmp_path).read(*PART)["q1"].text == "same time"
    late.append([record("q1", text="later still", created="2026-01-01T00:00:03")])
    assert RationaleStore(tmp_path).read(*PART)["q1"].text == "same time"


def test_a_torn_last_line_is_set_aside_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RationaleStore(tmp_path).append([record("q1"), record("q2")])
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"dataset": "obqa", "spl')
    with caplog.at_level(logging.WARNING):
        assert set(RationaleStore(tmp_path).read(*PART)) == {"q1", "q2"}
        assert set(RationaleStore(tmp_path).read(*PART)) == {"q1", "q2"}
    assert file.read_bytes() == whole
    (aside,) = files(tmp_path, "*.torn")
    assert aside.read_bytes() == b'{"dataset": "obqa", "spl\n'
    assert [aside.name in r.getMessage() for r in caplog.records] == [True]


def test_a_whole_record_without_its_newline_stays(tmp_path: Path) -> None:
    RationaleStore(tmp_path).append([record("q1"), record("q2")])
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert set(RationaleStore(tmp_path).read(*PART)) == {"q1", "q2"}
    assert file.read_bytes() == whole


def test_a_line_broken_in_the_middle_is_reported_with_file_and_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RationaleStore(tmp_path).append([record("q1"), record("q2"), record("q3")])
    (file,) = files(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:30] + b"\xff\n" + b"[1, 2]\n" + lines[2])
    with caplog.at_level(logging.WARNING):
        assert set(RationaleStore(tmp_path).read(*PART)) == {"q1", "q3"}
    assert [f"{file}, line {n}" in r.getMessage() for n, r in zip((2, 3), caplog.records, strict=True)] == [True, True]


def test_a_writer_killed_again_and_again_loses_at_most_its_batch(tmp_path: Path) -> None:
    promised: set[str] = set()
    for round_ in range(8):
        writer = start_writer(tmp_path, f"w{round_}")
        assert writer.stdout is not None
        promised.add(writer.stdout.readline().strip())
        time.sleep(0.01 + 0.03 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        # A reader comes by at once, as a second run would.
        RationaleStore(tmp_path).read(*PART)
        said = writer.stdout.read()
        promised.update(said[: said.rfind("\n") + 1].split())
        writer.wait()
    found = RationaleStore(tmp_path).read(*PART)
    assert promised <= set(found)
    # What was under way when the process was killed is one batch of five a round at most.
    assert len(set(found) - promised) <= 8 * 5
    assert all(len(one.text) == 8000 for one in found.values())
    assert all(file.read_bytes().endswith(b"\n") for file in files(tmp_path))


def test_processes_write_at_once_while_another_reads(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, f"w{i}", batches=40) for i in range(3)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        now = len(RationaleStore(tmp_path).read(*PART))
        assert now >= seen
        seen = now
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = RationaleStore(tmp_path).read(*PART)
    assert set(found) == {f"w{w}-{b}-{i}" for w in range(3) for b in range(40) for i in range(5)}
    assert files(tmp_path, "*.torn") == []


def test_a_claimed_question_is_taken_by_nobody_else(tmp_path: Path) -> None:
    one, two = RationaleStore(tmp_path), RationaleStore(tmp_path)
    one.append([record("q0")])
    with one.claims(*PART) as mine:
        assert mine.take(["q0", "q1", "q2"]) == ["q1", "q2"]
        with two.claims(*PART) as other:
            assert other.take(["q1", "q3"]) == ["q3"]
        with two.claims(*PART, sample=1) as another_sample:
            assert another_sample.take(["q0", "q1"]) == ["q0", "q1"]
        one.append([record("q1")])
    with two.claims(*PART) as later:
        assert later.take(["q1", "q2"]) == ["q2"]
    assert files(tmp_path, "*.claims") == []


def test_what_is_answered_and_given_up_while_another_looks_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it looks at first, records or claims: the first process ends before the second look."""
    store = RationaleStore(tmp_path)
    first, second = store.claims(*PART), RationaleStore(tmp_path).claims(*PART)
    with first as ending, second as claims:
        assert ending.take(["q1"]) == ["q1"]
        looked: list[str] = []

        def hook(name: str) -> None:
            look = getattr(claims, name)

            def look_then_end() -> object:
                found = look()
                if not looked:
                    store.append([record("q1")])
                    ending.close()
                looked.append(name)
                return found

            monkeypatch.setattr(claims, name, look_then_end)

        hook("_refresh")
        hook("_others")
        assert claims.take(["q1", "q2"]) == ["q2"]
        assert sorted(looked) == ["_others", "_refresh"]


def test_a_claim_file_stays_small_however_much_is_answered(tmp_path: Path) -> None:
    store, other = RationaleStore(tmp_path), RationaleStore(tmp_path)
    with store.claims(*PART) as claims:
        for block in range(100):
            ids = [f"q{block}-{i}" for i in range(16)]
            assert claims.take(ids) == ids
            store.append(record(question_id) for question_id in ids[1:])
        (file,) = files(tmp_path, "*.claims")
        assert len(file.read_text().splitlines()) < 600
        with other.claims(*PART) as later:  # what was claimed and never answered is still claimed
            assert later.take([f"q{block}-0" for block in range(100)]) == []


def test_the_claims_of_a_killed_process_are_void(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tinyllm.teachers.store import RationaleStore\n"
        "with RationaleStore(Path(sys.argv[1])).claims('obqa', 'train', 'flan', 'key') as c:\n"
        "    print(c.take(['q1']), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "['q1']"
    store = RationaleStore(tmp_path)
    with store.claims(*PART) as claims:
        assert claims.take(["q1", "q2"]) == ["q2"]
        process.kill()
        process.wait()
        assert claims.take(["q1"]) == ["q1"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(UserError, match=r"store=<folder>"):
        RationaleStore(tmp_path / "store")
