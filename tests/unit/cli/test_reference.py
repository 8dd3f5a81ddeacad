"""`conf/README.md` is what the generator makes, and says of each key what Hydra composes."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass

import pytest
from omegaconf import OmegaConf

from tinyllm import config as schema
from tinyllm.cli import reference
from tinyllm.compose import compose, config_folder
from tinyllm.errors import UserError

DATACLASSES = [one for one in vars(schema).values() if isinstance(one, type) and is_dataclass(one)]


def test_the_committed_file_is_what_the_generator_makes() -> None:
    committed = (config_folder() / "README.md").read_text(encoding="utf-8")
    assert committed == reference.generate(), "run make docs"


@pytest.mark.parametrize("owner", DATACLASSES, ids=lambda owner: owner.__name__)
def test_every_field_of_the_schema_is_explained(owner: type) -> None:
    """A field that holds a group of keys is explained by the docstring of its class."""
    assert owner.__doc__ and not owner.__doc__.startswith(f"{owner.__name__}(")
    for field in fields(owner):
        if field.name not in owner.__annotations__ or (owner is schema.ExperimentConfig and "Config" in field.type):
            continue
        assert reference.docstrings(owner).get(field.name), f"{owner.__name__}.{field.name}: no docstring below it"


def test_a_field_without_a_docstring_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "docstrings", lambda owner: {})
    with pytest.raises(UserError, match=r"LossConfig\.reduction"):
        list(reference.keys(schema.LossConfig, "base.yaml"))


def test_the_defaults_are_those_that_hydra_composes() -> None:
    composed = compose("train")
    rows = re.findall(r"^\| `([a-z_.]+)` \| .* \| ([^|]*) \|$", reference.generate().split("## tinyllm")[0], re.M)
    checked = 0
    for key, cell in rows:
        last = cell.split("; ")[-1].split("`")  # of the default option where one sets it
        if "." in key and not key.startswith("method.lora.") and len(last) > 1 and "](" not in cell:
            given = OmegaConf.from_dotlist([f"value={last[1]}", f"seed={composed.seed}"]).value
            assert given == OmegaConf.select(composed, key), key
            checked += 1
    assert checked > 50


def test_every_option_of_every_group_is_listed() -> None:
    text = reference.generate()
    for file in config_folder().glob("*/*.yaml"):
        section = text.split(f"\n## {file.parent.name}\n")[1].split("\n## ")[0]
        assert f"| `{file.stem}`" in section, file


def test_the_contradictions_are_those_of_the_composed_presets() -> None:
    """Against the two presets themselves, leaf by leaf."""
    chosen = ["teachers=paper", "data=obqa", "student=flan_t5_small"]
    paper, own = (compose("train", [f"experiment={name}", *chosen]) for name in ("paper", "authors_code"))
    differing = {
        f"{group}.{key}": (paper[group][key], own[group][key])
        for group in ("student", "prompt", "rationales", "loss", "optimizer", "trainer", "data", "method")
        for key in paper[group]
        if paper[group][key] != own[group][key]
    }
    assert differing.pop("trainer.accumulate_grad_batches") == (1, 8)  # it changes no update
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.*) \| (.*) \|$", reference.contradictions()[1], re.M)
    assert {key for key, _, _ in rows} == set(differing)
    assert ("trainer.batch_size", "8", "64") in rows and ("loss.reduction", "example", "token") in rows
