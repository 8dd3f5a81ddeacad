"""`minilab`: an embedded testbed in plain English, with scripted teachers.

Every fact has two hops: a situation needs a property, and objects have it ("saw a table leg to match the other three"
-> length -> tape measure). The first kind of question asks which object suits a situation; its distractors are objects
of other properties of the same family, so the options alone say nothing. The second kind says which object somebody
chose in a situation, and asks for that: the answer stands in the question and never needs the property, but the
teachers' rationales name the object that would have suited, and its property.

Some situations are *hidden*: training asks about them in the second kind only, so the link from such a situation to
its property stands in training rationales alone, never in a training answer. Each teacher knows one half of the links.
Validation and test ask the first kind on (situation, object) pairs that training never shows, and name the subset of
each question, `visible` or `hidden`. In the world `answers_suffice`, a control, training asks about hidden situations
in the first kind as well. The seed draws 4 of 8 families and 4 of 7 properties in each.

Source: facts, sentences and errors are written for this project; nothing is downloaded.
"""

from __future__ import annotations

from tinyllm.data.minilab.draw import generate
from tinyllm.data.minilab.knowledge_base import FAMILIES, Facts, Family, Kind, Property, facts_of
from tinyllm.data.minilab.scripted import (
    ALL_VOICES,
    ERROR_SHARES,
    FREE_ERROR_SHARES,
    MISLEADING,
    VOICES,
    answer_freely,
    argue,
    explain,
    is_wrong,
    knows_link,
    reason,
)

NAME = "minilab"
"""Name of the dataset in configs, stores and results."""

__all__ = [
    "ALL_VOICES",
    "ERROR_SHARES",
    "FAMILIES",
    "FREE_ERROR_SHARES",
    "MISLEADING",
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
    "knows_link",
    "reason",
]
