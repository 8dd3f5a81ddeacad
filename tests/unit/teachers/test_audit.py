"""Each finding is seen where a reader would see it, and not where one wouldn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from tinyllm.records import PromptKind, Question, Rationale
from tinyllm.teachers.audit import Finding, audit, audit_table, audit_teacher, findings, for_training, write_audit

Q = Question("q1", "What tells how warm soup is?", ("thermometer", "rope", "water", "hot water bottle"), "thermometer")
GOOD = "Warmth is temperature, and a thermometer measures that."


def rationale(question_id: str, text: str, finish: str = "stop", answer: str | None = None) -> Rationale:
    return Rationale("d", "train", question_id, "t", 0, "k", text, answer, finish, 5, "2026-01-01")


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        (GOOD, "stop", set()),
        ("", "stop", {"empty"}),
        (" \n", "length", {"empty", "cut"}),
        ("Let's think step by step.", "stop", {"empty"}),
        ("Question: What else is warm?", "stop", {"empty"}),
        (GOOD, "length", {"cut"}),
        (GOOD, "recorded", set()),
        ("Warmth is temperature, and a thermometer measures", "recorded", {"cut"}),
        ("Warmth is temperature, and a thermometer measures", "stop", set()),
        ("The soup is in a pot here. The soup is in a pot here.", "stop", {"repeats"}),
        ("The soup boils. The soup boils.", "stop", set()),
        ("a b thermometer and so on it goes on " * 4, "stop", {"repeats"}),
        ("A rope can be tied around it and that is it.", "stop", {"wrong_options"}),
        ("It may seem to be (b), as it is long and thin.", "stop", {"wrong_options"}),
        ("A rope is long, while a thermometer measures.", "stop", set()),
        ("A rope is no thermometer. The answer is (b) rope.", "stop", {"other_answer"}),
        ("The answer is (a) thermometer.", "stop", {"answer_only"}),
        ("thermometer", "stop", {"answer_only"}),
        ("", "stop", {"empty"}),
        ("<think>\nA rope or", "length", {"empty", "cut"}),
        ("The answer is indeed (a) thermometer.\n\nStep-by-step reasoning:\n\n1.", "stop", {"answer_only"}),
        ("Heat moves up the column. The answer is (a) thermometer.", "stop", set()),
        (f"{GOOD}\n\nQuestion: What is hot?\nAnswer Choices:\n(a) ice", "stop", {"debris"}),
        (f"{GOOD} <|im_end|>", "stop", {"debris"}),
        (f"{GOOD} [/INST]", "stop", {"debris"}),
        (f"{GOOD}\n```python\nprint(1)\n```", "stop", {"debris"}),
        (f"{GOOD}\nQ: What is hot?", "stop", {"debris"}),
        ("He asked in a low voice, Q: is a thermometer warm?", "stop", set()),
        ("Термометр измеряет температуру супа.", "stop", {"debris"}),
        (
            "Ein Thermometer misst die Temperatur einer Suppe und zeigt genau an wie warm diese gerade geworden ist,"
            " deshalb nimmt man dafür kein Seil.",
            "stop",
            {"debris"},
        ),
    ],
)
def test_findings_of_one_text(text: str, finish: str, expected: set[str]) -> None:
    assert {str(finding) for finding in findings(text, Q, finish)} == expected


def test_an_option_inside_a_longer_one_is_not_named() -> None:
    question = Question("q", "What warms a bed?", ("water", "hot water bottle"), "hot water bottle")
    assert findings("Put in a hot water bottle before you go to sleep.", question) == set()
    other = Question("q", "What warms a bed?", ("water", "hot water bottle"), "water")
    assert findings("Put in a hot water bottle before you go to sleep.", other) == {Finding.wrong_options}


def test_yes_and_no_are_named_by_a_conclusion_only() -> None:
    question = Question("q", "Is ice cold?", ("yes", "no"), "yes")
    assert findings("There is no warmth in frozen water at all.", question) == set()
    assert findings("There is warmth in it. So the answer is (b) no.", question) >= {Finding.other_answer}


def test_two_equal_options_are_both_right() -> None:
    question = Question("q", "What is it?", ("ice", "snow", "ice"), "ice")
    assert findings("Frozen water is what it must be. The answer is (c) ice.", question) == set()


def test_a_text_that_two_questions_share_is_a_duplicate() -> None:
    q2 = Question("q2", "What ties things?", ("rope", "thermometer"), "rope")
    q3 = Question("q3", "What ties things?", ("rope", "bell"), "rope")
    same = "A rope and a thermometer are both of some use here."
    found = audit(
        {"q1": rationale("q1", same), "q2": rationale("q2", f"{same} "), "gone": rationale("gone", same)}, [Q, q2]
    )
    assert found == {"q1": {Finding.duplicate}, "q2": {Finding.duplicate}}
    # The same question twice in a dataset may have the same rationale.
    assert audit({"q2": rationale("q2", same), "q3": rationale("q3", same)}, [q2, q3]) == {"q2": set(), "q3": set()}


def test_what_may_be_trained_on_is_never_empty() -> None:
    q2 = Question("q2", "What ties things?", ("rope", "bell"), "rope")
    texts = {
        "q1": rationale("q1", f"Let's think step by step. {GOOD}\n\nQuestion: And?"),
        "q2": rationale("q2", "Let's think step by step.\n\nQuestion: And?"),
    }
    assert for_training(texts, [Q, q2], reject=(), clean=True) == {"q1": GOOD}
    assert for_training(texts, [Q, q2], reject=["empty"], clean=False) == {"q1": texts["q1"].text}
    # Judged as it would be trained on: cleaning takes the debris away.
    assert for_training(texts, [Q, q2], reject=["debris"], clean=True) == {"q1": GOOD}
    assert for_training(texts, [Q, q2], reject=["debris"], clean=False) == {}


@pytest.mark.parametrize("kind", [PromptKind.unforced, PromptKind.solve, PromptKind.per_option])
def test_what_a_teacher_concludes_without_the_answer_is_not_trained_on(kind: PromptKind) -> None:
    texts = {"q1": rationale("q1", f"{GOOD} So the answer is (b) rope.")}
    assert for_training(texts, [Q], kind=kind) == {"q1": GOOD}
    assert for_training(texts, [Q]) == {"q1": texts["q1"].text}


def test_a_text_that_was_cut_behind_its_end_is_whole_when_it_is_cleaned() -> None:
    """Where the teacher goes on to another question, up to the limit of tokens."""
    on, short = f"{GOOD}\n\nQuestion: What is hot?\nAnswer Ch", "Warmth is temperature, and a thermometer mea"
    texts = {"q1": rationale("q1", on, finish="length")}
    assert audit(texts, [Q]) == {"q1": {Finding.cut, Finding.debris}}
    assert audit(texts, [Q], clean=True) == {"q1": set()}
    assert for_training(texts, [Q], reject=["cut"]) == {"q1": GOOD}
    for text in (GOOD, short, f"{short}\n\nQuestion: What is hot?"):
        assert audit({"q1": rationale("q1", text, finish="length")}, [Q], clean=True) == {"q1": {Finding.cut}}


def test_table_and_file(tmp_path: Path) -> None:
    texts = {"q1": rationale("q1", GOOD, answer="rope")}
    forced = audit_teacher("t", "train", texts, [Q], kind=PromptKind.forced)
    free = audit_teacher("u", "test", texts, [Q], kind=PromptKind.solve)
    assert (forced.unparsed, forced.correct) == (None, None)
    assert (free.unparsed, free.correct) == (0, 0)
    console = Console(width=200, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(audit_table([forced, free]))
    text = console.export_text()
    assert all(str(finding) in text for finding in Finding)
    assert "in no text: empty, cut" in text, "an empty column would only take room"
    cut = audit_teacher("t", "train", {"q1": rationale("q1", GOOD, finish="length")}, [Q], kind=PromptKind.forced)
    assert [column.header for column in audit_table([forced, cut]).columns][4:] == ["cut"]
    write_audit(tmp_path / "new" / "audit.json", "d", [forced, free])
    content = json.loads((tmp_path / "new" / "audit.json").read_text())
    assert content["dataset"] == "d"
    assert [row["teacher"] for row in content["audits"]] == ["t", "u"]
    assert content["audits"][0]["raw"] == dict.fromkeys(map(str, Finding), 0)


@pytest.mark.parametrize(
    ("asked", "options", "text"),
    [
        ("Что тонет в воде?", ("песок", "дерево"), "Песок плотнее воды, поэтому он тонет."),
        (
            "Eine Lehrerin wirft Dinge in ein Glas mit Wasser und fragt, welches davon zuerst auf den Boden sinkt?",
            ("Sand", "Holz"),
            "Sand ist dichter als Wasser und sinkt sofort auf den Grund, Holz dagegen schwimmt oben, weil seine Dichte "
            "kleiner ist als jene von Wasser, wie man leicht selbst sieht.",
        ),
    ],
)  # fmt: skip
def test_a_text_in_the_language_of_its_question_is_no_debris(asked: str, options: tuple[str, ...], text: str) -> None:
    assert Finding.debris not in findings(text, Question("q", asked, options, options[0]))
    english = Question("q", "What is it that sinks in the water?", ("sand", "wood"), "sand")
    assert Finding.debris in findings(text, english)
