"""Run folders made by hand, as the stages write them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tinyllm import runs
from tinyllm.config import (
    DataConfig,
    Engine,
    ExperimentConfig,
    MethodConfig,
    Source,
    StreamConfig,
    StudentConfig,
    Target,
    TeacherConfig,
    WhichTeachers,
)
from tinyllm.evaluation.score import score
from tinyllm.records import Prediction, PromptKind, Result

MakeRun = Callable[..., Path]

_TAUGHT = {"tinyllm": WhichTeachers.all, "step_by_step": WhichTeachers.one, "one_teacher": WhichTeachers.one}


def _streams(method: str) -> dict[str, StreamConfig]:
    """As in `conf/method`."""
    answer = {"answer": StreamConfig()}
    if method not in _TAUGHT:
        return answer
    kind = PromptKind.solve if method == "step_by_step" else PromptKind.forced
    return answer | {"rationale": StreamConfig(target=Target.rationale, teachers=_TAUGHT[method], prompt=kind)}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a finished run folder below `tmp_path / "runs"` and return it.

    `right` (a share, or a bool a question) says which of the `n` questions are answered rightly, by all metrics, unless
    `ranked` says it of the ranking; `result`, `config` and `change` replace fields of the records; `rationales` are the
    student's own, for every question. With `pairs`, every two questions are a group.
    """

    def make(
        method: str = "tinyllm",
        *,
        seed: int = 0,
        right: float | Sequence[bool] = 0.5,
        ranked: Sequence[bool] | None = None,
        n: int = 40,
        dataset: str = "minilab",
        student: str = "tiny",
        alpha: dict[str, float] | None = None,
        teacher: str | None = None,
        fraction: float = 1.0,
        valid: float | None = 0.4,
        result: dict[str, Any] | None = None,
        config: Callable[[ExperimentConfig], ExperimentConfig] = lambda c: c,
        rationales: dict[str, str] | None = None,
        pairs: bool = False,
        change: Callable[[Prediction], Prediction] = lambda p: p,
    ) -> Path:
        alpha = {"terse": 1.0, "wordy": 1.0} if alpha is None and method == "tinyllm" else (alpha or {})
        rng = random.Random(f"{method}{seed}{alpha}{teacher}{fraction}{right}")
        flags = [rng.random() < right for _ in range(n)] if isinstance(right, float | int) else list(right)
        choices = ("oak", "ivy", "elm", "fir")
        predictions = []
        for i, (flag, by_rank) in enumerate(zip(flags, flags if ranked is None else ranked, strict=True)):
            chosen, first = (choices[0] if one else choices[1 + i % 3] for one in (flag, by_rank))
            scores = tuple(-0.5 if c == first else -1.5 for c in choices)
            predictions.append(
                Prediction(
                    f"q{i}",
                    f"Which tree is number {i}?",
                    choices,
                    "oak",
                    chosen,
                    chosen,
                    first,
                    scores,
                    "hidden" if i % 4 == 0 else "visible",
                    rationales or {},
                    f"pair {i // 2}" if pairs else "",
                )
            )
        predictions = [change(one) for one in predictions]
        made = config(
            ExperimentConfig(
                seed=seed,
                data=DataConfig(
                    name=dataset,
                    source=Source.builtin if dataset == "minilab" else Source.hub,
                    seed=seed,
                    train_fraction=fraction,
                ),
                student=StudentConfig(name=student),
                teachers={
                    name: TeacherConfig(name=name, engine=Engine.scripted, model=name, prefix=f"{name}: ")
                    for name in ("terse", "wordy")
                },
                alpha=alpha,
                method=MethodConfig(name=method, teacher=teacher, streams=_streams(method)),
            )
        )
        scores_of = score(predictions)
        row = Result(
            dataset=dataset,
            student=student,
            method=method,
            ablation=made.ablation.name,
            teachers=tuple(alpha) if teacher is None else (teacher,),
            alpha=alpha,
            seed=seed,
            split="test",
            **asdict(scores_of),
            valid_accuracy=valid,
            train_examples=round(100 * fraction),
            wall_seconds=10.0,
            config_hash=runs.hash_of(made),
            version="0",
            steps=60,
            parameters=1000,
            trained_parameters=1000,
            train_tokens=5000,
            train_seconds=8.0,
        )
        row = replace(row, **(result or {}))
        folder = tmp_path / "runs" / dataset / student / f"{method}-seed{seed}-{row.config_hash}"
        runs.write_config(made, folder)
        runs.write_predictions(predictions, folder)
        runs.write_result(row, folder)
        lines = ["step,train/loss,train/loss/answer,valid/accuracy,train/examples_per_second"]
        lines += [f"{step},{3 - step / 30:.3f},{2 - step / 40:.3f},," for step in range(10, 61, 10)]
        lines += [f"{step},,,{step / 200:.3f}," for step in (30, 60)]
        (folder / runs.METRICS).write_text("\n".join(lines) + "\n")
        return folder

    return make
