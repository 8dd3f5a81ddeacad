"""Choices by validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tests.unit.reporting.conftest import MakeRun

from tinyllm.config import ExperimentConfig
from tinyllm.reporting.choose import choose, chosen, selection_note
from tinyllm.reporting.frame import collect


@pytest.fixture
def frame(make_run: MakeRun, tmp_path: Path) -> pd.DataFrame:
    """Two teachers on three seeds: terse is better on test, wordy on validation; full_ft has one setting."""
    for seed, (terse, wordy) in enumerate([(0.30, 0.50), (0.60, 0.40), (0.30, 0.45)]):
        for teacher, valid, right in (("terse", terse, 0.9), ("wordy", wordy, 0.2)):
            make_run(
                "step_by_step",
                seed=seed,
                teacher=teacher,
                alpha={teacher: 1.0},
                valid=valid,
                right=right,
            )
        make_run("full_ft", seed=seed)
    return collect([tmp_path / "runs"]).frame


def test_the_best_mean_on_validation_is_taken(frame: pd.DataFrame) -> None:
    (choice,) = choose(frame)
    assert choice.name == "teacher wordy, α wordy=1" and choice.candidates == 2 and choice.seeds == (0, 1, 2)
    assert choice.valid_accuracy == pytest.approx((0.50 + 0.40 + 0.45) / 3)
    for part in ("minilab, tiny", "Distilling step-by-step", choice.name, "one of 2", "45.0%", "seeds 0,1,2"):
        assert part in str(choice)
    kept = chosen(frame, [choice])
    assert set(kept[kept.method == "step_by_step"].method_teacher) == {"wordy"}
    assert (kept.method == "full_ft").sum() == 3


def test_test_numbers_do_not_matter(frame: pd.DataFrame) -> None:
    scores = [c for c in frame.columns if "accuracy" in c and c != "valid_accuracy"] + ["unparsed"]
    assert len(scores) > 6
    before = choose(frame)
    swapped = frame.copy()
    swapped[scores] = 1 - swapped[scores]
    assert choose(swapped) == before
    assert choose(frame.drop(columns=scores)) == before
    turned = frame.copy()
    turned["valid_accuracy"] = 1 - turned["valid_accuracy"]
    assert [c.name for c in choose(turned)] == ["teacher terse, α terse=1"]


def test_the_report_says_by_which_accuracy(frame: pd.DataFrame) -> None:
    ranked = frame.assign(selected_by="accuracy_ranked")
    untrained = frame.assign(valid_accuracy=float("nan"))
    assert "validation split (by greedy accuracy)" in selection_note(frame)
    assert "(by ranking accuracy)" in selection_note(pd.concat([ranked, untrained]))
    assert "(by greedy accuracy and by ranking accuracy)" in selection_note(pd.concat([ranked, frame]))
    assert "(by" not in selection_note(untrained)


def test_a_lucky_seed_of_its_own_does_not_win(frame: pd.DataFrame) -> None:
    """terse is left with seed 1 alone, on which both are compared; wordy's other seeds say nothing about terse."""
    less = frame[~((frame.method_teacher == "terse") & (frame.seed == 0))].reset_index(drop=True)
    less.loc[(less.method_teacher == "terse") & (less.seed == 2), "valid_accuracy"] = float("nan")
    (choice,) = choose(less)
    assert (choice.name, choice.seeds, choice.valid_accuracy) == ("teacher terse, α terse=1", (1,), 0.60)
    less.loc[(less.method_teacher == "wordy") & (less.seed == 1), "valid_accuracy"] = 0.70
    assert choose(less)[0].name == "teacher wordy, α wordy=1"


def test_without_common_seeds_each_counts_with_its_own(frame: pd.DataFrame) -> None:
    apart = frame[~((frame.method_teacher == "terse") ^ (frame.seed == 1))].reset_index(drop=True)
    (choice,) = choose(apart)
    assert (choice.name, choice.seeds, choice.valid_accuracy) == ("teacher terse, α terse=1", (), 0.60)


def test_ties_go_to_the_first_by_name(frame: pd.DataFrame) -> None:
    for value in (0.5, float("nan")):
        tied = frame.assign(valid_accuracy=value)
        (choice,) = choose(tied.iloc[::-1].reset_index(drop=True))
        assert choice.name == "teacher terse, α terse=1"
        assert ("none has a validation accuracy" in str(choice)) == pd.isna(value)
        assert (f"{choice.tied} have the same" in str(choice) and choice.tied > 1) == (not pd.isna(value))


def test_a_setting_without_validation_loses(frame: pd.DataFrame) -> None:
    partly = frame.copy()
    partly.loc[partly.method_teacher == "terse", "valid_accuracy"] = float("nan")
    assert choose(partly)[0].name == "teacher wordy, α wordy=1"


def test_fractions_and_variants_are_chosen_apart(make_run: MakeRun, tmp_path: Path) -> None:
    for fraction, best in ((0.5, 0.1), (1.0, 3.0)):
        for alpha in (0.1, 3.0):
            make_run("tinyllm", alpha={"terse": alpha}, fraction=fraction, valid=0.5 if alpha == best else 0.3)
    found = collect([tmp_path / "runs"]).frame
    picked = {c.train_fraction: c.name for c in choose(found)}
    assert picked == {0.5: "α terse=0.1", 1.0: "α terse=3"}


def test_a_learning_rate_is_chosen_like_any_other_setting(make_run: MakeRun, tmp_path: Path) -> None:
    """LoRA at three rates is one row, of the rate that is best on validation."""

    def at(rate: float) -> Callable[[ExperimentConfig], ExperimentConfig]:
        return lambda config: replace(config, optimizer=replace(config.optimizer, lr=rate))

    for rate, valid in ((1e-4, 0.3), (3e-4, 0.5), (1e-3, 0.4)):
        make_run("lora", valid=valid, config=at(rate), result={"config_hash": f"{rate}"})
    make_run("full_ft")
    frame = collect([tmp_path / "runs"]).frame
    (choice,) = choose(frame)
    assert (choice.method, choice.name, choice.candidates) == ("lora", "learning rate 0.0003", 3)
    assert set(frame["variant"]) == {""}
