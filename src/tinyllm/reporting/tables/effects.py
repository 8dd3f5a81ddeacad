"""What paired tests of methods can find."""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm.evaluation.statistics import detectable_difference, smallest_difference
from tinyllm.reporting.paired import Pair
from tinyllm.reporting.study import LEVEL, POWER, Study
from tinyllm.reporting.tables.grid import Column, Row, pairs_of


def minimum_effects_note(effects: Sequence[str]) -> str:
    """The note on the minimum detectable effects of a table."""
    if not effects:
        return "Minimum detectable effect: unknown without predictions of two methods."
    return f"Minimum detectable effect in points (power {POWER:g}, level {LEVEL:g}): {'; '.join(effects)}."


def minimum_effects(study: Study, rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """The minimum detectable effect of every column that has tests, as text.

    Of TinyLLM and full fine-tuning; where one of them is missing, of TinyLLM and the row with the largest one.
    """
    tinyllm, full = (
        next((row for row in rows if row.method == method and row.plain), None) for method in ("tinyllm", "full_ft")
    )
    found = []
    for column in columns if tinyllm is not None else ():
        assert tinyllm is not None
        if full is not None and (pairs := pairs_of(study, tinyllm, full, column)):
            found.append(f"{column.name}: {_minimum_effect(study, tinyllm, full, pairs)[1]}")
            continue
        others = [(row, pairs_of(study, tinyllm, row, column)) for row in rows if row is not tinyllm]
        effects = [_minimum_effect(study, tinyllm, row, pairs) for row, pairs in others if pairs]
        if effects:
            found.append(f"{column.name}: {max(effects)[1]}")
    return found


def minimum_effects_of(study: Study, tests: Sequence[tuple[Row, Row, Column, Sequence[Pair]]]) -> list[str]:
    """Of every column that has tests, the largest minimum detectable effect of these, as text."""
    found = []
    for column in dict.fromkeys(column for _, _, column, _ in tests):
        effects = [_minimum_effect(study, one, other, pairs) for one, other, at, pairs in tests if at == column]
        found.append(f"{column.name}: {max(effects)[1]}")
    return found


def _minimum_effect(study: Study, first: Row, second: Row, pairs: Sequence[Pair]) -> tuple[float, str]:
    """As a share of 1, and in words."""
    averages = study.averages(pairs)
    effect = detectable_difference(averages.means, averages.by_seed, alpha=LEVEL, power=POWER)
    seeds = max(len(pair.seeds) for pair in pairs)
    parts = [f"{first.label} vs. {second.label}", f"{seeds} seed{'s' if seeds > 1 else ''}"]
    if len(pairs) == 1:
        n, groups, discordance = pairs[0].questions_a_seed, pairs[0].groups_a_seed, pairs[0].discordance
        parts.append(f"n {n}{f' in {groups} groups' if groups else ''}, {100 * discordance:.0f}% discordant")
        if groups is None:
            exact = smallest_difference(n, discordance, alpha=LEVEL, power=POWER)
            parts[-1] += f"; McNemar's exact test on one seed: {'none' if exact is None else f'{100 * exact:.1f}'}"
    if effect is None:
        return 0.0, f"unknown, as no answer differs ({', '.join(parts)})"
    return effect, f"{100 * effect:.1f} ({', '.join(parts)})" if effect <= 1 else f"none ({', '.join(parts)})"
