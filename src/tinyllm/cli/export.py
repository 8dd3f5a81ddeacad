"""`tinyllm export`: a run's student as a plain Hugging Face model folder with a model card."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tinyllm import runs
from tinyllm.config import ExportConfig
from tinyllm.errors import UserError
from tinyllm.methods import alpha_of, answer_prefix, single_teacher

log = logging.getLogger(__name__)


def main(config: ExportConfig, _: Path) -> None:
    """Copy the best checkpoint's model folder and write `README.md`, the card, from the run's own numbers."""
    run, output = Path(config.run).expanduser(), Path(config.output).expanduser()
    trained, student = runs.read_config(run), runs.student_folder(run)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"output={output}: expected a new or empty folder, found files: choose another")
    voices = runs.taught_teachers(run)
    card = Environment(
        loader=PackageLoader("tinyllm", "reporting/templates"), undefined=StrictUndefined, trim_blocks=True
    ).get_template("model_card.md.jinja")
    text = card.render(
        config=trained,
        result=runs.result_of(run),
        answer_prefix=answer_prefix(trained.method),
        reader=single_teacher(trained.method, trained.teachers) if trained.method.source_rationale else None,
        teachers=[(name, prefix, alpha_of(trained.alpha, name)) for name, prefix in voices.items()],
    )
    shutil.copytree(student, output, dirs_exist_ok=True)
    if (run / runs.ADAPTER).is_dir():
        shutil.copytree(run / runs.ADAPTER, output / "adapter", ignore=shutil.ignore_patterns("README.md"))
    (output / "README.md").write_text(text, encoding="utf-8")
    log.info("%s: load it with transformers' AutoModelForSeq2SeqLM.from_pretrained", output)
