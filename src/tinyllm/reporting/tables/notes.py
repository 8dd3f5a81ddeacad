"""Notes that several tables share, and p values as text."""

from __future__ import annotations

from tinyllm import paper
from tinyllm.config import Metric
from tinyllm.reporting.study import LEVEL, POWER

ACCURACY = {
    Metric.accuracy: (
        "Accuracy in percent, by greedy generation (the paper's metric); a generation that names no option is wrong."
    ),
    Metric.accuracy_ranked: (
        "Accuracy in percent, by ranking the options; the accuracy of teachers and the paper's numbers are by greedy "
        "generation."
    ),
    Metric.accuracy_exact: (
        "Accuracy in percent, by greedy generation; the text must equal the answer, as in the authors' code. The "
        "accuracy of teachers is by the option that they conclude on."
    ),
}
INTERVALS = (
    "In brackets: 95% confidence intervals, Student's t over seeds or, for a single seed, Wilson's over questions "
    "(with the design effect, where questions come in groups). Where all seeds ask the same questions, the wider of "
    "the two."
)
MAJORITY = (
    "Majority class: accuracy of the most frequent answer of the training questions, on datasets whose questions all "
    "have the same options."
)
TOTALS = (
    "A total is the mean over the datasets. Its interval is Student's t over the seeds' totals, at least as wide as "
    "the runs' own intervals combined (Newcombe's square-and-add). Where datasets do not share several seeds, it is "
    "their intervals combined."
)
BOLD = (
    "Bold: the best row of a column (teachers aside), if it is significantly better than the second best (paired "
    f"test, p < {LEVEL:g} after Holm's correction over the columns)."
)
GAINS = (
    f"{' and '.join(label for label, _ in paper.GAINS.values())}: relative gain of TinyLLM over "
    f"{' and over '.join(paper.METHODS[method] for _, method in paper.GAINS.values())} in percent, on the seeds that "
    "both have, with the interval of the paired test."
)
TESTS = (
    "Paired tests bootstrap the questions, or whole groups where questions come in groups. With two or more seeds they "
    "also bootstrap the seeds, and are combined with a paired t test over seeds: the wider interval and the larger p "
    "are reported. A test on one seed says nothing about other seeds."
)
MINIMUM_EFFECT = (
    "The minimum detectable effect is the smallest true difference that the paired test finds with power "
    f"{POWER:g} at level {LEVEL:g} (two-sided, before Holm's correction), given the standard error of the paired "
    "difference in these runs."
)


def p_text(p: float) -> str:
    """Three decimals; `<0.001` below them."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
