"""`tinyllm report`: run folders -> tables."""

from __future__ import annotations

import logging
from pathlib import Path

from tinyllm.config import ReportConfig
from tinyllm.errors import UserError
from tinyllm.reporting.frame import collect
from tinyllm.reporting.tables import compare, markdown

log = logging.getLogger(__name__)


def main(config: ReportConfig, _: Path) -> None:
    """Print the comparison and write `results.csv` and `report.md`."""
    given = [config.runs] if isinstance(config.runs, str) else config.runs
    if not isinstance(given, list) or not all(isinstance(folder, str) for folder in given):
        raise UserError(f"runs: expected a folder or a list of folders, found {config.runs!r}")
    frame = collect([Path(folder).expanduser() for folder in given])
    text = markdown(compare(frame))
    output = Path(config.output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    frame.to_csv(output / "results.csv", index=False)
    notes = (
        "Accuracies in percent: by greedy generation (the paper's metric) and by ranking the options. "
        "In brackets a 95% interval: Wilson's over questions for a single run, Student's t over seeds for several. "
        "Checkpoints were chosen on validation; the test split was read once.\n"
    )
    (output / "report.md").write_text(f"# Comparison\n\n{text}\n{notes}")
    print(text)
    log.info("%d runs; %s", len(frame), output / "report.md")
