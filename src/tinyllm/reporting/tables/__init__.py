"""The tables of a report, a file each. A new table is a function of the study in a file of its own, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Table
from tinyllm.reporting.tables.claims import claims, claims_by_dataset
from tinyllm.reporting.tables.comparisons import comparisons
from tinyllm.reporting.tables.conflict import conflict
from tinyllm.reporting.tables.settings import settings
from tinyllm.reporting.tables.table1 import table1
from tinyllm.reporting.tables.table2 import table2
from tinyllm.reporting.tables.teachers import teachers
from tinyllm.reporting.tables.weights import weights

TABLES: tuple[Callable[[Study], list[Table]], ...] = (
    claims,
    table1,
    table2,
    comparisons,
    teachers,
    weights,
    conflict,
    claims_by_dataset,
    settings,
)


def all_tables(study: Study) -> list[Table]:
    """Every table for which there are runs, in the order of the report."""
    return [table for make in TABLES for table in make(study)]
