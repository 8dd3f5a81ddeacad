"""What differs between kinds of students: a family is a module with the functions of `Family`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedConfig

from tinyllm.config import Accelerator
from tinyllm.data.steps import Pair
from tinyllm.student import encoder_decoder


class Family(Protocol):
    """The functions that train and query a student, whatever its architecture."""

    def prepare(self, model: Any, accelerator: Accelerator) -> None:
        """Choose the fast parts for where the model will run; weights are untouched."""
        ...

    def lay_out(self, pairs: Sequence[Pair], config: PreTrainedConfig) -> Any:
        """Pairs of source and targets as a `losses.Batch`, on the CPU."""
        ...

    def token_losses(self, model: Any, batch: Any, factor_M: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`losses.batch_loss` of a batch: the loss, a scalar, and each token's cross-entropy [M] in nats, detached."""
        ...

    def token_ranks(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """`losses.ranks` of a batch: place among the vocabulary and cross-entropy of each target token, [M] each."""
        ...

    def rank(
        self, model: Any, sources: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[float]]:
        """Mean token log-likelihood (nats, the end token included) of every option of every question."""
        ...

    def generate(self, model: Any, sources: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Greedy generation: token ids without specials at either end."""
        ...


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model, by its configuration.

    Raises:
        ValueError: for an architecture that no family serves.
    """
    if config.is_encoder_decoder:
        return encoder_decoder
    raise ValueError(f"expected an encoder-decoder, found {config.model_type}")
