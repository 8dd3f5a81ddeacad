"""What each teacher brings: against values worked out by hand, and by going through all orders."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import Change, cell, first, labels, made, of_set, taught, two_teachers

from tinyllm.config import AblationConfig, ExperimentConfig, Metric, RationalesConfig, Weighting, WeightingConfig
from tinyllm.records import Prediction
from tinyllm.reporting.figures import all_figures
from tinyllm.reporting.subsets import lattices
from tinyllm.reporting.tables import all_tables
from tinyllm.reporting.tables.teachers import count_curve, teachers
from tinyllm.reporting.tables.weights import weights


def test_two_teachers_by_hand(make_run: MakeRun, tmp_path: Path) -> None:
    """Accuracies of 10, 20, 16 and 28 of 40."""
    for seed in (0, 1):
        two_teachers(make_run, seed=seed)
    table, counts = teachers(made(tmp_path))
    assert labels(table) == ["terse", "wordy", "all of them"]
    expected = {
        ("terse", "alone"): 10 / 40, ("terse", "leave-one-out"): 12 / 40, ("terse", "Shapley value"): 11 / 40,
        ("wordy", "alone"): 6 / 40, ("wordy", "leave-one-out"): 8 / 40, ("wordy", "Shapley value"): 7 / 40,
        ("all of them", "leave-one-out"): 18 / 40, ("all of them", "Shapley value"): 18 / 40,
    }  # fmt: skip
    for (label, column), value in expected.items():
        found = cell(table, label, column)
        assert found.value == pytest.approx(value), (label, column)
        assert found.low is not None and found.high is not None and found.low < value < found.high
    assert [[c.text or pytest.approx(c.value) for c in row] for row in counts.rows] == [
        ["0", "none", 10 / 40, 10 / 40], ["1", "terse", 20 / 40, 18 / 40], ["2", "terse + wordy", 28 / 40, 28 / 40],
    ]  # fmt: skip


def test_three_teachers_through_all_orders(make_run: MakeRun, tmp_path: Path) -> None:
    """Seeds differ, questions come in pairs; the values add up to the whole minus full fine-tuning."""
    names = ["terse", "wordy", "repeating"]
    right: dict[tuple[int, frozenset[str]], int] = {}
    for seed in (0, 1, 2):
        for size in range(4):
            for part in combinations(names, size):
                right[seed, frozenset(part)] = number = 5 + 3 * size + (7 * len("".join(part)) + 5 * seed) % 11
                options = taught(part) if part else {"method": "full_ft"}
                make_run(seed=seed, right=first(number), pairs=True, **options)
    (lattice,) = lattices(made(tmp_path))
    assert lattice.complete and lattice.teachers == tuple(names)
    table = teachers(made(tmp_path))[0]
    total = 0.0
    for name in names:
        gains = []
        for seed in (0, 1, 2):
            for order in permutations(names):
                before = frozenset(order[: order.index(name)])
                gains.append((right[seed, before | {name}] - right[seed, before]) / 40)
        value = cell(table, name, "Shapley value").value
        assert value == pytest.approx(sum(gains) / len(gains))
        total += value or 0.0
    whole = sum(right[s, frozenset(names)] - right[s, frozenset()] for s in (0, 1, 2)) / 120
    assert total == pytest.approx(whole) == pytest.approx(cell(table, "all of them", "Shapley value").value or 0.0)


def test_a_set_that_was_reached_in_two_ways_counts_once(make_run: MakeRun, tmp_path: Path) -> None:
    """`ablation=no_llama` and `teachers=[terse]` teach the same."""
    both, dropped = of_set(["terse", "wordy"]), AblationConfig(name="no_llama", drop=["wordy"])
    for seed in (0, 1):
        two_teachers(make_run, seed=seed)
        make_run(
            seed=seed, right=first(20), alpha={"terse": 3.0}, config=lambda c: replace(both(c), ablation=dropped),
            result={"ablation": "no_llama"},
        )  # fmt: skip
    table = teachers(made(tmp_path))[0]
    assert cell(table, "terse", "alone").value == pytest.approx(10 / 40)


def test_a_missing_subset_leaves_no_shapley_value_and_no_invented_one(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("full_ft", right=first(10))
    make_run(right=first(20), **taught(["terse"]))
    make_run(right=first(28), **taught(["terse", "wordy"]))
    table, counts = teachers(made(tmp_path))
    assert cell(table, "terse", "Shapley value").missing and cell(table, "terse", "leave-one-out").missing
    assert cell(table, "wordy", "leave-one-out").value == pytest.approx(8 / 40)
    assert "not every subset" in " ".join(table.notes)
    assert counts.rows[1][3].missing and counts.rows[1][2].value == pytest.approx(0.5)


def test_weights_of_zero_and_ablations_make_subsets_too_and_other_settings_do_not(
    make_run: MakeRun, tmp_path: Path
) -> None:
    both = of_set(["terse", "wordy"])

    def dropped(config: ExperimentConfig) -> ExperimentConfig:
        return replace(both(config), ablation=replace(config.ablation, drop=["terse"]))

    def zero(config: ExperimentConfig) -> ExperimentConfig:
        return replace(both(config), alpha={"terse": 3.0, "wordy": 0.0})

    def longer(config: ExperimentConfig) -> ExperimentConfig:
        return replace(of_set(["wordy"])(config), trainer=replace(config.trainer, max_epochs=9))

    make_run("full_ft", right=first(10))
    make_run(right=first(28), **taught(["terse", "wordy"]))
    make_run(right=first(16), alpha={"wordy": 3.0}, config=dropped)
    make_run(right=first(20), alpha={"terse": 3.0}, config=zero)
    make_run(right=first(39), alpha={"wordy": 3.0}, config=longer)
    make_run(
        right=first(39), alpha={"terse": 2.0}, config=lambda c: replace(both(c), alpha={"terse": 2.0, "wordy": 0.0})
    )
    (lattice,) = lattices(made(tmp_path))
    assert lattice.complete and sum(len(runs) for runs in lattice.runs.values()) == 4
    assert cell(teachers(made(tmp_path))[0], "wordy", "alone").value == pytest.approx(6 / 40)


def test_the_count_curve_is_a_mean_over_sets_then_over_seeds(make_run: MakeRun, tmp_path: Path) -> None:
    two_teachers(make_run, seed=0)
    make_run("full_ft", seed=1, right=first(10))
    make_run(seed=1, right=first(24), **taught(["terse"]))
    make_run(seed=1, right=first(20), **taught(["wordy"]))
    make_run(seed=1, right=first(28), **taught(["wordy", "terse"]))  # the same set in another order
    study = made(tmp_path)
    (lattice,) = lattices(study)
    curve = count_curve(study, lattice)
    one, mean = curve[1]
    assert one is not None and one[0] == pytest.approx((20 + 24) / 80)
    assert mean is not None and mean[0] == pytest.approx((18 + 22) / 80) and mean[1] < mean[0] < mean[2]


def test_the_count_curve_is_of_the_seeds_that_all_sets_share(make_run: MakeRun, tmp_path: Path) -> None:
    """Accuracy depends on the seed alone: teachers bring nothing, and the curve is flat."""
    for seed, right in enumerate((10, 15, 20, 25)):
        make_run("full_ft", seed=seed, right=first(right))
        make_run(seed=seed, right=first(right), **taught(["terse", "wordy"]))
        for name in ("terse", "wordy") if seed >= 2 else ():
            make_run(seed=seed, right=first(right), **taught([name]))
    study = made(tmp_path)
    (lattice,) = lattices(study)
    curve = count_curve(study, lattice)
    assert [one[0] for one, _ in curve.values() if one] == [pytest.approx(22.5 / 40)] * 3
    assert "were run on: 2,3." in teachers(study)[1].notes[0]


def weighted(name: str) -> Change:
    both = of_set(["terse", "wordy"], weighting=WeightingConfig(name=Weighting(name)))
    return lambda config: both(config)


def test_weights_by_teacher(make_run: MakeRun, tmp_path: Path) -> None:
    alpha = {"terse": 3.0, "wordy": 3.0}
    for seed, mean in ((0, 0.5), (1, 0.7)):
        own = {"terse": {"mean": [mean], "spread": [0.2], "zeros": [0.1]}}
        make_run(seed=seed, alpha=alpha, config=weighted("correct"), result={"weights": own})
        own = {m: {"mean": [1.0, mean], "spread": [0.0, 0.0], "zeros": [0.0, 0.0]} for m in alpha}
        make_run(seed=seed, alpha=alpha, config=weighted("learned"), result={"weights": own})
        make_run(seed=seed, **taught(["terse", "wordy"]))
    study = made(tmp_path)
    (table,) = weights(study)
    rows = {(str(row[2].text), str(row[4].text)): row for row in table.rows}
    assert set(rows) == {("correct", "terse"), ("learned", "terse"), ("learned", "wordy")}
    assert rows["correct", "terse"][3].text == "TinyLLM [weighting.name=correct] at α terse=3 wordy=3"
    mean_cell, spread, zeros = rows["correct", "terse"][5:8]
    assert (mean_cell.value, spread.value, zeros.value) == (pytest.approx(0.6), pytest.approx(0.2), pytest.approx(0.1))
    assert mean_cell.low == pytest.approx(0.6 - 12.706 * 0.1, abs=1e-3)
    assert [rows["learned", m][5].value for m in alpha] == [pytest.approx(0.6)] * 2
    (figure,) = [one for one in all_figures(study) if one.name == "weights"]
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.figure.axes[0].get_lines()}
    drawn = [ys for ys in lines.values() if len(ys) == 2]
    assert drawn[0] == [pytest.approx(1.0), pytest.approx(0.6)]


def test_figures_of_a_teacher_that_misleads(make_run: MakeRun, tmp_path: Path) -> None:
    names = ["terse", "misleading"]
    for share in (0.0, 1.0):
        for name in ("uniform", "router"):

            def change(config: ExperimentConfig, share: float = share, name: str = name) -> ExperimentConfig:
                own = of_set(names, weighting=WeightingConfig(name=Weighting(name)))(config)
                own.teachers["misleading"].share = share
                return own

            given = {"misleading": {"mean": [2 - 2 * share], "spread": [0.0], "zeros": [share]}}
            result: dict[str, Any] = {"weights": given if name == "router" else {}}
            if name == "router" and share == 1:  # no text of it is left, so it has no stream
                result |= {"teachers": ("terse",), "alpha": {"terse": 3.0}, "weights": {"terse": given["misleading"]}}
            make_run(right=first(round(20 + 10 * share)), alpha=dict.fromkeys(names, 3.0), config=change, result=result)

    def longer(config: ExperimentConfig) -> ExperimentConfig:
        own = of_set(names, weighting=WeightingConfig(name=Weighting.router))(config)
        own.teachers["misleading"].share = 0.0
        return replace(own, trainer=replace(own.trainer, max_epochs=9))

    make_run(right=first(0), seed=7, alpha=dict.fromkeys(names, 3.0), config=longer, result={"weights": given})
    control = RationalesConfig(shuffle=True)
    shuffled = of_set(names, ablation=AblationConfig(name="shuffled_rationales"), rationales=control)
    make_run(right=first(0), alpha=dict.fromkeys(names, 3.0), config=shuffled)
    (figure,) = [one for one in all_figures(made(tmp_path)) if one.name == "misleading"]
    left, right = figure.figure.axes[:2]
    assert list(left.get_lines()[0].get_ydata()) == [50.0, 75.0], (
        "without the control, and without what trained for longer"
    )
    drawn = [list(line.get_ydata()) for line in right.get_lines()]
    assert [1, 1] in drawn and [2, 0] in drawn
    assert sorted(left.get_lines()[0].get_xdata()) == [0.0, 1.0]


def test_the_figure_of_shapley_values(make_run: MakeRun, tmp_path: Path) -> None:
    two_teachers(make_run)
    (figure,) = [one for one in all_figures(made(tmp_path)) if one.name == "teachers"]
    right = figure.figure.axes[1]
    assert [text.get_text() for text in right.get_yticklabels()] == ["terse", "wordy"]
    drawn = [line.get_xdata()[0] for line in right.get_lines() if list(line.get_ydata()) in ([0], [1])]
    assert drawn[0] == pytest.approx(27.5) and pytest.approx(17.5) in drawn


def test_weights_are_json_in_the_frame(make_run: MakeRun, tmp_path: Path) -> None:
    own = {"terse": {"mean": [0.5], "spread": [0.2], "zeros": [0.1]}}
    make_run(config=weighted("correct"), alpha={"terse": 3.0, "wordy": 3.0}, result={"weights": own})
    frame = made(tmp_path).frame
    assert json.loads(frame["weights"][0]) == own and frame["weighting"][0] == "correct"


def test_a_column_is_of_the_seeds_that_its_sets_share(make_run: MakeRun, tmp_path: Path) -> None:
    """A second seed of the whole set and of full fine-tuning alone: it counts in no column."""
    for seed, whole in ((0, 30), (1, 40)):
        make_run("full_ft", seed=seed, right=first(20), config=of_set([]))
        make_run("tinyllm", seed=seed, right=first(whole), **taught(["a", "b"]))
    make_run("tinyllm", right=first(24), **taught(["a"]))
    make_run("tinyllm", right=first(22), **taught(["b"]))
    table = next(one for one in all_tables(made(tmp_path)) if one.name == "teachers_1")
    assert cell(table, "all of them", "leave-one-out").value == pytest.approx(10 / 40)
    assert cell(table, "all of them", "Shapley value").value == pytest.approx(10 / 40)
    assert "alone 0; leave-one-out 0; Shapley value 0." in next(note for note in table.notes if "Each column" in note)


def test_a_seed_on_a_gpu_is_a_seed_like_others(make_run: MakeRun, tmp_path: Path) -> None:
    """`auto` is bf16-mixed there: the same setting, so the same sets of teachers."""
    for seed, precision in ((0, "auto"), (1, "bf16-mixed")):

        def on(device: str, change: Change = lambda c: c) -> Change:
            return lambda c: replace(change(c), trainer=replace(c.trainer, precision=device))

        make_run("full_ft", seed=seed, right=first(20), config=on(precision, of_set([])))
        for names, right in ((["a"], 24), (["b"], 22), (["a", "b"], 30)):
            more = taught(names)
            make_run("tinyllm", seed=seed, right=first(right), **more | {"config": on(precision, more["config"])})
    tables = [one for one in all_tables(made(tmp_path)) if one.name.startswith("teachers_")]
    assert len(tables) == 1
    assert "Shapley value 0,1." in next(note for note in tables[0].notes if "Each column" in note)


def test_accuracies_over_the_number_of_teachers_are_of_the_metric(make_run: MakeRun, tmp_path: Path) -> None:
    """By generation 33 of 40 are right whoever teaches; a run that ranked nothing has no seed in common."""
    for seed in (0, 1, 2):
        two_teachers(make_run, ranked=True, seed=seed)
    nothing = dict.fromkeys(("accuracy_ranked", "accuracy_ranked_low", "accuracy_ranked_high"))
    make_run(seed=2, right=first(33), ranked=first(0), **taught(["wordy"]), result=nothing)
    _, counts = teachers(made(tmp_path, Metric.accuracy_ranked))
    assert [[cell.value for cell in row[2:]] for row in counts.rows] == [
        [pytest.approx(10 / 40)] * 2, [pytest.approx(20 / 40), pytest.approx(18 / 40)], [pytest.approx(28 / 40)] * 2,
    ]  # fmt: skip
    assert "were run on: 0,1." in counts.notes[0]


def test_the_last_line_is_of_the_seeds_of_its_column(make_run: MakeRun, tmp_path: Path) -> None:
    """Full fine-tuning has one seed of two: what each teacher adds is of that seed, too."""
    two_teachers(make_run)
    for names, n in ((["terse"], 0), (["wordy"], 0), (["terse", "wordy"], 40)):
        make_run(seed=1, right=first(n), **taught(names))
    table, _ = teachers(made(tmp_path))
    found = [cell(table, label, "leave-one-out").value for label in labels(table)]
    assert found == [pytest.approx(12 / 40), pytest.approx(8 / 40), pytest.approx(18 / 40)]
    assert "leave-one-out 0;" in " ".join(table.notes)


def test_sets_without_a_common_seed_are_each_on_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    """terse shares seed 0 with full fine-tuning, wordy seed 2; with each other they share seed 1, which that lacks."""
    make_run(right=first(28), **taught(["terse", "wordy"]))
    for names, right in (([], {0: 10, 2: 12}), (["terse"], {0: 20, 1: 0}), (["wordy"], {1: 0, 2: 16})):
        for seed, n in right.items():
            make_run(seed=seed, right=first(n), **(taught(names) if names else {"method": "full_ft"}))
    table = teachers(made(tmp_path))[0]
    assert cell(table, "terse", "alone").value == pytest.approx(10 / 40)
    assert cell(table, "wordy", "alone").value == pytest.approx(4 / 40)
    assert "alone 0,2;" in " ".join(table.notes)


def test_a_set_that_is_no_first_one_limits_the_seeds_of_the_count_curve(make_run: MakeRun, tmp_path: Path) -> None:
    two_teachers(make_run)
    make_run("full_ft", seed=1, right=first(40))
    for names in (["terse"], ["terse", "wordy"]):
        make_run(seed=1, right=first(40), **taught(names))
    study = made(tmp_path)
    (lattice,) = lattices(study)
    assert lattice.teachers == ("terse", "wordy")
    curve = count_curve(study, lattice)
    assert [one[0] for one, _ in curve.values() if one] == pytest.approx([10 / 40, 20 / 40, 28 / 40])


def test_a_question_that_changed_in_one_run_counts_in_no_set(make_run: MakeRun, tmp_path: Path) -> None:
    """Without q15, which all but full fine-tuning answered rightly, they have 10, 19, 15 and 27 of 39."""

    def changed(answer: Prediction) -> Prediction:
        return replace(answer, question="Which tree was it?") if answer.id == "q15" else answer

    two_teachers(make_run)
    make_run(right=first(28), **taught(["terse", "wordy"]), change=changed)
    table, _ = teachers(made(tmp_path))
    assert cell(table, "terse", "Shapley value").value == pytest.approx((9 + 12) / 2 / 39)
    assert cell(table, "wordy", "Shapley value").value == pytest.approx((5 + 8) / 2 / 39)
    for column in ("leave-one-out", "Shapley value"):
        assert cell(table, "all of them", column).value == pytest.approx(17 / 39)
