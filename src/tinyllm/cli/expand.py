"""Arguments that stand for others: `alpha=grid`, `paper=true`."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import OmegaConf

import tinyllm
from tinyllm import config as schema
from tinyllm.errors import UserError
from tinyllm.methods import chosen_teachers
from tinyllm.paper import ALPHA_GRID


def config_folder() -> Path:
    """`conf/`: inside the installed package, or at the root of the source tree."""
    package = Path(tinyllm.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def with_alpha_grid(stage: str, arguments: list[str]) -> list[str]:
    """The arguments, and for `alpha=grid` a sweep over the weight of every teacher that they leave open.

    Where the call names one method and one ablation, only over teachers that the method learns from.

    Raises:
        UserError: without `-m`, beside another option of `alpha`, or with several teacher sets at once.
    """
    options = [a.partition("=")[2].split(",") for a in arguments if a.lstrip("+").partition("=")[0] == "alpha"]
    if not any("grid" in option for option in options):
        return arguments
    if options != [["grid"]]:
        raise UserError("alpha=grid: expected it alone, found other options of alpha beside it: sweep in two calls")
    if not {"-m", "--multirun"} & set(arguments):
        raise UserError("alpha=grid: expected a sweep, found a single run: add -m")
    chosen = [a for a in arguments if a.split("=")[0] in ("teachers", "experiment")]
    if any("," in a for a in chosen):
        raise UserError(
            f"alpha=grid: expected one teacher set, found {' '.join(chosen)}: sweep over sets in calls of their own"
        )
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        single = [a for a in arguments if a.split("=")[0] in ("method", "method.teacher", "ablation") and "," not in a]
        composed = OmegaConf.to_object(hydra.compose(stage, overrides=[*chosen, *single]))
    assert isinstance(composed, schema.ExperimentConfig)
    several = any("," in a for a in arguments if a.split("=")[0] in ("method", "method.teacher", "ablation"))
    names = list(composed.teachers)
    if not several:
        names = chosen_teachers(composed.method, composed.teachers, {}, composed.ablation.drop)
    taken = {a.lstrip("+").split("=")[0] for a in arguments}
    grid = ",".join(str(value) for value in ALPHA_GRID)
    return [*arguments, *(f"alpha.{name}={grid}" for name in names if f"alpha.{name}" not in taken)]


def with_paper_settings(arguments: list[str]) -> list[str]:
    """`paper=true` is short for `experiment=paper`; `paper=false` for nothing.

    Raises:
        UserError: for another value, or beside another experiment.
    """
    given = [a for a in arguments if a.split("=")[0] == "paper"]
    if not given:
        return arguments
    if given[-1] not in ("paper=true", "paper=false"):
        raise UserError(f"{given[-1]}: expected paper=true or paper=false")
    rest = [a for a in arguments if a not in given]
    if given[-1] == "paper=false":
        return rest
    others = [a for a in rest if a.startswith("experiment=") and a != "experiment=none"]
    if others:
        raise UserError(f"paper=true is experiment=paper, and beside it stands {others[0]}: choose one of them")
    return [*(a for a in rest if a != "experiment=none"), "experiment=paper"]
