"""The frame of runs -> figures: what is drawn equals numbers worked out apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from scipy.stats import sem, t
from tests.unit.reporting.conftest import MakeRun

from tinyllm.config import Metric
from tinyllm.records import Prediction
from tinyllm.reporting.figures import all_figures
from tinyllm.reporting.figures.drawing import Figure, save
from tinyllm.reporting.frame import collect
from tinyllm.reporting.study import Study
from tinyllm.runs import METRICS, write_predictions


def run(method: str, accuracy: float, seed: int = 0, **columns: Any) -> dict[str, Any]:
    """A row of the frame, by default of a run on all training questions, without files."""
    alpha = {key.removeprefix("alpha/"): value for key, value in columns.items() if key.startswith("alpha/")}
    row = {
        "dataset": "trees", "student": "tiny", "method": method, "ablation": "none", "variant": "", "seed": seed,
        "teachers": "+".join(alpha), "method_teacher": "",
        "learning_rate": "", "alpha": " ".join(f"{n}={a:g}" for n, a in alpha.items()),
        "train_fraction": 1.0, "valid_accuracy": 0.5, "train_tokens": 1000, "parameters": 10, "folder": "nowhere",
        "taught": "", "untaught": "", "without_teachers": "", "teacher_set": "",
        "weighting": "", "weights": "", "wrong_share": math.nan, "dropped": "", "redrawn": True, "data_seed": seed,
        "composed_alpha": "",
    }  # fmt: skip
    row |= columns
    own = ("seed", "data_seed", "valid_accuracy", "folder")
    row["setting"] = str({key: value for key, value in row.items() if key not in own})
    scores = {"accuracy": accuracy, "accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.04}
    ranked = {key.replace("accuracy", "accuracy_ranked"): value + 0.1 for key, value in scores.items()}
    return scores | ranked | row


def drawn(rows: Sequence[dict[str, Any]], metric: Metric = Metric.accuracy) -> dict[str, Figure]:
    return {figure.name: figure for figure in all_figures(Study(pd.DataFrame(rows), metric))}


def bars(axis: Axes) -> dict[str, list[tuple[float, float, float, float]]]:
    """Points (x, mean, low, high) by label, as they were drawn."""
    found = {}
    for container in axis.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, (verticals,) = container.lines
        xs, ys = line.get_data()
        spans = [segment[:, 1] for segment in verticals.get_segments()]
        found[str(container.get_label())] = [
            (float(x), float(y), *map(float, span)) for x, y, span in zip(xs, ys, spans, strict=True)
        ]
    return found


def lines(axis: Axes) -> dict[str, tuple[list[float], list[float]]]:
    found = {str(line.get_label()): line.get_data() for line in axis.get_lines()}
    return {label: (list(map(float, xs)), list(map(float, ys))) for label, (xs, ys) in found.items()}


def predictions(folder: Path, options: Sequence[int]) -> str:
    """A folder with a question for each number of options."""
    made = [
        Prediction(f"q{i}", "?", tuple(f"c{j}" for j in range(n)), "c0", "c0", "c0", "c0", ())
        for i, n in enumerate(options)
    ]
    write_predictions(made, folder)
    return str(folder)


TRAIN_SIZE = [
    run("tinyllm", 0.30, 0, train_fraction=0.25),
    run("tinyllm", 0.34, 1, train_fraction=0.25),
    run("tinyllm", 0.50, 0),
    run("tinyllm", 0.58, 1),
    run("step_by_step", 0.28, train_fraction=0.25, method_teacher="wordy"),
    run("step_by_step", 0.45, train_fraction=1.0, method_teacher="wordy"),
    run("full_ft", 0.40, 0),
    run("full_ft", 0.44, 1),
]


def test_training_size_shows_means_and_intervals_and_full_fine_tuning() -> None:
    (axis,) = drawn(TRAIN_SIZE)["fig2_train_size"].figure.axes
    points = bars(axis)
    assert set(points) == {"TinyLLM", "Distilling step-by-step"}
    for point, share, pair in zip(points["TinyLLM"], (25, 100), ((30, 34), (50, 58)), strict=True):
        low, high = t.interval(0.95, 1, loc=statistics.fmean(pair), scale=sem(pair))
        assert point[0] == pytest.approx(share, abs=1)
        assert point[1:] == pytest.approx((statistics.fmean(pair), max(low, 0), min(high, 100)))
    (_, first, *wilson), second = points["Distilling step-by-step"]  # one seed: the run's own interval
    assert (first, *wilson, second[1]) == pytest.approx((28, 23, 32, 45))
    assert lines(axis)["Full fine-tuning, all questions"][1] == pytest.approx([42, 42])
    assert axis.get_title() == "trees · tiny"
    assert axis.get_ylabel() == "accuracy (%)" and axis.get_xlabel() == "training questions (%)"


def test_the_metric_says_what_is_drawn() -> None:
    figure = drawn(TRAIN_SIZE, Metric.accuracy_ranked)["fig2_train_size"]
    assert [p[1] for p in bars(figure.figure.axes[0])["TinyLLM"]] == pytest.approx([42, 64])
    assert "ranking the options" in figure.caption


def test_a_setting_is_chosen_by_validation_and_never_by_test() -> None:
    def shown(test: tuple[float, float]) -> list[float]:
        rows = [run("tinyllm", 0.3, train_fraction=0.5, **{"alpha/wordy": 1.0})]
        rows += [
            run("tinyllm", test[0], valid_accuracy=0.6, **{"alpha/wordy": 1.0}),
            run("tinyllm", test[1], valid_accuracy=0.7, **{"alpha/wordy": 3.0}),
        ]
        return [p[1] for p in bars(drawn(rows)["fig2_train_size"].figure.axes[0])["TinyLLM"]]

    assert shown((0.9, 0.4)) == pytest.approx([30, 40])
    assert shown((0.4, 0.9)) == pytest.approx([30, 90])


def test_every_dataset_and_student_has_its_panel_small_students_first() -> None:
    rows = [
        run("tinyllm", 0.5, train_fraction=f, student=student, parameters=size, dataset=dataset)
        for f in (0.5, 1.0)
        for student, size in (("big", 900), ("small", 80))
        for dataset in ("trees", "birds")
    ]
    axes = drawn(rows)["fig2_train_size"].figure.axes
    assert [axis.get_title() for axis in axes] == ["birds · small", "birds · big", "trees · small", "trees · big"]


GRID = [
    run("tinyllm", 0.2 + 0.1 * i + 0.01 * j + 0.002 * seed, seed, **{"alpha/terse": a, "alpha/wordy": b})
    for i, a in enumerate((0.1, 1.0, 3.0))
    for j, b in enumerate((0.1, 1.0, 3.0))
    for seed in (0, 1)
    if (a, b) != (3.0, 3.0)
]
"""Accuracy in percent: 20 + 10 i + j + 0.1, of which one pair is missing."""


def test_alpha_over_one_teacher_with_the_other_at_1_and_averaged() -> None:
    (axis,) = drawn(GRID)["fig3_alpha"].figure.axes
    points = bars(axis)
    held = {label: [p[1] for p in points[label]] for label in points}
    assert held["α of terse, the other at 1"] == pytest.approx([21.1, 31.1, 41.1])
    assert held["α of wordy, the other at 1"] == pytest.approx([30.1, 31.1, 32.1])
    assert [round(p[0]) for p in points["α of terse, the other at 1"]] == [0, 1, 2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.1", "1", "3"]
    averaged = {label: ys for label, (_, ys) in lines(axis).items() if "mean over" in label}
    assert averaged["α of terse, mean over the other"] == pytest.approx([21.1, 31.1, 40.6])
    assert averaged["α of wordy, mean over the other"] == pytest.approx([30.1, 31.1, 27.1])


def test_alpha_is_drawn_on_the_largest_share_on_which_it_varies() -> None:
    """All questions with α 1 alone, as table 1 has them; the grid on halves, and a smaller one on quarters."""
    halves = [{**row, "train_fraction": 0.5, "setting": f"half {row['setting']}"} for row in GRID]
    quarters = [{**row, "train_fraction": 0.25, "setting": f"quarter {row['setting']}"} for row in GRID[:6]]
    rows = [run("tinyllm", 0.9, **{"alpha/terse": 1.0, "alpha/wordy": 1.0}), *quarters, *halves]
    found = drawn(rows)
    (axis,) = found["fig3_alpha"].figure.axes
    assert [p[1] for p in bars(axis)["α of terse, the other at 1"]] == pytest.approx([21.1, 31.1, 41.1])
    assert axis.get_title() == "trees · tiny · 50% of the training questions"
    for name in ("fig3_alpha", "fig3_alpha_grid"):
        assert "Trained on 50% of the training questions." in found[name].caption
    assert "Trained on" not in drawn(GRID)["fig3_alpha"].caption


def test_the_teacher_that_validation_chose_stands_for_a_method() -> None:
    rows = [
        run("step_by_step", test, train_fraction=share, method_teacher=teacher, valid_accuracy=valid)
        for share, teacher, test, valid in (
            (0.5, "terse", 0.2, 0.6), (0.5, "wordy", 0.8, 0.1), (1.0, "terse", 0.9, 0.3), (1.0, "wordy", 0.4, 0.7),
        )
    ]  # fmt: skip
    points = bars(drawn(rows)["fig2_train_size"].figure.axes[0])
    assert {label: [p[1] for p in ps] for label, ps in points.items()} == {
        "Distilling step-by-step": [pytest.approx(20), pytest.approx(40)]
    }


def test_the_grid_shows_every_pair_and_hatches_what_is_missing() -> None:
    figure = drawn(GRID)["fig3_alpha_grid"]
    axis = figure.figure.axes[0]
    texts = {(round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in axis.texts}
    assert texts == {(i, j): f"{20 + 10 * i + j + 0.1:.1f}" for i in range(3) for j in range(3) if (i, j) != (2, 2)}
    hatched = [patch for patch in axis.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert [patch.get_xy() for patch in hatched] == [(1.5, 1.5)]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("α of terse", "α of wordy")
    assert "Hatched: pairs that were not run or did not finish (1)." in figure.caption


def test_a_dropped_stream_is_a_point_of_the_grid() -> None:
    dropped = run("tinyllm", 0.1, teachers="wordy", **{"alpha/terse": 0.0, "alpha/wordy": 1.0})
    (axis,) = drawn([*GRID, dropped])["fig3_alpha"].figure.axes
    assert [p[1] for p in bars(axis)["α of terse, the other at 1"]] == pytest.approx([10, 21.1, 31.1, 41.1])


def test_cost_leaves_out_runs_without_a_token_count() -> None:
    rows = [
        run("tinyllm", 0.5, train_tokens=90_000),
        run("full_ft", 0.4, train_tokens=30_000),
        run("lora", 0.3, train_tokens=0),
        run("inference", 0.2, train_tokens=float("nan")),
    ]
    (axis,) = drawn(rows)["cost_accuracy"].figure.axes
    assert {label: [p[:2] for p in ps] for label, ps in bars(axis).items()} == {
        "TinyLLM": [pytest.approx((90_000, 50))],
        "Full fine-tuning": [pytest.approx((30_000, 40))],
    }
    assert axis.get_xscale() == "log"


def test_cost_is_drawn_against_the_metric() -> None:
    rows = [run("tinyllm", 0.5, train_tokens=90_000), run("full_ft", 0.4, train_tokens=30_000)]
    (axis,) = drawn(rows, Metric.accuracy_ranked)["cost_accuracy"].figure.axes
    assert {label: [p[1] for p in ps] for label, ps in bars(axis).items()} == {
        "TinyLLM": [pytest.approx(60)], "Full fine-tuning": [pytest.approx(50)],
    }  # fmt: skip


def test_old_runs_without_the_column_have_no_cost_figure() -> None:
    frame = pd.DataFrame(TRAIN_SIZE).drop(columns="train_tokens")
    assert "cost_accuracy" not in {figure.name for figure in all_figures(Study(frame))}


def test_chance_is_a_line_where_it_is_near_the_data(tmp_path: Path) -> None:
    def reference(options: Sequence[int], offset: float = 0.0) -> tuple[set[float], list[str]]:
        folder = predictions(tmp_path / f"{options}{offset}", options)
        rows = [
            run("tinyllm", offset + a, train_fraction=f, folder=folder) for f, a in ((0.5, 0.2), (1.0, 0.3))
        ]  # fmt: skip
        (axis,) = drawn(rows)["fig2_train_size"].figure.axes
        return set(lines(axis).get("chance", ([], []))[1]), [text.get_text() for text in axis.texts]

    assert reference([4, 4, 4]) == ({25.0}, [])
    assert reference([4, 2]) == ({37.5}, [])  # the mean of 1 / options
    assert reference([4, 4], offset=0.6) == (set(), ["chance is 25%"])  # a line down there would press the data flat


def test_the_majority_class_takes_the_place_of_chance() -> None:
    """Results say both; of earlier ones only predictions tell chance."""
    rows = [
        run("tinyllm", 0.5 + f / 10, train_fraction=f, chance=0.5, majority=m) for f, m in ((0.5, 0.56), (1.0, 0.55))
    ]
    (axis,) = drawn(rows)["fig2_train_size"].figure.axes
    assert lines(axis)["majority class"][1] == pytest.approx([55.5] * 2) and "chance" not in lines(axis)
    rows = [row | {"majority": math.nan} for row in rows]
    (axis,) = drawn(rows)["fig2_train_size"].figure.axes
    assert set(lines(axis)["chance"][1]) == {50.0}


@pytest.mark.parametrize("text", ["step,train/loss\n10,2.0\n", "step,train/loss/answer\n10,2.0\n20,1.4-\n3\0,\n"])
def test_a_damaged_log_is_no_reason_to_stop(tmp_path: Path, text: str) -> None:
    (tmp_path / METRICS).write_text(text)
    figure = drawn([run("full_ft", 0.4, folder=str(tmp_path))]).get("learning_curves")
    assert (figure is None) == ("answer" not in text)


def test_learning_curves_are_means_of_seeds(tmp_path: Path) -> None:
    values = {0: {10: (2.0, math.nan), 20: (1.0, 0.3)}, 1: {10: (4.0, math.nan), 20: (1.5, 0.5), 30: (0.5, math.nan)}}
    rows = []
    for seed, logged in values.items():
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        table = pd.DataFrame(
            [{"step": s, "train/loss/answer": loss, "valid/accuracy": valid} for s, (loss, valid) in logged.items()]
        )
        table.to_csv(folder / METRICS, index=False)
        rows.append(run("full_ft", 0.4, seed, folder=str(folder)))
    loss, valid = drawn(rows)["learning_curves"].figure.axes
    # Step 30 is known to one seed alone: the mean ends before it.
    assert lines(loss)["Full fine-tuning"] == ([10, 20], pytest.approx([3.0, 1.25]))
    assert lines(valid)["Full fine-tuning"] == ([20], pytest.approx([40]))
    assert len(loss.get_lines()) == 3
    assert (loss.get_ylabel(), valid.get_ylabel()) == ("training loss (nats)", "accuracy (%)")


def test_figures_without_data_are_left_out() -> None:
    assert drawn([run("full_ft", 0.4)]) == {}
    assert drawn([run("teacher", 0.9, student="wordy", train_tokens=0), run("inference", 0.2, train_tokens=0)]) == {}


def test_runs_as_the_stages_write_them(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (0, 1):
        for fraction in (0.5, 1.0):
            make_run("tinyllm", seed=seed, fraction=fraction)
            for teacher in ("terse", "wordy"):
                make_run("step_by_step", seed=seed, fraction=fraction, teacher=teacher, alpha={teacher: 1.0})
        for terse in (0.1, 3.0):
            make_run("tinyllm", seed=seed, alpha={"terse": terse, "wordy": 1.0}, valid=0.1)
        make_run("full_ft", seed=seed)
    frame = collect([tmp_path / "runs"]).frame
    made = all_figures(Study(frame))
    assert [figure.name for figure in made] == ["fig2_train_size", "fig3_alpha", "learning_curves", "cost_accuracy"]
    first = bars(made[0].figure.axes[0])
    assert set(first) == {"TinyLLM", "Distilling step-by-step"}
    runs = frame[(frame["method"] == "tinyllm") & (frame["alpha"] == "terse=1 wordy=1")]
    means = 100 * runs.groupby("train_fraction")["accuracy"].mean()
    assert [p[1] for p in first["TinyLLM"]] == pytest.approx(list(means))


def test_names_are_no_formulas(tmp_path: Path) -> None:
    rows = [run("tinyllm", a, dataset="$\\bad$", train_fraction=f) for f, a in ((0.5, 0.2), (1.0, 0.3))]
    figure = drawn(rows)["fig2_train_size"]
    save(figure, tmp_path)
    assert figure.figure.axes[0].get_title() == "$\\bad$ · tiny"


def test_saving_writes_print_quality_and_the_same_bytes_again(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        save(drawn(GRID)["fig3_alpha"], tmp_path / folder)
    for ending in ("png", "pdf"):
        first, second = ((tmp_path / folder / f"fig3_alpha.{ending}").read_bytes() for folder in ("one", "two"))
        assert first == second
    assert first.startswith(b"%PDF")
    pixels = np.asarray(imread(tmp_path / "one" / "fig3_alpha.png"))
    inches = drawn(GRID)["fig3_alpha"].figure.get_size_inches()
    assert pixels.shape[1::-1] == pytest.approx(150 * inches, abs=1)
