"""Runs of `run.sh` -> results.csv and results.md: means over seeds, and differences to full fine-tuning paired by seed.

python experiments/minilab/summarise.py <runs> <output>
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from tinyllm.evaluation.statistics import t_interval
from tinyllm.reporting.frame import collect

SCORES = {
    "visible, ranked": "subset/visible/accuracy_ranked",
    "hidden, ranked": "subset/hidden/accuracy_ranked",
    "all, ranked": "accuracy_ranked",
    "visible, greedy": "subset/visible/accuracy",
    "hidden, greedy": "subset/hidden/accuracy",
}
SETTING = ["method", "ablation", "alpha", "steps"]


def name(method: str, ablation: str, alpha: str, steps: int) -> str:
    """A setting for people."""
    parts = [method, *([ablation] if ablation != "none" else []), *([alpha] if alpha else [])]
    return f"{', '.join(parts)} ({steps} steps)"


def main() -> None:
    """Read all runs, write both files."""
    runs, output = Path(sys.argv[1]), Path(sys.argv[2])
    frame = collect([runs]).frame.sort_values([*SETTING, "seed"])
    kept = [*SETTING, "seed", "n", *SCORES.values(), "unparsed", "valid_accuracy", "wall_seconds", "config_hash"]
    frame[kept].to_csv(output / "results.csv", index=False, float_format="%.6f")
    base = frame[(frame.method == "full_ft") & (frame.steps == frame[frame.method == "full_ft"].steps.min())]
    rows, differences = [], []
    for key, group in frame.groupby(SETTING, sort=False):
        row: dict[str, object] = {"setting": name(*key), "seeds": len(group)}
        row |= {title: interval(*t_interval(list(group[column]))) for title, column in SCORES.items()}
        row |= {"seconds": f"{group.wall_seconds.mean():.0f}"}
        rows.append(row)
        paired = group.merge(base, on="seed", suffixes=("", "_base"))
        if key[0] != "inference" and len(paired) > 1 and not group.config_hash.isin(base.config_hash).any():
            gain = {t: list(paired[c] - paired[f"{c}_base"]) for t, c in SCORES.items()}
            differences.append({"setting": name(*key)} | {t: interval(*t_interval(v)) for t, v in gain.items()})
    text = "Accuracy in percent, mean over seeds with its 95% t interval.\n\n" + table(rows)
    text += f"\nDifference to full_ft of {base.steps.iloc[0]} steps, in points, paired by seed, "
    text += "with its 95% t interval.\n\n"
    (output / "results.md").write_text(text + table(differences))
    print(text + table(differences))


def interval(value: float, low: float, high: float) -> str:
    """`61.2 [58.0, 64.3]`, in percent, from shares of 1."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def table(rows: list[dict[str, object]]) -> str:
    """A Markdown table."""
    frame = pd.DataFrame(rows)
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, r)) + " |" for r in frame.itertuples(index=False))]) + "\n"


if __name__ == "__main__":
    main()
