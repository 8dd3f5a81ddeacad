"""Teachers behind an OpenAI-compatible server: vLLM, SGLang, TGI, llama.cpp, Ollama, the paid ones."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tinyllm.errors import UserError
from tinyllm.teachers.engines.protocol import STOP, Completion, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between two tries at most, whatever the server asks for."""
FEWEST_FAILURES = 8
"""Questions in a row that a server has to answer with errors before the run ends: some prompts alone upset a server."""
_ABSENT = object()
"""In place of a field that an answer lacks: one that is null is None."""
# Servers differ in how they say why a text ended; what is in no set has ended by itself.
_CUT = frozenset({"length", "max_tokens", "model_length"})
_FILTERED = frozenset({"content_filter", "safety", "sensitive", "recitation", "prohibited_content", "blocklist"})
_BROKEN_OFF = frozenset({"error", "abort", "aborted", "cancelled", "insufficient_system_resource", "network_error"})
# How a server says that this prompt will never be answered.
_TOO_LONG = ("context length", "context_length", "context size", "context window", "too long", "too large")
# That no prompt at all will be, with this limit.
_TOO_MUCH_ASKED = re.compile(
    r"max_(?:completion_)?tokens\b.*(?:too large|too high|greater than|exceed|at most|maximum)"
)
_ABOUT_PROMPT = re.compile(r"context|input|prompt|message")
# That no request will be, before someone has paid; what limits a rate may name the page of bills, too.
_NO_MONEY = ("insufficient_quota", "billing details", "billing_", "insufficient balance", "insufficient credit")


class OpenAIEngine:
    """A bounded number of requests in flight, each retried with growing pauses.

    Retried: 408, 409, 429, 5xx, timeouts, cut connections, answers that are no JSON, lack a text or were broken off.
    `Retry-After` is followed. An answer that is finished and whose text is null has an empty one: it was paid for, and
    another try would cost as much. What is refused for its own sake (400, 403, 413, 422) fails alone, and for good
    where the prompt is filtered, or too long where others are not. A wrong key or model name and an empty account end
    the run, and so does a server of which `concurrency` questions in a row got no answer (`FEWEST_FAILURES` or more,
    where it has answered before). What is under way then is waited for: it may be paid already.
    A sampling seed is left out once a server has refused it, and so are a temperature and top_p that are its default
    or not the teacher's own.

    The key is read from the environment when the first request is made; it is in no message of this class.

    Args:
        base_url: None is the client's default.
        api_key_env: name of the environment variable that holds the key; unset is right for a server that needs none.
        timeout: seconds a try.
        max_retries: further tries of one request.
        first_pause: seconds before the second try; doubled before each further one.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        chat: bool = True,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        concurrency: int = 16,
        timeout: float = 120.0,
        max_retries: int = 6,
        first_pause: float = 1.0,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.chat = chat
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.concurrency = concurrency
        self.timeout = timeout
        self.max_retries = max_retries
        self.first_pause = first_pause
        self._limit_name = "max_tokens"
        self._refused: set[tuple[str, float | None]] = set()
        """Parameters that the server doesn't take, with the value that it refused (None: any)."""
        self._answered = False
        """Whether the server has answered any question."""
        self._problems: list[_Problem] = []
        """Of the questions in a row that got no answer."""
        self._too_long: dict[str, str] = {}
        """What the server said of the prompts that it found too long, by id."""
        self._ending = asyncio.Event()
        """Set where the run is about to end: nothing is tried again."""

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Completions as they come, in any order.

        Raises:
            UserError: no key, a wrong key, an unknown model, a server that doesn't answer.
        """
        client = self._client()
        self._problems, self._too_long, self._answered, self._ending = [], {}, False, asyncio.Event()
        loop = asyncio.new_event_loop()
        under_way: set[asyncio.Task[Completion]] = set()
        iterator = iter(requests)
        held: list[Completion] = []  # of prompts found too long, until another shows that not all are
        failure: BaseException | None = None
        try:
            more = True
            while more or under_way:
                while more and len(under_way) < self.concurrency:
                    request = next(iterator, None)
                    if request is None:
                        more = False
                    else:
                        under_way.add(loop.create_task(self._answer(client, request)))
                if under_way:
                    done, under_way = loop.run_until_complete(
                        asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    )
                    held += [task.result() for task in done if task.exception() is None]
                    ready = [c for c in held if self._answered or c.id not in self._too_long]
                    held = [] if self._answered else [c for c in held if c.id in self._too_long]
                    if ready:
                        yield ready
                    failure = failure or next((task.exception() for task in done if task.exception()), None)
                    failure = failure or self._given_up()
                    if failure is not None:
                        more = False
                        self._ending.set()
            if failure is not None:
                raise failure
            if len(held) >= FEWEST_FAILURES:
                raise UserError(
                    f"{self._server()} found all {len(held)} prompts too long ({self._too_long[held[0].id]}): lower "
                    f"teachers.<name>.max_new_tokens ({self.max_new_tokens}), or let the server take a longer context, "
                    "then run the same command again"
                )
            if held:
                yield held
        finally:
            for task in under_way:
                task.cancel()
            if under_way:
                loop.run_until_complete(asyncio.wait(under_way))
            loop.run_until_complete(client.close())
            loop.close()

    def _given_up(self) -> UserError | None:
        """Of a server that answers nothing any more."""
        if not self._problems:
            return None
        last = self._problems[-1]
        enough = self.concurrency if last.silent and not self._answered else max(self.concurrency, FEWEST_FAILURES)
        if len(self._problems) < enough:
            return None
        return UserError(
            f"{self._server()} answered none of the last {len(self._problems)} questions ({last.text}): {last.remedy}, "
            "then run the same command again; answers so far are in the store"
        )

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        # They log each request's address at INFO.
        for library in ("httpx", "httpx2", "openai"):
            logging.getLogger(library).setLevel(logging.WARNING)
        key = os.environ.get(self.api_key_env)
        if not key:
            if self.base_url is None:
                raise UserError(
                    f"no key for {self.model}: put it into the environment variable {self.api_key_env}, "
                    "or name a server that needs none with teachers.<name>.base_url"
                )
            key = "none"
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"the key in the environment variable {self.api_key_env} has characters that no key can have, such as "
                "a line end: set it again"
            )
        try:
            return AsyncOpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0)
        except Exception as error:  # of an address, a proxy or a certificate, each from another library
            raise UserError(
                f"can't make a client for {self._server()}: {self._safe(str(error) or type(error).__name__)}; check "
                "teachers.<name>.base_url and the proxy and certificate variables of the environment"
            ) from error

    async def _answer(self, client: AsyncOpenAI, request: Request) -> Completion:
        lost, late = (0, 0), 0
        for attempt in range(self.max_retries + 1):
            try:
                completion = await self._try(client, request)
            except _Again as again:
                problem, asked_for = _Problem(str(again), again.remedy, silent=again.silent), again.pause
                if again.paid is None:
                    late += 1
                else:
                    lost = (lost[0] + again.paid[0], lost[1] + again.paid[1])
                if attempt < self.max_retries:
                    pause = self.first_pause * 2**attempt * random.uniform(0.75, 1.25)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._ending.wait(), min(max(pause, asked_for), LONGEST_PAUSE))
                if self._ending.is_set():
                    break
            else:
                return replace(completion, lost=lost, late=late)
        self._problems.append(problem)
        error = f"{problem.text}, {attempt + 1} times"
        return Completion(request.id, "", "error", error=error, lost=lost, late=late)

    async def _try(self, client: AsyncOpenAI, request: Request) -> Completion:
        """One try, or several where a refusal tells which parameters the server takes.

        Raises:
            _Again: worth another try.
            UserError: no request can succeed.
        """
        import openai

        parameters = self._parameters(request)
        try:
            async with asyncio.timeout(self.timeout):  # the client's own is one between two pieces of an answer
                answer = await self._send(client, request, parameters)
        except openai.APIStatusError as error:
            status, message = error.status_code, self._safe(_server_message(error))
            if status == 401:
                raise UserError(
                    f"{self._server()} refused the key (HTTP 401): check the environment variable {self.api_key_env}"
                ) from None
            if status == 404:
                raise UserError(
                    f"{self._server()} doesn't know the model {self.model!r} or the address (HTTP 404: {message}): "
                    "check teachers.<name>.model and .base_url"
                ) from None
            told = f"{error.code} {message}".lower()
            limited = status == 429 and error.code != "rate_limit_exceeded"
            if status == 402 or (limited and any(words in told for words in _NO_MONEY)):
                raise UserError(
                    f"{self._server()} refuses for lack of credit (HTTP {status}: {message}): add credit, or "
                    "choose another server"
                ) from None
            if status in (408, 409, 429) or status >= 500:
                busy = "lower teachers.<name>.concurrency" if status == 429 else "see what its log says"
                raise _Again(f"HTTP {status}: {message}"[:300], _retry_after(error), remedy=busy) from None
            if status in (400, 422):
                if self._learns(told, error.param, parameters, own=request.sampling is None):
                    return await self._try(client, request)
                if _TOO_MUCH_ASKED.search(told) and not _ABOUT_PROMPT.search(told):
                    raise UserError(
                        f"{self._server()} refuses {self.max_new_tokens} tokens a text (HTTP {status}: {message}): "
                        "lower teachers.<name>.max_new_tokens"
                    ) from None
                for name in ("temperature", "top_p"):
                    if error.param == name or (name in told and "support" in told):
                        raise UserError(
                            f"{self._server()} refuses the {name} (HTTP {status}: {message}): set "
                            f"teachers.<name>.{name} to one that the model takes"
                        ) from None
            return self._refusal(request, status, message, told)
        except (openai.APITimeoutError, TimeoutError):
            remedy = "check that it is running, or raise teachers.<name>.timeout"
            raise _Again(f"no answer in {self.timeout:g} s", paid=None, silent=True, remedy=remedy) from None
        except openai.APIConnectionError as error:
            raise _Again(f"connection failed ({type(error.__cause__ or error).__name__})", silent=True) from None
        except (openai.OpenAIError, ValueError, TypeError) as error:
            raise _Again(f"malformed answer ({type(error).__name__})") from None
        completion = self._read(request, answer)
        self._problems, self._answered = [], True
        return completion

    def _learns(self, told: str, named: str | None, parameters: Mapping[str, Any], *, own: bool) -> bool:
        """Whether a refusal tells to send a parameter by another name, or not at all.

        Args:
            told: what the server says.
            named: the parameter that it names for it, if it does.
            parameters: those that were sent.
            own: temperature and top_p are the teacher's.
        """
        unsupported = any(word in told for word in ("unsupported", "not support", "instead", "extra", "not permitted"))
        if not unsupported:
            return False
        if self.chat and "max_tokens" in parameters and "max_completion_tokens" in told:
            self._limit_name = "max_completion_tokens"
            return True
        for name in ("seed", "temperature", "top_p"):
            if name not in parameters or not (named == name or re.search(rf"\b{name}\b", told)):
                continue
            if name == "seed":
                if ("seed", None) not in self._refused:
                    log.warning("%s takes no seed: sampled texts can't be drawn again", self._server())
                self._refused.add(("seed", None))
                return True
            if not own or parameters[name] == 1:
                self._refused.add((name, parameters[name]))
                return True
        return False

    def _refusal(self, request: Request, status: int, message: str, told: str) -> Completion:
        """Of a prompt that the server won't answer, whatever the others get."""
        filtered = "content_filter" in told or "content management policy" in told
        long = status == 413 or (status != 403 and any(words in told for words in _TOO_LONG))
        final = long or (status != 403 and filtered)
        if long and not filtered:
            self._too_long[request.id] = f"HTTP {status}: {message}"[:300]
        if not (final or self._answered):
            remedy = f"check the environment variable {self.api_key_env}" if status == 403 else "change what it refuses"
            self._problems.append(_Problem(f"HTTP {status}: {message}"[:300], remedy))
        return Completion(request.id, "", "error", error=f"HTTP {status}: {message}"[:300], final=final)

    def _parameters(self, request: Request) -> dict[str, Any]:
        """What a request carries beside its prompt."""
        temperature, top_p = request.sampling or (self.temperature, self.top_p)
        sent: dict[str, Any] = {"temperature": temperature, self._limit_name: self.max_new_tokens}
        if temperature > 0:
            sent |= {"top_p": top_p, "seed": request.seed}
        refused = {name for name, value in self._refused if value is None or sent.get(name) == value}
        return {name: value for name, value in sent.items() if name not in refused}

    async def _send(self, client: AsyncOpenAI, request: Request, parameters: Mapping[str, Any]) -> Any:
        endpoint: Any = client.chat.completions if self.chat else client.completions
        if self.chat:
            return await endpoint.create(model=self.model, messages=request.prompt, **parameters)
        return await endpoint.create(model=self.model, prompt=request.prompt, stop=[STOP], **parameters)

    def _read(self, request: Request, answer: Any) -> Completion:
        """The text of an answer, which the client hands over unchecked: any field may be absent or of another type."""
        usage = getattr(answer, "usage", None)
        counts = (getattr(usage, name, 0) for name in ("prompt_tokens", "completion_tokens"))
        prompt_tokens, tokens = (count if isinstance(count, int) else 0 for count in counts)
        choices = getattr(answer, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        reason = getattr(choice, "finish_reason", None)
        ended = reason.lower() if isinstance(reason, str) else None
        if ended in _FILTERED:
            error = "held back by the server's content filter"
            return Completion(request.id, "", "error", prompt_tokens, tokens, error, final=True)
        if ended in _BROKEN_OFF:
            raise _Again(f"broken off by the server ({ended})", paid=(prompt_tokens, tokens))
        holder, name = (getattr(choice, "message", None), "content") if self.chat else (choice, "text")
        text = getattr(holder, name, _ABSENT)
        if isinstance(text, list):  # parts; of a model that reasons, some are its thoughts
            parts = [part.get("text") for part in text if isinstance(part, dict) and part.get("type") == "text"]
            text = "".join(part for part in parts if isinstance(part, str))
        if text is None and ended is not None:
            text = ""
        if not isinstance(text, str):
            raise _Again("malformed answer (no text in it)", paid=(prompt_tokens, tokens))
        whole = text.encode(errors="replace").decode()  # without halves of characters, which no file can hold
        return Completion(request.id, whole, "length" if ended in _CUT else "stop", prompt_tokens, tokens)

    def _server(self) -> str:
        """The server's address, without a password that may stand in it."""
        if self.base_url is None:
            return "the server"
        scheme, separator, rest = self.base_url.partition("://")
        return f"{scheme}{separator}{rest.rsplit('@', 1)[-1]}"

    def _safe(self, message: str) -> str:
        """A server's message in one line, without the key that some servers repeat."""
        key = os.environ.get(self.api_key_env)
        return " ".join((message.replace(key, "***") if key else message).split())


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why a question got no answer."""

    text: str
    remedy: str
    silent: bool = False
    """The server said nothing at all."""


class _Again(Exception):
    """A failure that another try may mend."""

    def __init__(
        self,
        problem: str,
        pause: float = 0.0,
        paid: tuple[int, int] | None = (0, 0),
        *,
        silent: bool = False,
        remedy: str = "check that it is running",
    ) -> None:
        super().__init__(problem)
        self.silent = silent
        self.remedy = remedy
        self.pause = pause
        """Seconds that the server asks for."""
        self.paid = paid
        """Prompt and completion tokens, where the server says that it took some; None where it may have, and didn't."""


def _server_message(error: Any) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    if message is None and isinstance(body, dict) and "detail" in body:
        message = body["detail"]
    if isinstance(message, dict | list):
        return json.dumps(message)
    return message if isinstance(message, str) else str(error.message)


def _retry_after(error: Any) -> float:
    """Seconds, which the server gives as such or as a date."""
    value = error.response.headers.get("retry-after", "0")
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
