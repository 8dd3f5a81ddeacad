"""`tinyllm report`: run folders -> tables, figures, cases, and one page."""

from __future__ import annotations

import logging
from pathlib import Path

from tinyllm.config import ReportConfig
from tinyllm.reporting.frame import collect, on_test
from tinyllm.reporting.report import make_report, write_report
from tinyllm.reporting.study import Study
from tinyllm.reporting.terminal import print_tables

log = logging.getLogger(__name__)


def main(config: ReportConfig, _: Path) -> None:
    """Write the report; print its main tables and the path of its page."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph of a PDF
    folders = [config.runs] if isinstance(config.runs, str) else config.runs
    collected = collect([Path(folder).expanduser() for folder in folders])
    study = Study(on_test(collected.frame), config.metric, config.resamples, config.seed)
    report = make_report(config.title, collected, study)
    path = write_report(report, Path(config.output).expanduser())
    count = len(collected.frame)
    log.info("%d run%s, %d skipped", count, "" if count == 1 else "s", len(collected.skipped))
    print_tables(report.tables, report.in_short)
    print(path)
