"""The report's page: complete, self-contained, and deaf to what a model wrote into it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from matplotlib.figure import Figure as Canvas

from tinyllm.reporting.cases import Answer, Case, Reasoning
from tinyllm.reporting.figures.drawing import Figure
from tinyllm.reporting.page import _sort_key, page
from tinyllm.reporting.table import Cell, Table

CHOICES = ("oak", "ivy", "elm", "fir")


def case(
    id: str = "q0",
    *,
    question: str = "Which tree?",
    generated: str = "oak",
    rationale: str = "It is a tree.",
    kinds: tuple[str, ...] = (),
    subset: str = "hidden",
    tinyllm: bool = True,
    who: str = "TinyLLM",
) -> Case:
    answers = (
        Answer("wordy (teacher)", "ivy", rationale, False, "teacher"),
        Answer("Full fine-tuning", None, generated, False, "full_ft"),
        Answer(who, "oak" if tinyllm else "elm", generated, tinyllm, "tinyllm"),
    )
    reasons = (Reasoning("wordy (teacher)", "", rationale), Reasoning(who, "wordy", rationale))
    return Case("trees", "tiny", 0, id, question, CHOICES, "oak", subset, kinds, answers, reasons)


def table(name: str = "table1", **fields: Any) -> Table:
    rows = (
        (Cell(text="Full fine-tuning"), Cell(0.091, 0.085, 0.1, 0.0912), Cell(0.5), Cell(text="b 2")),
        (Cell(text="LoRA"), Cell(note="not run yet", paper=0.4), Cell(0.7), Cell(text="b 10")),
        (Cell(text="TinyLLM"), Cell(0.612, 0.58, 0.643, best=True, note="5 seeds"), Cell(), Cell(text="a 1")),
        (Cell(text="Standard KD"), Cell(0.3), Cell(-0.2), Cell()),
    )
    given = {"title": f"The {name}", "columns": ("method", "OBQA", "ARC", "other"), "rows": rows, "notes": ("A note.",)}
    return Table(name, **(given | fields))


def figure(name: str = "fig2") -> Figure:
    canvas = Canvas(figsize=(2, 1))
    canvas.add_subplot().plot([0, 1])
    return Figure(name, f"The {name}", f"What {name} shows.", canvas)


def made(title: str = "Report", **fields: Any) -> str:
    given = {"tables": [table()], "figures": [figure()], "cases": [case()], "notes": ["Read me."]}
    return page(title, **(given | fields))


class Parsed(HTMLParser):
    """Every tag with its attributes, and the text inside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.text = ""
        self._raw: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else None
        if self._raw:
            self.inside.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self._raw = None

    def handle_data(self, data: str) -> None:
        if self._raw:
            tag, text = self.inside[-1]
            self.inside[-1] = tag, text + data
        else:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def embedded(html: str) -> Any:
    (data,) = [text for tag, text in Parsed(html).inside if tag == "script" and text.lstrip().startswith("{")]
    return json.loads(data)


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!--<script>",
    "]]></style><style>*{display:none}</style>",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \u2028 \ud800",
]


def test_every_table_and_figure_is_there_and_in_the_contents() -> None:
    html = made(tables=[table("table1"), table("table2")], figures=[figure("fig2"), figure("fig3")])
    parsed = Parsed(html)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for anchor, title in (("table-table1", "The table1"), ("table-table2", "The table2"), ("figure-fig2", "The fig2")):
        assert anchor in ids and {"href": f"#{anchor}"} in parsed.of("a")
        assert parsed.text.count(title) == 2  # contents and heading
    assert "What fig3 shows." in parsed.text and "A note." in parsed.text and "Read me." in parsed.text
    images = parsed.of("img")
    assert len(images) == 2 and all(image["alt"] for image in images)
    for image in images:
        head, _, data = str(image["src"]).partition(",")
        assert head == "data:image/png;base64" and base64.b64decode(data).startswith(b"\x89PNG")


def test_how_to_read_the_tables_is_said_once() -> None:
    tables = [table("table1", shared_notes=("Shared.",)), table("table2", shared_notes=("Shared.",))]
    parsed = Parsed(made(tables=tables, reading=["Shared."]))
    assert parsed.text.count("Shared.") == 1 and parsed.text.count("In grey") == 1
    assert {"href": "#reading"} in parsed.of("a")
    assert "#reading" not in made(tables=[table(rows=((Cell(text="a"), Cell(0.1), Cell(0.2), Cell(0.3)),))])


def test_counts_are_sorted_as_numbers() -> None:
    assert [_sort_key(Cell(text=t)) for t in ("1,234,567", "12,345", "a, b")] == ["1234567", "12345", "a, b"]


def test_cells_show_value_interval_paper_best_and_what_is_missing() -> None:
    html = re.sub(r"\s+", " ", made())
    assert '<strong><span class="value">61.2</span></strong><span class="interval">[58.0, 64.3]</span>' in html
    assert '<span class="value">9.1</span><span class="paper" title="the paper\'s number">9.12</span>' in html.replace(
        "&#39;", "'"
    )
    assert 'title="not run yet"><span>–</span>' in html
    assert html.count("<strong>") == 1
    assert '<span class="value">\N{MINUS SIGN}20.0</span>' in html
    plain = made(tables=[table(percent=False, rows=((Cell(text="a"), Cell(1234567), Cell(0.00012), Cell(3)),))])
    assert all(f'<span class="value">{text}</span>' in plain for text in ("1,234,567", "0.00012", "3"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    hostile = case(text, question=text, generated=text, rationale=text, subset=text, who=text)
    safe = text.replace("\ud800", "?")  # a table's text and a title are never a model's
    row = (Cell(text=safe, note=safe), Cell(text=safe), Cell(note=safe), Cell(0.1, note=safe))
    html = made(
        safe,
        tables=[table(title=safe, columns=(safe, safe, "c", "d"), notes=(safe,), rows=(row,))],
        figures=[Figure("fig2", safe, safe, figure().figure)],
        cases=[hostile],
        notes=[safe],
    )
    html.encode()  # can be written
    parsed, harmless = Parsed(html), Parsed(made())
    assert [tag for tag, _ in parsed.tags if tag in ("script", "style", "svg", "img")] == [
        tag for tag, _ in harmless.tags if tag in ("script", "style", "svg", "img")
    ]
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    (row,) = embedded(html)["cases"]
    assert row["question"] == text and row["id"] == text
    assert [answer["generated"] for answer in row["answers"]] == [text] * 3
    assert [said["text"] for said in row["rationales"]] == [text] * 2
    assert safe.split()[0] in parsed.text


def test_nothing_is_loaded_from_anywhere() -> None:
    parsed = Parsed(made(cases=[case(rationale="See http://example.com/x.png and <img src=https://example.com>.")]))
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert tag not in ("link", "iframe", "object", "embed", "base")
    styles = [text for tag, text in parsed.inside if tag == "style"]
    assert len(styles) == 1 and "url(" not in styles[0] and "@import" not in styles[0]


def test_the_policy_lets_only_this_style_and_this_script_in() -> None:
    parsed = Parsed(made())
    (policy,) = [m["content"] for m in parsed.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    (style,) = [text for tag, text in parsed.inside if tag == "style"]
    script = parsed.inside[-1][1]
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": digest(style),
        "script-src": digest(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [1 for _, attributes in parsed.tags if "style" in attributes]  # the policy would drop them
    assert "innerHTML" not in script and "eval(" not in script


def test_a_page_holds_a_few_hundred_cases_and_says_of_how_many() -> None:
    many = [case(f"q{i}", kinds=("tinyllm_only",) if i % 2 else ()) for i in range(1234)]
    html = made(cases=many)
    assert len(embedded(html)["cases"]) == 300
    assert re.search(r"\b300 of\s+1,234 cases", html)
    assert "TinyLLM is right, and the students of all other methods are wrong: 617 of 1,234" in html


def test_long_rationales_do_not_make_a_page_too_large() -> None:
    html = made(cases=[case(f"q{i}", rationale=f"{i} " + "because " * 5000) for i in range(200)])
    shown = len(embedded(html)["cases"])
    assert 5 < shown < 200 and re.search(rf"\b{shown} of\s+200 cases", html)
    assert len(html) < 3_000_000


def test_without_cases_there_is_no_browser_of_cases() -> None:
    html = made(cases=[])
    assert 'id="browser"' not in html and "#cases" not in html


def test_a_verdict_has_a_class_and_a_long_table_is_folded() -> None:
    rows = ((Cell(text="A is above B"), Cell(text="not shown", mark="not-shown")),)
    shown, folded = (
        Table(name, name, ("claim", "verdict"), rows, collapsed=name == "folded") for name in ("shown", "folded")
    )
    parsed = Parsed(made(tables=[shown, folded]))
    marked = [one for one in parsed.of("td") if "not-shown" in (one.get("class") or "").split()]
    assert len(marked) == 2
    assert len(parsed.of("details")) == 1 and "1 lines" not in parsed.text
