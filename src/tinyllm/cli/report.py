"""`tinyllm report`: run folders -> tables, figures, cases, and one page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tinyllm.config import ReportConfig
from tinyllm.errors import UserError
from tinyllm.reporting import cases as case_studies
from tinyllm.reporting import figures as plots
from tinyllm.reporting import tables, writers
from tinyllm.reporting.choose import Choice, choose, chosen, how_chosen
from tinyllm.reporting.frame import Collected, collect, on_test
from tinyllm.reporting.page import page
from tinyllm.reporting.table import Table

log = logging.getLogger(__name__)


def main(config: ReportConfig, _: Path) -> None:
    """Write `results.csv`, `report.md`, `index.html`, `tables/` and `figures/`; print the paper's tables."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph in a PDF
    given = [config.runs] if isinstance(config.runs, str) else config.runs
    if not isinstance(given, list) or not given or not all(isinstance(folder, str) for folder in given):
        raise UserError(f"runs: expected a folder or a list of folders, found {config.runs!r}")
    if config.resamples < 1:
        raise UserError(f"resamples: expected 1 or more, found {config.resamples}")
    found = collect([Path(folder).expanduser() for folder in given])
    frame = on_test(found.frame)
    choices = choose(frame)
    options = {"resamples": config.resamples, "seed": config.seed}
    main_tables = [
        *tables.table1(frame, choices, config.metric, **options),
        *tables.table2(frame, choices, config.metric, **options),
    ]
    every_table = [
        *main_tables,
        tables.comparisons(frame, choices, config.metric, **options),
        tables.settings(frame, config.metric),
    ]
    figures = plots.figures(frame, config.metric)
    cases = case_studies.cases(chosen(frame, choices), config.metric)
    notes = _notes(found, frame, choices)

    output = Path(config.output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    for earlier in ("tables/*.md", "tables/*.tex", "tables/*.csv", "figures/*.png", "figures/*.pdf"):
        for stale in output.glob(earlier):  # of a report on other runs, which this one may have no table for
            stale.unlink()
    _results(found).to_csv(output / "results.csv", index=False)
    for table in every_table:
        writers.write(table, output / "tables")
    for figure in figures:
        plots.save(figure, output / "figures")
    report = _report(config.title, every_table, figures, case_studies.markdown(cases), notes)
    (output / "report.md").write_text(report, encoding="utf-8")
    html = page(config.title, tables=every_table, figures=figures, cases=cases, notes=notes)
    (output / "index.html").write_text(html, encoding="utf-8")

    print("\n".join(writers.markdown(table) for table in main_tables))
    log.info("%d runs, %d skipped", len(found.frame), len(found.skipped))
    for name in ("index.html", "report.md", "results.csv", "tables", "figures"):
        log.info("%s", output / name)


def _results(found: Collected) -> pd.DataFrame:
    """The frame without the folders of this machine."""
    return found.frame.assign(folder=found.frame["run"]).drop(columns="run")


def _notes(found: Collected, tested: pd.DataFrame, choices: Sequence[Choice]) -> list[str]:
    """What a reader should know of where the numbers come from."""
    notes = [
        f"{len(found.frame)} runs; tables and figures are made from the {len(tested)} that were evaluated on test.",
        how_chosen(tested),
    ]
    notes += [f"Chosen: {choice}." for choice in choices]
    notes += [f"Skipped: {line}" for line in found.skipped]
    notes += [f"Counted once: {line}" for line in found.repeated]
    return notes


def _report(
    title: str, every_table: Sequence[Table], figures: Sequence[plots.Figure], cases: str, notes: Sequence[str]
) -> str:
    parts = [f"# {title}\n", "\n".join(f"- {writers.escape_markdown(note)}" for note in notes) + "\n"]
    parts += [writers.markdown(table) for table in every_table]
    parts += [f"## {f.title}\n\n![{f.title}](figures/{f.name}.png)\n\n{f.caption}\n" for f in figures]
    return "\n".join([*parts, "## Figure 4: cases\n", cases.rstrip() + "\n"])
