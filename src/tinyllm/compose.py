"""Composing a stage's configuration: the folder that Hydra reads, the schemas, the resolvers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

import tinyllm
from tinyllm import config as schema
from tinyllm.errors import UserError
from tinyllm.runs import pinned_topic, run_name

SCHEMAS = {
    "rationales": schema.RationalesStageConfig,
    "train": schema.ExperimentConfig,
    "evaluate": schema.EvaluateConfig,
    "report": schema.ReportConfig,
    "predict": schema.PredictConfig,
    "export": schema.ExportConfig,
}
"""What each stage's configuration becomes."""


def config_folder() -> Path:
    """`conf/`: inside the installed package, or at the root of the source tree."""
    package = Path(tinyllm.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def register(own: Path | None = None) -> None:
    """Make the schemas, the resolvers and every teacher as a set of one known to Hydra; may be called again.

    Args:
        own: folder of the user's own options (`--config-dir`).
    """
    store = ConfigStore.instance()
    folders = [config_folder(), *([own] if own is not None else [])]
    sets = {file.stem for folder in folders for file in (folder / "teachers").glob("*.yaml")}
    for name in sorted({file.stem for folder in folders for file in (folder / "teacher").glob("*.yaml")} - sets):
        alone = {"defaults": [{f"/teacher@teachers.{name}": name}, "_self_"], "alpha": {name: 1.0}}
        store.store(group="teachers", name=name, package="_global_", node=alone)
    for stage, node in SCHEMAS.items():
        if f"{stage}_schema.yaml" not in store.repo:  # takes a third of the time that composing does
            store.store(name=f"{stage}_schema", node=node)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(_root_), replace=True)
    OmegaConf.register_new_resolver("topic_of", pinned_topic, replace=True)
    OmegaConf.register_new_resolver("stem", _stem, replace=True)


def _stem(path: str | None) -> str:
    """A dataset's name from its path; of `.` that of the folder."""
    return Path(os.path.abspath(path)).stem if path else "jsonl"


def options_of(group: str) -> list[str]:
    """The shipped options of a group."""
    folders = ("teachers", "teacher") if group == "teachers" else (group,)
    return sorted({file.stem for name in folders for file in (config_folder() / name).glob("*.yaml")})


def compose(stage: str, overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """A stage's configuration, composed without running the stage; also inside of a running one.

    Args:
        stage: of `SCHEMAS`.
        overrides: as on the command line, without options.
        with_hydra: keep Hydra's own keys, under `hydra`.

    Raises:
        HydraException, OmegaConfBaseException: for an unknown key or option, or a value of the wrong type.
    """
    register()
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            return hydra.compose(stage, overrides=list(overrides), return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = running


def refuse_unknown_keys(node: DictConfig, path: str = "") -> None:
    """Refuse keys that were added with `+` and that no stage reads.

    Raises:
        UserError: naming the first such key.
    """
    known = OmegaConf.get_type(node)
    for key in node:
        inside = f"{path}{key!s}"
        if is_dataclass(known) and key != "hydra" and key not in {field.name for field in fields(known)}:
            raise UserError(f"{inside}: no such key; remove +{inside}=...")
        if key != "hydra" and not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            refuse_unknown_keys(node[key], f"{inside}.")
