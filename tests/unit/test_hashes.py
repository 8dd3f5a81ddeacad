"""Hashes of finished runs stay what they were: a change of one trains every finished run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tinyllm import runs
from tinyllm.compose import register
from tinyllm.config import DataConfig, ExperimentConfig, OptimizerConfig, Schedule, StreamConfig, TeacherConfig

CONF = Path(__file__).parents[2] / "conf" / "data"
GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
HASHES: dict[str, str] = json.loads((GOLDEN / "hashes.json").read_text())


@pytest.mark.parametrize("name", HASHES)
def test_a_run_of_an_earlier_version_keeps_its_hash(name: str, tmp_path: Path) -> None:
    """`config.yaml` and its hash as version e483755 wrote them."""
    shutil.copy(GOLDEN / f"{name}.yaml", tmp_path / runs.CONFIG)
    assert runs.hash_of(runs.read_config(tmp_path)) == HASHES[name]


@pytest.mark.parametrize("schema", [ExperimentConfig, TeacherConfig, StreamConfig])
def test_every_key_has_a_pinned_default(schema: type) -> None:
    """A key without one would give all earlier runs another hash: add its default to hash_defaults.json."""

    def keys(values: Any, path: str = "") -> set[str]:
        if not isinstance(values, dict):
            return {path}
        return {path, *(key for name, value in values.items() for key in keys(value, f"{path}.{name}"))}

    written: Any = OmegaConf.to_container(OmegaConf.structured(schema), enum_to_str=True)
    for group, names in runs.RENAMED.items():
        for new, old in names.items():
            if group in written:
                written[group][old] = written[group].pop(new)
    assert keys(written) <= keys(runs.hash_defaults()[schema.__name__])


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_topic_is_the_pinned_one(file: Path) -> None:
    """A dataset's topic may change; then this test says that its earlier texts and runs will not be used again."""
    register()
    root = "arc.jsonl" if file.stem == "jsonl" else None  # the user's file gives the name
    values = OmegaConf.create({"data": OmegaConf.load(file)})
    values.data.root = root
    assert values.data.topic == runs.pinned_topic("arc" if root else file.stem)


def test_another_topic_is_another_run() -> None:
    def hash_with(name: str, topic: str) -> str:
        return runs.hash_of(ExperimentConfig(data=DataConfig(name=name, topic=topic)))

    default = DataConfig().topic
    assert len({hash_with("obqa", topic) for topic in (runs.pinned_topic("obqa"), default, "law")}) == 3
    assert hash_with("mine", default) == runs.hash_of(ExperimentConfig(data=DataConfig(name="mine")))
    assert hash_with("mine", "law") != hash_with("mine", default)


def test_a_run_from_before_topics_has_the_one_of_its_dataset(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "paper_grid_cell.yaml", tmp_path / runs.CONFIG)
    assert runs.read_config(tmp_path).data.topic == "the conclusion of a biomedical research abstract"


def test_a_changed_default_gives_runs_of_the_new_value_a_hash_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out of a hash is the pinned default, not the one that the schema has today."""
    before = runs.hash_of(ExperimentConfig())
    monkeypatch.setattr(OptimizerConfig.__init__, "__defaults__", (5e-5, 0.01, 0, Schedule.linear))
    assert ExperimentConfig().optimizer.weight_decay == 0.01
    assert runs.hash_of(ExperimentConfig()) != before
