"""The frame of runs -> tables for people."""

from __future__ import annotations

import pandas as pd

from tinyllm.evaluation.statistics import t_interval

_GROUP = ["dataset", "split", "student", "method", "ablation", "teachers", "alpha", "steps", "setting"]


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting, its runs averaged over seeds.

    A single run shows its 95% Wilson interval over questions; several show the mean and its 95% t interval over seeds.
    """
    subsets = sorted({c.split("/")[1] for c in frame.columns if c.startswith("subset/")})
    rows: list[dict[str, object]] = []
    for key, runs in frame.groupby(_GROUP, sort=False, dropna=False):
        row: dict[str, object] = dict(zip(_GROUP, key, strict=True))
        del row["setting"]
        row["seeds"] = runs["seed"].nunique()
        row["n"] = int(runs["n"].iloc[0])
        row["accuracy"] = _cell(runs, "accuracy", "accuracy_low", "accuracy_high")
        row["ranked"] = _cell(runs, "accuracy_ranked", "accuracy_ranked_low", "accuracy_ranked_high")
        for name in subsets:
            stem = f"subset/{name}/"
            row[f"{name} ranked"] = _cell(
                runs, f"{stem}accuracy_ranked", f"{stem}accuracy_ranked_low", f"{stem}accuracy_ranked_high"
            )
        row["unparsed"] = f"{runs['unparsed'].mean():g}"
        row["seconds"] = f"{runs['wall_seconds'].mean():.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(runs: pd.DataFrame, value: str, low: str, high: str) -> str:
    if value not in runs or runs[value].isna().all():
        return "-"
    if len(runs) == 1:
        return interval(runs[value].iloc[0], runs[low].iloc[0], runs[high].iloc[0])
    return interval(*t_interval(list(runs[value])))


def interval(value: float, low: float, high: float) -> str:
    """`61.2 [58.0, 64.3]`, in percent, from shares of 1."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; columns that say the same in every row stand above it."""
    constant = (
        [c for c in table.columns if c in _GROUP and table[c].nunique(dropna=False) == 1] if len(table) > 1 else []
    )
    head = ", ".join(f"{c} {table[c].iloc[0]}" for c in constant if table[c].iloc[0] not in ("", "none"))
    shown = table.drop(columns=constant)
    lines = ["| " + " | ".join(map(str, shown.columns)) + " |", "| " + " | ".join("---" for _ in shown.columns) + " |"]
    lines += [
        "| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |" for row in shown.itertuples(index=False)
    ]
    return "\n".join([*([head, ""] if head else []), *lines]) + "\n"
