"""The page in a browser: sorting, cases, and nothing that a model wrote runs."""

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
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reporting.test_page import Parsed, case, made, table

from tinyllm.reporting.table import Cell


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
