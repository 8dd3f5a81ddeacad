"""What becomes of a call's arguments before Hydra reads them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tinyllm.checks import refuse_changed_texts
from tinyllm.cli import main
from tinyllm.cli.main import in_order, literal
from tinyllm.errors import UserError


def read_by_hydra(argument: str) -> str:
    override = OverridesParser.create().parse_override(argument)
    text: str = OmegaConf.create({"text": override.value()}).text
    return text


ASKED = [
    "Which number follows 7, or not?",
    "What's up",
    "A 50% (half) chance",
    'Is it 5:30 or "late"?',
    "[a, b]{c: d}",
    "0.50",
    "ends with \\",
    '\\" \\\\" ${x}',
    "a \\${x} and \\\\${y}",
]


@pytest.mark.parametrize("text", ASKED)
def test_a_question_is_taken_as_it_is(text: str) -> None:
    arguments = literal("predict", [f"question={text}", f"context={text}", "run=x"])
    assert [read_by_hydra(argument) for argument in arguments] == [text, text, "x"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_any_question_is(text: str) -> None:
    quoted = re.fullmatch(r"\s*('[^']*'|\"[^\"]*\")\s*", text)
    if text.strip() and not quoted:
        (argument,) = literal("predict", [f"question={text}"])
        assert read_by_hydra(argument) == text


def test_a_quoted_question_and_other_stages_are_left_as_they_are() -> None:
    for arguments in (['question="a, b"'], ["question='a, b'"], ["question="], ["choices=[a,b]"]):
        assert literal("predict", arguments) == arguments
    assert literal("train", ["question=a, b"]) == ["question=a, b"]


def test_options_may_stand_anywhere() -> None:
    given = ["seed=0,1", "-m", "data=jsonl", "--config-dir", "mine", "a=b", "--cfg=job", "-c", "job"]
    assert in_order(given) == ["seed=0,1", "data=jsonl", "a=b", "-m", "--config-dir", "mine", "--cfg=job", "-c", "job"]
    assert in_order(["--config-dir"]) == ["--config-dir"]
    assert in_order(["--info", "defaults", "seed=1"]) == ["seed=1", "--info", "defaults"]
    assert in_order(["--info", "seed=1"]) == ["seed=1", "--info"]


@pytest.mark.parametrize("search", ["grid", "staged"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_arguments_of_a_search_are_such_as_hydra_takes(
    monkeypatch: pytest.MonkeyPatch, search: str, place: int
) -> None:
    """The search adds weights of its own to the call; wherever `-m` stands, argparse has to take them all."""
    taken = []

    def called(stage: str) -> Callable[[], None]:
        return lambda: taken.append(get_args_parser().parse_args(sys.argv[1:]))

    given = ["method=tinyllm", f"alpha={search}", "seed=0"]
    monkeypatch.setattr(sys, "argv", ["tinyllm", "train", *given[:place], "-m", *given[place:]])
    monkeypatch.setattr(main, "_hydra_main", called)
    main.main()
    assert len(taken) == {"grid": 1, "staged": 2}[search]
    for arguments in taken:
        names = [override.partition("=")[0] for override in arguments.overrides]
        assert names == ["method", "alpha", "seed", "alpha.terse", "alpha.wordy"] and arguments.multirun


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("choices=[true,false]", "found true, which is read as True: quote it, as in .*'true',false"),
        ("choices=[x, 1_000]", "found 1_000, which is read as 1000"),
        ("choices=['0.50',0.50]", "found 0.50, which is read as 0.5"),
        ("data.columns.labels=[no,yes,1e3]", "data.columns.labels.*found 1e3"),
        ("+data.columns.fixed_choices=[TRUE,FALSE]", "found TRUE"),
    ],
)
def test_a_text_that_would_be_another_is_refused(override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        refuse_changed_texts([override])


@pytest.mark.parametrize(
    "override", ["choices=['true','0.50']", "choices=[1,2.5,a b]", "seed=007", "choices=[a", "choices"]
)
def test_other_texts_pass(override: str) -> None:
    refuse_changed_texts([override])
