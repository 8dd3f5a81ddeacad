"""The report's page: complete, self-contained, and deaf to what a model wrote into it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from html import escape
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure as Canvas

from tinyllm.reporting.cases import Answer, Case, Reasoning
from tinyllm.reporting.figures.drawing import Figure
from tinyllm.reporting.page import page
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
    assert "Only TinyLLM is right: 617 of 1,234" in html


def test_long_rationales_do_not_make_a_page_too_large() -> None:
    html = made(cases=[case(f"q{i}", rationale=f"{i} " + "because " * 5000) for i in range(200)])
    shown = len(embedded(html)["cases"])
    assert 5 < shown < 200 and re.search(rf"\b{shown} of\s+200 cases", html)
    assert len(html) < 3_000_000


def test_without_cases_there_is_no_browser_of_cases() -> None:
    html = made(cases=[])
    assert 'id="browser"' not in html and "#cases" not in html


# In a browser


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs chromium or google-chrome")
    return found


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", asked
    listening.shutdown()
    thread.join()
    listening.server_close()


Visit = Callable[..., Any]


@pytest.fixture
def visit(chromium: str, tmp_path: Path) -> Visit:
    """Open a page, run a script after its own, and return what the script leaves in `outcome`."""

    def run(html: str, script: str, *, width: int = 1200, policy: bool = True) -> Any:
        body = (
            f"\n(async () => {{ let outcome;\n{script}\nconst pre = document.createElement('pre'); pre.id = 'outcome';"
        )
        body += " pre.textContent = JSON.stringify(outcome); document.body.append(pre); })();\n"
        allowed = "sha256-" + base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        if policy:
            html = html.replace("script-src ", f"script-src '{allowed}' ", 1)
        else:
            html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        path = tmp_path / "page.html"
        path.write_text(html.replace("</body>", f"<script>{body}</script></body>"), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
        options += ["--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
        done = subprocess.run([chromium, *options], capture_output=True, text=True, timeout=120)
        found = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, "the script left no outcome"
        parser = Parsed(found[1])
        return json.loads(parser.text)

    return run


@pytest.mark.browser
def test_headers_sort_by_number_and_missing_cells_stay_last(visit: Visit) -> None:
    outcome = visit(
        made(),
        """
        const table = document.querySelector("table.numbers");
        const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
        outcome = [];
        for (const column of [1, 1, 1, 2, 0, 3]) {
          const header = table.tHead.rows[0].cells[column];
          header.querySelector("button").click();
          const marked = table.querySelectorAll("[aria-sort]").length;
          outcome.push([order(), header.getAttribute("aria-sort"), marked]);
        }
        """,
    )
    full, lora, tinyllm, kd = "Full fine-tuning", "LoRA", "TinyLLM", "Standard KD"
    assert outcome == [
        [[tinyllm, kd, full, lora], "descending", 1],
        [[full, kd, tinyllm, lora], "ascending", 1],
        [[full, lora, tinyllm, kd], None, 0],
        [[lora, full, kd, tinyllm], "descending", 1],
        [[full, lora, kd, tinyllm], "ascending", 1],
        [[tinyllm, full, lora, kd], "ascending", 1],
    ]


@pytest.mark.browser
def test_cases_are_filtered_counted_and_turned(visit: Visit) -> None:
    some = [
        case("a", question="Which one has leaves?", kinds=("tinyllm_only",)),
        case("b", question="Which one has needles?", kinds=("tinyllm_wrong",), tinyllm=False, subset="visible"),
        case("c", question="Which one climbs?", rationale="Ivy has LEAVES.", subset="visible"),
    ]
    outcome = visit(
        made(cases=some),
        """
        const at = (id) => document.getElementById(id);
        const set = (id, value) => {
          at(id).value = value;
          at(id).dispatchEvent(new Event("input", { bubbles: true }));
        };
        const ids = () => {
          const found = [];
          if (!document.querySelector("#case .where")) return found;
          for (;;) {
            found.push(document.querySelector("#case .where").textContent.split(" · ").at(-1));
            if (at("next").disabled) break;
            at("next").click();
          }
          return found.sort();
        };
        const press = (on) => on.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
        outcome = { all: ids(), end: at("count").textContent };
        at("cases").scrollIntoView({ behavior: "instant" });
        press(document.body);
        outcome.left = at("count").textContent;
        press(at("by-text"));
        outcome.typing = at("count").textContent;
        set("by-kind", "tinyllm_wrong"); outcome.kind = ids(); at("reset").click();
        set("by-subset", "visible"); outcome.subset = ids(); at("reset").click();
        set("by-who", "TinyLLM"); set("by-outcome", "wrong"); outcome.wrong = ids(); at("reset").click();
        set("by-who", "TinyLLM"); set("by-outcome", "right"); outcome.right = ids(); at("reset").click();
        set("by-text", "leaves"); outcome.text = ids();
        set("by-text", "nothing says this"); outcome.none = [ids(), at("count").textContent]; at("reset").click();
        outcome.reset = ids();
        outcome.dataset = at("by-dataset").parentElement.hidden;
        """,
    )
    assert outcome == {
        "all": ["a", "b", "c"],
        "end": "3 of 3",
        "left": "2 of 3",
        "typing": "2 of 3",
        "kind": ["b"],
        "subset": ["b", "c"],
        "wrong": ["b"],
        "right": ["a", "c"],
        "text": ["a", "c"],
        "none": [[], "no matching case"],
        "reset": ["a", "b", "c"],
        "dataset": True,
    }


WALK = """
    for (let i = 0; i < 20; i += 1) {
      const texts = document.querySelectorAll("#case h3, #case .generated, #case blockquote span");
      for (const text of texts) shown.push(text.textContent);
      document.getElementById("next").click();
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
"""


@pytest.mark.browser
def test_hostile_text_does_not_run_and_nothing_is_fetched(visit: Visit, server: tuple[str, list[str]]) -> None:
    address, asked = server
    texts = [
        f"</script><script>window.ran = 1; fetch('{address}/script')</script>",
        f"<img src='{address}/img' onerror='window.ran = 1'>",
        f"<iframe src='{address}/iframe'></iframe><link rel=stylesheet href='{address}/css'>",
        f"<style>body {{ background: url({address}/background) }}</style>",
        "<svg onload='window.ran = 1'></svg>",
    ]
    some = [case(text, question=text, generated=text, rationale=text) for text in texts]
    html = made(texts[0], tables=[table(title=texts[1], notes=texts)], cases=some, notes=texts)
    outcome = visit(
        html,
        "const shown = [];"
        + WALK
        + """
        outcome = {
          ran: window.ran ?? null,
          made: document.querySelectorAll("#case img, #case script, #case svg, #case iframe, iframe, link").length,
          fetched: performance.getEntriesByType("resource").filter((one) => !one.name.startsWith("data:")).length,
          shown: [...new Set(shown)],
        };
        """,
    )
    assert (outcome["ran"], outcome["made"], outcome["fetched"]) == (None, 0, 0)
    assert set(texts) <= set(outcome["shown"])
    assert asked == []


@pytest.mark.browser
def test_the_policy_holds_even_if_markup_got_in(visit: Visit, server: tuple[str, list[str]]) -> None:
    """Also the control of the test above: without the policy the server is asked."""
    address, asked = server
    break_in = f"""
        document.getElementById("case").innerHTML =
          "<img src='{address}/img' onerror='window.ran = 1'><img src='x:' onerror='window.ran = 1'>";
        await new Promise((resolve) => setTimeout(resolve, 500));
        outcome = window.ran ?? null;
    """
    assert visit(made(), break_in) is None
    assert asked == []
    assert visit(made(), break_in, policy=False) == 1
    assert asked == ["/img"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
def test_no_width_makes_the_page_scroll_sideways(visit: Visit, width: int) -> None:
    wide = table(columns=tuple(f"a long heading {i}" for i in range(12)), rows=((Cell(0.5, 0.4, 0.6),) * 12,))
    long = case("id." * 60, generated="word" * 80, rationale="endless" * 60)
    # A window has a least width; a frame has not.
    framed = (
        f'<iframe width="{width}" height="900" frameborder="0" srcdoc="{escape(made(tables=[wide], cases=[long]))}">'
    )
    outcome = visit(
        f"<body>{framed}</iframe></body>",
        """
        const frame = document.querySelector("iframe");
        for (let wait = 0; wait < 40 && !frame.contentDocument.querySelector("#case h3"); wait += 1) {
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
        const inside = frame.contentDocument;
        const shown = inside.querySelector("#case h3").textContent;
        outcome = [inside.documentElement.clientWidth, inside.documentElement.scrollWidth,
                   inside.querySelector(".wide").scrollWidth, shown];
        """,
        policy=False,
        width=1500,
    )
    assert outcome[0] > width - 20 and outcome[1] <= width  # a scroll bar takes some of it
    assert outcome[2] > 1200  # the table scrolls in its own frame
    assert outcome[3] == long.question


@pytest.mark.browser
def test_tables_and_figures_show_without_javascript(visit: Visit) -> None:
    html = made()
    start = html.rindex("<script>")
    without = html[:start] + html[html.index("</script>", start) + len("</script>") :]
    outcome = visit(
        without,
        """
        const height = (selector) => document.querySelector(selector).getBoundingClientRect().height;
        outcome = [height("table.numbers") > 50, height("figure img") > 50, height("#browser")];
        """,
    )
    assert outcome == [True, True, 0]
