"""What makes two texts of a teacher comparable: a hash of everything that shapes them."""

from __future__ import annotations

import hashlib
import json

from tinyllm.config import ExampleSource, PromptConfig, TeacherConfig
from tinyllm.runs import pinned_topic

TEMPLATE_VERSION = 1
"""Raised whenever a prompt of `tinyllm.prompts`, or the choice of in-context examples, changes."""
SCORES_VERSION = 1
"""Raised whenever what a teacher reads when it scores options changes."""
SCRIPT_VERSION = 1
"""Raised whenever the texts of minilab's scripted teachers change."""


def prompt_key(teacher: TeacherConfig, prompt: PromptConfig, dataset: str, topic: str, *, recorded: bool) -> str:
    """16 hex digits that name one way of asking: texts under the same key may be trained on together.

    In it: the prompt's template, teacher forcing, in-context examples and their source, the decoding, the model with
    its revision and file, chat or plain, the dataset, and the topic of generated examples where it isn't the one that
    the dataset has always had (`runs.pinned_topic`). Not in it: what only says how, where and at what price the model
    runs (engine, server, batch size, precision, prefix of the stream, sample). Options without effect don't count: the
    seed of a greedy teacher, the source of no examples.

    Args:
        teacher: model and decoding.
        prompt: what stands around the question.
        dataset: its name.
        topic: `data.topic`.
        recorded: the texts were published, whatever the prompt settings of this run say.
    """
    shape: dict[str, object]
    if recorded:
        shape = {"recorded": 1}
    elif not teacher.reads_prompts:
        shape = {"voice": teacher.model, "teacher_forcing": prompt.teacher_forcing, "version": SCRIPT_VERSION}
    else:
        sampled = teacher.temperature > 0
        shape = {
            "template": TEMPLATE_VERSION,
            "dataset": dataset,
            "teacher_forcing": prompt.teacher_forcing,
            "examples": prompt.examples,
            "example_source": str(prompt.example_source) if prompt.examples else None,
            "model": teacher.model,
            "revision": teacher.revision,
            "gguf_file": teacher.gguf_file,
            "chat": teacher.chat,
            "max_new_tokens": teacher.max_new_tokens,
            "sampling": [teacher.temperature, teacher.top_p, teacher.seed] if sampled else None,
        }
        invented = prompt.examples > 0 and prompt.example_source is ExampleSource.generated
        if invented and topic != pinned_topic(dataset):
            shape["topic"] = topic
    return _digest(shape)


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


def _digest(shape: dict[str, object]) -> str:
    text = json.dumps(shape, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
