"""What makes two texts of a teacher comparable: a hash of everything that shapes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tinyllm.config import Engine, PromptConfig, PromptTemplate, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.records import PromptKind
from tinyllm.runs import pinned_topic

TEMPLATE_VERSION = 2
"""Raised whenever a prompt of `tinyllm.prompts`, or the choice of in-context examples, changes."""
POOL_VERSION = 2
"""Raised whenever a teacher is asked otherwise for the examples that it invents."""
SCORES_VERSION = 1
"""Raised whenever what a teacher reads when it scores options changes."""
CONFIDENCE_VERSION = 1
"""Raised whenever what a teacher reads when it scores the answer after its own text changes."""
SCRIPT_VERSION = 2
"""Raised whenever the texts of minilab's scripted teachers change."""


def prompt_key(
    teacher: TeacherConfig, prompt: PromptConfig, kind: PromptKind, dataset: str, *, pool: str | None, recorded: bool
) -> str:
    """16 hex digits that name one way of asking: texts under the same key may be trained on together.

    In it: the prompt's template and kind, the in-context examples with their source and pool, the decoding, the model
    with its revision and file, chat or plain, and the dataset. Not in it: what only says how, where and at what price
    the model runs (engine, server, batch size, precision, prefix of the stream, sample). Options without effect don't
    count: the seed of a greedy teacher, the source of no examples.

    Args:
        teacher: model and decoding.
        prompt: what stands around the question.
        kind: what the teacher is asked for.
        dataset: its name.
        pool: `pool.pool_name` of the in-context examples.
        recorded: the texts were published, whatever the prompt settings of this run say.

    Raises:
        UserError: the file with the teacher's texts is missing: its content is in the key.
    """
    if recorded:
        return _digest({"recorded": 1})
    if teacher.engine is Engine.file:
        return _digest(
            {"file": digest_of_file(Path(teacher.model).expanduser()), "kind": str(kind), "dataset": dataset}
        )
    if not teacher.reads_prompts:
        script: dict[str, object] = {"voice": teacher.model, "knows": str(teacher.knows), "version": SCRIPT_VERSION}
        wrong = {} if teacher.share is None else {"share": teacher.share}
        return _digest(script | {"kind": str(kind)} | wrong)
    shape: dict[str, object] = {
        "template": TEMPLATE_VERSION,
        "kind": str(kind),
        "dataset": dataset,
        "examples": prompt.examples,
        "example_source": str(prompt.example_source) if prompt.examples else None,
        "pool": pool if prompt.examples else None,
        "max_new_tokens": teacher.max_new_tokens,
        "sampling": [teacher.temperature, teacher.top_p, teacher.seed] if teacher.temperature > 0 else None,
    }
    if in_authors_words(prompt, kind):
        shape["words"] = str(PromptTemplate.authors)
    return _digest(shape | _model(teacher))


def in_authors_words(prompt: PromptConfig, kind: PromptKind) -> bool:
    """Whether a prompt is the authors' own; they have none for the other kinds."""
    return prompt.template is PromptTemplate.authors and kind in (PromptKind.forced, PromptKind.unforced)


def pool_key(teacher: TeacherConfig, dataset: str, topic: str) -> str:
    """Names the pool of examples that a teacher invents for a dataset: by its model, and by what it is asked for.

    The topic is left out where it is the one that the dataset has always had (`runs.pinned_topic`).
    """
    shape: dict[str, object] = {"pool": POOL_VERSION, "dataset": dataset, "max_new_tokens": teacher.max_new_tokens}
    if topic != pinned_topic(dataset):
        shape["topic"] = topic
    return _digest(shape | _model(teacher))


def _model(teacher: TeacherConfig) -> dict[str, object]:
    return {name: getattr(teacher, name) for name in ("model", "revision", "gguf_file", "chat")}


def scores_key(teacher: TeacherConfig, vocabulary: str) -> str:
    """The same of a teacher's option scores: in it are the source's form, the model, and the vocabulary that student
    and teacher share.

    vocabulary: its hash.
    """
    return _digest(
        {
            "option_scores": SCORES_VERSION,
            "model": teacher.model,
            "revision": teacher.revision,
            "gguf_file": teacher.gguf_file,
            "vocabulary": vocabulary,
        }
    )


def confidence_key(teacher: TeacherConfig, texts: str) -> str:
    """The same of what a teacher expects after its own texts.

    texts: the `prompt_key` of these.
    """
    names = ("model", "revision", "gguf_file")
    return _digest({"confidence": CONFIDENCE_VERSION, "texts": texts} | {n: getattr(teacher, n) for n in names})


def digest_of_file(file: Path) -> str:
    """Of a file of texts.

    Raises:
        UserError: there is none.
    """
    if not file.is_file():
        raise UserError(f"teachers.<name>.model={file}: expected a file of JSON lines with the texts, found none")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _digest(shape: dict[str, object]) -> str:
    text = json.dumps(shape, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
