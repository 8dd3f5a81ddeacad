"""Texts of models, files and servers where a person reads them: data, never commands to a terminal or a spreadsheet."""

from __future__ import annotations

import logging
import re

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (but tab and newline), line separators, reversals of the writing direction, half characters."""

ITEM = "\n- "
"""Begins each item of a list in the message of an error, such as the bad rows of a file."""


def visible(text: str) -> str:
    r"""The text with `UNPRINTABLE` characters written out: an escape sequence shows as `\x1b[2J` and does nothing."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """`visible`, with its lines joined by spaces."""
    return " ".join(visible(text).split())


def error_text(text: str) -> str:
    """`one_line` of an error's message; items of a list that it ends with have a line each."""
    return ITEM.join(one_line(part) for part in text.split(ITEM))


def spreadsheet(text: str) -> str:
    """A text as a cell of a CSV file: an apostrophe before one that a spreadsheet would take for a formula."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def file_name(name: str) -> str:
    """A name as part of a file's, and of a label of LaTeX: signs but letters, digits and `_.+-` as `=` and a code."""
    return re.sub(r"[^\w.+-]", lambda match: f"={ord(match[0]):x}", name)[:150]


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def log_visibly(level: int = logging.INFO, *, force: bool = False) -> None:
    """Log messages of a level and up to standard error, made `visible`.

    Args:
        level: the least that is shown.
        force: whether handlers that are there give way; else they stay, and nothing is added.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Visible("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=force)
