"""Predictions of several runs -> cases."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from tinyllm import runs
from tinyllm.config import Metric
from tinyllm.records import Prediction
from tinyllm.reporting.cases import Answer, Case, Reasoning, cases, draw, markdown
from tinyllm.reporting.study import Study

CHOICES = ("oak", "ivy", "elm", "fir")


def said(
    id: str, chosen: str | None, *, ranked: str | None = None, generated: str | None = None, **rationales: str
) -> Prediction:
    """An answer to the question `id`, whose right option is oak."""
    text = generated or chosen or "?"
    return Prediction(id, f"Which tree is {id}?", CHOICES, "oak", text, chosen, ranked, (), "hidden", rationales)


def run(
    folder: Path,
    method: str,
    predictions: Sequence[Prediction],
    *,
    student: str = "tiny",
    seed: int = 0,
    teachers: str = "",
    **columns: Any,
) -> dict[str, Any]:
    """A row of the frame, with its predictions in a folder."""
    row = {
        "dataset": "trees", "student": student, "method": method, "ablation": "none", "variant": "", "seed": seed,
        "teachers": teachers, "method_teacher": teachers if method == "step_by_step" else "", "alpha": "",
        "learning_rate": "", "train_fraction": 1.0, "valid_accuracy": 0.5,
        "untrained": method in ("teacher", "inference"),
    } | columns  # fmt: skip
    where = folder / "-".join(map(str, row.values()))
    runs.write_predictions(predictions, where)
    return row | {"setting": f"{method}{student}{teachers}{columns}", "folder": str(where)}


def test_answers_meet_by_question_id_whatever_their_order(tmp_path: Path) -> None:
    ids = [f"q{i}" for i in range(12)]
    right = {who: {id for id in ids if random.Random(who + id).random() < 0.5} for who in ("tinyllm", "full_ft")}
    rows = []
    for who, turn in (("tinyllm", 1), ("full_ft", -1)):
        rows.append(run(tmp_path, who, [said(id, "oak" if id in right[who] else "ivy") for id in ids[::turn]]))
    found = cases(Study(pd.DataFrame(rows)))
    assert [case.id for case in found] == sorted(ids)
    for case in found:
        assert {a.method: a.right for a in case.answers} == {who: case.id in right[who] for who in right}


def test_seeds_ask_their_own_questions(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, method, [replace(said("q", "oak"), question=f"Seed {seed}?")], seed=seed)
        for seed in (0, 1)
        for method in ("tinyllm", "full_ft")
    ]
    found = cases(Study(pd.DataFrame(rows)))
    assert [(case.seed, case.question, len(case.answers)) for case in found] == [(0, "Seed 0?", 2), (1, "Seed 1?", 2)]


def test_one_id_with_two_texts_is_two_questions(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, "tinyllm", [said("q", "oak")]),
        run(tmp_path, "full_ft", [replace(said("q", "oak"), question="Something else?")]),
    ]
    assert [len(case.answers) for case in cases(Study(pd.DataFrame(rows)))] == [1, 1]


@pytest.mark.parametrize(
    ("tinyllm", "full_ft", "step_by_step", "teacher", "kinds"),
    [
        ("oak", "ivy", "elm", "fir", ("tinyllm_only",)),
        ("oak", "ivy", "elm", "oak", ("tinyllm_only",)),
        ("oak", "oak", "elm", "fir", ()),
        ("oak", "ivy", "elm", "elm", ("tinyllm_only", "teacher_misleads")),
        ("ivy", "ivy", "elm", "ivy", ("teacher_misleads",)),  # full_ft had no teacher: TinyLLM makes it one
        ("fir", "ivy", "elm", "ivy", ()),
        ("elm", "oak", "fir", "oak", ("tinyllm_wrong",)),
        ("elm", "oak", "fir", "elm", ("teacher_misleads", "tinyllm_wrong")),
        (None, "oak", None, None, ("tinyllm_wrong",)),  # two answers that name no option do not agree
        (None, None, None, None, ()),
    ],
)
def test_kinds(
    tmp_path: Path,
    tinyllm: str | None,
    full_ft: str | None,
    step_by_step: str | None,
    teacher: str | None,
    kinds: tuple[str, ...],
) -> None:
    rows = [
        run(tmp_path, "tinyllm", [said("q", tinyllm)], teachers="terse+wordy"),
        run(tmp_path, "tinyllm", [said("q", "oak")], teachers="terse+wordy", ablation="no_in_context"),
        run(tmp_path, "full_ft", [said("q", full_ft)]),
        run(tmp_path, "step_by_step", [said("q", step_by_step)], teachers="wordy"),
        run(tmp_path, "teacher", [said("q", teacher)], student="wordy", teachers="wordy"),
    ]
    (case,) = cases(Study(pd.DataFrame(rows)))
    assert case.kinds == kinds


@pytest.mark.parametrize(
    ("tinyllm", "terse", "wordy", "kinds"),
    [
        ("oak", "ivy", "oak", ("teachers_differ",)),  # figure 4
        ("oak", None, "oak", ("teachers_differ",)),
        ("oak", "oak", "oak", ()),
        ("oak", "ivy", "elm", ()),
        ("ivy", "ivy", "oak", ("teacher_misleads",)),
        ("oak", "oak", None, ("teachers_differ",)),
    ],
)
def test_teachers_that_differ(
    tmp_path: Path, tinyllm: str, terse: str | None, wordy: str | None, kinds: tuple[str, ...]
) -> None:
    rows = [
        run(tmp_path, "tinyllm", [said("q", tinyllm)], teachers="terse+wordy"),
        run(tmp_path, "teacher", [said("q", terse)], student="terse", teachers="terse"),
        run(tmp_path, "teacher", [said("q", wordy)], student="wordy", teachers="wordy"),
    ]
    (case,) = cases(Study(pd.DataFrame(rows)))
    assert case.kinds == kinds


def test_a_teacher_misleads_its_own_students_only(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, "step_by_step", [said("q", "ivy")], teachers="wordy"),
        run(tmp_path, "teacher", [said("q", "ivy")], student="terse"),
    ]
    (case,) = cases(Study(pd.DataFrame(rows)))
    assert case.kinds == ()


def test_a_teacher_of_another_seed_stands_in_where_its_own_is_missing(tmp_path: Path) -> None:
    rows = [run(tmp_path, "tinyllm", [said("q", "oak")], seed=seed) for seed in (0, 1, 2)]
    rows += [
        run(tmp_path, "teacher", [said("q", "ivy", generated=f"Of seed {seed}.")], student="wordy", seed=seed)
        for seed in (0, 1)
    ]
    found = cases(Study(pd.DataFrame(rows)))
    assert [[r.text for r in case.rationales] for case in found] == [["Of seed 0."], ["Of seed 1."], ["Of seed 0."]]
    assert all(
        case.answers[0] == Answer("wordy (teacher)", "ivy", case.rationales[0].text, False, "teacher") for case in found
    )


def test_the_metric_says_which_answer_of_a_student_counts(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [
            run(tmp_path, "tinyllm", [said("q", None, ranked="oak", generated="ash")]),
            run(tmp_path, "teacher", [said("q", "ivy")], student="wordy"),
        ]
    )
    for metric, chosen, right in ((Metric.accuracy, None, False), (Metric.accuracy_ranked, "oak", True)):
        (case,) = cases(Study(frame, metric))
        teacher, student = case.answers
        assert (teacher.chosen, student.chosen, student.right, student.generated) == ("ivy", chosen, right, "ash")


def test_equal_options_are_equally_right(tmp_path: Path) -> None:
    prediction = replace(said("q", "oak "), choices=("oak", "oak ", "elm", "fir"))
    (case,) = cases(Study(pd.DataFrame([run(tmp_path, "tinyllm", [prediction])])))
    assert case.answers[0].right


def test_the_setting_that_validation_chose_answers(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, "tinyllm", [said("q", chosen)], teachers="wordy", alpha=f"wordy={a}", valid_accuracy=valid)
        for a, chosen, valid in ((1, "oak", 0.3), (3, "ivy", 0.6))
    ]
    (case,) = cases(Study(pd.DataFrame(rows)))
    assert [(a.who, a.chosen) for a in case.answers] == [("TinyLLM", "ivy")]


def test_of_growing_training_sets_the_largest_is_shown(tmp_path: Path) -> None:
    rows = [run(tmp_path, "tinyllm", [said("q", c)], train_fraction=f) for f, c in ((0.5, "ivy"), (1.0, "oak"))]
    (case,) = cases(Study(pd.DataFrame(rows)))
    assert [a.chosen for a in case.answers] == ["oak"]


def test_methods_that_learned_from_fewer_questions_stand_in_no_case(tmp_path: Path) -> None:
    """Nothing in a case says how many; students that nothing trains, and teachers, stay."""
    rows = [
        run(tmp_path, method, [said("q", "oak")], train_fraction=share)
        for method, share in (("tinyllm", 1.0), ("step_by_step", 0.125), ("inference", 0.125), ("teacher", 0.125))
    ]
    (case,) = cases(Study(pd.DataFrame(rows)))
    assert [a.method for a in case.answers] == ["teacher", "inference", "tinyllm"]


def test_a_run_without_predictions_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [run(tmp_path, "tinyllm", [said("q", "oak")]), run(tmp_path, "full_ft", [said("q", "oak")])]
    broken = Path(rows[1]["folder"]) / runs.PREDICTIONS
    broken.write_text('{"id": "q"')
    (case,) = cases(Study(pd.DataFrame(rows)))
    assert [a.method for a in case.answers] == ["tinyllm"]
    assert str(broken) in caplog.text


def made(
    id: str,
    *,
    kinds: tuple[str, ...] = (),
    text: str = "ok",
    dataset: str = "trees",
    rationales: Sequence[str] = ("TinyLLM",),
) -> Case:
    answers = (
        Answer("TinyLLM", "oak", text, True, "tinyllm"),
        Answer("Full fine-tuning", None, text, False, "full_ft"),
    )
    reasons = tuple(Reasoning(who, "wordy", text) for who in rationales)
    return Case(dataset, "tiny", 0, id, f"Which? {text}", CHOICES, "oak", "", kinds, answers, reasons)


def test_the_draw_knows_nothing_of_the_content_or_the_order() -> None:
    ids = [f"q{i}" for i in range(60)]
    first = [case.id for case in draw(made(id) for id in ids)]
    assert first == [case.id for case in draw(made(id, text=f"other {id}") for id in reversed(ids))]
    assert sorted(first) == sorted(ids)
    assert first != sorted(ids, key=ids.index)


def test_the_draw_takes_kinds_and_datasets_in_turn_and_a_case_once() -> None:
    some = [made(f"a{i}", kinds=("tinyllm_only", "teacher_misleads")) for i in range(3)]
    some += [
        made(f"b{i}", kinds=("tinyllm_wrong",), dataset=dataset) for i in range(20) for dataset in ("trees", "birds")
    ]
    drawn = list(draw(some))
    assert len(drawn) == len(some)
    assert {(c.dataset, c.kinds[0]) for c in drawn[:4]} == {
        ("trees", "tinyllm_only"), ("birds", "tinyllm_wrong"), ("trees", "tinyllm_wrong"),
    }  # fmt: skip


def test_cases_with_more_rationales_are_drawn_first() -> None:
    some = [made(f"q{i}", rationales=("TinyLLM", "wordy (teacher)") if i == 7 else ()) for i in range(20)]
    assert next(draw(some)).id == "q7"


def test_markdown_shows_some_of_every_kind_and_says_how_many_there_are() -> None:
    some = [made(f"a{i}", kinds=("tinyllm_only",), text=f"A{i}A") for i in range(5)]
    some += [made("b", kinds=("tinyllm_wrong",)), made("c")]
    text = markdown(some, per_kind=2)
    assert "5 of 7 cases; 2 shown." in text
    assert "0 of 7 cases; 0 shown." in text
    assert "1 of 7 cases; 1 shown." in text
    assert sum(f"Which? A{i}A" in text for i in range(5)) == 2
    assert "hash" in text


HOSTILE = (
    "</td></tr></table><script>alert(1)</script><img src=x onerror=alert(1)> | a | *b* _c_ `d` [e](http://evil.example)"
    " ![f](g) &lt; $x$ \\| ~~h~~\n# heading\n- item\n\n    code\r\x07 <!-- i --> <b>"
)


def test_model_text_is_text_in_markdown() -> None:
    """An independent renderer finds no markup in it, and gives the characters back."""
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(
        markdown([made("q|1", kinds=("tinyllm_only",), text=HOSTILE)])
    )  # fmt: skip
    for tag in ("<script", "<img", "<a ", "<em>", "<code>", "<s>", "<b>", "<!--", "<h1>", "<pre"):
        assert tag not in html, tag
    assert html.count("<table>") == 1
    flat = " ".join(HOSTILE.replace("\x07", " ").split())
    escaped = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert html.count(escaped) == 4  # the question, two answers and a rationale
