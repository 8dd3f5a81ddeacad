"""The paper's claims as data: `paper_numbers/claims.yaml`, read into typed records."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyllm import paper
from tinyllm.errors import UserError
from tinyllm.runs import TEACHER

ROLES = ("teacher_1", "teacher_2")
"""Placeholders of a sentence: the first and the second teacher of a run's set."""
BEST, WORST = "best", "worst"
"""Values of `CellSpec.alpha`: chosen by validation among all that were run."""
_METHODS = (*paper.METHODS, paper.ONE_TEACHER, TEACHER)
_ABLATIONS = ("none", *paper.ABLATIONS, "shuffled_rationales")


class Budget(StrEnum):
    """How long a cell's runs were trained."""

    own = "own"
    """As the method is."""
    compute = "compute"
    """With as many forward passes as TinyLLM with a text of every teacher on every question: never with fewer."""
    steps = "steps"
    """With as many optimizer steps as on all training questions."""


@dataclass
class CellSpec:
    """Which runs stand on one side of a comparison; dataset and student are those of the line."""

    method: str = MISSING
    ablation: str = "none"
    teacher: int = 0
    """Of method teacher: 1 the set's first, 2 its second; 0 for other methods."""
    alpha: str = ""
    """The α of every teacher, `best` or `worst`; empty: the one that tables show."""
    fraction: float | None = None
    """Of the training questions; None: the largest one that was run, as tables show."""
    budget: Budget = Budget.own


@dataclass(eq=False)
class Claim:
    """`first` minus each of `second` is above 0; of several, the best by validation counts."""

    id: str = MISSING
    sentence: str = MISSING
    where: str = MISSING
    first: CellSpec = field(default_factory=CellSpec)
    second: list[CellSpec] = field(default_factory=list)
    places: dict[str, list[str]] = field(
        default_factory=lambda: {student: list(paper.DATASETS) for student in paper.STUDENTS}
    )
    """Student -> datasets, of the paper."""
    average_only: bool = False
    any_dataset: bool = False
    """It says that there are such datasets: one on which it isn't so does not contradict it."""
    reported: str = ""
    """The paper's own words for its number, where none of its tables has it."""
    control: bool = False
    """Ours, not the paper's."""

    def named(self, teachers: list[str]) -> str:
        """The sentence with the names of the teachers; roles without one keep their number."""
        names = {role: role.replace("_", " ") for role in ROLES} | dict(zip(ROLES, teachers, strict=False))
        return self.sentence.format_map(names).replace("teacher teacher", "teacher")

    def in_paper(self, student: str, datasets: list[str]) -> float | None:
        """The paper's difference, averaged over datasets, as a share of 1; None where a table lacks a part of it."""
        found = []
        for dataset in datasets:
            ours = reported_cell(self.first, student, dataset)
            theirs = [n for cell in self.second if (n := reported_cell(cell, student, dataset)) is not None]
            if ours is None or not theirs:
                return None
            found.append(ours - max(theirs))
        return sum(found) / len(found) if found else None


def reported_cell(cell: CellSpec, student: str, dataset: str) -> float | None:
    """The paper's accuracy of a cell as a share of 1; None where its tables have none."""
    if cell.fraction not in (None, 1.0) or cell.alpha or cell.budget is not Budget.own:
        return None
    if cell.method == TEACHER:
        return paper.reported(paper.TEACHERS[cell.teacher - 1], TEACHER, dataset)
    return paper.reported(student, cell.method, dataset, cell.ablation)


@cache
def paper_claims() -> tuple[Claim, ...]:
    """The claims of the package, in the order of the report."""
    with resources.as_file(resources.files("tinyllm").joinpath("paper_numbers", "claims.yaml")) as path:
        return tuple(read_claims(path))


def read_claims(path: Path) -> list[Claim]:
    """Claims of a file, checked.

    Raises:
        UserError: naming file, claim and field.
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path.name}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(rows, list):
        raise UserError(f"{path.name}: expected a list of claims, found {type(rows).__name__}")
    claims: list[Claim] = []
    for number, row in enumerate(rows, 1):
        name = str(row.get("id") or f"number {number}") if isinstance(row, Mapping) else f"number {number}"
        try:
            claims.append(_claim(row))
        except (OmegaConfBaseException, ValueError) as error:
            # OmegaConf adds lines with the key and the type to its messages.
            where = f"{key}: " if (key := getattr(error, "full_key", None)) else ""
            raise UserError(f"{path.name}: claim {name}: {where}{str(error).splitlines()[0]}") from error
        if claims[-1].id in [claim.id for claim in claims[:-1]]:
            raise UserError(f"{path.name}: claim {name}: id: expected one of its own, found it twice")
    return claims


def _claim(row: Any) -> Claim:
    if not isinstance(row, Mapping):
        raise ValueError(f"expected a mapping, found {type(row).__name__}")
    second = row.get("second")
    values = dict(row) | ({"second": [second]} if isinstance(second, Mapping) else {})
    schema = OmegaConf.structured(Claim)
    if "places" in values:
        schema.places = {}  # the file's places stand in place of the default, not beside it
    claim = cast(Claim, OmegaConf.to_object(OmegaConf.merge(schema, values)))
    _check(claim)
    return claim


def _check(claim: Claim) -> None:
    for name in ("id", "sentence", "where"):
        if not getattr(claim, name).strip():
            raise ValueError(f"{name}: expected a text, found none")
    roles = [name for _, name, _, _ in string.Formatter().parse(claim.sentence) if name is not None]
    _one_of("sentence", roles, ROLES)
    if not claim.second:
        raise ValueError("second: expected a cell, found none")
    _one_of("places", claim.places, paper.STUDENTS)
    for student, datasets in claim.places.items():
        _one_of(f"places.{student}", datasets, paper.DATASETS)
    cells = {"first": claim.first} | {f"second[{i}]": cell for i, cell in enumerate(claim.second)}
    for name, cell in cells.items():
        _one_of(f"{name}.method", [cell.method], _METHODS)
        _one_of(f"{name}.ablation", [cell.ablation], _ABLATIONS)
        allowed = (1, 2) if cell.method == TEACHER else (0,)
        _one_of(f"{name}.teacher", [cell.teacher], allowed)
        if cell.fraction is not None and not 0 < cell.fraction <= 1:
            raise ValueError(f"{name}.fraction: expected a share above 0 and up to 1, found {cell.fraction:g}")
        if cell.alpha not in ("", BEST, WORST):
            _one_of(f"{name}.alpha", [cell.alpha], [f"{alpha:g}" for alpha in paper.ALPHA_GRID])


def _one_of(name: str, values: Any, allowed: Any) -> None:
    for value in values:
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, found {value}")
