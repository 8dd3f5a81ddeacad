"""What a call may spend: requests are let through as long as what they may cost at most still fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from tinyllm.config import BudgetConfig, TeacherConfig
from tinyllm.teachers.engines.protocol import Completion, Request, ScoreRequest
from tinyllm.teachers.ledger import money_of

R = TypeVar("R", Request, ScoreRequest)
TEMPLATE = 256
"""Tokens that a teacher's chat template may add, as long as no answer shows that it adds more."""


class BudgetSpentError(Exception):
    """There is no room for what comes before a turn's texts, such as its in-context examples."""


@dataclass(frozen=True, slots=True)
class _Cost:
    prompt: int
    """Tokens."""
    completion: int
    text: int = 0
    """Bytes of the prompt."""


@dataclass(slots=True)
class Budget:
    """Tokens, prompt and completion together, and money of one call, over all its teachers.

    A request that is under way counts what it may cost at most: a token for each byte of its prompt (tokens of text
    are a byte long or longer), what its teacher's chat template may add, and the longest text allowed. Tries of it that
    cost something and give nothing come on top: they are counted once the last one is over, at most where the server
    did not answer in time.
    """

    limits: BudgetConfig = field(default_factory=BudgetConfig)
    tokens: int = 0
    """Spent."""
    money: float = 0.0
    """Spent."""
    _template: dict[str, int] = field(default_factory=dict)
    """By teacher, tokens of a prompt beyond its bytes, as many as have been seen; a long prompt hides its template."""

    def let_through(
        self, send: Callable[[Iterable[R]], Iterator[list[Completion]]], requests: Iterable[R], teacher: TeacherConfig
    ) -> Iterator[list[Completion]]:
        """What `send` makes of the requests, up to the first that does not fit with nothing else under way.

        Args:
            send: an engine's method.
            requests: drawn when there is room for them.
            teacher: whose prices and longest text count.
        """
        waiting = iter(requests)
        under_way: dict[str, _Cost] = {}
        held: list[R] = []  # drawn, and waiting for room

        def fitting() -> Iterator[R]:
            while (request := held.pop() if held else next(waiting, None)) is not None:
                most = self._most(request, teacher)
                if not self._fits([*under_way.values(), most], teacher):
                    held.append(request)
                    return
                under_way[request.id] = most
                yield request

        answered = True
        while answered:
            answered = False
            for batch in send(fitting()):
                answered = True
                for done in batch:
                    self._settle(done, under_way.pop(done.id), teacher)
                yield batch
            answered = answered and bool(held)

    def _most(self, request: R, teacher: TeacherConfig) -> _Cost:
        if isinstance(request, ScoreRequest):
            size = len(request.source.encode(errors="replace"))
            return _Cost(size + TEMPLATE, 0, size)
        prompt = request.prompt
        text = prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
        template = max(TEMPLATE, self._template.get(teacher.name, 0))
        size = len(text.encode(errors="replace"))
        return _Cost(size + template, teacher.max_new_tokens, size)

    def _fits(self, costs: list[_Cost], teacher: TeacherConfig) -> bool:
        tokens = self.tokens + sum(cost.prompt + cost.completion for cost in costs)
        money = self.money + sum(_money(cost, teacher) for cost in costs)
        limits = self.limits
        return (limits.tokens is None or tokens <= limits.tokens) and (limits.money is None or money <= limits.money)

    def _settle(self, done: Completion, most: _Cost, teacher: TeacherConfig) -> None:
        silent = done.error is None and not done.prompt_tokens  # a server that doesn't say
        spent = most if silent else _Cost(*done.paid)
        if done.prompt_tokens:
            self._template[teacher.name] = max(self._template.get(teacher.name, 0), done.prompt_tokens - most.text)
        for cost in (spent, *[most] * done.late):
            self.tokens += cost.prompt + cost.completion
            self.money += _money(cost, teacher)

    def __str__(self) -> str:
        """How much of which limit is spent."""
        said = []
        if self.limits.tokens is not None:
            said.append(f"{self.tokens:,} of budget.tokens={self.limits.tokens:,}")
        if self.limits.money is not None:
            said.append(f"{self.money:.4f} of budget.money={self.limits.money:g}")
        return " and ".join(said)


def _money(cost: _Cost, teacher: TeacherConfig) -> float:
    return money_of(teacher, cost.prompt, cost.completion) or 0.0
