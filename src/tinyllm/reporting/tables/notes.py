"""Notes that several tables share, and p values as text."""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm.config import Metric
from tinyllm.reporting.paired import Pair, common_seeds
from tinyllm.reporting.study import LEVEL, POWER

ACCURACY = {
    Metric.accuracy: (
        "Accuracy in percent, by greedy generation (the paper's metric); a generation that names no option is wrong."
    ),
    Metric.accuracy_ranked: (
        "Accuracy in percent, by ranking the options; the accuracy of teachers and the paper's numbers are by greedy "
        "generation."
    ),
}
INTERVALS = (
    "In brackets: 95% confidence intervals, Student's t over seeds or, for a single seed, Wilson's over questions."
)
TOTALS = (
    "A total is the mean over the datasets. Its interval is Student's t over the seeds' totals or, where datasets do "
    "not share several seeds, the datasets' intervals combined (Newcombe's square-and-add)."
)
BOLD = (
    "Bold: the best student of a column, where it is significantly better than the second best (paired test, "
    f"p < {LEVEL:g} after Holm's correction over the columns)."
)
MINIMUM_EFFECT = (
    "The minimum detectable effect is the smallest true difference that the paired test finds with power "
    f"{POWER:g} at level {LEVEL:g} (two-sided, before Holm's correction), given the standard error of the paired "
    "difference in these runs."
)
_SEVERAL_SEEDS = (
    "Tests on two or more seeds combine the paired bootstrap over questions and seeds with the paired t test over "
    "seeds: the wider interval and the larger p are reported."
)
_ONE_SEED = (
    "Tests on one seed are the paired bootstrap over questions: interval and p leave out the variation between seeds."
)


def tests_notes(tests: Sequence[Sequence[Pair]]) -> list[str]:
    """How tests were made, for those that were.

    Args:
        tests: the pairs of each, one a dataset.
    """
    several = [len(common_seeds(pairs)) > 1 for pairs in tests]
    return [*([_SEVERAL_SEEDS] if any(several) else []), *([] if all(several) else [_ONE_SEED])]


def p_text(p: float) -> str:
    """Three decimals; `<0.001` below them."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
