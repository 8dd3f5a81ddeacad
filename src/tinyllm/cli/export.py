"""`tinyllm export`: a run's student as a plain Hugging Face model folder with a model card."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tinyllm import runs
from tinyllm.config import ExportConfig
from tinyllm.errors import UserError
from tinyllm.methods import answer_prefix, single_teacher

log = logging.getLogger(__name__)


def main(config: ExportConfig, _: Path) -> None:
    """Copy the best checkpoint's model folder and write `README.md`, the card, from the run's own numbers."""
    run, output = Path(config.run).expanduser(), Path(config.output).expanduser()
    stored = runs.read_config(run)
    student = run / runs.STUDENT
    if not student.is_dir() or not (run / runs.RESULT).is_file():
        raise UserError(f"{run}: expected a finished run with {runs.RESULT}, found none: run 'tinyllm train'")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"output={output}: expected a new or empty folder, found files: choose another")
    try:
        result = runs.read_result(run / runs.RESULT)
    except ValueError as error:
        raise UserError(str(error)) from error
    taught = runs.taught_teachers(run)
    card = Environment(
        loader=PackageLoader("tinyllm", "reporting/templates"), undefined=StrictUndefined, trim_blocks=True
    ).get_template("model_card.md.jinja")
    shutil.copytree(student, output, dirs_exist_ok=True)
    if (run / runs.ADAPTER).is_dir():
        shutil.copytree(run / runs.ADAPTER, output / "adapter", ignore=shutil.ignore_patterns("README.md"))
    text = card.render(
        config=stored,
        result=result,
        answer_prefix=answer_prefix(stored.method),
        reader=single_teacher(stored.method, stored.teachers) if stored.method.source_rationale else None,
        teachers=[(name, prefix, stored.alpha.get(name, 1.0)) for name, prefix in taught.items()],
    )
    (output / "README.md").write_text(text)
    log.info("%s: load it with transformers' AutoModelForSeq2SeqLM.from_pretrained", output)
