"""Rank-surprisal ratio of the teachers' texts under a student (Yang et al. 2026, arXiv 2601.14249)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tinyllm.config import Accelerator
from tinyllm.data.steps import Pair, TargetText
from tinyllm.data.tokens import tokenize
from tinyllm.methods import Stream
from tinyllm.records import Question
from tinyllm.runs import write_whole
from tinyllm.student.student import Student

RANK_LIMIT = 100
"""Ranks above it count as this one, as in the authors' code."""


def rank_surprisal_ratios(
    student: Student,
    questions: Sequence[Question],
    streams: Sequence[Stream],
    max_target_length: int,
    batch_size: int,
    accelerator: Accelerator,
) -> dict[str, dict[str, float]]:
    """Teacher -> question id -> sum of min(rank, 100) over sum of -log p, over the tokens of the text; end included.

    The lower, the better: a text of tokens that the student ranks high without expecting them is new to it, and not
    strange. One forward pass over all texts; its numbers are kept in `<cache>/surprisal`, by weights and tokens.

    Args:
        student: as it will be trained; its weights are untouched.
        questions: training questions.
        streams: of teachers' texts, one text a question.
        max_target_length: tokens, with the end token.
        batch_size: texts a forward pass.
        accelerator: where it runs.
    """
    sources = student.sources(questions)
    rows: list[tuple[str, str]] = []
    pairs: list[Pair] = []
    for stream in streams:
        texts = [student.form.target(own[0][0]) for own in stream.targets.values()]
        ids = tokenize(texts, student.tokenizer, student.cache)
        for question_id, text in zip(stream.targets, ids, strict=True):
            target = TargetText((*text[: max_target_length - 1], student.form.end), lead=sources.lead(stream.prefix))
            rows.append((stream.name, question_id))
            pairs.append(Pair(sources.source(question_id, stream.prefix), (target,)))
    file = student.cache / "surprisal" / f"{_digest(student, pairs)}.json"
    if file.is_file():
        found: list[float] = json.loads(file.read_text())
    else:
        found = _ratios(student, pairs, batch_size, accelerator)
        write_whole(file, json.dumps(found))
    ratios: dict[str, dict[str, float]] = {stream.name: {} for stream in streams}
    for (teacher, question_id), ratio in zip(rows, found, strict=True):
        ratios[teacher][question_id] = ratio
    return ratios


def _ratios(student: Student, pairs: Sequence[Pair], batch_size: int, accelerator: Accelerator) -> list[float]:
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].source) + pairs[i].target_length)
    training = student.model.training
    student.to(accelerator)
    student.model.eval()
    found = [0.0] * len(pairs)
    with torch.autocast(student.model.device.type, dtype=torch.bfloat16, enabled="bf16" in student.precision):
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            batch = student.lay_out([pairs[i] for i in part]).to(student.model.device)
            rank_M, loss_M = student.family.token_ranks(student.model, batch)
            totals = torch.zeros(2, len(part), dtype=torch.float64, device=rank_M.device)
            totals.index_add_(1, batch.text_M, torch.stack([rank_M.clamp(max=RANK_LIMIT).double(), loss_M.double()]))
            for i, rank, loss in zip(part, *totals.tolist(), strict=True):
                found[i] = rank / max(loss, 1e-12)
    student.model.train(training)
    model: Any = student.model
    model.to("cpu")  # where training takes it from, in processes of its own too
    return found


def _digest(student: Student, pairs: Sequence[Pair]) -> str:
    """Of the weights, their number format and all tokens."""
    digest = hashlib.sha256(student.precision.encode())
    state: Mapping[str, torch.Tensor] = student.model.state_dict()
    for name, weight in state.items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for pair in pairs:
        digest.update(repr((pair.source, pair.targets[0].lead, pair.targets[0].ids)).encode())
    return digest.hexdigest()[:32]
