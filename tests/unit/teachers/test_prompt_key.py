"""The prompt key follows what shapes a text, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tinyllm.config import DataConfig, Engine, ExampleSource, Knows, PromptConfig, PromptTemplate, TeacherConfig
from tinyllm.records import PromptKind
from tinyllm.runs import pinned_topic
from tinyllm.teachers.prompt_key import pool_key, prompt_key

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
    "knows": Knows.odd,
    "share": 0.5,
}


def key(
    teacher: TeacherConfig = TEACHER,
    prompt: PromptConfig = PROMPT,
    kind: PromptKind = PromptKind.forced,
    dataset: str = "obqa",
    pool: str | None = "a pool",
) -> str:
    return prompt_key(teacher, prompt, kind, dataset, pool=pool, recorded=False)


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
        key(pool="another"),
        *(key(kind=kind) for kind in PromptKind),
        key(prompt=PromptConfig(template=PromptTemplate.authors)),
        key(prompt=PromptConfig(examples=1)),
        key(prompt=PromptConfig(examples=0)),
        key(prompt=PromptConfig(example_source=ExampleSource.nearest)),
    }
    assert len(keys) == 10


def test_another_topic_or_model_of_a_dataset_has_another_pool() -> None:
    """Teachers invent other examples on it; a rate of sampling or a server makes no other pool."""

    def pool(teacher: TeacherConfig = TEACHER, dataset: str = "obqa", topic: str | None = None) -> str:
        return pool_key(teacher, dataset, topic or pinned_topic(dataset))

    assert len({pool(), pool(topic="law"), pool(dataset="arc"), pool(replace(TEACHER, model="org/other"))}) == 4
    assert pool(replace(TEACHER, temperature=0.1, base_url="http://localhost:1/v1")) == pool()
    assert pool(dataset="mine") == pool(dataset="mine", topic=DataConfig().topic) != pool(dataset="mine", topic="law")


def test_options_without_effect_do_not_count() -> None:
    greedy = replace(TEACHER, temperature=0.0)
    assert key(replace(greedy, seed=5, top_p=0.5)) == key(greedy)
    none = PromptConfig(examples=0)
    assert key(prompt=replace(none, example_source=ExampleSource.random)) == key(prompt=none)


def test_the_authors_have_no_words_for_other_kinds() -> None:
    authors = PromptConfig(template=PromptTemplate.authors)
    same = [kind for kind in PromptKind if key(prompt=authors, kind=kind) == key(kind=kind)]
    assert same == [PromptKind.solve, PromptKind.per_option]


def test_recorded_texts_have_one_key_whatever_the_prompt() -> None:
    other = PromptConfig(examples=0)
    recorded = prompt_key(TEACHER, PROMPT, PromptKind.forced, "obqa", pool="a pool", recorded=True)
    assert recorded == prompt_key(TEACHER, other, PromptKind.forced, "obqa", pool=None, recorded=True)
    assert recorded == "d2d462a9c829ef0a" != key()


def test_a_scripted_teacher_depends_on_its_voice_what_it_knows_and_the_kind_only() -> None:
    scripted = TeacherConfig(name="terse", engine=Engine.scripted, model="terse", prefix="terse: ")
    assert key(scripted) == key(replace(scripted, max_new_tokens=9), PromptConfig(examples=0))
    assert key(scripted) != key(replace(scripted, model="wordy"))
    assert len({key(scripted, kind=kind) for kind in PromptKind}) == 4
    assert key(scripted) != key(replace(scripted, knows=Knows.odd))


def test_the_key_is_stable_over_versions() -> None:
    """A store outlives the code: a changed key throws every paid text away, so it has to be a decision."""
    assert key() == "28b0458d785168ed"
