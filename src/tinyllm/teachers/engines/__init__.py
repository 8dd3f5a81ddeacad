"""What runs a teacher: one protocol, an engine a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm.config import Engine as EngineName
from tinyllm.config import TeacherConfig
from tinyllm.teachers.engines.protocol import Engine, Published

if TYPE_CHECKING:
    from tinyllm.teachers.engines.transformers import TransformersEngine


def open_engine(teacher: TeacherConfig, published: Published | None = None) -> Engine:
    """The engine of a teacher. Loads nothing before the first request.

    Args:
        teacher: whose engine.
        published: where its texts are, if they were published and are taken from there; None asks the teacher.
    """
    if published is not None:
        from tinyllm.teachers.engines.recorded import RecordedEngine

        return RecordedEngine(published, teacher=teacher.stored_name)
    if teacher.engine is EngineName.scripted:
        from tinyllm.teachers.engines.scripted import ScriptedEngine

        return ScriptedEngine(voice=teacher.model, sample=teacher.sample, knows=teacher.knows, share=teacher.share)
    if teacher.engine is EngineName.file:
        from tinyllm.teachers.engines.file import FileEngine

        return FileEngine(Path(teacher.model).expanduser())
    if teacher.engine is EngineName.openai:
        from tinyllm.teachers.engines.openai import OpenAIEngine

        return OpenAIEngine(
            model=teacher.model,
            base_url=teacher.base_url,
            api_key_env=teacher.api_key_env,
            chat=teacher.chat,
            max_new_tokens=teacher.max_new_tokens,
            temperature=teacher.temperature,
            top_p=teacher.top_p,
            concurrency=teacher.concurrency,
            timeout=teacher.timeout,
            max_retries=teacher.max_retries,
        )
    return open_transformers(teacher)


def open_transformers(teacher: TeacherConfig) -> TransformersEngine:
    """The engine of a teacher in this process, which also scores options. Loads nothing before the first request."""
    from tinyllm.teachers.engines.transformers import TransformersEngine

    return TransformersEngine(
        model=teacher.model,
        revision=teacher.revision,
        gguf_file=teacher.gguf_file,
        chat=teacher.chat,
        max_new_tokens=teacher.max_new_tokens,
        temperature=teacher.temperature,
        top_p=teacher.top_p,
        batch_size=teacher.batch_size,
        dtype=teacher.dtype,
        device_map=teacher.device_map,
    )
