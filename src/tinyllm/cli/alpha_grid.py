"""`alpha=grid`: a sweep over the stream weight of every teacher."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from tinyllm.compose import compose
from tinyllm.config import ExperimentConfig
from tinyllm.errors import UserError
from tinyllm.methods import chosen_teachers
from tinyllm.paper import ALPHA_GRID


def with_alpha_grid(stage: str, arguments: list[str]) -> list[str]:
    """The arguments, and for `alpha=grid` a sweep over the weight of every teacher that they leave open.

    Where the call names one method and one ablation, only over teachers that the method learns from.

    Raises:
        UserError: without `-m`, with another option of `alpha`, or with several teacher sets at once.
    """
    options = [a.partition("=")[2].split(",") for a in arguments if a.lstrip("+").partition("=")[0] == "alpha"]
    if not any("grid" in option for option in options):
        return arguments
    if options != [["grid"]]:
        raise UserError("alpha=grid: expected no other option of alpha, found several: sweep in two calls")
    if not {"-m", "--multirun"} & set(arguments):
        raise UserError("alpha=grid: expected a sweep, found a single run: add -m")
    chosen = [a for a in arguments if a.split("=")[0] in ("teachers", "experiment")]
    if any("," in a for a in chosen):
        raise UserError(
            f"alpha=grid: expected one teacher set, found {' '.join(chosen)}: sweep over sets in calls of their own"
        )
    shaping = [a for a in arguments if a.split("=")[0] in ("method", "method.teacher", "ablation")]
    single = [a for a in shaping if "," not in a]
    config = cast(ExperimentConfig, OmegaConf.to_object(compose(stage, [*chosen, *single, *_own_folders(arguments)])))
    names = list(config.teachers)
    if single == shaping:
        names = chosen_teachers(config.method, config.teachers, {}, config.ablation.drop)
    taken = {a.lstrip("+").split("=")[0] for a in arguments}
    grid = ",".join(str(value) for value in ALPHA_GRID)
    return [*arguments, *(f"alpha.{name}={grid}" for name in names if f"alpha.{name}" not in taken)]


def _own_folders(arguments: list[str]) -> list[str]:
    """`--config-dir <folder>`, as an override: composing alone knows no options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    folder = parser.parse_known_args(arguments)[0].config_dir
    return [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
