"""Run folders -> one frame with a row a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tinyllm.config import (
    ExperimentConfig,
    Source,
    WhichTeachers,
)
from tinyllm.deviations import deviations
from tinyllm.errors import UserError
from tinyllm.methods import weighs_texts
from tinyllm.records import Result
from tinyllm.reporting.identity import (
    NO_RUN,
    Identity,
    composed_alpha,
    differing_settings,
    identity_of,
    single_teacher_of,
    variants_of,
    which_teachers,
)
from tinyllm.reporting.training import as_now, training_columns
from tinyllm.runs import CONFIG, RESULT, TEACHER, as_row, read_config, read_result

log = logging.getLogger(__name__)


class Collected(NamedTuple):
    """What was found below some folders."""

    frame: pd.DataFrame
    """A row a run, in the order of the folders and of the paths inside them. Columns: the fields of `records.Result`
    (teachers joined with "+", alpha, train_loss and deviations as text, weights as JSON, "" where all are 1), and

    - `alpha/<teacher>`: weight of that teacher's stream, NaN where the run knows no such stream;
    - `subset/<name>/<score>`: scores of a named part of the split;
    - `train_fraction`, `data_seed`: of the configuration; 1 and the run's seed without one;
    - `redrawn`: each seed of the data draws questions of its own (minilab);
    - `method_teacher`: the teacher of a single-teacher method, "" for other methods;
    - `untrained`: the method trains nothing (a teacher too), so `train_fraction` says nothing of it;
    - `composed_alpha`: α as configured, before an ablation takes its teachers' streams away, as text;
    - `dropped`: teachers of the set that an ablation leaves out, joined with "+";
    - `strongest`: the teacher that stands for the whole set, under `ablation.strongest`; else "";
    - `teacher_set`: the run's teachers in their order, dropped ones too, joined with "+";
    - `texts`: where its teachers' texts came from (`texts.RunTexts`);
    - `apart_from_texts`: the same for families that differ in their teachers, prompts and ablations at most;
    - `epochs`, and `passes`: epochs times streams, the forward passes that a question has which every stream has
      a text on; NaN if unknown;
    - `taught`: the teachers whose texts are taught, as JSON: name -> [hash of how it is asked, α];
    - `without_teachers`: the same for runs that differ in their seeds and their teachers, with α, alone;
    - `untaught`: the same for runs that differ in their seeds and in all that concerns method and teachers, alone;
    - `weighting`: its name, "" where no texts are weighed; `wrong_share`: of the set's misleading teacher, else NaN;
    - `setting`: the same for runs that differ in their seeds, or in the split that they were evaluated on, alone;
    - `family`: the same for settings that differ in α, the single teacher, the learning rate or the training fraction
      at most;
    - `learning_rate`: the peak, as text, where the family has several; else "";
    - `variant`: "" for the family with the settings that most runs of its dataset and student share; for another one of
      the same method and ablation, the keys by which it differs from that one, such as `trainer.max_epochs=18`;
    - `folder`: where the run's files are; `run`: the same, relative to the folder that was searched.

    `method` is that of the result, with one exception: a run of `step_by_step` whose teacher was given the answer, as
    all of earlier versions were, is a run of `one_teacher`.

    A student that was evaluated apart from its run has the variant `training run unknown`, unless that run is among the
    folders: it then has its validation accuracy or, if it was trained on another dataset, the variant `trained on
    <dataset>`, and if it was evaluated with other settings, the keys by which these differ.

    What has no influence on a run is not part of its setting: evaluation options, the optimizer of an untrained model,
    the teachers of a method that has none."""
    skipped: list[str]
    """A line for every `result.json` that is broken or foreign, with what is wrong with it; named as in `run`."""
    repeated: list[str]
    """A line for every run that was left out because the same setting with the same seeds stands in another folder."""


def collect(folders: Sequence[Path]) -> Collected:
    """All results below the folders; what can't be used is named in a warning and skipped.

    Raises:
        UserError: when a folder is missing, or none holds a result.
    """
    rows: list[tuple[dict[str, Any], Identity]] = []
    skipped: list[str] = []
    for root, path in _results(folders):
        run = path.parent.name if path.parent == root else path.parent.relative_to(root).as_posix()
        try:
            rows.append(_read(path, run))
        except (UserError, ValueError, AttributeError, TypeError, LookupError, OSError) as error:
            text = str(error)
            reason = text.removeprefix(f"{path}: ") if str(path) in text else f"not a result of this version ({text})"
            skipped.append(f"{run}/{RESULT}: {reason}")
            log.warning("skipped: %s: %s", path, reason)
    if not rows:
        where = f"below {', '.join(map(str, folders))}" if folders else "yet"
        raise UserError(f"runs: no {RESULT} {where}: run 'tinyllm train'")
    kept, repeated = _once(rows)
    frame = pd.DataFrame([row for row, _ in kept])
    frame["variant"] = variants_of(frame, [identity for _, identity in kept])
    several = frame.groupby("family")["learning_rate"].transform("nunique") > 1
    frame["learning_rate"] = frame["learning_rate"].map("{:g}".format).where(several, "")
    return Collected(frame.drop(columns="evaluated_only"), skipped, repeated)


def _read(path: Path, run: str) -> tuple[dict[str, Any], Identity]:
    """One run's row of the frame; whatever is wrong with its `result.json` raises here."""
    result, config = as_now(read_result(path), _config(path.parent))
    row = _row(result)
    identity = identity_of(config, result)
    row |= _of_config(config, result) | training_columns(config, result)
    row["setting"], row["family"] = identity.setting, identity.family
    row["evaluated_only"] = _evaluated_only(config, result)
    row["folder"], row["run"] = str(path.parent), run
    return row, identity


def _evaluated_only(config: ExperimentConfig | None, result: Result) -> bool:
    """A student that another run trained."""
    return config is not None and config.method.train and result.train_examples == 0 and result.method != TEACHER


def _once(rows: list[tuple[dict[str, Any], Identity]]) -> tuple[list[tuple[dict[str, Any], Identity]], list[str]]:
    """Every setting once for the same seeds and split; evaluations get the validation accuracy of their training run.

    A run that trained goes before a later evaluation of it. A student that was trained on another dataset, or nobody
    knows on which, is no seed of the students that were trained on this one.
    """
    training = [pair for pair in rows if not pair[0]["evaluated_only"]]
    trained = {(row["setting"], row["seed"], row["data_seed"]): (row, own) for row, own in training}
    by_hash = {row["config_hash"]: (row, own) for row, own in training}
    first: dict[tuple[object, ...], str] = {}
    kept: list[tuple[dict[str, Any], Identity]] = []
    repeated: list[str] = []
    for row, identity in sorted(rows, key=lambda pair: bool(pair[0]["evaluated_only"])):
        key = (row["setting"], row["seed"], row["data_seed"])
        if row["evaluated_only"]:
            # Results of earlier versions don't name their run: one of the same setting and seeds stands for it.
            run, of_run = (by_hash.get(row["trained_by"]) if row["trained_by"] else trained.get(key)) or (None, None)
            if run is not None and run["setting"] == row["setting"]:
                row["valid_accuracy"] = run["valid_accuracy"]
            else:
                origin = NO_RUN
                if run is not None and of_run is not None:
                    elsewhere = run["dataset"] != row["dataset"]
                    differing = differing_settings(identity.values, of_run.values)
                    origin = f"trained on {run['dataset']}" if elsewhere else differing
                for name in ("setting", "family", "without_teachers", "untaught"):
                    row[name] += f"-{origin}"
                identity = replace(identity, setting=row["setting"], family=row["family"], values={NO_RUN: origin})
            key = (row["setting"], row["seed"], row["data_seed"])
        cell = (*key, row["split"], row["student"], row["method"])
        if cell in first:
            repeated.append(f"{row['run']}: the same setting and seeds as {first[cell]}")
            log.info("left out as a duplicate: %s", repeated[-1])
            continue
        first[cell] = row["run"]
        kept.append((row, identity))
    return kept, repeated


def on_test(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that were evaluated on the test split: what tables and figures are made from.

    Raises:
        UserError: when there are none.
    """
    rows = frame[frame["split"] == "test"]
    if rows.empty:
        found = ", ".join(sorted(set(frame["split"])))
        raise UserError(
            f"runs: expected evaluations on the test split, found only {found}: run 'tinyllm evaluate run=<folder>'"
        )
    return rows.reset_index(drop=True)


def _results(folders: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """(folder that was given, `result.json`) pairs; outer folders come first, so a run precedes its re-evaluations."""
    seen: set[Path] = set()
    for root in folders:
        if not root.is_dir():
            raise UserError(f"runs: expected a folder, found none at {root}: run 'tinyllm train', or set runs=<folder>")
        for path in sorted(root.rglob(RESULT), key=lambda p: (len(p.parts), p)):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield root, path


def _row(result: Result) -> dict[str, Any]:
    row = as_row(result)
    for name, scores in row.pop("subsets").items():
        row |= {f"subset/{name}/{key}": value for key, value in scores.items()}
    row["alpha"] = " ".join(f"{name}={weight:g}" for name, weight in result.alpha.items())
    row["teachers"] = "+".join(result.teachers)
    row["weights"] = json.dumps(result.weights) if result.weights else ""
    row["train_loss"] = " ".join(f"{name}={loss:.4f}" for name, loss in result.train_loss.items())
    row["valid_accuracy"] = float("nan") if result.valid_accuracy is None else float(result.valid_accuracy)
    for name in _TEXTS:
        if not isinstance(row[name], str):
            raise ValueError(f"{name} is {row[name]!r}")
    for name, value in row.items():
        number = name in _NUMBERS or name.startswith("subset/")
        optional = value is None and any(key in name for key in _OPTIONAL)
        if number and not optional and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{name} is {value!r}")
    return row


_TEXTS = (
    "dataset", "student", "method", "ablation", "split", "config_hash", "selected_by", "precision", "device",
    "trained_by",
)  # fmt: skip
_NUMBERS = (
    "seed", "n", "accuracy", "accuracy_low", "accuracy_high", "accuracy_ranked", "accuracy_ranked_low",
    "accuracy_ranked_high", "unparsed", "train_examples", "wall_seconds", "steps", "parameters", "train_tokens",
    "train_seconds", "accuracy_exact", "accuracy_exact_low", "accuracy_exact_high", "chance", "majority",
    "valid_examples",
)  # fmt: skip
_OPTIONAL = ("accuracy_ranked", "accuracy_exact", "chance", "majority")
"""In the names of numbers that may be missing."""


def _config(folder: Path) -> ExperimentConfig | None:
    """None where there is none, or, with a warning, none that can be read."""
    if not (folder / CONFIG).is_file():
        return None
    try:
        return read_config(folder)
    except (UserError, AttributeError, TypeError, AssertionError, OSError) as error:
        # No list of keys but a bare text, say, is no error that OmegaConf has a name for.
        log.warning("counted without its configuration: %s", error or f"{folder / CONFIG} is no mapping")
        return None


def _of_config(config: ExperimentConfig | None, result: Result) -> dict[str, Any]:
    """Columns that only the configuration knows; defaults where there is none."""
    weights = dict(result.alpha)
    if config is None:
        own = {
            "train_fraction": 1.0,
            "data_seed": result.seed,
            "redrawn": False,
            "method_teacher": "",
            "learning_rate": float("nan"),
            "untrained": result.method == TEACHER,
            "composed_alpha": "",
            "dropped": "",
            "strongest": "",
            "weighting": "",
            "wrong_share": float("nan"),
        }
        deviating = result.deviations
    else:
        if which_teachers(config) is WhichTeachers.all:  # a dropped stream is a point of the α grid too
            weights |= {name: 0.0 for name, weight in config.alpha.items() if weight == 0 and name in config.teachers}
        deviating = deviations(config) if config.method.train else result.deviations  # an old list lacks most keys
        own = {
            "train_fraction": config.data.train_fraction,
            "data_seed": config.data.seed,
            "redrawn": config.data.source is Source.builtin,
            "method_teacher": single_teacher_of(config),
            "learning_rate": config.optimizer.lr if config.method.train else float("nan"),
            "untrained": result.method == TEACHER or not config.method.train,
            "composed_alpha": " ".join(f"{name}={weight:g}" for name, weight in composed_alpha(config).items()),
            "dropped": "+".join(name for name in config.teachers if name in config.ablation.drop),
            "strongest": result.teachers[0] if config.ablation.strongest is not None and result.teachers else "",
            "weighting": str(config.weighting.name) if weighs_texts(config) and result.method != TEACHER else "",
            "wrong_share": max(
                (t.share for t in config.teachers.values() if t.share is not None), default=float("nan")
            ),
        }
    own["deviations"] = "; ".join(f"{key}={ours} (paper: {paper})" for key, (paper, ours) in deviating.items())
    return own | {f"alpha/{name}": float(weight) for name, weight in weights.items()}
