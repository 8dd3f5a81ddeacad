"""Tables -> Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.writers import latex, markdown, to_csv, write

TABLE = Table(
    "table1_tiny",
    "Methods & 100%",
    ("Method", "obqa", "p"),
    (
        (Cell(text="Δ_FF α"), Cell(0.61239, 0.58, 0.643, paper=0.494, best=True), Cell(text="<0.001")),
        (Cell(text="a|b*c* <i>"), Cell(paper=0.1), Cell(text="0.020")),
        (Cell(text="no number"), Cell(), Cell()),
        (Cell(text="zero"), Cell(-0.0001), Cell()),
    ),
    ("n_1 {x} <b> [a]", "second"),
    ("shared",),
)


def test_markdown_by_hand() -> None:
    assert markdown(TABLE) == (
        "## Methods &amp; 100%\n\n"
        "| Method | obqa | p |\n"
        "| --- | ---: | ---: |\n"
        "| Δ_FF α | **61.2** [58.0, 64.3] (49.40) | &lt;0.001 |\n"
        "| a\\|b\\*c\\* &lt;i&gt; | – (10.00) | 0.020 |\n"
        "| no number | – | – |\n"
        "| zero | 0.0 | – |\n"
        "\n- n_1 {x} &lt;b&gt; \\[a\\]\n- second\n- In parentheses: the paper's numbers.\n- shared\n"
    )


def test_a_file_of_one_table_has_the_shared_notes_and_a_report_says_them_elsewhere() -> None:
    within = markdown(TABLE, alone=False)
    assert within.endswith("- second\n") and markdown(TABLE).startswith(within)
    assert r"shared\par" in latex(TABLE) and latex(TABLE).count("parentheses") == 1


def test_latex_is_escaped_and_balanced() -> None:
    text = latex(TABLE)
    assert r"\caption{Methods \& 100\%}" in text and r"\begin{tabular}{lrr}" in text
    assert r"$\Delta$\_FF $\alpha$ & \textbf{61.2} {\scriptsize {[}58.0, 64.3{]}} {\scriptsize (49.40)}" in text
    assert r"\textless{}0.001 \\" in text and r"n\_1 \{x\} \textless{}b\textgreater{} {[}a{]}\par" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[%#_]", text.replace(r"\label{tab:table1_tiny}", ""))
    assert text.count(r" \\") == 1 + len(TABLE.rows)


def test_csv_has_long_numbers_in_columns_of_their_own() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert list(rows[0]) == ["Method", "obqa", "obqa low", "obqa high", "obqa paper", "p"]
    assert rows[0] == {
        "Method": "Δ_FF α", "obqa": "0.612390", "obqa low": "0.580000", "obqa high": "0.643000",
        "obqa paper": "0.494000", "p": "<0.001",
    }  # fmt: skip
    assert (rows[1]["obqa"], rows[1]["obqa paper"], rows[2]["obqa"], rows[2]["p"]) == ("", "0.100000", "", "")


def test_plain_numbers_are_no_percent() -> None:
    table = Table("t", "T", ("a", "n"), ((Cell(text="x"), Cell(1456.0)),), percent=False)
    assert "| x | 1456 |" in markdown(table)


def test_three_files(tmp_path: Path) -> None:
    paths = write(TABLE, tmp_path / "tables")
    assert [path.name for path in paths] == ["table1_tiny.md", "table1_tiny.tex", "table1_tiny.csv"]
    assert paths[0].read_text() == markdown(TABLE)
