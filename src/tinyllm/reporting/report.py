"""Run folders -> a report: tables, figures, cases and notes, written as files and as one page."""

from __future__ import annotations

import html
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tinyllm.config import Metric
from tinyllm.reporting import cases as case_studies
from tinyllm.reporting.cases import Case, cases
from tinyllm.reporting.figures import all_figures
from tinyllm.reporting.figures.drawing import Figure, save
from tinyllm.reporting.frame import Collected
from tinyllm.reporting.page import READING, page
from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Table, shared_notes
from tinyllm.reporting.tables import all_tables
from tinyllm.reporting.tables.claims import in_short
from tinyllm.reporting.writers import PAPER_NOTE, escape_markdown, markdown, markdown_list, write
from tinyllm.shown import file_name, spreadsheet

PAGE = Path("index.html")
_FILES = re.compile(r'<meta name="tinyllm-files" content="([^"]*)">')
"""Names of a report's tables and figures, in its page: a later report removes those alone."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a reader gets."""

    title: str
    in_short: str
    """Which of the paper's claims hold, in a line; "" where none was tested."""
    notes: list[str]
    """Where the numbers come from: runs, and what was left out."""
    tables: list[Table]
    reading: list[str]
    """How to read the tables: what is true of all of them."""
    figures: list[Figure]
    cases: list[Case]
    results: pd.DataFrame
    """A row a run, without the folders of this machine."""


def make_report(title: str, collected: Collected, study: Study) -> Report:
    """Everything that the runs allow.

    Args:
        title: heading.
        collected: all runs.
        study: those on the test split.
    """
    tables = all_tables(study)
    # Those of the tables stand under their tables; figure 2 and the cases show other training fractions too.
    others = [f"Selected for the figures: {c}." for c in study.choices if c not in study.choices_in_tables]
    return Report(
        title,
        in_short(study),
        [
            f"{len(collected.frame)} runs; tables and figures show the {len(study.frame)} that were evaluated on the "
            "test split.",
            *_hardware(study.frame),
            *_unparsed(study),
            *(f"Skipped: {line}" for line in collected.skipped),
            *(f"Left out as a duplicate: {line}" for line in collected.repeated),
            f"Intervals, tests and the selection of settings are explained under “{READING}”.",
        ],
        tables,
        [*shared_notes(tables), *others],
        all_figures(study),
        cases(study),
        collected.frame.assign(folder=collected.frame["run"]).drop(columns="run"),
    )


def _hardware(frame: pd.DataFrame) -> list[str]:
    """A note, where students computed in several ways."""
    known = frame[frame["precision"] != ""]
    ways = (known["precision"] + " on " + known["device"]).value_counts()
    if len(ways) < 2:
        return []
    counts = ", ".join(f"{count} in {way}" for way, count in ways.items())
    return [f"Students did not all compute in the same way ({counts}), which can change accuracies a little."]


def _unparsed(study: Study) -> list[str]:
    """A note, where most of what students write names no option, so that their written answers can't be compared."""
    frame = study.frame[study.frame["n"] > 0]
    mute = frame[frame["unparsed"] > 0.5 * frame["n"]]
    if mute.empty or study.metric is Metric.accuracy_ranked:
        return []
    return [
        f"In {len(mute)} of {len(frame)} runs most of the written answers name no option, and so are wrong: compare "
        "them by ranking (metric=accuracy_ranked), and let it select too (trainer.select_by=accuracy_ranked)."
    ]


def write_report(report: Report, folder: Path) -> Path:
    """Write `results.csv`, `report.md`, `index.html`, `tables/` and `figures/`; returns the path of the page.

    All is written into a draft inside the folder first, and moved when it is whole, the page last: a killed process or
    a full disk leaves the report that was there. Tables and figures of an earlier report in the folder, which its page
    names, are removed: these runs may have none in their place. Other files in the folder stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _files_of(folder)
    draft = folder / ".draft"
    shutil.rmtree(draft, ignore_errors=True)  # of a killed process
    try:
        _write(report, draft)
        written = [file.relative_to(draft) for file in sorted(draft.rglob("*")) if file.is_file()]
        for name in sorted(written, key=lambda name: name == PAGE):
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(draft / name, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for stale in set(earlier).difference(written):
        (folder / stale).unlink(missing_ok=True)
    return folder / PAGE


def _files_of(folder: Path) -> list[Path]:
    """Tables and figures of the report in a folder, as its page names them."""
    if not (folder / PAGE).is_file():
        return []
    found = _FILES.search((folder / PAGE).read_text(encoding="utf-8", errors="replace"))
    names = html.unescape(found[1]).split("/") if found else []
    named = [Path("tables" if Path(name).suffix in (".md", ".tex", ".csv") else "figures", name) for name in names]
    return [path for path in named if path.name and len(path.parts) == 2 and path.parts[1] != ".."]


def _write(report: Report, folder: Path) -> None:
    folder.mkdir()
    results = report.results.map(lambda value: spreadsheet(value) if isinstance(value, str) else value)
    results.to_csv(folder / "results.csv", index=False)
    for table in report.tables:
        write(table, folder / "tables")
    for figure in report.figures:
        save(figure, folder / "figures")
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    content = page(
        report.title,
        in_short=report.in_short,
        tables=report.tables,
        figures=report.figures,
        cases=report.cases,
        notes=report.notes,
        reading=report.reading,
        files=sorted(file.name for part in ("tables", "figures") for file in folder.glob(f"{part}/*")),
    )
    (folder / PAGE).write_text(content, encoding="utf-8")


def _markdown(report: Report) -> str:
    reading = [*([PAPER_NOTE] if any(table.has_paper for table in report.tables) else []), *report.reading]
    parts = [
        f"# {escape_markdown(report.title)}\n",
        *([f"{escape_markdown(report.in_short)}\n"] if report.in_short else []),
        markdown_list(report.notes) + "\n",
        *(markdown(table, alone=False) for table in report.tables),
        f"## {READING}\n\n{markdown_list(reading)}\n",
        *(_figure(figure) for figure in report.figures),
        "## Figure 4: cases\n",
        case_studies.markdown(report.cases).rstrip() + "\n",
    ]
    return "\n".join(parts)


def _figure(figure: Figure) -> str:
    title, caption = escape_markdown(figure.title), escape_markdown(figure.caption)
    return f"## {title}\n\n![{title}](figures/{file_name(figure.name)}.png)\n\n{caption}\n"
