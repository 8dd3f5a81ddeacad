"""Every method of a student tested against full fine-tuning and against TinyLLM."""

from __future__ import annotations

from tinyllm import paper
from tinyllm.reporting.paired import Pair
from tinyllm.reporting.study import Study, corrected
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import notes
from tinyllm.reporting.tables.effects import minimum_effects, minimum_effects_note
from tinyllm.reporting.tables.grid import Column, Row, fraction_notes, rows_of
from tinyllm.reporting.whole import Whole

_BUT_GROUPS = " and questions are independent, which those of one group are not"


def comparisons(study: Study) -> list[Table]:
    """Every method and variant against full fine-tuning and against TinyLLM, a line for each dataset.

    TinyLLM against full fine-tuning is listed once. Without predictions of two methods there is no table.
    """
    tests: list[tuple[str, str, Row, Row, Pair]] = []
    effects: list[str] = []
    whole_notes: list[str] = []
    for student in study.students:
        rows = rows_of(study, student)
        plain = {row.method: row for row in rows if row.plain}
        full, tinyllm = plain.get("full_ft"), plain.get("tinyllm")
        whole = Whole(study, student)
        for dataset in paper.paper_first((d for row in rows for d in row.runs["dataset"]), paper.DATASETS):
            effects += [f"{student}, {text}" for text in minimum_effects(study, rows, [Column(dataset, (dataset,))])]
            for baseline in (full, tinyllm):
                for row in rows:
                    if baseline is None or row is baseline or (row is full and baseline is tinyllm):
                        continue
                    own, other = row.on(dataset), baseline.on(dataset)
                    if baseline is tinyllm and row.method == "tinyllm" and row.ablation != "none":
                        same = whole.of(own, row.label)
                        other = other.iloc[:0] if same is None else same
                    pair = study.pair(own, other)
                    if pair is not None:
                        tests.append((student, dataset, row, baseline, pair))
        whole_notes += whole.notes()
    if not tests:
        return []
    grouped = any(pair.groups is not None for *_, pair in tests)
    raw = study.differences([[pair] for *_, pair in tests])
    lines = []
    for (student, dataset, row, baseline, pair), one, by_holm in zip(tests, raw, corrected(raw), strict=True):
        exact = pair.mcnemar()
        lines.append(
            (
                *(Cell(text=text) for text in (dataset, student, row.label, baseline.label)),
                Cell(one.mean, one.low, one.high),
                Cell(text=notes.p_text(one.p)),
                Cell(text=notes.p_text(by_holm.p)),
                Cell() if exact is None else Cell(text=notes.p_text(exact)),
                Cell(text=str(len(pair.seeds))),
                Cell(text=str(pair.questions)),
            )
        )
    table = Table(
        "comparisons",
        "Comparisons of methods in points",
        ("dataset", "student", "method", "against", "difference", "p", "p (Holm)", "p (McNemar)", "seeds", "questions"),
        tuple(lines),
        (
            "Difference: the method minus the one it is compared with, on the seeds and questions that both have, with "
            "the 95% confidence interval of the paired test.",
            f"p: of the same test. p (Holm): corrected for the {len(tests)} tests of this table. p (McNemar): exact "
            f"test, uncorrected, where there is one seed{_BUT_GROUPS if grouped else ''}.",
            *dict.fromkeys(whole_notes),
            *fraction_notes(study, [(dataset, student) for student, dataset, *_ in tests]),
            minimum_effects_note(effects),
        ),
        (
            notes.ACCURACY[study.metric],
            notes.TESTS,
            notes.MINIMUM_EFFECT,
            study.selection,
        ),
    )
    return [table]
