"""Files and commands that a Markdown document shows: read, and followed in a folder as its reader would.

Fences of the language `console` hold commands. An HTML comment right above a fence changes what becomes of it:

    <!-- test: skip, needs a GPU -->              nothing; the reason must be said
    <!-- test: compose -->                        `tinyllm` commands are composed (`--cfg job`), not run
    <!-- test: file my_conf/data/science.yaml --> the fence is the content of this file
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from hydra.core.override_parser.overrides_parser import OverridesParser
from markdown_it import MarkdownIt
from tests.integration.conftest import SMALL, Stage

from tinyllm.data.jsonl import OPTIONAL
from tinyllm.data.rows import REQUIRED

ROOT = Path(__file__).parents[2]
SMALLER: dict[str, list[str]] = {
    "rationales": ["data.limit_train=16"],
    "train": [
        *SMALL,
        "data.limit_train=16",
        "data.limit_valid=8",
        "data.limit_test=8",
        "trainer.max_epochs=1",
        "trainer.valid_every=1",
    ],
    "evaluate": ["data.limit_test=8", "data.limit_valid=8"],
    "report": ["resamples=200"],
}
"""Overrides that are appended to a document's command, by stage: a second in place of minutes."""

_MARK = re.compile(r"<!-- test: (skip, \S.*|compose|file \S+) -->\s*")


@dataclass(frozen=True)
class Block:
    """A fence of a document."""

    line: int
    """Of its opening, from 1."""
    language: str
    text: str
    mark: str
    """What its comment says behind `test: `; empty without one."""
    section: str
    """The heading above it."""


def blocks(text: str) -> list[Block]:
    """The fences of a document, in order.

    Raises:
        ValueError: with the line of a comment that is no known mark, or has no fence right below it.
    """
    found: list[Block] = []
    mark, marked, section = "", 0, ""
    tokens = MarkdownIt().parse(text)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        line = (token.map or [0])[0] + 1
        if token.type == "heading_open":
            section = following.content if following else ""
        if token.type == "html_block" and "test:" in token.content:
            match = _MARK.fullmatch(token.content)
            if match is None or following is None or following.type != "fence":
                raise ValueError(f"line {line}: expected a known mark right above a fence, found {token.content!r}")
            mark, marked = match[1], line
        if token.type == "fence":
            own = mark if marked else ""
            found.append(Block(line, token.info.strip(), token.content, own, section))
            mark, marked = "", 0
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a fence; a line that ends in a backslash goes on in the next."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def table_fields(text: str) -> list[str]:
    """The names in the first column of the table that has a row `choices`: the fields of a question."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    names = [re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) for table in tables]
    return next((found for found in names if "choices" in found), [])


def follow(
    shown: Iterable[Block],
    folder: Path,
    stage: Stage,
    appended: Mapping[str, Sequence[str]] = MappingProxyType(SMALLER),
) -> None:
    """Write the files and run the commands of these fences, in order.

    Args:
        shown: the fences.
        folder: where; `stage` runs in it, too.
        stage: runs `tinyllm` in this process.
        appended: overrides that are added to a command, by stage.

    Raises:
        AssertionError: with the line of the document, the command and what it printed, where one fails.
    """
    for block in shown:
        if block.mark.startswith("skip"):
            continue
        if block.mark.startswith("file"):
            file = folder / block.mark.removeprefix("file ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            for words in commands(block):
                code, output = _run(words, folder, stage, appended, compose=block.mark == "compose")
                assert code == 0, f"line {block.line}: {' '.join(words)}: exit code {code}\n{output}"


def _run(
    words: list[str], folder: Path, stage: Stage, appended: Mapping[str, Sequence[str]], *, compose: bool
) -> tuple[int, str]:
    if compose:
        name, *arguments = words[words.index("tinyllm") + 1 :]  # torchrun and its options may stand before it
        done = [stage(name, *job, "--cfg", "job") for job in _jobs(arguments)]
        return max(code for code, _, _ in done), "\n".join(err for _, _, err in done)
    if words[0] == "tinyllm":
        name = words[1]
        code, _, err = stage(*words[1:], *appended.get(name, []))
        return code, err
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if words[0] == "make":
        words, folder = ["make", "--dry-run", *words[1:]], ROOT
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def _jobs(arguments: Sequence[str]) -> list[list[str]]:
    """As many jobs of a sweep as show every value once: `--cfg` composes one job."""
    if not {"-m", "--multirun"} & set(arguments):
        return [list(arguments)]
    flags = [a for a in arguments if a.startswith("-") and a not in ("-m", "--multirun")]
    given = [a for a in arguments if not a.startswith("-")]
    values = [
        [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
        if parsed.is_sweep_override()
        else [argument]
        for argument, parsed in zip(given, OverridesParser.create().parse_overrides(given), strict=True)
    ]
    return [[*flags, *(v[job % len(v)] for v in values)] for job in range(max(map(len, values), default=1))]


def read(document: str) -> str:
    """The text of a document of the repository."""
    return (ROOT / document).read_text(encoding="utf-8")


def write_questions(file: Path) -> None:
    """A user's questions: 30 / 10 / 10, with the fields that the README's table names."""
    fields = table_fields(read("README.md"))
    assert set(REQUIRED) <= set(fields) <= {*REQUIRED, *OPTIONAL}
    rows: list[dict[str, object]] = [
        {
            "id": f"q{i}",
            "question": f"Which number follows {i}?",
            "choices": [str(i + 1), str(i + 2), str(i)],
            "answer": str(i + 1) if i % 2 else "a",
            "context": "Numbers follow each other.",
            "split": "train" if i < 30 else "valid" if i < 40 else "test",
            "group": i // 2,
        }
        for i in range(50)
    ]
    file.write_text("\n".join(json.dumps({name: row[name] for name in fields}) for row in rows))
