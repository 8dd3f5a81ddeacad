from __future__ import annotations

from pathlib import Path

import pytest

from tinyllm.cli.alpha_grid import overrides_of, search_of, with_alpha_grid
from tinyllm.errors import UserError

GRID = "0.01,0.1,0.5,1,2,3"
"""Section 4.1 of the paper."""


def test_other_calls_stay_as_they_are() -> None:
    assert with_alpha_grid("train", ["alpha=uniform", "seed=1"]) == ["alpha=uniform", "seed=1"]


@pytest.mark.parametrize(
    ("given", "swept"),
    [
        ([], ["terse", "wordy"]),
        (["teachers=paper", "alpha.llama2_7b_chat=1"], ["flan_t5_xl"]),
        (["method=step_by_step", "method.teacher=wordy"], ["wordy"]),
        (["ablation=no_llama"], ["terse"]),
        (["method=step_by_step,tinyllm"], ["terse", "wordy"]),
    ],
)
def test_the_weights_that_the_call_leaves_open_are_swept(given: list[str], swept: list[str]) -> None:
    arguments = ["-m", "alpha=grid", *given]
    assert with_alpha_grid("train", arguments) == [*arguments, *(f"alpha.{name}={GRID}" for name in swept)]


def test_a_grid_without_an_open_weight_is_refused() -> None:
    with pytest.raises(UserError, match="alpha=grid: expected a teacher whose weight is open"):
        with_alpha_grid("train", ["-m", "alpha=grid", "method=full_ft"])


def test_a_teacher_set_of_ones_own_is_swept(tmp_path: Path) -> None:
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / "careful.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /teacher@teachers.wordy: wordy\n  - _self_\nalpha: {wordy: 1.0}\n"
    )
    for option in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        arguments = ["-m", "alpha=grid", "teachers=careful", *option]
        assert with_alpha_grid("train", arguments) == [*arguments, f"alpha.wordy={GRID}"]


@pytest.mark.parametrize("option", ["grid", "staged"])
@pytest.mark.parametrize(
    "arguments",
    [["alpha={}"], ["-m", "alpha={},uniform"], ["-m", "alpha={}", "teachers=minilab,paper"]],
)
def test_a_search_that_is_no_single_sweep_is_refused(arguments: list[str], option: str) -> None:
    with pytest.raises(UserError, match=f"alpha={option}"):
        search_of([argument.format(option) for argument in arguments])


@pytest.mark.parametrize("shown", [["--help"], ["--cfg", "job"], ["--cfg=job"], ["--info", "searchpath"]])
def test_a_call_that_only_shows_something_searches_nothing(shown: list[str]) -> None:
    assert search_of(["alpha=staged", *shown]) is None
    assert with_alpha_grid("train", ["alpha=grid", *shown]) == ["alpha=grid", *shown]


def test_overrides_are_told_from_options() -> None:
    given = ["-m", "seed=0,1", "--config-dir", "mine", "+x=1", "--multirun"]
    assert overrides_of(given) == ["seed=0,1", "+x=1"]
    assert search_of(given) is None and search_of([*given, "alpha=staged"]) == "staged"
