"""`minilab`: an embedded testbed in plain English, with two scripted teachers.

Every fact has two hops: a situation needs a property, and an object has it ("saw a table leg to match the other
three" -> length -> tape measure). The first kind of question asks for the object; its distractors are objects of
other properties of the same family, so the options alone say nothing. The second kind asks where, when or by whom the
same thing is done; its answer never needs the property, but the teachers' rationales name it.

A quarter of the situations, those of two settings in each family, are *hidden*: training holds only the second kind
on them, so the link from such a situation to its property stands in training rationales alone, never in a training
answer. Validation and test ask the first kind on (situation, answer) pairs that training never shows, and name the
subset of each question, `visible` or `hidden`. The seed draws 7 of 8 families and 4 of 7 properties in each.

Source: facts, sentences and errors are written for this project; nothing is downloaded.
"""

from __future__ import annotations

from tinyllm.data.minilab.draw import generate
from tinyllm.data.minilab.knowledge_base import FAMILIES, Facts, Family, Kind, Property, facts_of
from tinyllm.data.minilab.scripted import (
    ERROR_SHARES,
    FREE_ERROR_SHARES,
    VOICES,
    answer_freely,
    argue,
    explain,
    is_wrong,
    reason,
)

NAME = "minilab"
"""Name of the dataset in configs, stores and results."""

__all__ = [
    "ERROR_SHARES",
    "FAMILIES",
    "FREE_ERROR_SHARES",
    "NAME",
    "VOICES",
    "Facts",
    "Family",
    "Kind",
    "Property",
    "answer_freely",
    "argue",
    "explain",
    "facts_of",
    "generate",
    "is_wrong",
    "reason",
]
