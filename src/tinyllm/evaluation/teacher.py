"""Evaluate a teacher in place of a student: the teacher rows of the paper's table 1."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tinyllm import runs
from tinyllm.config import EvaluateConfig, TeacherConfig
from tinyllm.data.questions import check_splits, limited, load_whole
from tinyllm.evaluation.evaluate import make_result, scored
from tinyllm.records import Result, Split
from tinyllm.teachers.answers import teacher_predictions


def evaluate_teacher(config: EvaluateConfig, teacher: TeacherConfig) -> tuple[Result, Path]:
    """Ask a teacher about `evaluation.split` without telling it the answers, and write what came of it.

    Text that names no option is wrong.

    Returns:
        The result and its folder.

    Raises:
        UserError: when the teacher can't be asked, or did not answer every question.
    """
    asked = runs.asked_freely(config, teacher)
    digest = runs.hash_of(asked)
    folder = Path(config.output).expanduser() if config.output else runs.teacher_folder(config, teacher)
    if config.output:
        runs.check_output(folder, digest)
    started = time.perf_counter()
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
    whole = load_whole(config.data)
    questions = limited(whole, config.data)
    check_splits(questions, [config.evaluation.split], config.data)
    predictions = teacher_predictions(asked, teacher, questions, config.evaluation.split, console, whole)
    evaluation = scored(predictions, 0, time.perf_counter() - started)
    result = make_result(asked, evaluation, questions[Split.train], None, digest)
    result = replace(result, student=teacher.name, method=runs.TEACHER)
    runs.write_config(asked, folder)
    runs.write_evaluation(predictions, result, folder)
    return result, folder
