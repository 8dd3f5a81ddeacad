"""What differs between kinds of students: a family is a module with the functions of `Family`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from tinyllm.config import Accelerator
from tinyllm.data.steps import Pair
from tinyllm.data.tokens import Form
from tinyllm.student import decoder, encoder_decoder


class Family(Protocol):
    """The functions that train and query a student, whatever its architecture."""

    def form(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> Form:
        """How a question, a stream's prefix and a target become what the model reads and writes."""
        ...

    def prepare(self, model: Any, accelerator: Accelerator) -> None:
        """Choose the fast parts for where the model will run; weights are untouched."""
        ...

    def parts(self, model: Any) -> list[list[nn.Module]]:
        """Modules whose weights are gathered together where they lie in shards: all that are called in a layer."""
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

    def read(self, model: Any, sources: Sequence[Sequence[int]]) -> Any:
        """What the model remembers of sources, for `rank` and `generate`: they are read here, and only here."""
        ...

    def rank(
        self, model: Any, memory: Any, options: Sequence[Sequence[Sequence[int]]], lead: Sequence[int] = ()
    ) -> list[list[float]]:
        """Mean token log-likelihood (nats, the end token included) of every option behind its source and the lead."""
        ...

    def generate(
        self, model: Any, memory: Any, lead: Sequence[int] = (), *, ends: Collection[int], max_new_tokens: int
    ) -> list[list[int]]:
        """Greedy generation behind every source and the lead: token ids before the first of the `ends`."""
        ...


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model, by its configuration."""
    return encoder_decoder if config.is_encoder_decoder else decoder
