"""What a run's list of deviations holds: everything, and nothing of a run that is the paper's."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass, replace
from enum import Enum
from typing import Any, cast, get_type_hints

import pytest
from omegaconf import DictConfig, OmegaConf

from tinyllm.compose import compose
from tinyllm.config import ExperimentConfig, LoraConfig, StreamConfig, Target
from tinyllm.deviations import NO_DEVIATION, STATED, deviations
from tinyllm.methods import two_samples_of
from tinyllm.paper import ABLATIONS, ALPHA_GRID, DATASETS, METHODS, STUDENTS

PAPER = ("experiment=paper", "teachers=paper", "data=obqa", "student=flan_t5_small")


def typed(config: DictConfig) -> ExperimentConfig:
    return cast(ExperimentConfig, OmegaConf.to_object(config))


def of(*overrides: str) -> dict[str, list[str]]:
    return deviations(typed(compose("train", overrides)))


ROWS = [
    *(("tinyllm", data, student) for data, student in zip(DATASETS, STUDENTS * 2, strict=True)),
    *((method, "obqa", "flan_t5_small") for method in METHODS),
]


@pytest.mark.parametrize(("method", "data", "student"), ROWS)
def test_a_run_of_the_preset_has_none(method: str, data: str, student: str) -> None:
    assert of("experiment=paper", "teachers=paper", f"data={data}", f"student={student}", f"method={method}") == {}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_row_of_table_2_has_none(ablation: str) -> None:
    config = typed(compose("train", [*PAPER, f"ablation={ablation}"]))
    assert deviations(config) == {}
    if ablation == "no_diverse_teachers":  # as it is trained, once validation has chosen
        assert deviations(two_samples_of(config, "llama2_7b_chat")) == {}


def test_random_weights_a_foreign_weight_shuffled_texts_and_an_eighth_of_the_data() -> None:
    own = ("student.pretrained=null", "alpha.flan_t5_xl=9", "rationales.shuffle=true", "data.train_fraction=0.125")
    assert of(*PAPER, *own) == {
        "student.pretrained": ["google/flan-t5-small", "null"],
        "alpha.flan_t5_xl": ["0.01, 0.1, 0.5, 1, 2 or 3", "9"],
        "rationales.shuffle": ["false", "true"],
        "data.train_fraction": ["1", "0.125"],
    }
    control = of(*PAPER, "ablation=shuffled_rationales")
    assert control == {"ablation.name": ["none", "shuffled_rationales"], "rationales.shuffle": ["false", "true"]}


def test_where_the_paper_is_silent_the_presets_value_is_named_as_such() -> None:
    found = of(*PAPER, "optimizer.weight_decay=0.1", "optimizer.lr=1e-4", "trainer.gradient_clip=1")
    assert found["optimizer.lr"] == ["5e-05", "0.0001"]
    assert found["optimizer.weight_decay"] == ["not stated, preset 0", "0.1"]
    assert found["trainer.gradient_clip"] == ["not stated, preset null", "1"]


@pytest.mark.parametrize(("method", "stated"), [("tinyllm", True), ("standard_kd", True), ("full_ft", False)])
def test_the_papers_settings_of_distillation_are_not_stated_for_fine_tuning(method: str, stated: bool) -> None:
    """Section 4.1: "for all distillation baselines and TinyLLM"."""
    found = of(*PAPER, f"method={method}", "optimizer.lr=1e-4", "trainer.max_epochs=3")
    said = "" if stated else "not stated, preset "
    assert found == {"optimizer.lr": [f"{said}5e-05", "0.0001"], "trainer.max_epochs": [f"{said}1", "3"]}


@pytest.mark.parametrize("weight", ALPHA_GRID)
def test_a_weight_of_the_grid_is_the_papers(weight: float) -> None:
    assert of(*PAPER, f"alpha.llama2_7b_chat={weight}") == {}


@pytest.mark.parametrize(
    "own",
    [
        ("data.source=release", "data.root=somewhere"),
        ("trainer=ddp", "trainer.precision=32-true", "trainer.batch_size=8", "trainer.accumulate_grad_batches=4"),
        ("seed=3", "store=elsewhere", "cache=elsewhere", "logger=wandb", "trainer.log_every=1"),
        ("teachers.llama2_7b_chat.engine=openai", "teachers.llama2_7b_chat.base_url=http://localhost:8000/v1"),
        ("method=step_by_step", "method.teacher=llama2_7b_chat"),
        ("method=step_by_step", "teachers=llama2_7b_chat"),
        ("method=full_ft", "teachers=minilab", "prompt.examples=0", "rationales.shuffle=true"),  # it reads no text
        ("method=inference", "optimizer.lr=1", "trainer.max_epochs=9"),  # it is not trained
    ],
)
def test_what_shapes_no_number_is_none(own: tuple[str, ...]) -> None:
    assert of(*PAPER, *own) == {}


def test_what_the_paper_has_not_is_told_by_name() -> None:
    found = of("data=minilab", "student=tiny", "teachers=minilab", "method=tinyllm_lora", "experiment=paper")
    assert found["data.name"][1] == "minilab" and set(DATASETS) <= set(found["data.name"][0].replace(",", "").split())
    assert found["student.name"][1] == "tiny" and found["student.pretrained"][1] == "null"
    assert found["teachers"] == ["flan_t5_xl, llama2_7b_chat", "terse, wordy"]
    assert found["method.name"] == ["tinyllm", "tinyllm_lora"] and "r: 16" in found["method.lora"][1]
    assert not any(key.startswith(("data.hub", "student.architecture")) for key in found)
    assert of(*PAPER, "data.source=jsonl", "data.root=mine.jsonl")["data.source"] == ["hub", "jsonl"]
    dropped = of(*PAPER, "alpha.flan_t5_xl=0")
    assert dropped["alpha.flan_t5_xl"][1] == "0"


def test_a_teacher_in_place_of_a_student_has_no_students_settings() -> None:
    """`tinyllm evaluate` has keys of its own, too."""
    called = ["data=obqa", "student=tiny", "data.limit_test=9"]
    config = typed(compose("evaluate", [*called, "teacher=flan_t5_xl"]))
    assert deviations(config) == {"data.limit_test": ["null", "9"]}
    assert deviations(typed(compose("evaluate", called)))["student.name"][1] == "tiny"


def test_texts_can_stand_in_one_line() -> None:
    """A report puts a semicolon between two deviations."""
    config = typed(compose("train", [*PAPER, "data.topic='a; b'"]))
    config.method.streams["extra"] = StreamConfig(target=Target.every_option)
    found = deviations(config)
    assert found["data.topic"][1] == "a, b"
    assert "every_option" in found["method.streams.extra"][1] and found["method.streams.extra"][0] == "none"
    assert not any("; " in text or "\n" in text for texts in found.values() for text in texts)


def leaves(node: DictConfig, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in node:
        key = f"{path}{name}"
        value = None if OmegaConf.is_missing(node, name) else node[name]
        found |= leaves(value, f"{key}.") if isinstance(value, DictConfig) and value else {key: value}
    return found


def other(key: str, value: Any, kind: Any) -> Any:
    """Another value of the same type."""
    fixed = {"trainer.precision": "64-true", "method.lora": LoraConfig(r=3), "method.teacher": "llama2_7b_chat"}
    fixed |= {
        "data.name": "minilab",
        "data.source": "jsonl",
        "ablation.strongest": "flan_t5_xl",
        "data.world": "answers_suffice",
    }
    if key in fixed:
        return fixed[key]
    if isinstance(value, Enum):
        return next(one for one in type(value) if one is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 7
    if OmegaConf.is_list(value):
        return ["question"] if key.endswith("choices") else ["valid"] if key.endswith("splits") else ["cut"]
    if isinstance(value, Mapping):
        return {"stage": 3}
    if value is None and ("int" in str(kind) or "float" in str(kind)):
        return 7
    return f"{value or ''}x"


def pattern_of(key: str) -> str:
    group, *rest = key.split(".")
    return ".".join([group, "*", *rest[1:]] if group in ("teachers", "alpha") else [group, *rest])


def inside(key: str, groups: Iterable[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in groups)


def test_every_key_is_a_deviation_or_known_to_be_none() -> None:
    """Whatever a key is changed to: a new key can't be forgotten, nor be listed in vain."""
    silent, reported = set(), set()
    # An architecture is read with random weights alone, and only the release has recorded texts.
    for extra in ((), ("student.pretrained=null",), ("data.source=release", "data.root=x")):
        config = compose("train", [*PAPER, *extra])
        before = deviations(typed(config)).keys()
        for key, value in leaves(config).items():
            group, _, name = key.rpartition(".")
            owner = OmegaConf.get_type(OmegaConf.select(config, group) if group else config)
            changed = copy.deepcopy(config)
            OmegaConf.set_struct(changed, False)
            kinds = get_type_hints(owner) if is_dataclass(owner) else {}
            OmegaConf.update(changed, key, other(key, value, kinds.get(name)))
            found = deviations(typed(changed)).keys() - before
            (reported if any(inside(one, [key]) or inside(key, [one]) for one in found) else silent).add(
                pattern_of(key)
            )
    silent -= reported
    assert silent == {key for key in silent | reported if inside(key, NO_DEVIATION)}
    assert not [key for key in NO_DEVIATION if not any(inside(one, [key]) for one in silent)], "of a key that is gone"
    assert STATED - reported <= {"teachers"}


def test_an_old_configuration_without_the_papers_method_is_compared_all_the_same() -> None:
    config = typed(compose("train", PAPER))
    config = replace(config, method=replace(config.method, name="own", streams={}))
    assert deviations(config)["method.name"] == ["tinyllm", "own"]
