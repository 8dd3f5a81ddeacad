"""The paper's claims, and what these runs say of each."""

from __future__ import annotations

from collections import Counter

from tinyllm.reporting.choose import tries_text
from tinyllm.reporting.claims import paper_claims
from tinyllm.reporting.study import LEVEL, Study
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import notes
from tinyllm.reporting.verdicts import Line, Tested, Verdict, judge

_CLAIM, _STUDENT, _DATASETS, _P, _WHERE, _REMARKS, _ID = (
    "claim", "student", "datasets", "p (Holm)", "where", "remarks", "id",
)  # fmt: skip
_CLEAR = (Verdict.holds, Verdict.contradicted)
_IN_SHORT = 3
"""Claims that `in_short` names for each verdict."""
_NOT_SHOWN = (
    "holds: the interval is above 0. contradicted: it is below 0. not shown: it contains 0. MDE (minimum detectable "
    "effect): the smallest true difference that these runs could have detected."
)


def claims(study: Study) -> list[Table]:
    """One line for each claim and student, averaged over datasets; what was not run comes last."""
    if not study.students:
        return []
    lines = judge(study, paper_claims())
    scopes = _several_scopes(lines)
    tested = [line for line in lines if line.verdict is not Verdict.not_run]
    rows = [_row(line, named=(line.claim.id, line.student) in scopes) for line in tested] + _not_run(
        [line for line in lines if line not in tested]
    )
    kept = [_CLAIM, _STUDENT, "paper", "ours", "verdict", "MDE", _DATASETS, _REMARKS, _P, _WHERE, _ID]
    if len(study.students) == 1:
        kept.remove(_STUDENT)
    if all(len(line.datasets) < 2 for line in lines) and not scopes:
        kept.remove(_DATASETS)
    table = Table(
        "claims",
        "The paper's claims",
        tuple(kept),
        tuple(tuple(row.get(column, Cell()) for column in kept) for row in rows),
        (
            "ours: the difference in points, averaged over the datasets that were run, with the paired test's 95% "
            "confidence interval. paper: the paper's difference for the same student and datasets, from its tables; "
            "else what its text says, or the range over its students.",
            _NOT_SHOWN,
            f"p (Holm): corrected for the {len(tested)} tests of this table. It stands beside the verdict where the "
            f"interval is clear of 0 and the corrected p is {LEVEL:g} or more.",
            *(
                [
                    "datasets: on how many of them the claim holds by itself; each is in “The claims by dataset”. They "
                    "are named where others stand in a line of their own."
                ]
                if _DATASETS in kept
                else []
            ),
            "A control is not a claim of the paper: it tests another explanation of a difference.",
            *filter(None, [tries_text(study.candidates)]),
        ),
        (notes.ACCURACY[study.metric], notes.TESTS, notes.MINIMUM_EFFECT, study.selection),
        in_terminal=True,
        terminal_rows=len(tested),
        split_by=_STUDENT,
        files_only=(_P, _WHERE, _REMARKS, _ID),
    )
    return [table]


def in_short(study: Study) -> str:
    """What was tested and what came out, as a line; "" where nothing was."""
    lines = [line for line in judge(study, paper_claims()) if line.difference is not None]
    scopes = _several_scopes(lines)
    all_single = all(map(_on_one_seed, lines))
    parts = []
    for verdict in (Verdict.holds, Verdict.contradicted, Verdict.not_shown):
        found = [line for line in lines if line.verdict is verdict]
        named = [
            _with_difference(line, study, note=not all_single, datasets=(line.claim.id, line.student) in scopes)
            for line in found[:_IN_SHORT]
        ]
        named += [f"{len(found) - _IN_SHORT} more"] if len(found) > _IN_SHORT else []
        parts += [f"{str(verdict).capitalize()}: {'; '.join(named)}."] if found else []
    if lines and all_single:
        parts.append("With one seed each method was trained once: another seed may differ by more than the interval.")
    return " ".join(parts)


def _on_one_seed(line: Line) -> bool:
    return all(len(one.pair.seeds) == 1 for one in line.datasets if one.pair is not None)


def _several_scopes(lines: list[Line]) -> set[tuple[str, str]]:
    """(claim, student) that have several lines: the paper's datasets and others are averaged apart."""
    count = Counter((line.claim.id, line.student) for line in lines if line.datasets)
    return {key for key, number in count.items() if number > 1}


def _with_difference(line: Line, study: Study, *, note: bool, datasets: bool) -> str:
    mean, p = (line.difference.mean, line.difference.p) if line.difference is not None else (0.0, 0.0)
    where = f", student {line.student}" if len(study.students) > 1 else ""
    where += f", {_names(line)}" if datasets else ""
    where += f", p {p:.2f}" if line.verdict in _CLEAR and p >= LEVEL else ""
    where += ", on one seed" if note and _on_one_seed(line) else ""
    return f"{line.sentence}{_control(line)} ({100 * mean:+.1f} points{where})"


def _names(line: Line) -> str:
    return ", ".join(one.dataset for one in line.datasets)


def _control(line: Line) -> str:
    return " (control)" if line.claim.control else ""


def claims_by_dataset(study: Study) -> list[Table]:
    """The lines of `claims` that average over datasets, apart."""
    if not study.students:
        return []
    lines = [line for line in judge(study, paper_claims()) if sum(one.pair is not None for one in line.datasets) > 1]
    rows = [
        (
            Cell(text=line.sentence),
            Cell(text=line.student),
            Cell(text=one.dataset),
            Cell(one.paper),
            _ours(one),
            _verdict(one.verdict),
            Cell(one.detectable),
            Cell(text=one.remark) if one.remark else Cell(),
        )
        for line in lines
        for one in line.datasets
        if one.pair is not None
    ]
    if not rows:
        return []
    table = Table(
        "claims_by_dataset",
        "The claims by dataset",
        (_CLAIM, _STUDENT, "dataset", "paper", "ours", "verdict", "MDE", _REMARKS),
        tuple(rows),
        ("Differences in points with 95% confidence intervals, not corrected for their number.", _NOT_SHOWN),
        (notes.TESTS, notes.MINIMUM_EFFECT),
        collapsed=True,
    )
    return [table]


def _row(line: Line, *, named: bool) -> dict[str, Cell]:
    against = [one.dataset for one in line.datasets if one.verdict is Verdict.contradicted]
    remarks = [
        *([f"contradicted on {', '.join(against)}"] if len(line.datasets) > 1 and against else []),
        *line.remarks,
    ]
    return _named(line, line.student) | {
        "ours": _ours(line),
        "verdict": _verdict(line.verdict, line.difference.p if line.difference is not None else 0.0),
        "MDE": Cell(line.detectable),
        _P: Cell() if line.difference is None else Cell(text=notes.p_text(line.difference.p)),
        _DATASETS: _counts(line, named=named),
        _REMARKS: Cell(text="; ".join(remarks)) if remarks else Cell(),
    }


def _not_run(lines: list[Line]) -> list[dict[str, Cell]]:
    """One row for all students of a claim that have the same reason."""
    grouped: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        grouped.setdefault((line.claim.id, line.sentence, line.reason), []).append(line)
    return [
        _named(group[0], ", ".join(dict.fromkeys(line.student for line in group)))
        | {"verdict": _verdict(Verdict.not_run), _REMARKS: Cell(text=group[0].reason)}
        for group in grouped.values()
    ]


def _named(line: Line, students: str) -> dict[str, Cell]:
    number = Cell(line.paper) if line.paper is not None else Cell(text=line.in_words or None)
    return {
        _CLAIM: Cell(
            text=line.sentence + _control(line),
            note=f"{line.claim.id}: {line.claim.where}",
        ),
        _STUDENT: Cell(text=students or None),
        "paper": number,
        _WHERE: Cell(text=line.claim.where),
        _ID: Cell(text=line.claim.id),
    }


def _ours(found: Line | Tested) -> Cell:
    one = found.difference
    return Cell() if one is None else Cell(one.mean, one.low, one.high)


def _verdict(verdict: Verdict, p: float = 0.0) -> Cell:
    text = f"{verdict}, p {p:.2f}" if verdict in _CLEAR and p >= LEVEL else str(verdict)
    return Cell(text=text, mark=str(verdict).replace(" ", "-"))


def _counts(line: Line, *, named: bool) -> Cell:
    """`5 of 6`: on how many of several datasets it holds; with their names where it says which."""
    verdicts = [one.verdict for one in line.datasets if one.pair is not None]
    count = f"{verdicts.count(Verdict.holds)} of {len(verdicts)}" if len(line.datasets) > 1 else ""
    text = ": ".join(filter(None, [count, _names(line) if named else ""]))
    return Cell(text=text) if text else Cell()
