"""`alpha=grid`: a sweep over the stream weight of every teacher; and what it shares with `alpha=staged`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from tinyllm.compose import compose
from tinyllm.config import ExperimentConfig
from tinyllm.errors import UserError
from tinyllm.methods import chosen_teachers
from tinyllm.paper import ALPHA_GRID

SEARCHES = ("grid", "staged")
"""Options of `alpha` that the console script carries out."""
_SHOWING = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
"""Hydra's options that run nothing."""


def search_of(arguments: list[str]) -> str | None:
    """Which of `SEARCHES` a call asks for; None for another call, or for one that only shows something.

    Raises:
        UserError: without `-m`, with another option of `alpha`, or with several teacher sets at once.
    """
    options = [a.partition("=")[2].split(",") for a in arguments if a.lstrip("+").partition("=")[0] == "alpha"]
    named = [name for name in SEARCHES if any(name in option for option in options)]
    if not named or _SHOWING & {argument.partition("=")[0] for argument in arguments}:
        return None
    name = named[0]
    if options != [[name]]:
        raise UserError(f"alpha={name}: expected no other option of alpha, found several: sweep in two calls")
    if not {"-m", "--multirun"} & set(arguments):
        raise UserError(f"alpha={name}: expected a sweep, found a single run: add -m")
    without_lists = {a: re.sub(r"\[[^]]*\]", "", a) for a in arguments}  # a list of teachers is one set
    chosen = [a for a in arguments if a.split("=")[0] in ("teachers", "experiment") and "," in without_lists[a]]
    if chosen:
        raise UserError(
            f"alpha={name}: expected one teacher set, found {' '.join(chosen)}: sweep over sets in calls of their own"
        )
    return name


def open_teachers(stage: str, arguments: list[str]) -> list[str]:
    """The teachers whose weight a call leaves open.

    Where it names one method and one ablation, only those that the method learns from.
    """
    chosen = [a for a in arguments if a.split("=")[0] in ("teachers", "experiment")]
    shaping = [a for a in arguments if a.split("=")[0] in ("method", "method.teacher", "ablation", "ablation.drop")]
    single = [a for a in shaping if "," not in re.sub(r"\[[^]]*\]", "", a)]  # a list of dropped teachers is one value
    config = cast(ExperimentConfig, OmegaConf.to_object(compose(stage, [*chosen, *single, *own_folders(arguments)])))
    names = list(config.teachers)
    if single == shaping:
        names = chosen_teachers(config.method, config.teachers, {}, config.ablation.drop)
    taken = {a.lstrip("+").split("=")[0] for a in arguments}
    return [name for name in names if f"alpha.{name}" not in taken]


def with_alpha_grid(stage: str, arguments: list[str]) -> list[str]:
    """The arguments, and for `alpha=grid` a sweep over the weight of every teacher that they leave open.

    Raises:
        UserError: as `search_of`, or no weight is open.
    """
    if search_of(arguments) != "grid":
        return arguments
    grid, names = ",".join(str(value) for value in ALPHA_GRID), open_teachers(stage, arguments)
    if not names:
        raise UserError("alpha=grid: expected a teacher whose weight is open, found none: leave alpha=grid out")
    return [*arguments, *(f"alpha.{name}={grid}" for name in names)]


def own_folders(arguments: list[str]) -> list[str]:
    """`--config-dir <folder>`, as an override: composing alone knows no options."""
    folder = own_folder(arguments)
    return [f"hydra.searchpath=[file://{folder}]"] if folder else []


def own_folder(arguments: list[str]) -> Path | None:
    """The folder of `--config-dir <folder>`."""
    folder = _split(arguments)[0].config_dir
    return Path(folder).resolve() if folder else None


def overrides_of(arguments: list[str]) -> list[str]:
    """The arguments that are overrides, without options and their values."""
    return [argument for argument in _split(arguments)[1] if not argument.startswith("-")]


def _split(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    return parser.parse_known_args(arguments)
