"""The prompt key follows what shapes a text, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tinyllm.config import DataConfig, Engine, ExampleSource, PromptConfig, TeacherConfig
from tinyllm.runs import pinned_topic
from tinyllm.teachers.prompt_key import prompt_key

TEACHER = TeacherConfig(name="t", model="org/model", prefix="t: ", temperature=0.7)
PROMPT = PromptConfig()
SHAPES = {
    "model": "org/other",
    "revision": "abc",
    "gguf_file": "a.gguf",
    "chat": True,
    "max_new_tokens": 17,
    "temperature": 0.1,
    "top_p": 0.5,
    "seed": 3,
}
SHAPES_NOT = {
    "name": "other",
    "engine": Engine.openai,
    "prefix": "other: ",
    "sample": 1,
    "stored_as": "other",
    "batch_size": 1,
    "dtype": "float32",
    "device_map": "auto",
    "base_url": "http://localhost:1/v1",
    "api_key_env": "OTHER",
    "concurrency": 1,
    "timeout": 1.0,
    "max_retries": 1,
    "price_prompt": 1.0,
    "price_completion": 1.0,
    "licence": "MIT",
}


def key(
    teacher: TeacherConfig = TEACHER, prompt: PromptConfig = PROMPT, dataset: str = "obqa", topic: str | None = None
) -> str:
    return prompt_key(teacher, prompt, dataset, topic or pinned_topic(dataset), recorded=False)


def test_every_field_of_a_teacher_is_decided_about() -> None:
    assert {field.name for field in fields(TeacherConfig)} == SHAPES.keys() | SHAPES_NOT.keys()


@pytest.mark.parametrize("name", SHAPES)
def test_what_shapes_the_text_changes_the_key(name: str) -> None:
    assert key(replace(TEACHER, **{name: SHAPES[name]})) != key()


@pytest.mark.parametrize("name", SHAPES_NOT)
def test_what_does_not_shape_the_text_keeps_the_key(name: str) -> None:
    assert key(replace(TEACHER, **{name: SHAPES_NOT[name]})) == key()


def test_the_prompt_and_the_dataset_change_the_key() -> None:
    keys = {
        key(),
        key(dataset="arc"),
        key(prompt=PromptConfig(teacher_forcing=False)),
        key(prompt=PromptConfig(examples=1)),
        key(prompt=PromptConfig(examples=0)),
        key(prompt=PromptConfig(example_source=ExampleSource.nearest)),
    }
    assert len(keys) == 6


def test_another_topic_of_a_dataset_is_another_key() -> None:
    """Teachers invent other examples on it; the topic that a dataset always had keeps the key of earlier texts."""
    assert len({key(), key(topic="law"), key(topic="history"), key(topic=DataConfig().topic)}) == 4
    assert key(dataset="mine") == key(dataset="mine", topic=DataConfig().topic) != key(dataset="mine", topic="law")


@pytest.mark.parametrize(
    "prompt", [PromptConfig(examples=0), PromptConfig(example_source=ExampleSource.random)], ids=["none", "random"]
)
def test_a_topic_that_no_prompt_holds_does_not_count(prompt: PromptConfig) -> None:
    assert key(prompt=prompt, topic="law") == key(prompt=prompt)


def test_options_without_effect_do_not_count() -> None:
    greedy = replace(TEACHER, temperature=0.0)
    assert key(replace(greedy, seed=5, top_p=0.5)) == key(greedy)
    none = PromptConfig(examples=0)
    assert key(prompt=replace(none, example_source=ExampleSource.random)) == key(prompt=none)


def test_recorded_texts_have_one_key_whatever_the_prompt() -> None:
    other = PromptConfig(teacher_forcing=False, examples=0)
    recorded = prompt_key(TEACHER, PROMPT, "obqa", "science", recorded=True)
    assert recorded == prompt_key(TEACHER, other, "obqa", "law", recorded=True)
    assert recorded != key()


def test_a_scripted_teacher_depends_on_voice_and_forcing_only() -> None:
    scripted = TeacherConfig(name="terse", engine=Engine.scripted, model="terse", prefix="terse: ")
    assert key(scripted) == key(replace(scripted, max_new_tokens=9), PromptConfig(examples=0))
    assert key(scripted) != key(replace(scripted, model="wordy"))
    assert key(scripted) != key(scripted, PromptConfig(teacher_forcing=False))


def test_the_key_is_stable_over_versions() -> None:
    """A store outlives the code: a changed key throws every paid text away, so it has to be a decision."""
    assert key() == "fa57db8a17f9b56e"
