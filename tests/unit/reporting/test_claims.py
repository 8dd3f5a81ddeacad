"""The file of claims: complete, true to the paper's tables, and with errors that say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyllm.errors import UserError
from tinyllm.paper import ABLATIONS, DATASETS, METHODS
from tinyllm.reporting.claims import Budget, Claim, paper_claims, read_claims

CLAIMS = {claim.id: claim for claim in paper_claims()}


def against(method: str, ablation: str = "none", **fields: object) -> list[Claim]:
    """The claims of TinyLLM against this cell alone."""
    wanted = {"method": method, "ablation": ablation, "fraction": None, "budget": Budget.own, "alpha": ""} | fields
    return [
        claim
        for claim in CLAIMS.values()
        if claim.first.method == "tinyllm"
        and len(claim.second) == 1
        and all(getattr(claim.second[0], name) == value for name, value in wanted.items())
    ]


def test_every_baseline_and_every_ablation_has_its_claim() -> None:
    for method in METHODS:
        if method != "tinyllm":
            (claim,) = against(method)
            assert set(claim.places) == {"flan_t5_small", "flan_t5_base", "flan_t5_large"} and not claim.control
            assert all(datasets == list(DATASETS) for datasets in claim.places.values())
    for ablation in ABLATIONS:
        (claim,) = against("tinyllm", ablation)
        assert claim.places == {"flan_t5_large": list(DATASETS)}
    for role in (1, 2):
        (claim,) = against("teacher", teacher=role)
        assert claim.average_only and set(claim.places) == {"flan_t5_base", "flan_t5_large"}
    for control in (against("full_ft", budget=Budget.compute), against("tinyllm", "shuffled_rationales")):
        assert [claim.control for claim in control] == [True]


def test_the_paper_claims_nothing_that_its_own_tables_deny() -> None:
    """The 3B teacher is ahead of the 780M student on ARC, so that claim is of the average alone."""
    for claim in CLAIMS.values():
        for student, datasets in claim.places.items():
            for dataset in datasets if not claim.average_only else []:
                number = claim.in_paper(student, [dataset])
                assert number is None or number > 0, (claim.id, student, dataset)
            average = claim.in_paper(student, datasets)
            assert average is None or average > 0, (claim.id, student)
    by_dataset = {d: CLAIMS["above_teacher_1"].in_paper("flan_t5_large", [d]) or 0.0 for d in DATASETS}
    assert by_dataset["arc"] == pytest.approx(0.6429 - 0.6824)


@pytest.mark.parametrize(
    ("name", "student", "points"),
    [
        ("above_full_ft", "flan_t5_small", (7.80 + 5.58 + 11.32 + 8.43 + 5.75 + 6.51) / 6),
        ("above_teacher_2", "flan_t5_large", 73.875 - 59.8667),
        ("lora_above_full_ft", "flan_t5_base", (0.11 + 0.59) / 2),
        ("teacher_2_helps", "flan_t5_large", (1.40 + 1.97 + 1.20 + 2.16 + 3.75 + 4.87) / 6),
        # the better of the two alone: T5 on OBQA and BioASQ, ... by dataset
        ("two_teachers_above_one", "flan_t5_large", (0.60 + 1.97 + 1.20 + 2.16 + 3.50 + 4.06) / 6),
    ],
)
def test_differences_by_hand(name: str, student: str, points: float) -> None:
    claim = CLAIMS[name]
    assert 100 * (claim.in_paper(student, claim.places[student]) or 0) == pytest.approx(points, abs=0.01)


def test_what_no_table_holds_is_given_in_words() -> None:
    for claim in CLAIMS.values():
        has_number = any(claim.in_paper(student, datasets) is not None for student, datasets in claim.places.items())
        assert bool(claim.reported) == (not has_number and not claim.control), claim.id


def test_sentences_name_the_teachers_of_a_set() -> None:
    assert "above its teacher terse" in CLAIMS["above_teacher_1"].named(["terse", "wordy"])
    assert "wordy" in CLAIMS["above_teacher_2"].named(["terse", "wordy"])
    assert CLAIMS["above_teacher_2"].named(["terse"]) == "TinyLLM is above its teacher 2"


GOOD = "id: mine, sentence: A is above B, where: here"
CELLS = "first: {method: tinyllm}, second: {method: lora}"


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(f"- {{{GOOD}, {CELLS}, places: {{flan_t5_small: [arc]}}}}\n")
    (claim,) = read_claims(path)
    assert claim.places == {"flan_t5_small": ["arc"]} and [cell.method for cell in claim.second] == ["lora"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"- {{{GOOD}, {CELLS}, metod: 3}}", ("mine", "metod")),
        (f"- {{{GOOD}, {CELLS}, average_only: maybe}}", ("mine", "average_only", "maybe")),
        (f"- {{{GOOD}, {CELLS}, places: {{flan_t5_small: [obq]}}}}", ("mine", "places.flan_t5_small", "obq")),
        (f"- {{{GOOD}, {CELLS}, places: {{tiny: [obqa]}}}}", ("mine", "places", "tiny")),
        (f"- {{{GOOD}, first: {{method: tinylm}}, second: {{method: lora}}}}", ("mine", "first.method", "tinylm")),
        (f"- {{{GOOD}, first: {{method: lora, fraction: 2}}, second: {{method: lora}}}}", ("first.fraction", "2")),
        (f"- {{{GOOD}, first: {{method: lora, alpha: 7}}, second: {{method: lora}}}}", ("first.alpha", "7")),
        (f"- {{{GOOD}, first: {{method: teacher}}, second: {{method: lora}}}}", ("first.teacher", "0")),
        (f"- {{{GOOD}, first: {{method: lora, budget: big}}, second: {{method: lora}}}}", ("first.budget", "big")),
        (f"- {{{GOOD}, first: {{method: lora}}}}", ("mine", "second")),
        (f"- {{{GOOD.replace('A is', '{A} is')!r}, {CELLS}}}", ("number 1",)),
        (f"- {{id: mine, where: here, {CELLS}}}", ("mine", "sentence")),
        (f"- {{{GOOD}, {CELLS}}}\n- {{{GOOD}, {CELLS}}}", ("mine", "id", "twice")),
        ("- 3", ("number 1", "int")),
        ("a: 3", ("list", "dict")),
        ("- [", ("YAML",)),
    ],
)
def test_errors_name_file_claim_and_field(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_claims(path)
    message = str(error.value)
    assert message.startswith("mine.yaml: ") and "\n" not in message
    assert all(part in message for part in parts), message
