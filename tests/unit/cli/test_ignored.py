"""Keys without effect are named, and no others."""

from __future__ import annotations

import ast
import logging
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import cast

import pytest
from omegaconf import OmegaConf

import tinyllm
from tinyllm import config as schema
from tinyllm import runs
from tinyllm.cli.ignored import RUN_RULES, TEACHER_RULES, ignored, log_ignored
from tinyllm.compose import compose
from tinyllm.config import EvaluateConfig, ExperimentConfig

PACKAGE = Path(tinyllm.__file__).parent
PAPER = ("teachers=paper", "data=obqa", "student=flan_t5_small")
PUBLISHED = (*PAPER, "data.source=release", "data.root=x")


def of(*overrides: str, stage: str = "train") -> set[str]:
    return set(ignored(cast(ExperimentConfig, OmegaConf.to_object(compose(stage, overrides)))))


@pytest.mark.parametrize(
    "shipped",
    [
        (), PAPER, ("teachers=open_models",), ("method=full_ft",), ("method=inference",), ("teachers=smollm2",),
        (*PAPER, "experiment=paper"), ("logger=wandb",), ("trainer=fsdp",), ("experiment=minilab",),
        PUBLISHED, ("data=jsonl", "data.root=mine.jsonl"), ("ablation=no_t5",),
    ],
)  # fmt: skip
def test_what_the_files_set_is_nobodys_wish(shipped: tuple[str, ...]) -> None:
    assert of(*shipped) == set()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (("prompt.examples=4", "prompt.example_source=random"), {"prompt.examples", "prompt.example_source"}),
        (("ablation=no_in_context",), {"prompt.examples"}),  # minilab's teachers see no examples anyway
        (("teachers.terse.max_new_tokens=9",), {"teachers.terse.max_new_tokens"}),
        ((*PAPER, "prompt.examples=4"), set()),
        ((*PUBLISHED, "prompt.examples=4"), {"prompt.examples"}),
        ((*PUBLISHED, "prompt.teacher_forcing=false", "prompt.examples=4"), set()),
        ((*PUBLISHED, "data.hub_revision=abc"), {"data.hub_revision"}),
        ((*PAPER, "data.hub_revision=abc", "rationales.recorded=false"), {"rationales.recorded"}),
        (("data=jsonl", "data.root=mine.jsonl", "data.hub_id=a/b"), {"data.hub_id"}),
        ((*PAPER, "teachers.flan_t5_xl.concurrency=3"), {"teachers.flan_t5_xl.concurrency"}),
        ((*PAPER, "teachers.flan_t5_xl.batch_size=3"), set()),
        (("teachers=open_models", "teachers.qwen3_4b.batch_size=3"), {"teachers.qwen3_4b.batch_size"}),
        (("teachers=smollm2", "teachers.smollm2.seed=3"), {"teachers.smollm2.seed"}),
        (("teachers=smollm2", "teachers.smollm2.seed=3", "teachers.smollm2.temperature=1"), set()),
        (("teachers=smollm2", "prompt.examples=0", "prompt.example_source=random"), {"prompt.example_source"}),
        (("method=full_ft", "rationales.shuffle=true"), {"rationales.shuffle"}),
        (("method=full_ft", "ablation=no_t5"), {"ablation.drop"}),
        (("method=inference", "ablation=no_diverse_teachers"), {"ablation.strongest"}),
        # A weighting reads more of a teacher than its published texts.
        ((*PUBLISHED, "weighting=correct", "prompt.examples=4"), set()),
        (
            (*PUBLISHED, "weighting=confidence", "teachers.flan_t5_xl.dtype=float32"),
            set(),
        ),
        (
            (*PUBLISHED, "teachers.flan_t5_xl.dtype=float32"),
            {"teachers.flan_t5_xl.dtype"},
        ),
        (("method=tinyllm", "method.teacher=terse"), {"method.teacher"}),
        (("method=step_by_step", "method.teacher=terse"), set()),
        (("method=step_by_step", "prompt.teacher_forcing=false"), {"prompt.teacher_forcing"}),
        (("method=step_by_step", "teachers=smollm2", "prompt.template=authors"), {"prompt.template"}),
        (("teachers=smollm2", "prompt.template=authors"), set()),
        ((*PAPER, "method=step_by_step", "data.source=release", "data.root=x", "prompt.examples=4"), set()),
        (("method=inference", "optimizer.lr=1"), {"optimizer.lr"}),
        (("logger.project=mine",), {"logger.project"}),
        (("trainer.shuffle=false", "trainer.group_by_length=false"), {"trainer.group_by_length"}),
        (("evaluation.max_rationale_tokens=3",), {"evaluation.max_rationale_tokens"}),
        (("student.revision=main",), {"student.revision"}),
        (("student.architecture.num_layers=7",), set()),
        ((*PAPER, "student.architecture.num_layers=7"), {"student.architecture"}),
        ((*PAPER, "student.architecture.num_layers=7", "student.pretrained=null"), set()),
        (("method=full_ft", "evaluation.rationales=true"), {"evaluation.rationales"}),
    ],
)
def test_a_key_that_nothing_reads_is_named(call: tuple[str, ...], named: set[str]) -> None:
    assert of(*call) == named


def test_a_teacher_that_is_evaluated_reads_its_prompt_whatever_the_method() -> None:
    assert of("teachers=smollm2", "prompt.examples=4", stage="rationales") == set()
    config = cast(EvaluateConfig, OmegaConf.to_object(compose("evaluate", ["teacher=smollm2", "prompt.examples=4"])))
    assert config.teacher is not None and not ignored(runs.asked_freely(config, config.teacher))


def test_each_is_said_once_with_its_value(caplog: pytest.LogCaptureFixture) -> None:
    config = cast(ExperimentConfig, OmegaConf.to_object(compose("train", ["prompt.examples=4", "method=full_ft"])))
    with caplog.at_level(logging.INFO):
        log_ignored(config)
    assert [record.getMessage().count("prompt.examples=4") for record in caplog.records] == [1]


def test_rules_are_of_keys_that_there_are() -> None:
    composed = compose("train", ["student=flan_t5_small"])
    for rule in RUN_RULES:
        for key in rule.keys:
            group, name = key.split(".")
            assert name in composed[group], key
    names = {field.name for field in fields(schema.TeacherConfig)}
    assert {key for rule in TEACHER_RULES for key in rule.keys} <= names


def test_every_key_of_the_schema_is_read_by_something() -> None:
    """By its name: as an attribute in the code but for the schema's own fields, in a template, or by another key."""
    read = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    templates = " ".join(path.read_text() for path in PACKAGE.rglob("*.jinja"))
    options = " ".join(path.read_text() for path in (PACKAGE.parent.parent / "conf").rglob("*.yaml"))
    owners = [one for one in vars(schema).values() if isinstance(one, type) and is_dataclass(one)]
    unread = [
        f"{owner.__name__}.{field.name}"
        for owner in owners
        for field in fields(owner)
        if field.name not in read and f".{field.name}" not in templates and f".{field.name}}}" not in options
    ]
    assert len(owners) > 15 and unread == []
