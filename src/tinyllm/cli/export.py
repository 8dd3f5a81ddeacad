"""`tinyllm export`: a run's student as a plain Hugging Face model folder with a model card."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import AutoConfig, AutoTokenizer

from tinyllm import runs
from tinyllm.config import ExportConfig, MethodConfig, Target
from tinyllm.errors import UserError
from tinyllm.methods import alpha_of, answer_prefix, single_teacher
from tinyllm.prompts import instruction
from tinyllm.reporting.writers import escape_markdown
from tinyllm.student.family import family_of

log = logging.getLogger(__name__)


def main(config: ExportConfig, _: Path) -> None:
    """Copy the best checkpoint's model folder and write `README.md`, the card, from the run's own numbers.

    The folder is made beside its place and renamed: it is there as a whole or not at all.
    """
    run, output = Path(config.run).expanduser(), Path(config.output).expanduser()
    trained, student = runs.read_config(run), runs.student_folder(run)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"output={output}: expected a new or empty folder, found files: choose another")
    voices, result = runs.taught_teachers(run), runs.result_of(run)
    set_of = runs.as_trained(trained, run).teachers
    card = Environment(
        loader=PackageLoader("tinyllm", "reporting/templates"), undefined=StrictUndefined, trim_blocks=True
    )
    card.filters["plain"] = escape_markdown
    model = AutoConfig.from_pretrained(student, trust_remote_code=False)
    form = family_of(model).form(
        AutoTokenizer.from_pretrained(student, trust_remote_code=False), chat=trained.student.chat
    )
    text = card.get_template("model_card.md.jinja").render(
        config=trained,
        form=form,
        instruction=instruction,
        result=result,
        answer_prefix=answer_prefix(trained.method),
        reader=single_teacher(trained.method, trained.teachers) if trained.method.source_rationale else None,
        answer_weight=_weight(trained.method, Target.answer),
        voices=[
            (name, prefix, alpha_of(trained.alpha, name) * _weight(trained.method, Target.rationale))
            for name, prefix in voices.items()
        ],
        teachers=[set_of[name] for name in result.teachers if name in set_of],
    )
    whole = output.resolve()
    draft = whole.with_name(f".{whole.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a killed process
    try:
        shutil.copytree(student, draft)
        if (run / runs.ADAPTER).is_dir():
            shutil.copytree(run / runs.ADAPTER, draft / "adapter", ignore=shutil.ignore_patterns("README.md"))
        (draft / "README.md").write_text(text, encoding="utf-8")
        os.replace(draft, whole)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        raise UserError(f"output={output}: something is mounted there: name a folder inside it") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    kind = "AutoModelForSeq2SeqLM" if model.is_encoder_decoder else "AutoModelForCausalLM"
    log.info("%s: load it with transformers' %s.from_pretrained", output, kind)


def _weight(method: MethodConfig, target: Target) -> float:
    """Of the method's first stream with this target."""
    return next(stream.weight for stream in method.streams.values() if stream.target is target)
