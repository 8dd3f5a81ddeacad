"""`alpha=staged`: stream weights of the paper's grid for a fraction of its cells, found in two stages.

For M teachers it runs 3M + 1 cells, where the grid has 6^M:

1. Each teacher alone, at 0.1 and at 2: 2M cells. Every value of the grid is one of these two or stands beside one.
   Alone means that the others are at 0.01, the least value of the grid, whose stream has next to no influence: so every
   cell is one of `alpha=grid` too, and either search takes over what the other has finished.
2. All teachers at their better value, and from there one step for one teacher at a time, towards the middle of the grid
   (0.1 to 0.5, 2 to 1): 1 + M cells. 3 is left out: 2 is nearer to it than any other two values are to each other.

Choices are by validation accuracy (`trainer.select_by`), averaged over the seeds of the call. Each combination of the
other swept keys is a search of its own. The best of all its cells is chosen; the report chooses among the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from omegaconf import DictConfig, OmegaConf

from tinyllm.cli.alpha_grid import open_teachers, overrides_of, own_folders
from tinyllm.compose import compose
from tinyllm.errors import UserError
from tinyllm.paper import ALPHA_GRID
from tinyllm.runs import RESULT, read_result

ALONE = ALPHA_GRID[0]
"""Weight of the other teachers while one is tried alone."""
INWARDS: dict[float, float] = {0.1: 0.5, 2: 1}
"""The values of the first stage -> the neighbour of each that the second stage tries."""
SEEDS = ("seed", "data.seed")
"""Swept keys over which a cell's accuracy is averaged."""

Cell = tuple[float, ...]
"""A weight for each teacher."""
Score = Callable[[Cell], float | None]
"""Validation accuracy of a cell; None where it has not run, -inf where it failed."""


def first_stage(teachers: int) -> list[Cell]:
    """Each teacher alone: the cells of the first teacher, then those of the second, and so on."""
    return [
        tuple(value if place == number else ALONE for place in range(teachers))
        for number in range(teachers)
        for value in INWARDS
    ]


def second_stage(teachers: int, score: Score) -> list[Cell]:
    """The best of the first stage together, then its neighbours; empty while the first stage is unfinished.

    It is empty too where both cells of a teacher have failed.
    """
    best: list[float] = []
    cells = first_stage(teachers)
    for number in range(teachers):
        pair = cells[number * len(INWARDS) : (number + 1) * len(INWARDS)]
        scores = [score(cell) for cell in pair]
        known = [value for value in scores if value is not None]
        if len(known) < len(pair) or max(known) == -math.inf:
            return []
        best.append(pair[known.index(max(known))][number])
    steps = [(*best[:number], INWARDS[best[number]], *best[number + 1 :]) for number in range(teachers)]
    return [cell for cell in dict.fromkeys([tuple(best), *steps]) if cell not in cells]


@dataclass
class Search:
    """The search for one combination of the other swept keys."""

    stage: str
    teachers: list[str]
    """Names of those whose weights are searched."""
    fixed: dict[str, str]
    """Key -> value of every other key that the call sets, without seeds."""
    swept: list[str]
    """Those of them that the call sweeps over."""
    seeds: list[dict[str, str]]
    """Key -> value of the seeds, once for each."""
    folders: list[str]
    """Of the user's own options, as an override."""
    tried: set[Cell] = field(default_factory=set)
    """Cells that this call has run, or tried to."""

    def job(self, cell: Cell, seed: dict[str, str]) -> dict[str, str]:
        """Key -> value of one run."""
        return self.fixed | seed | weights(self.teachers, [[value] for value in cell])

    def score(self, cell: Cell) -> float | None:
        """Mean validation accuracy over the seeds, share of 1."""
        found = [self._valid_accuracy(cell, seed) for seed in self.seeds]
        known = [value for value in found if value is not None]
        if len(known) < len(found):
            return -math.inf if cell in self.tried else None
        return sum(known) / len(known)

    def cells(self) -> list[Cell]:
        """Those that are known so far."""
        count = len(self.teachers)
        return [*first_stage(count), *second_stage(count, self.score)]

    def _valid_accuracy(self, cell: Cell, seed: dict[str, str]) -> float | None:
        path = self._folder(cell, seed) / RESULT
        if not path.is_file():
            return None
        try:
            return read_result(path).valid_accuracy
        except ValueError as error:
            raise UserError(f"{error}: remove the folder and run the same command again") from error

    def _folder(self, cell: Cell, seed: dict[str, str]) -> Path:
        config = copy.deepcopy(self._composed)
        parser = OverridesParser.create()
        for key, value in (seed | weights(self.teachers, [[weight] for weight in cell])).items():
            OmegaConf.update(config, key.lstrip("+"), parser.parse_override(f"{key}={value}").value())
        return Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))

    @cached_property
    def _composed(self) -> DictConfig:
        return compose(self.stage, [*_as_overrides(self.fixed), *self.folders], with_hydra=True)

    def __str__(self) -> str:
        """What was chosen, in one line."""
        where = "".join(f"{key}={self.fixed[key]} " for key in self.swept)
        scores = {cell: self.score(cell) for cell in self.cells()}
        known = {cell: value for cell, value in scores.items() if value is not None and value > -math.inf}
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        if not known:
            return f"alpha=staged: {where}nothing chosen: none of {len(scores)} cells finished with {seeds}"
        if len(known) > 1 and len(set(known.values())) == 1:
            value = f"{next(iter(known.values())):.4f}"
            return f"alpha=staged: {where}nothing chosen: all {len(known)} cells have validation accuracy {value}"
        best = max(known, key=lambda cell: known[cell])
        chosen = " ".join(f"{key}={value}" for key, value in weights(self.teachers, [[one] for one in best]).items())
        whole = second_stage(len(self.teachers), self.score)
        stopped = "" if whole else ", of the first stage alone: all cells of a teacher failed"
        return (
            f"alpha=staged: {where}{chosen}: validation accuracy {known[best]:.4f} (mean of {seeds}), "
            f"best of {len(known)} cells{stopped}"
        )


def weights(teachers: Sequence[str], values: Sequence[Sequence[float]]) -> dict[str, str]:
    """Key -> weights of each teacher, as an override writes them."""
    return {
        f"alpha.{name}": ",".join(f"{value:g}" for value in own) for name, own in zip(teachers, values, strict=True)
    }


def searches(stage: str, arguments: list[str]) -> list[Search]:
    """The searches of a call.

    Raises:
        UserError: for a stage that trains nothing, or a sweep whose values are not listed.
    """
    if stage != "train":
        raise UserError(f"alpha=staged: expected the stage train, found {stage}: the search compares trained students")
    names = open_teachers(stage, arguments)
    if not names:
        raise UserError("alpha=staged: expected a teacher whose weight is open, found none: leave alpha=staged out")
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(overrides_of(arguments)):
        values[str(override.input_line).partition("=")[0]] = _values(override)
    seeds = {key: own for key, own in values.items() if key in SEEDS}
    others = {key: own for key, own in values.items() if key not in SEEDS}
    swept = [key for key, own in others.items() if len(own) > 1]
    return [
        Search(stage, names, dict(zip(others, job, strict=True)), swept, list(_jobs(seeds)), own_folders(arguments))
        for job in product(*others.values())
    ]


def run_staged(stage: str, arguments: list[str], multirun: Callable[[list[str]], None]) -> list[Search]:
    """Run the cells of a call's searches: the first stage of all of them together, then the second of each.

    Args:
        stage: `train`.
        arguments: of the console script.
        multirun: runs the stage with other arguments; finished cells are skipped there.
    """
    found = searches(stage, arguments)
    names = found[0].teachers
    for number, name in enumerate(names):
        alone = [list(INWARDS) if one == name else [ALONE] for one in names]
        multirun([*arguments, *_as_overrides(weights(names, alone))])
        for search in found:
            search.tried.update(first_stage(len(names))[number * len(INWARDS) : (number + 1) * len(INWARDS)])
    for search in found:
        cells = second_stage(len(names), search.score)
        for line in [cells[:2], *([cell] for cell in cells[2:])] if cells else []:  # the first two differ in one weight
            own = weights(names, [list(dict.fromkeys(values)) for values in zip(*line, strict=True)])
            fixed = [f"{key}={value}" for key, value in search.fixed.items() if key in search.swept]
            kept = [a for a in arguments if a.partition("=")[0] not in search.swept]
            multirun([*kept, *fixed, *_as_overrides(own)])
            search.tried.update(line)
    return found


def known_jobs(stage: str, arguments: list[str]) -> list[tuple[str, ...]]:
    """The overrides of every run that a call's searches are known to need, with what has finished so far."""
    return [
        tuple(_as_overrides(search.job(cell, seed)))
        for search in searches(stage, arguments)
        for cell in search.cells()
        for seed in search.seeds
    ]


def _as_overrides(values: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _jobs(values: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    for job in product(*values.values()):
        yield dict(zip(values, job, strict=True))


def _values(override: Override) -> list[str]:
    """What an override's key is set to, job by job."""
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise UserError(f"alpha=staged: {override.input_line}: expected a list of values, found a pattern")
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]
