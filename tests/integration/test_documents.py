"""Commands in the documents work: each document is followed in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.conftest import Stage
from tests.integration.documents import ROOT, Block, blocks, commands, follow, read, table_fields, write_questions
from tests.integration.test_recipes import RECIPES

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "conf/README.md", "experiments/README.md"]


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_work(document: str, stage: Stage, tmp_path: Path) -> None:
    if not (ROOT / document).is_file():
        pytest.skip(f"{document} is not written yet")
    write_questions(tmp_path / "questions.jsonl")
    recipes = RECIPES if document == "CONTRIBUTING.md" else set()  # test_recipes.py follows them
    follow([block for block in blocks(read(document)) if block.section not in recipes], tmp_path, stage)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_in_a_console_fence(document: str) -> None:
    if (ROOT / document).is_file():
        assert not {"sh", "bash", "shell", "zsh"} & {block.language for block in blocks(read(document))}


TEXT = """\
# Title

```console
tinyllm train  # a comment
make run
```

## Section

- An item:
  <!-- test: compose -->
  ```console
  tinyllm train -m seed=0,1 \\
      method=full_ft
  ```

<!-- test: skip, needs a GPU -->
```console
tinyllm train trainer=gpu
```

<!-- test: file my/file.yaml -->
```yaml
a: 1
```

```
no language
```
"""


def test_what_is_read_of_a_document() -> None:
    found = blocks(TEXT)
    assert [(b.line, b.language, b.mark, b.section) for b in found] == [
        (3, "console", "", "Title"),
        (12, "console", "compose", "Section"),
        (18, "console", "skip, needs a GPU", "Section"),
        (23, "yaml", "file my/file.yaml", "Section"),
        (27, "", "", "Section"),
    ]
    assert commands(found[0]) == [["tinyllm", "train"], ["make", "run"]]
    assert commands(found[1]) == [["tinyllm", "train", "-m", "seed=0,1", "method=full_ft"]]


@pytest.mark.parametrize("mark", ["skip", "skip, ", "composed", "file", "Compose"])
def test_an_unknown_mark_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        blocks(f"<!-- test: {mark} -->\n```console\nmake run\n```\n")


def test_a_mark_without_a_fence_right_below_is_refused() -> None:
    with pytest.raises(ValueError, match="line 3"):
        blocks("Text.\n\n<!-- test: compose -->\n\nMore text.\n\n```console\nmake run\n```\n")


@pytest.mark.parametrize(
    ("command", "mark"),
    [
        ("tinyllm train trainer.bath_size=3", "compose"),
        ("tinyllm train -m seed=0 method=full_ft,tinylm", "compose"),
        ("torchrun --nproc-per-node=4 tinyllm train trainer=gpus", "compose"),
        ("tinyllm train data=jsonl data.root=absent.jsonl", ""),
        ("tinyllm trian", ""),
        ("make nothing", ""),
        ("false", ""),
    ],
)
def test_a_command_that_does_not_work_fails_with_its_line(
    command: str, mark: str, stage: Stage, tmp_path: Path
) -> None:
    block = Block(line=7, language="console", text=f"{command}\n", mark=mark, section="")
    with pytest.raises(AssertionError, match=r"^line 7: .*exit code [12]\b"):
        follow([block], tmp_path, stage)


def test_commands_that_work_files_that_are_written_and_marks_that_are_kept(stage: Stage, tmp_path: Path) -> None:
    def block(text: str, mark: str = "", language: str = "console") -> Block:
        return Block(1, language, text, mark, "")

    shown = [
        block("make run\ntinyllm --version\n"),
        block("torchrun --no-python tinyllm train -m method=full_ft,tinyllm trainer=fsdp seed=0,1\n", "compose"),
        block("false\n", "skip, it fails"),
        block("false\n", language="text"),
        block("name: mine\n", "file my/file.yaml", "yaml"),
        block("test -f my/file.yaml\n"),
    ]
    follow(shown, tmp_path, stage)
    assert (tmp_path / "my" / "file.yaml").read_text() == "name: mine\n"
    assert not (tmp_path / "runs").exists()


def test_the_fields_of_a_question_are_read_from_their_table() -> None:
    table = (
        "| a | b |\n| --- | --- |\n| `x` | y |\n\n| f | |\n| --- | --- |\n| `id` | |\n| `choices` | list |\n\ntext\n"
    )
    assert table_fields(table) == ["id", "choices"] and table_fields("no table\n") == []
