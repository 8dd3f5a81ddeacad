"""Greedy decoding of many texts at once, whatever a model folder's generation settings say."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor | None], Tensor]
"""Tokens [B, L] that come next, and which rows of the call before they go on (None for all) -> logits [B, L, V]."""


def greedy(step: Step, token_BL: Tensor, *, ends: Collection[int], max_new_tokens: int) -> list[list[int]]:
    """The likeliest next token, again and again; rows that have ended are dropped when they are half of all.

    Args:
        step: one forward pass with the model's cache.
        token_BL: what every row begins with.
        ends: ids that end a row; not part of the result.
        max_new_tokens: of a row.
    """
    made: list[list[int]] = [[] for _ in range(token_BL.shape[0])]
    rows = list(range(len(made)))
    open_rows = set(rows)
    kept: Tensor | None = None
    for _ in range(max_new_tokens):
        token_B = step(token_BL, kept)[:, -1].argmax(dim=-1)
        for row, token in zip(rows, token_B.tolist(), strict=True):
            if row in open_rows:
                if token in ends:
                    open_rows.remove(row)
                else:
                    made[row].append(token)
        if not open_rows:
            break
        kept = None
        if 2 * len(open_rows) <= len(rows):
            kept = torch.tensor([i for i, row in enumerate(rows) if row in open_rows], device=token_B.device)
            rows, token_B = [row for row in rows if row in open_rows], token_B[kept]
        token_BL = token_B[:, None]
    return made
