"""`conf/README.md`, the reference of all options and keys: `make docs` writes it from the schema and from `conf/`."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf

from tinyllm import config as schema
from tinyllm import deviations
from tinyllm.compose import SCHEMAS, compose, config_folder
from tinyllm.errors import UserError

INTRO = """\
# Options and keys

Written by `make docs` from the files here and from `src/tinyllm/config.py`. Change those, not this page.

    tinyllm train data=obqa student=flan_t5_small trainer.batch_size=16

A **group** (`data=obqa`) takes one of the files in its folder, and that file sets several keys. A **key**
(`trainer.batch_size=16`) sets one value, and wins over every file. `tinyllm <stage> --cfg job` prints what a call
would use.

The column "default" gives the value of `base.yaml` or of the schema. If the default option of a group sets another
value, that follows after a semicolon. The default options are
{options}.

Hydra's own keys choose where and how jobs run: `hydra.run.dir=<folder>` of one run, `hydra.sweep.dir=<folder>` of a
sweep, `hydra/launcher=joblib` or `hydra/launcher=submitit_slurm` for several jobs at a time.

Contents: {contents}
"""
EXTRA_GROUPS = {
    "teacher": "One file a teacher: `teachers` puts them together, `tinyllm evaluate teacher=<option>` takes one.",
    "teachers": "A set; one teacher, by its name in `teacher`; or a list of them: `teachers=[flan_t5_xl,qwen3_4b]`.",
    "experiment": "Presets over all other groups.",
}
"""Groups that take a word of explanation: what they are for."""
PLACEHOLDERS = {"teachers": "<teacher>", "alpha": "<teacher>", "streams": "<stream>"}
STAGES = {stage: node for stage, node in SCHEMAS.items() if stage != "train"}
"""Stages with keys of their own."""


@dataclass(frozen=True)
class Key:
    """A row of a table of keys; all but `name` is Markdown."""

    name: str
    meaning: str
    type: str
    default: str


@cache
def docstrings(owner: type) -> Mapping[str, str]:
    """The docstrings below the fields of a dataclass or the members of an enum, by name."""
    module = ast.parse(inspect.getsource(sys.modules[owner.__module__]))
    body = next(node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == owner.__name__)
    found = {}
    for statement, below in pairwise(body):
        if isinstance(statement, ast.AnnAssign):
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign):
            target = statement.targets[0]
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[target.id] = inspect.cleandoc(str(below.value.value)).replace("\n", " ")
    return found


def default_options() -> dict[str, str]:
    """The option that `base.yaml` takes of each group."""
    listed = [entry for entry in _load("base.yaml")["defaults"] if isinstance(entry, dict)]
    return {group: option for entry in listed for group, option in entry.items()}


def options(group: str) -> dict[str, str]:
    """The options of a group, each with the first sentence of its file's first comment.

    Raises:
        UserError: for a file that does not begin with a comment.
    """
    return {file.stem: _first_sentence(file) for file in sorted((config_folder() / group).glob("*.yaml"))}


def keys(owner: type, file: str, prefix: str = "") -> Iterator[Key]:
    """The keys of a dataclass and of those inside it, with the defaults of `file` in `conf/`.

    Raises:
        UserError: for a field without a docstring.
    """
    hints, ruled = get_type_hints(owner), get_type_hints(owner, include_extras=True)
    for field in fields(owner):
        if field.name not in owner.__annotations__:
            continue  # of the class above, which has a table of its own
        hint, name = hints[field.name], prefix + field.name
        inner = _inner(hint)
        entry = f".{PLACEHOLDERS.get(field.name, '<name>')}" if get_origin(hint) is dict else ""
        if not prefix and owner is schema.ExperimentConfig and (inner or field.name == "alpha"):
            continue  # a section
        if field.name not in docstrings(owner):
            raise UserError(f"{owner.__name__}.{field.name}: expected a docstring below it, found none")
        if inner is None or inner is schema.TeacherConfig:
            default = field.default_factory() if field.default_factory is not NO_DEFAULT else field.default
            shown = _type(ruled[field.name])
            yield Key(name + entry, _meaning(owner, field.name, hint), shown, _default(name, default, file))
        else:
            if _optional(hint):
                yield Key(name, _meaning(owner, field.name, hint), "mapping or `null`", _default(name, None, file))
            yield from keys(inner, file, f"{name}{entry}.")


def generate() -> str:
    """The text of `conf/README.md`."""
    hints = get_type_hints(schema.ExperimentConfig)
    sections = {"general": [_table(list(keys(schema.ExperimentConfig, "base.yaml")))]}
    for field in fields(schema.ExperimentConfig):
        inner = _inner(hints[field.name])
        if inner is None and field.name != "alpha":
            continue
        if field.name == "teachers":
            sections["teacher"] = _options("teacher")
        sections[field.name] = _section(field.name, inner)
    sections["experiment"] = _options("experiment")
    sections["Where the authors' code contradicts the paper"] = contradictions()
    for stage, owner in STAGES.items():
        sections[f"tinyllm {stage}"] = [
            f"Keys of this stage only. {_own_keys(stage)}",
            _table(list(keys(owner, f"{stage}.yaml"))),
        ]
    contents = " · ".join(f"[{name}](#{_anchor(name)})" for name in sections)
    chosen = ", ".join(f"`{group}={option}`" for group, option in default_options().items() if option != "none")
    parts = [INTRO.format(options=chosen, contents=contents)]
    for name, paragraphs in sections.items():
        parts += [f"## {name}\n", *(f"{paragraph.strip()}\n" for paragraph in paragraphs)]
    return "\n".join(parts)


def contradictions() -> list[str]:
    """What `experiment=authors_code` and `experiment=paper` set differently, as both compose."""
    chosen = ["experiment=authors_code", "teachers=paper", "data=obqa", "student=flan_t5_small"]
    config = cast(schema.ExperimentConfig, OmegaConf.to_object(compose("train", chosen)))
    rows = [
        f"| `{key}` | {_cell(paper)} | {_cell(own)} |" for key, (paper, own) in deviations.deviations(config).items()
    ]
    intro = (
        "`experiment=authors_code` compared with `experiment=paper`; its file says what it leaves out and what is ours."
    )
    return [intro, "\n".join(["| key | paper | authors' code |", "| --- | --- | --- |", *rows])]


def main() -> None:
    """Write `conf/README.md`, and say where."""
    path = config_folder() / "README.md"
    path.write_text(generate(), encoding="utf-8")
    print(path)


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _section(name: str, owner: type | None) -> list[str]:
    """The paragraphs and tables of a key of the run's configuration that holds other keys."""
    text = inspect.cleandoc(owner.__doc__ or "") if owner else docstrings(schema.ExperimentConfig)[name]
    group = _options(name) if (config_folder() / name).is_dir() else []
    if owner is None:  # alpha: a weight a teacher, which the set's file gives
        default = "from the file of the set: `1.0`; `3.0` in minilab's"
        row = Key(f"{name}.{PLACEHOLDERS[name]}", _cell(text), "number, 0 or more", default)
        return [*group, _table([row])]
    prefix = f"{name}.{PLACEHOLDERS[name]}." if name in PLACEHOLDERS else f"{name}."
    return [text, *group, _table(list(keys(owner, "base.yaml", prefix)))]


def _own_keys(stage: str) -> str:
    shared = issubclass(STAGES[stage], schema.ExperimentConfig)
    return "It also reads the keys above." if shared else "It reads no others."


def _options(group: str) -> list[str]:
    chosen = default_options().get(group)
    rows = [
        f"| `{name}`{' (default)' if name == chosen else ''} | {_cell(text)} |" for name, text in options(group).items()
    ]
    intro = [EXTRA_GROUPS[group]] if group in EXTRA_GROUPS else []
    return [*intro, "\n".join([f"| `{group}=` | |", "| --- | --- |", *rows])]


def _table(rows: list[Key]) -> str:
    lines = [f"| `{row.name}` | {row.meaning} | {row.type} | {row.default} |" for row in rows]
    return "\n".join(["| key | meaning | type | default |", "| --- | --- | --- | --- |", *lines])


def _cell(text: str) -> str:
    """Text for a table: `<` stands for itself, but not inside backticks, where Markdown sees to it."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def _meaning(owner: type, name: str, hint: Any) -> str:
    """A field's docstring, and those of the values that it chooses from."""
    lines = [docstrings(owner)[name]]
    choice = _choice(hint)
    if choice is not None:
        lines += [f"`{value}`: {text}" for value, text in docstrings(choice).items()]
    return "<br>".join(map(_cell, lines))


def _inner(hint: Any) -> type | None:
    """The dataclass in a type, as itself, as an option or as the values of a mapping."""
    return next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and is_dataclass(one)), None)


def _choice(hint: Any) -> type[StrEnum] | None:
    return next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and issubclass(one, StrEnum)), None)


def _optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _type(hint: Any) -> str:
    """A type as words, with its rule: `integer, 1 or more, or `null``."""
    if get_origin(hint) is Annotated:
        base, *_, rule = get_args(hint)
        return rule.words[2:] if rule.words.startswith("a ") else f"{_type(base)}, {rule.words}"
    if _optional(hint):
        (inner,) = (one for one in get_args(hint) if one is not type(None))
        text = _type(inner)
        return f"{text}{',' if ', ' in text else ''} or `null`"
    choice = _choice(hint)
    if choice is not None:
        values = ", ".join(f"`{value}`" for value in choice)
        return f"list of {values}" if get_origin(hint) is list else values
    if get_origin(hint) is list:
        return "list of texts"
    if get_origin(hint) is dict:
        return "number, text, `true` or `false`"
    if is_dataclass(hint):
        return "an option of `teacher`"
    return {int: "integer", float: "number", bool: "`true`, `false`", str: "text", Any: "text or list of texts"}[hint]


def _default(name: str, in_schema: Any, file: str) -> str:
    """What `file` or else the schema gives, and what a default option puts in its place."""
    given = _flat(_load(file))
    value = given.get(name, in_schema)
    parts = [] if value == "???" and name not in given else [_value(value)]
    if file == "base.yaml":
        for group, option in default_options().items():
            path = f"{group}/{option}.yaml"
            content = _flat(_load(path), "" if _is_global(path) else f"{group}.")
            if any(key.startswith(f"{name}.") for key in content):
                parts = [f"in [{path}]({path})"]
            elif name in content and content[name] != value:
                parts.append(f"{_value(content[name])} with `{group}={option}`")
    return "; ".join(parts) or "set by each file"


def _value(value: Any) -> str:
    """A value as YAML, in backticks."""
    if value == "???":
        return "required"
    plain = str(value) if isinstance(value, StrEnum) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


@cache
def _load(path: str) -> Any:
    return yaml.safe_load((config_folder() / path).read_text(encoding="utf-8")) or {}


def _is_global(path: str) -> bool:
    return (config_folder() / path).read_text(encoding="utf-8").startswith("# @package _global_")


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found = {}
    for key, value in content.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
        found.update(inner)
    return found


def _first_sentence(file: Path) -> str:
    """Of the comment that a file begins with; packages, commands and indented lines are no part of it."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(("# @package", "# tinyllm ")):
            continue
        if not line.startswith("# ") or line.startswith("#  "):
            break
        lines.append(line.removeprefix("# ").strip())
    if not lines:
        raise UserError(f"{file}: expected a comment that says what it is at its top, found none")
    return re.split(r"(?<!al)\.\s", " ".join(lines))[0].rstrip(".:") + "."


if __name__ == "__main__":
    main()
