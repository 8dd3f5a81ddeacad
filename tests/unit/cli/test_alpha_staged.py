"""The staged search on functions of the weights, in place of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from tinyllm import runs
from tinyllm.cli.alpha_staged import Cell, first_stage, known_jobs, run_staged, searches, second_stage
from tinyllm.compose import compose
from tinyllm.errors import UserError
from tinyllm.paper import ALPHA_GRID
from tinyllm.records import Result, Split

CALL = ["-m", "alpha=staged"]
NAMES = ("terse", "wordy")


def hill(*peak: float) -> Callable[[Cell], float]:
    """Highest at `peak`, and lower by a hundredth for each step on the grid."""
    place = {weight: number for number, weight in enumerate(ALPHA_GRID)}
    return lambda cell: 0.6 - sum(abs(place[a] - place[b]) for a, b in zip(cell, peak, strict=True)) / 100


@cache
def folder_of(job: tuple[str, ...]) -> Path:
    return Path("runs") / runs.run_name(compose("train", job))


@dataclass
class Training:
    """A stage that trains nothing: a run's validation accuracy is `objective(weights, its job)`."""

    objective: Callable[[Cell, dict[str, str]], float | None]
    """None: the run fails."""
    interrupted_after: int | None = None
    ran: list[tuple[str, ...]] = field(default_factory=list)
    """Jobs that were run, without those that had finished."""

    def __call__(self, arguments: list[str]) -> None:
        assert "-m" in arguments
        given = dict(a.split("=", 1) for a in arguments if a != "-m")  # the last of a key, as Hydra has it
        for values in product(*(value.split(",") for value in given.values())):
            job = dict(zip(given, values, strict=True))
            folder = folder_of(tuple(f"{k}={v}" for k, v in job.items()))
            if (folder / runs.RESULT).exists():
                continue
            if len(self.ran) == self.interrupted_after:
                raise KeyboardInterrupt
            self.ran.append(tuple(f"{k}={v}" for k, v in job.items()))
            accuracy = self.objective(tuple(float(job[f"alpha.{name}"]) for name in NAMES), job)
            if accuracy is not None:
                runs.write_result(result(accuracy), folder)


def result(accuracy: float) -> Result:
    scores = {"n": 1, "accuracy": 0.0, "accuracy_low": 0.0, "accuracy_high": 1.0, "unparsed": 0}
    ranked = {"accuracy_ranked": None, "accuracy_ranked_low": None, "accuracy_ranked_high": None}
    return Result(
        dataset="minilab", student="tiny", method="tinyllm", ablation="none", teachers=NAMES, alpha={}, seed=0,
        split=Split.test, valid_accuracy=accuracy, train_examples=1, wall_seconds=1.0, config_hash="", version="0",
        **scores, **ranked,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def chosen(text: str) -> list[str]:
    return [part.rstrip(":") for part in text.split() if part.startswith("alpha.")]


@pytest.mark.parametrize(("teachers", "cells"), [(1, 3), (2, 7), (3, 10), (4, 13)])
@pytest.mark.parametrize("peak", ALPHA_GRID)
def test_there_are_few_cells_and_all_are_of_the_papers_grid(teachers: int, cells: int, peak: float) -> None:
    """And no value of the grid is more than one step from a cell of the first stage."""
    found = [*first_stage(teachers), *second_stage(teachers, hill(*[peak] * teachers))]
    assert len(set(found)) == len(found) == cells <= 3 * teachers + 1
    assert {weight for cell in found for weight in cell} <= set(ALPHA_GRID)
    assert max(map(hill(*[peak] * teachers), found)) >= 0.6 - teachers * 0.01


@pytest.mark.parametrize("peak", list(product((0.1, 0.5, 1, 2), repeat=2)))
def test_a_peak_inside_the_search_is_found_but_for_two_steps_at_once(peak: Cell) -> None:
    found = [*first_stage(2), *second_stage(2, hill(*peak))]
    steps = sum(weight in (0.5, 1) for weight in peak)
    assert max(map(hill(*peak), found)) == pytest.approx(0.6 - 0.01 * max(0, steps - 1))
    if steps < 2:
        assert peak in found


def test_the_second_stage_waits_for_the_first() -> None:
    known = dict.fromkeys(first_stage(2)[:3], 0.5)
    assert second_stage(2, known.get) == []
    assert len(second_stage(2, {**known, first_stage(2)[3]: 0.4}.get)) == 3


def test_cells_are_run_once_and_the_best_is_named() -> None:
    train = Training(lambda cell, job: hill(2, 0.5)(cell))
    (search,) = run_staged("train", CALL, train)
    assert len(train.ran) == len(set(train.ran)) == 7
    assert chosen(str(search)) == ["alpha.terse=2", "alpha.wordy=0.5"]
    assert "0.6000" in str(search) and "7 cells" in str(search)
    (again,) = run_staged("train", CALL, train)
    assert len(train.ran) == 7 and str(again) == str(search)


@pytest.mark.parametrize("after", [0, 3, 4, 6])
def test_an_interrupted_search_goes_on_where_it_was(after: int) -> None:
    whole = Training(lambda cell, job: hill(0.5, 2)(cell))
    broken = Training(whole.objective, interrupted_after=after)
    with pytest.raises(KeyboardInterrupt):
        run_staged("train", CALL, broken)
    (search,) = run_staged("train", CALL, whole)
    assert len(broken.ran) == after and len({*broken.ran, *whole.ran}) == len(broken.ran) + len(whole.ran) == 7
    assert chosen(str(search)) == ["alpha.terse=0.5", "alpha.wordy=2"]


def test_seeds_are_averaged_and_take_the_same_path() -> None:
    """Seed 1 alone would go to small weights; the mean of both does not."""

    def objective(cell: Cell, job: dict[str, str]) -> float:
        return hill(2, 2)(cell) + 0.1 if job["seed"] == "0" else hill(0.1, 0.1)(cell) * 0.5

    train = Training(objective)
    (search,) = run_staged("train", [*CALL, "seed=0,1"], train)
    assert len(train.ran) == 14
    by_seed = [{tuple(p for p in job if "seed" not in p) for job in train.ran if f"seed={s}" in job} for s in (0, 1)]
    assert by_seed[0] == by_seed[1] and len(by_seed[0]) == 7
    assert chosen(str(search)) == ["alpha.terse=2", "alpha.wordy=2"] and "2 seeds" in str(search)


def test_every_combination_of_other_keys_is_a_search_of_its_own() -> None:
    peaks = {"1": (0.1, 2), "2": (1, 0.1)}
    call = [*CALL, "trainer.max_epochs=1,2", "optimizer.lr=0.1"]
    train = Training(lambda cell, job: hill(*peaks[job["trainer.max_epochs"]])(cell))
    first, second = run_staged("train", call, train)
    assert chosen(str(first)) == ["alpha.terse=0.1", "alpha.wordy=2"] and "trainer.max_epochs=1 " in str(first)
    assert chosen(str(second)) == ["alpha.terse=1", "alpha.wordy=0.1"] and "trainer.max_epochs=2 " in str(second)
    assert len(train.ran) == 14 and len(known_jobs("train", call)) == 14
    assert "optimizer.lr" not in str(first)


def test_failed_cells_are_passed_over() -> None:
    def objective(cell: Cell, job: dict[str, str]) -> float | None:
        return None if cell in ((2, 0.01), (0.5, 2)) else hill(2, 2)(cell)

    (search,) = run_staged("train", CALL, Training(objective))
    assert chosen(str(search)) == ["alpha.terse=0.1", "alpha.wordy=2"] and "5 cells" in str(search)


def test_without_a_cell_of_one_teacher_the_first_stage_is_all() -> None:
    train = Training(lambda cell, job: None if cell[1] == 0.01 else hill(2, 2)(cell))
    (search,) = run_staged("train", CALL, train)
    assert len(train.ran) == 4 and chosen(str(search)) == ["alpha.terse=0.01", "alpha.wordy=2"]
    (nothing,) = run_staged("train", [*CALL, "seed=5"], Training(lambda cell, job: None))
    assert chosen(str(nothing)) == [] and str(nothing).startswith("alpha=staged")


def test_equal_cells_choose_nothing() -> None:
    (search,) = run_staged("train", CALL, Training(lambda cell, job: 0.25))
    assert chosen(str(search)) == [] and "all 7 cells have validation accuracy 0.2500" in str(search)


def test_what_is_known_of_a_search_before_it_ran() -> None:
    assert len(known_jobs("train", [*CALL, "seed=0,1"])) == 8
    train = Training(lambda cell, job: hill(1, 1)(cell))
    run_staged("train", [*CALL, "seed=0,1"], train)
    jobs = known_jobs("train", [*CALL, "seed=0,1"])
    assert {frozenset(job) for job in jobs} == {frozenset(job) for job in train.ran} and len(jobs) == 14


def test_a_weight_that_the_call_sets_is_not_searched() -> None:
    (search,) = searches("train", [*CALL, "alpha.terse=3"])
    assert search.teachers == ["wordy"] and search.fixed["alpha.terse"] == "3"
    first, second = searches("train", [*CALL, "alpha.terse=0,3"])
    assert first.swept == second.swept == ["alpha.terse"]


@pytest.mark.parametrize(
    ("stage", "extra"), [("rationales", []), ("train", ["method=full_ft"]), ("train", ["student=glob(*)"])]
)
def test_what_can_not_be_searched_is_refused(stage: str, extra: Sequence[str]) -> None:
    with pytest.raises(UserError, match="alpha=staged"):
        searches(stage, [*CALL, *extra])


def test_an_unfinished_run_counts_for_nothing() -> None:
    (search,) = searches("train", [*CALL, "seed=0,1"])
    cell = search.cells()[0]
    assert search.score(cell) is None
    search.tried.add(cell)
    assert search.score(cell) == -math.inf
