"""Which runs of TinyLLM an ablation is compared with: on texts of the same origin, at the same α."""

from __future__ import annotations

import pandas as pd

from tinyllm.reporting.study import Study
from tinyllm.reporting.texts import PUBLISHED, differing


class Whole:
    """TinyLLM without ablation, of one student.

    An ablation changes one thing. Where the whole method was trained on texts of another origin or decoding, a
    difference would be theirs too; where its α was tuned and the ablation's was not, tuning would count as well.
    """

    def __init__(self, study: Study, student: str) -> None:
        self._study = study
        self._student = student
        self._refused: dict[str, list[str]] = {}
        self._variant: dict[str, list[str]] = {}
        self._same_alpha: dict[str, list[str]] = {}
        self._mixed: list[str] = []

    def of(self, ablation: pd.DataFrame, name: str) -> pd.DataFrame | None:
        """TinyLLM's runs to compare with; empty where there are none.

        Args:
            ablation: runs of one setting on one dataset.
            name: of its row, for the notes.

        Returns:
            None where the two differ in their teachers' texts by more than the ablation.
        """
        dataset = "" if ablation.empty else str(ablation["dataset"].iloc[0])
        runs = self._study.select(self._student, "tinyllm")
        runs = runs[runs["dataset"] == dataset]
        if ablation.empty or runs.empty:
            return runs
        name = f"{name} ({dataset})"
        if problems := _problems(runs, ablation):
            others = self._same_apart_from_texts(runs)
            found = [part for _, part in others.groupby("variant") if not _problems(part, ablation)]
            if not found:
                self._refused.setdefault("; ".join(problems), []).append(name)
                return None
            runs = found[0]
            self._variant.setdefault(str(runs["variant"].iloc[0]), []).append(name)
        return self._at_same_alpha(runs, ablation, name) if ablation["ablation"].iloc[0] != "none" else runs

    def why_not(self, ablation: pd.DataFrame) -> str:
        """Why `of` refuses."""
        dataset = ablation["dataset"].iloc[0]
        runs = self._study.select(self._student, "tinyllm")
        return _advice("; ".join(_problems(runs[runs["dataset"] == dataset], ablation)))

    def _same_apart_from_texts(self, runs: pd.DataFrame) -> pd.DataFrame:
        every, names = self._study.runs, set(runs["teachers"].iloc[0].split("+"))
        found: pd.DataFrame = every[
            (every["dataset"] == runs["dataset"].iloc[0])
            & (every["student"] == self._student)
            & (every["method"] == "tinyllm")
            & (every["ablation"] == "none")
            & (every["variant"] != "")
            & (every["apart_from_texts"] == runs["apart_from_texts"].iloc[0])
            & (every["teachers"].map(lambda joined: set(joined.split("+"))) == names)
        ]
        return found

    def _at_same_alpha(self, runs: pd.DataFrame, ablation: pd.DataFrame, name: str) -> pd.DataFrame:
        tuned = set(runs["setting"])
        if not any(choice.setting in tuned for choice in self._study.choices_in_tables):
            return runs
        every = self._study.candidates
        first = runs.iloc[0]
        same = every["composed_alpha"] == str(ablation["composed_alpha"].iloc[0])
        for column in ("dataset", "student", "method", "ablation", "variant"):
            same &= every[column] == first[column]
        found: pd.DataFrame = every[same]
        if found.empty or found["setting"].nunique() > 1:
            self._mixed.append(name)
            return runs
        self._same_alpha.setdefault(str(ablation["composed_alpha"].iloc[0]), []).append(name)
        return found

    def refusals(self) -> list[str]:
        """What was not compared, why, and what to run."""
        return [
            f"Not compared with TinyLLM: {', '.join(dict.fromkeys(rows))}: {_advice(why)}."
            for why, rows in self._refused.items()
        ]

    def notes(self) -> list[str]:
        """What was compared with what, and what was not."""
        notes = self.refusals()
        notes += [
            f"Compared with TinyLLM [{variant}], as its texts are of the same origin: {', '.join(dict.fromkeys(rows))}."
            for variant, rows in self._variant.items()
        ]
        notes += [
            f"Compared with TinyLLM at the same α ({alpha}), as α was tuned for TinyLLM alone: "
            f"{', '.join(dict.fromkeys(rows))}."
            for alpha, rows in self._same_alpha.items()
        ]
        if self._mixed:
            notes.append(
                "Compared with TinyLLM at its tuned α, as TinyLLM was not run at the same α, so the difference also "
                f"contains the effect of tuning: {', '.join(dict.fromkeys(self._mixed))}."
            )
        return notes


def _problems(whole: pd.DataFrame, ablation: pd.DataFrame) -> list[str]:
    found: dict[str, None] = {}
    for theirs in dict.fromkeys(whole["texts"]):
        for own in dict.fromkeys(ablation["texts"]):
            found |= dict.fromkeys(differing(theirs, own))
    return list(found)


def _advice(problems: str) -> str:
    if PUBLISHED in problems:
        return f"texts differ ({problems}): run both with rationales.recorded=false"
    return f"texts differ ({problems}): run TinyLLM with the same settings of its teachers"
