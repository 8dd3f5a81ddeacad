"""What models, files and servers say is data; keys stay where they are; nothing runs that nobody asked for."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from markdown_it import MarkdownIt
from tests.conftest import small_t5
from tests.integration.conftest import SMALL, JsonHandler, Stage

from tinyllm.errors import UserError
from tinyllm.student.models import load_pretrained
from tinyllm.teachers.engines.protocol import Request
from tinyllm.teachers.engines.transformers import TransformersEngine

KEY, TOKEN, WANDB = "sk-marked0key1of2these3tests", "hf_marked0token1of2these3tests", "marked0wandb" * 3 + "0123"
EVIL = 'a saw\x1b[2J\x1b]0;owned\x07 <img src=x onerror=alert(1)> =HYPERLINK("x") \\input{x} | ![i](http://x)'


class _Server(JsonHandler):
    """Answers with a text that would command terminals, and refuses every third request in words that hold the key."""

    count = 0
    keys: ClassVar[set[str | None]] = set()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).count += 1
        self.keys.add(self.headers["authorization"])
        refused = self.count % 3 == 0
        answer = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": EVIL}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }  # fmt: skip
        error = {"error": {"message": f"bad request with {self.headers['authorization']} \x1b[2J", "type": "x"}}
        body = json.dumps(error if refused else answer).encode()
        self.answer(400 if refused else 200, body)


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}/v1"
    made.shutdown()
    made.server_close()


def silent(text: str) -> bool:
    """Whether nothing of it is a command to a terminal."""
    return not any(sign in text for sign in "\x1b\x07\x9b")


QUESTIONS = [
    {
        "id": name,
        "question": f"Which tool cuts plank {number}? {EVIL}",
        "choices": [f"a saw {EVIL}", "a spoon", "a rope"],
        "answer": "b" if number % 2 else "a",
        "split": ["train", "train", "valid", "test"][number % 4],
        "group": f"../{number}",
    }
    for number, name in enumerate(
        [
            "../../../outside",
            "/tmp/outside",
            "..",
            "a\u0000b",
            "long" * 2000,
            "\x1b[2J",
            "=1",
            "|",
            "~",
            " x",
            "$(id)",
        ]
    )
]
DATA = ["data=jsonl", "data.name=mine", "data.root=mine.jsonl"]


def outside(folder: Path) -> set[str]:
    """What lies in a folder and above it, but for what the stages are told to write."""
    return {str(path) for path in [*folder.parent.iterdir(), *folder.iterdir()]} - {
        str(folder / name) for name in ("store", "runs", ".cache", "report", "exported", "run")
    }


def secrets_in(folder: Path, *texts: str) -> list[str]:
    """Files of a folder, and places among texts, that hold a key."""
    marks = [mark.encode() for mark in (KEY, TOKEN, WANDB)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [str(path) for path in files if any(mark in path.read_bytes() for mark in marks)]
    return found + [text for text in texts if any(mark.decode() in text for mark in marks)]


@pytest.mark.slow
def test_keys_stay_in_the_environment_and_texts_are_data_in_all_stages(
    stage: Stage, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MY_KEY", KEY), ("HF_TOKEN", TOKEN), ("WANDB_API_KEY", WANDB)):
        monkeypatch.setenv(name, value)
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    before = outside(tmp_path)
    own = [*DATA, "teachers=[openai]", "teachers.openai.model=m", f"teachers.openai.base_url={server}"]
    own += ["teachers.openai.api_key_env=MY_KEY", "teachers.openai.concurrency=1", "prompt.examples=0"]
    small = [*SMALL, "trainer.max_epochs=1", "student.max_target_length=64"]
    printed = []
    for arguments in (
        ["rationales", *own],
        ["rationales", *own],
        ["rationales", *own],
        [
            "train",
            *own,
            *small,
            "hydra.run.dir=run",
            "logger=wandb",
            "logger.mode=offline",
            "evaluation.rationales=true",
        ],
        ["train", "-m", *own, *small, "trainer.accelerator=gpu", "logger=wandb", "logger.mode=offline"],
        ["evaluate", *own, "run=run", "evaluation.split=valid", "trainer.precision=32-true"],
        ["predict", "run=run", f"question='{QUESTIONS[0]['question']}'", f"choices=['{EVIL.replace(chr(92), '')}', b]"],
        ["report", "runs=run"],
        ["export", "run=run", "output=exported"],
    ):
        code, out, err = stage(*arguments)
        refused = "-m" in arguments and not torch.cuda.is_available()  # there is no GPU
        assert code == (2 if refused or "HTTP 400" in out else 0), err
        assert "Traceback" not in err and silent(out) and silent(err), (arguments[0], out, err)
        printed += [out, err]
    assert _Server.keys == {f"Bearer {KEY}"} and any("HTTP 400" in text for text in printed)
    assert secrets_in(tmp_path, *printed) == [] and outside(tmp_path) == before
    texts = [json.loads(line)["text"] for file in tmp_path.glob("store/**/*.jsonl") for line in file.open()]
    assert EVIL in texts  # as it was written: what is shown is made harmless where it is shown


@pytest.mark.parametrize(
    ("mistake", "key"),
    [
        (["teachers.openai.base_url=http://user:{key}@localhost/v1"], "base_url"),
        (["teachers.openai.base_url={key}@localhost"], "base_url"),
        (["teachers.openai.api_key_env={key}"], "api_key_env"),
        (["teachers.openai.api_key_env={token}"], "api_key_env"),
    ],
)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(
    stage: Stage, tmp_path: Path, mistake: list[str], key: str, sweep: bool
) -> None:
    own = [
        *DATA,
        "teachers=[openai]",
        "teachers.openai.model=m",
        *(one.format(key=KEY, token=TOKEN) for one in mistake),
    ]
    code, out, err = stage("rationales", *(["-m"] if sweep else []), *own)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2 and len(lines) == 1 and key in lines[0] and secrets_in(tmp_path, err, out) == [], err


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(Path("owned").resolve()), "w")


def test_no_pickle_of_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_t5(tied=True)
    model.save_pretrained("model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "tokenizer.json").write_text(
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}}}'
    )
    for content in (pickle.dumps(Evil()), None):
        if content is None:  # an honest one is refused as well
            torch.save(model.state_dict(), "model/pytorch_model.bin")
        else:
            (tmp_path / "model" / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match="model") as caught:
            load_pretrained("model")
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match="model"):
            list(TransformersEngine(model="model").complete([Request("q", "text")]))
    assert not Path("owned").exists()


@pytest.mark.slow
def test_no_pickle_of_a_run_is_loaded(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for write in (lambda: last.write_bytes(pickle.dumps(Evil())), lambda: torch.save({"state_dict": Evil()}, last)):
        write()
        code, _, err = stage("train", *SMALL, "method=full_ft", "hydra.run.dir=run")
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert code == 2 and len(lines) == 1 and "last.ckpt" in lines[0] and "Traceback" not in err, err
        assert last.is_file() and not (tmp_path / "owned").exists()


def test_no_code_of_a_model_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where someone could answer transformers' question at a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    content = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="code of its own"):
        load_pretrained("model")
    with pytest.raises(UserError, match="code of its own"):
        list(TransformersEngine(model="model").complete([Request("q", "text")]))
    assert not Path("owned").exists() and "evil" not in sys.modules


@pytest.mark.slow
def test_runs_of_others_name_no_files_outside(stage: Stage, tmp_path: Path) -> None:
    small = [*SMALL, "trainer.max_epochs=1", "method=full_ft"]
    code, _, err = stage("train", *small, "hydra.run.dir=runs/a")
    assert code == 0, err
    for number, dataset in enumerate(["../../outside", f"=1+1 {EVIL}"]):
        folder = tmp_path / "runs" / f"copy{number}"
        shutil.copytree(tmp_path / "runs" / "a", folder)
        result = json.loads((folder / "result.json").read_text())
        names = {"dataset": dataset, "student": f"../{EVIL}", "config_hash": f"{number}" * 12}
        (folder / "result.json").write_text(json.dumps(result | names))
        config = (folder / "config.yaml").read_text().replace("name: minilab", f"name: {json.dumps(dataset)}")
        (folder / "config.yaml").write_text(config)
    before = outside(tmp_path)
    code, out, err = stage("report", "title='![i](http://x) <b>'", "resamples=10")
    assert code == 0 and silent(out) and silent(err), err
    assert outside(tmp_path) == before
    text = (tmp_path / "report" / "report.md").read_text()
    shown = MarkdownIt().enable("table").render(text)
    assert silent(text) and "<b>" not in shown and "<a " not in shown and "![i]" in shown
    assert all(image.startswith('src="figures/') for image in shown.split("<img ")[1:])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<img src=x" not in page and "<b>" not in page
    for file in (tmp_path / "report").rglob("*.csv"):
        for line in file.read_text().splitlines():
            assert not any(cell.lstrip('"').startswith(("=", "@")) for cell in line.split(",")), (file, line)
    for number in (0, 1):
        code, _, err = stage(
            "evaluate", f"run=runs/copy{number}", "evaluation.split=valid", "trainer.precision=32-true"
        )
        assert code == 2 and "data.name" in err and "Traceback" not in err and silent(err), err
    assert outside(tmp_path) == before
