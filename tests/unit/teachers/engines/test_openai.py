"""The client of OpenAI-compatible servers, against servers in this process that answer in every wrong way."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tinyllm.errors import UserError
from tinyllm.teachers.engines.openai import OpenAIEngine
from tinyllm.teachers.engines.protocol import Completion, Request

KEY = "sk-very-secret-0123456789"
Body = dict[str, Any]


def answered(text: str | None, **choice: Any) -> Body:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "text": text}
            | choice
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


class Server(ThreadingHTTPServer):
    """Answers by a function of (request body, how often this prompt came) -> (status, body) or a bare effect."""

    daemon_threads = True
    request_queue_size = 64  # of connections that wait: more are reset on a busy machine

    def __init__(self, reply: Callable[[Body, int], tuple[int, object]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.seen: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.paths: set[str] = set()
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()
        self.now = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        with self.server.lock:
            self.server.seen[prompt] += 1
            count = self.server.seen[prompt]
            self.server.bodies.append(body)
            self.server.paths.add(self.path)
            self.server.keys.add(self.headers["authorization"])
            self.server.now += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.now)
        try:
            status, content = self.server.reply(body, count)
        finally:
            with self.server.lock:
                self.server.now -= 1
        if content is None:  # cut the connection
            self.close_connection = True
            return
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(reply: Callable[[Body, int], tuple[int, object]]) -> Iterator[Server]:
    server = Server(reply)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def requests(n: int) -> list[Request]:
    return [Request(f"q{i}", [{"role": "user", "content": f"prompt {i}"}], seed=i) for i in range(n)]


def asked(server: Server, n: int = 1, **settings: Any) -> dict[str, Completion]:
    defaults: dict[str, Any] = {
        "model": "m",
        "base_url": server.url,
        "first_pause": 0.01,
        "max_retries": 3,
        "timeout": 5,
    }
    engine = OpenAIEngine(**(defaults | settings))
    return {done.id: done for batch in engine.complete(requests(n)) for done in batch}


def test_a_request_and_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda body, count: (200, answered("Because."))) as server:
        found = asked(server, api_key_env="MY_KEY", max_new_tokens=9)
    assert found == {"q0": Completion("q0", "Because.", "stop", 7, 3)}
    (body,) = server.bodies
    assert body == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "prompt 0"}],
    }
    assert server.paths == {"/v1/chat/completions"}
    assert server.keys == {f"Bearer {KEY}"}


def test_sampling_sends_seed_and_top_p_and_a_cut_text_is_told() -> None:
    with serving(lambda body, count: (200, answered("Becau", finish_reason="length"))) as server:
        found = asked(server, 2, temperature=0.7, top_p=0.9)
    assert {done.finish_reason for done in found.values()} == {"length"}
    assert sorted((body["temperature"], body["top_p"], body["seed"]) for body in server.bodies) == [
        (0.7, 0.9, 0),
        (0.7, 0.9, 1),
    ]


def test_a_plain_teacher_uses_the_completion_endpoint() -> None:
    with serving(lambda body, count: (200, answered("Because."))) as server:
        engine = OpenAIEngine(model="m", base_url=server.url, chat=False)
        (batch,) = engine.complete([Request("q", "Why?")])
    assert batch == [Completion("q", "Because.", "stop", 7, 3)]
    assert server.paths == {"/v1/completions"}
    assert (server.bodies[0]["prompt"], server.bodies[0]["stop"]) == ("Why?", ["\nQuestion:"])


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (429, {"error": {"message": "slow down"}}),
        (500, {"error": {"message": "oops"}}),
        (503, b"<html>busy</html>"),
        (408, {}),
        (200, None),
        (200, b'{"choices": [{"mess'),
        (200, b""),
        (200, {"choices": []}),
        (200, {"error": "no room"}),
        (200, []),
        (200, answered("x", message=None)),
        (200, answered(None, finish_reason=None)),
        (200, answered("x", message={"role": "assistant", "content": 5})),
        (200, answered("Becau", finish_reason="error")),
        (200, answered("Becau", finish_reason="abort")),
        (200, answered("Becau", finish_reason="insufficient_system_resource")),
    ],
)
def test_what_may_mend_is_tried_again(status: int, content: object) -> None:
    with serving(lambda body, count: (200, answered("Because.")) if count == 3 else (status, content)) as server:
        found = asked(server, 2)
    assert {done.text for done in found.values()} == {"Because."}
    assert set(server.seen.values()) == {3}


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(("reason", "told"), [("length", "length"), ("stop", "stop"), ("tool_calls", "stop")])
def test_a_finished_answer_without_text_is_paid_once_and_counted(chat: bool, reason: str, told: str) -> None:
    """As of a model that thought up to the limit: another try would cost as much and say as little."""
    silent = answered(None, finish_reason=reason)
    with serving(lambda body, count: (200, silent)) as server:
        engine = OpenAIEngine(model="m", base_url=server.url, chat=chat, first_pause=0.01)
        prompt: Any = [{"role": "user", "content": "Why?"}] if chat else "Why?"
        (batch,) = engine.complete([Request("q", prompt)])
    assert batch == [Completion("q", "", told, 7, 3)]
    assert len(server.bodies) == 1


BROKEN = answered("x", message={"role": "assistant", "content": 5})
"""Costs 7 prompt tokens and 3 completion tokens, as every answer here."""


@pytest.mark.parametrize("broken", [1, 3])
def test_what_failed_tries_cost_is_counted(broken: int) -> None:
    """Against what the server says that it took, over 3 tries at most."""

    def reply(body: Body, count: int) -> tuple[int, object]:
        return 200, BROKEN if count <= broken else answered("Because.")

    with serving(reply) as server:
        done = asked(server, max_retries=2)["q0"]
    tries = len(server.bodies)
    assert tries == min(broken + 1, 3)
    assert (done.error is None, done.text) == ((True, "Because.") if broken == 1 else (False, ""))
    assert (done.prompt_tokens, done.tokens) == ((7, 3) if broken == 1 else (0, 0)), "of the text alone"
    assert done.paid == (7 * tries, 3 * tries)


def test_what_a_run_that_ends_has_cost_is_handed_over() -> None:
    found: list[Completion] = []
    with serving(lambda body, count: (200, BROKEN)) as server:
        engine = OpenAIEngine(model="m", base_url=server.url, concurrency=1, max_retries=1, first_pause=0.01)
        with pytest.raises(UserError, match=r"\b8\b.*malformed answer"):
            for batch in engine.complete(requests(20)):
                found += batch
    assert [(done.id, done.paid) for done in found] == [(f"q{i}", (14, 6)) for i in range(8)]
    assert len(server.bodies) == 16


def test_a_slow_answer_is_tried_again() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        if count == 1:
            time.sleep(1.0)
        return 200, answered("Because.")

    with serving(reply) as server:
        found = asked(server, timeout=0.3)
        assert found["q0"].text == "Because."
        assert server.seen["prompt 0"] == 2


def test_what_stays_broken_is_reported_for_its_question_and_the_others_go_on() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        bad = body["messages"][-1]["content"] in ("prompt 1", "prompt 4")
        return (500, {"error": {"message": "oops"}}) if bad else (200, answered("Because."))

    with serving(reply) as server:
        found = asked(server, 6, max_retries=2)
    assert {i: done.error for i, done in found.items() if done.error} == dict.fromkeys(
        ["q1", "q4"], "HTTP 500: oops, 3 times"
    )
    assert {i for i, done in found.items() if done.text == "Because."} == {"q0", "q2", "q3", "q5"}
    assert server.seen["prompt 1"] == 3


def test_a_refused_prompt_fails_alone_and_at_once() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        if body["messages"][-1]["content"] == "prompt 1":
            return 400, {"error": {"message": "prompt is\ntoo long"}}
        return 200, answered("Because.")

    with serving(reply) as server:
        found = asked(server, 3)
    assert found["q1"].error == "HTTP 400: prompt is too long"
    assert server.seen["prompt 1"] == 1
    assert [found[i].error for i in ("q0", "q2")] == [None, None]


@pytest.mark.parametrize("text", ["", None])
def test_a_filtered_answer_is_a_failure_and_costs_what_it_costs(text: str | None) -> None:
    with serving(lambda body, count: (200, answered(text, finish_reason="content_filter"))) as server:
        done = asked(server)["q0"]
    assert done.error == "held back by the server's content filter"
    assert done.paid == (7, 3)
    assert len(server.bodies) == 1


def test_the_newer_name_of_the_token_limit_is_learnt() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}}
        return 200, answered("Because.")

    with serving(reply) as server:
        found = asked(server, 4, concurrency=1, max_retries=0)
    assert {done.text for done in found.values()} == {"Because."}
    assert sum("max_tokens" in body for body in server.bodies) == 1
    with serving(reply) as server:  # those under way when it is learnt have been sent with the old name
        found = asked(server, 20, concurrency=16, max_retries=0)
    assert {(done.error, done.text) for done in found.values()} == {(None, "Because.")}


def test_retry_after_is_followed() -> None:
    class Waiting(Handler):
        def send_response(self, code: int, message: str | None = None) -> None:
            super().send_response(code, message)
            if code == 429:
                self.send_header("retry-after", "0.4")

    with serving(lambda body, count: (429, {}) if count == 1 else (200, answered("Because."))) as server:
        server.RequestHandlerClass = Waiting
        start = time.monotonic()
        assert asked(server)["q0"].text == "Because."
        assert time.monotonic() - start >= 0.4


def test_no_more_than_the_bound_is_in_flight_and_requests_are_drawn_as_needed() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        time.sleep(0.02)
        return 200, answered("Because.")

    drawn = 0

    def lazily() -> Iterator[Request]:
        nonlocal drawn
        for request in requests(40):
            drawn += 1
            yield request

    with serving(reply) as server:
        engine = OpenAIEngine(model="m", base_url=server.url, concurrency=4)
        batches = engine.complete(lazily())
        next(batches)
        assert drawn == 4
        assert sum(len(batch) for batch in batches) >= 36
    assert 2 <= server.most_at_once <= 4


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, r"HTTP 401.*MY_KEY"),
        (402, r"HTTP 402: bad key \*\*\*"),
        (404, r"'m'"),
    ],
)
def test_what_no_request_can_survive_ends_the_run(monkeypatch: pytest.MonkeyPatch, status: int, told: str) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    reply = (status, {"error": {"message": f"bad key {KEY}"}})
    with serving(lambda body, count: reply) as server, pytest.raises(UserError, match=told) as caught:
        asked(server, 20, api_key_env="MY_KEY", concurrency=2)
    assert KEY not in str(caught.value)
    assert len(server.bodies) <= 2


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (403, {"message": "no access to m"}, r"last \d+ questions .HTTP 403: no access to m.*NO_KEY"),
        (429, {"message": "check your plan", "code": "insufficient_quota"}, "HTTP 429: check your plan"),
        (400, {"message": "does not support 0 with this model", "param": "temperature"}, "not support 0.*temperature"),
        (
            422,
            {"message": [{"type": "extra_forbidden", "loc": ["body", "top_p"]}]},
            r"last \d+ .*extra_forbidden.*top_p",
        ),
    ],
)
def test_what_no_question_gets_past_ends_the_run_with_the_servers_words(
    status: int, error: dict[str, Any], told: str
) -> None:
    with serving(lambda body, count: (status, {"error": error})) as server, pytest.raises(UserError, match=told):
        asked(server, 40, api_key_env="NO_KEY", concurrency=4, max_retries=1)
    assert len(server.bodies) <= 12


def test_a_limit_that_no_prompt_gets_ends_the_run_at_once() -> None:
    """It is no prompt that is too large."""
    told = "max_tokens is too large: 40960. This model supports at most 16384 completion tokens."
    error = {"message": told, "param": "max_tokens"}
    with (
        serving(lambda body, count: (400, {"error": error})) as server,
        pytest.raises(UserError, match=r"supports at most 16384 .*: lower teachers\.<name>\.max_new_tokens"),
    ):
        asked(server, 40, api_key_env="NO_KEY", concurrency=4, max_retries=1)
    assert len(server.bodies) <= 4


LONG = [f"prompt {i}" for i in range(3)]


@pytest.mark.parametrize(
    ("status", "message", "final"),
    [
        (500, "oops", False),
        (403, "flagged by moderation", False),
        (400, "no such role", False),
        (400, "This model's maximum context length is 1024 tokens.", True),
        (
            400,
            "'max_tokens' or 'max_completion_tokens' is too large: 256. This model's maximum context length is 9.",
            True,
        ),
        (413, "payload", True),
        (400, "The response was filtered: content_filter", True),
    ],
)
@pytest.mark.parametrize(("chat", "concurrency"), [(True, 1), (True, 2), (False, 1)])
def test_prompts_that_a_server_never_answers_do_not_keep_the_others_from_it(
    chat: bool, concurrency: int, status: int, message: str, final: bool
) -> None:
    """They are the longest, which are asked first."""

    def reply(body: Body, count: int) -> tuple[int, object]:
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        return (status, {"error": {"message": message}}) if prompt in LONG else (200, answered("Because."))

    with serving(reply) as server:
        engine = OpenAIEngine(
            model="m", base_url=server.url, chat=chat, concurrency=concurrency, max_retries=0, first_pause=0.01
        )
        plain = [Request(f"q{i}", f"prompt {i}") for i in range(6)]
        found = {done.id: done for batch in engine.complete(requests(6) if chat else plain) for done in batch}
    assert {i: done.final for i, done in found.items() if done.error} == {f"q{i}": final for i in range(3)}
    assert all(message in str(found[f"q{i}"].error) for i in range(3))
    assert {i for i, done in found.items() if done.text == "Because."} == {"q3", "q4", "q5"}


TOO_LONG = {"error": {"message": "This model's maximum context length is 1024 tokens."}}


def test_a_server_that_finds_every_prompt_too_long_is_believed_of_none() -> None:
    """Its context is too short, or the limit of tokens too high: what it says will not be so of another server."""
    with (
        serving(lambda body, count: (400, TOO_LONG)) as server,
        pytest.raises(UserError, match=r"all 20 prompts too long .*1024 tokens.*max_new_tokens \(256\), or let"),
    ):
        asked(server, 20, concurrency=4)
    with serving(lambda body, count: (400, TOO_LONG)) as server:
        assert [done.final for done in asked(server, 2).values()] == [True, True], "two may well be too long"


def test_a_limit_of_the_rate_is_waited_for_even_where_it_speaks_of_bills() -> None:
    told = "Rate limit reached. Add a payment method at https://example.org/account/billing to increase it."
    error = {"message": told, "code": "rate_limit_exceeded"}
    with serving(lambda body, count: (429, {"error": error}) if count == 1 else (200, answered("Because."))) as server:
        assert asked(server)["q0"].text == "Because."


def test_what_is_under_way_when_a_run_ends_is_handed_over() -> None:
    """The server answers it, and is paid for it."""

    def reply(body: Body, count: int) -> tuple[int, object]:
        if body["messages"][-1]["content"] == "prompt 3":
            return 402, {"error": {"message": "no credit"}}
        time.sleep(0.3)
        return 200, answered("Because.")

    found: dict[str, Completion] = {}
    with serving(reply) as server:
        engine = OpenAIEngine(model="m", base_url=server.url, concurrency=8)
        with pytest.raises(UserError, match="no credit"):
            for batch in engine.complete(requests(40)):
                found |= {done.id: done for done in batch}
    assert found.keys() == {f"q{i}" for i in range(8) if i != 3} and len(server.bodies) == 8


def test_nothing_is_tried_again_when_a_run_ends() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        return (401, {}) if body["messages"][-1]["content"] == "prompt 3" else (500, {})

    start = time.monotonic()
    with serving(reply) as server:
        engine = OpenAIEngine(model="m", base_url=server.url, concurrency=8, first_pause=30.0)
        with pytest.raises(UserError, match="HTTP 401"):
            list(engine.complete(requests(8)))
    assert time.monotonic() - start < 20 and len(server.bodies) == 8


def test_tries_without_an_answer_in_time_are_counted() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        if count < 3:
            time.sleep(1.0)
        return 200, answered("Because.")

    with serving(reply) as server:
        done = asked(server, timeout=0.3)["q0"]
    assert (done.text, done.late, done.paid) == ("Because.", 2, (7, 3))


def test_one_slow_question_does_not_end_a_run_of_one_at_a_time() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        if body["messages"][-1]["content"] == "prompt 2":
            time.sleep(1.0)
        return 200, answered("Because.")

    with serving(reply) as server:
        found = asked(server, 5, concurrency=1, timeout=0.3, max_retries=1)
    assert found["q2"].error == "no answer in 0.3 s, 2 times"
    assert [found[f"q{i}"].text for i in (0, 1, 3, 4)] == ["Because."] * 4


@pytest.mark.parametrize("refused", [("temperature",), ("temperature", "top_p")])
@pytest.mark.parametrize(
    ("temperature", "sampling"), [(1.0, None), (0.0, (0.7, 0.9))], ids=["the default", "of invented examples"]
)
def test_sampling_that_a_server_fixes_is_left_to_it(
    refused: tuple[str, ...], temperature: float, sampling: tuple[float, float] | None
) -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        for name in refused:
            if name in body:
                error = {"message": f"Unsupported parameter: '{name}' is not supported.", "param": name}
                return 400, {"error": error}
        return 200, answered("Because.")

    with serving(reply) as server:
        engine = OpenAIEngine(model="m", base_url=server.url, temperature=temperature, concurrency=1)
        asked_for = [replace(request, sampling=sampling) for request in requests(3)]
        found = [done for batch in engine.complete(asked_for) for done in batch]
        assert [done.text for done in found] == ["Because."] * 3
        assert len(server.bodies) == 3 + len(refused), "it is learnt once"
        with pytest.raises(UserError, match=r"temperature .*teachers\.<name>\.temperature"):
            list(OpenAIEngine(model="m", base_url=server.url, temperature=0.5).complete(requests(1)))
        if sampling is not None:  # the teacher's own is another
            with pytest.raises(UserError, match=r"temperature"):
                list(engine.complete(requests(1)))


def test_a_server_that_takes_no_seed_is_asked_without_one() -> None:
    def reply(body: Body, count: int) -> tuple[int, object]:
        if "seed" in body:
            return 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}
        return 200, answered("Because.")

    with serving(reply) as server:
        found = asked(server, 6, temperature=0.7, concurrency=3, max_retries=0)
    assert {done.text for done in found.values()} == {"Because."}
    assert {body["top_p"] for body in server.bodies} == {1.0}


def test_the_parts_of_an_answer_that_are_text_are_its_text() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
        {"type": "text", "text": "Because \ud83d."},
    ]
    with serving(lambda body, count: (200, answered("x", message={"role": "assistant", "content": parts}))) as server:
        assert asked(server)["q0"].text == "Because ?.", "half of a character can't be written to a file"


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "model_length", "length"])
def test_every_name_of_a_cut_is_known(reason: str) -> None:
    with serving(lambda body, count: (200, answered("Becau", finish_reason=reason))) as server:
        assert asked(server)["q0"].finish_reason == "length"


def test_an_answer_that_trickles_is_tried_again() -> None:
    """Each blank line comes in time, the answer does not."""

    class Trickling(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.server.bodies.append(body)
            raw = json.dumps(answered("Because.")).encode()
            slow = len(self.server.bodies) == 1
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw) + (20 if slow else 0)))
            self.end_headers()
            for _ in range(20 if slow else 0):
                time.sleep(0.1)
                try:
                    self.wfile.write(b"\n")
                except OSError:
                    return
            self.wfile.write(raw)

    with serving(lambda body, count: (200, None)) as server:
        server.RequestHandlerClass = Trickling
        assert asked(server, timeout=0.6)["q0"].text == "Because."
        assert len(server.bodies) == 2


def test_a_date_to_wait_for_is_followed() -> None:
    class Waiting(Handler):
        def send_response(self, code: int, message: str | None = None) -> None:
            super().send_response(code, message)
            if code == 429:
                self.send_header("retry-after", formatdate(time.time() + 2, usegmt=True))

    with serving(lambda body, count: (429, {}) if count == 1 else (200, answered("Because."))) as server:
        server.RequestHandlerClass = Waiting
        start = time.monotonic()
        assert asked(server)["q0"].text == "Because."
        assert time.monotonic() - start >= 0.9, "a date has whole seconds"


@pytest.mark.parametrize(
    ("variable", "value", "base_url", "told"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "http://127.0.0.1:9/v1", "proxy"),
        ("X", "", "http://127.0.0.1:80a/v1", "base_url"),
        ("SSL_CERT_FILE", "/nonexistent", "https://127.0.0.1:9/v1", "certificate"),
        ("OPENAI_API_KEY", f"{KEY}\r", "http://127.0.0.1:9/v1", "OPENAI_API_KEY"),
        ("OPENAI_API_KEY", "sk-é", "http://127.0.0.1:9/v1", "OPENAI_API_KEY"),
    ],
)
def test_what_keeps_a_client_from_being_made_is_told(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, base_url: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=told) as caught:
        list(OpenAIEngine(model="m", base_url=base_url).complete(requests(1)))
    assert KEY not in str(caught.value)


def test_a_server_that_is_down_ends_the_run_and_keeps_what_came() -> None:
    engine = OpenAIEngine(model="m", base_url="http://127.0.0.1:9/v1", concurrency=3, max_retries=1, first_pause=0.01)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1 .*\b3\b.*connection"):
        list(engine.complete(requests(50)))


def test_the_key_is_in_no_log_and_no_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    reply = (422, {"error": {"message": f"what a key: {KEY}"}})
    with caplog.at_level(logging.DEBUG), serving(lambda body, count: reply) as server:
        found = asked(server, api_key_env="MY_KEY")
    assert found["q0"].error == "HTTP 422: what a key: ***"
    assert KEY not in caplog.text
    assert KEY not in repr(vars(OpenAIEngine(model="m", api_key_env="MY_KEY")))


def test_a_missing_key_is_asked_for_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UserError, match=r"\bm\b.*NO_KEY"):
        list(OpenAIEngine(model="m", api_key_env="NO_KEY").complete(requests(1)))
    with serving(lambda body, count: (200, answered("Because."))) as server:
        assert asked(server, api_key_env="NO_KEY")["q0"].text == "Because."
    assert server.keys == {"Bearer none"}
