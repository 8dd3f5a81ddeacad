"""What a person sees of a turn: what exists, the estimate, progress, what came of it."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tinyllm.shown import visible
from tinyllm.teachers.asking.plan import Estimate, Summary, Turn

FAILURES_SHOWN = 5


class Bar:
    """Questions done, with tokens a second."""

    def __init__(self, progress: Progress, teacher: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(teacher, total=total, speed="")
        self._tokens = 0
        self._start = time.monotonic()

    def update(self, questions: int, tokens: int) -> None:
        """Count what was done since the last update."""
        self._tokens += tokens
        seconds = time.monotonic() - self._start
        speed = f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens and seconds else ""
        self._progress.update(self._task, advance=questions, speed=speed)


def progress(console: Console | None) -> Progress:
    """Where a `Bar` is shown; None shows nothing."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(quiet=True),
        disable=console is None,
    )


def print_existing(turn: Turn, what: str, asked: int, missing: int, console: Console) -> None:
    """How many of the `asked` texts there are already."""
    line = f"{turn.teacher.name}: {turn.dataset}/{turn.split} has {asked - missing} of {asked} {what}"
    console.print(f"{line}, {missing} to ask" if missing else line, soft_wrap=True)


def print_estimate(turn: Turn, estimate: Estimate, console: Console, *, when: str = "to come") -> None:
    """What the missing texts will take; `when` says which ones are meant."""
    bound = "at most" if estimate.known.completion_tokens is None else "about"
    line = (
        f"{turn.teacher.name}: about {estimate.prompt_tokens:,} prompt tokens and {bound} "
        f"{estimate.completion_tokens:,} completion tokens {when} ({estimate.known.where})"
    )
    if estimate.seconds is not None:
        line += f", {bound} {_duration(estimate.seconds)}"
    if estimate.money is not None:
        line += f", cost {bound} {estimate.money:.4f}"
    console.print(line, soft_wrap=True, highlight=False)


def print_summary(turn: Turn, summary: Summary, console: Console) -> None:
    """What came of a turn: texts, tokens, costs and failures."""
    total = summary.existing + summary.written
    where = f"{turn.teacher.name}: {turn.dataset}/{turn.split}"
    line = f"{where} now has {total} rationales ({turn.kind}), {summary.written} of them new"
    if summary.completion_tokens:
        line += (
            f"; {summary.prompt_tokens:,} prompt and {summary.completion_tokens:,} completion tokens in "
            f"{_duration(summary.seconds)} ({summary.completion_tokens / max(summary.seconds, 1e-9):,.0f} tokens/s)"
        )
    if summary.money is not None:
        line += f", {summary.money:.4f} spent"
    if summary.unparsed:
        line += f"; {summary.unparsed} texts name no option"
    if summary.left:
        line += f"; {summary.left} left to ask: the budget is used up"
    if summary.claimed_elsewhere:
        line += f"; {summary.claimed_elsewhere} skipped, as another process is asking for them"
    console.print(line, soft_wrap=True)
    for what, why in (("failed", summary.failed), ("have an empty text, and are not asked again", summary.refused)):
        reasons: dict[str, list[str]] = {}
        for question_id, reason in why.items():
            reasons.setdefault(reason, []).append(question_id)
        for reason, ids in reasons.items():
            shown = ", ".join(ids[:FAILURES_SHOWN]) + (", ..." if len(ids) > FAILURES_SHOWN else "")
            console.print(visible(f"  {len(ids)} {what} ({reason}): {shown}"), soft_wrap=True, markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
