"""Tables, figures and cases -> one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from tinyllm.reporting.cases import HOW_DRAWN, KINDS, Case, draw
from tinyllm.reporting.figures.drawing import Figure, png
from tinyllm.reporting.table import Cell, Table
from tinyllm.runs import TEACHER

READING = "How to read the tables"
"""Heading of the notes that all tables share."""
_MOST_CASES = 300
_MOST_CASE_BYTES = 2_000_000
"""Of the cases' JSON: with the figures, the page stays below some 5 MB."""


def page(
    title: str,
    *,
    in_short: str = "",
    tables: Sequence[Table],
    figures: Sequence[Figure],
    cases: Sequence[Case],
    notes: Sequence[str] = (),
    reading: Sequence[str] = (),
    files: Sequence[str] = (),
) -> str:
    """The report as one HTML page: no network, all text escaped, a Content-Security-Policy that lets nothing else run.

    Tables and figures show without JavaScript too; sorting and the browser of cases need it.

    Args:
        title: heading.
        in_short: what the tables say, under the heading.
        tables: in order.
        figures: in order; they go in as PNG.
        cases: all of them; at most some 300 go in, drawn as the page says.
        notes: paragraphs above the tables.
        reading: how to read the tables, said once under all of them.
    """
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    data, shown = _embedded(cases)
    environment = Environment(
        loader=PackageLoader("tinyllm.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        in_short=in_short,
        notes=notes,
        files=files,
        tables=tables,
        figures=[(figure, base64.b64encode(png(figure)).decode(), _width(figure)) for figure in figures],
        number=_number,
        reading=[*(["In grey: the paper's numbers."] if any(t.has_paper for t in tables) else []), *reading],
        reading_title=READING,
        is_text=lambda table, column: all(row[column].value is None for row in table.rows),
        sort_key=_sort_key,
        kinds=[(heading, sum(kind in case.kinds for case in cases)) for kind, heading in KINDS.items()],
        total=len(cases),
        shown=shown,
        how_drawn=HOW_DRAWN,
        data=data,
        style=Markup(style),
        script=Markup(script),
        policy="; ".join(
            (
                "default-src 'none'",
                "img-src data:",
                f"style-src '{_digest(style)}'",
                f"script-src '{_digest(script)}'",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
    )


def _asset(name: str) -> str:
    return (files("tinyllm.reporting") / "templates" / name).read_text(encoding="utf-8")


def _width(figure: Figure) -> int:
    """In pixels of the page: at 100 an inch the type is as large as the text around it."""
    return round(100 * float(figure.figure.get_size_inches()[0]))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(table: Table, value: float | None, digits: int = 1) -> str:
    """`61.2` for a share of 0.612; counts with a comma between thousands."""
    if value is None:
        return ""
    if table.percent:
        text = f"{100 * value:.{digits}f}"
    else:
        text = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _sort_key(cell: Cell) -> str:
    """Empty for a missing cell: it is sorted to the end."""
    if cell.value is not None:
        return repr(float(cell.value))
    text = cell.text or ""
    return text.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", text) else text


def _embedded(cases: Sequence[Case]) -> tuple[Markup, int]:
    """The drawn cases as JSON that can stand in a script element, and how many they are.

    Every `<`, `>` and `&` is written as an escape, so no text can close the element or open a comment.
    """
    rows: list[Markup] = []
    size = 0
    for case in draw(cases):
        row = htmlsafe_json_dumps(_row(case))
        size += len(row)
        if len(rows) == _MOST_CASES or size > _MOST_CASE_BYTES:
            break
        rows.append(row)
    kinds = htmlsafe_json_dumps(KINDS)
    return Markup('{"kinds":') + kinds + Markup(',"cases":[') + Markup(",\n").join(rows) + Markup("]}"), len(rows)


def _row(case: Case) -> dict[str, object]:
    return {
        "dataset": case.dataset,
        "student": case.student,
        "seed": case.seed,
        "id": case.id,
        "question": case.question,
        "choices": case.choices,
        "answer": case.answer,
        "subset": case.subset,
        "kinds": case.kinds,
        "answers": [
            {
                "who": a.who,
                "chosen": a.chosen,
                "generated": a.generated,
                "right": a.right,
                "teacher": a.method == TEACHER,
            }
            for a in case.answers
        ],
        "rationales": [{"who": r.who, "voice": r.voice, "text": r.text} for r in case.rationales],
    }
