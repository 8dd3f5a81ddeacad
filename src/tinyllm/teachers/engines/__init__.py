"""What runs a teacher: one protocol, an engine a file."""

from __future__ import annotations

from tinyllm.config import Engine as EngineName
from tinyllm.config import TeacherConfig
from tinyllm.errors import UserError
from tinyllm.teachers.engines.protocol import Engine


def open_engine(teacher: TeacherConfig) -> Engine:
    """The engine of a teacher that has to be asked. Loads nothing before the first request.

    Raises:
        UserError: a scripted teacher is never asked with a prompt.
    """
    if teacher.engine is EngineName.transformers:
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
    raise UserError(
        f"teacher {teacher.name} is scripted and knows minilab's questions only: use data=minilab, or another teacher"
    )
