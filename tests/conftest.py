"""Shared fixtures: a tiny student, and the folder of real data where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from tinyllm.student.family import family_of

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("HYDRA_FULL_ERROR", None)
torch.set_num_threads(1)  # two workers share two cores


SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def small_t5(
    seed: int = 0, dropout: float = 0.0, tied: bool = False, vocab: int = 97, **overrides: Any
) -> T5ForConditionalGeneration:
    """A T5 of some ten thousand parameters in fp32; `overrides` are fields of T5Config."""
    torch.manual_seed(seed)
    fields = {**SHAPE, "vocab_size": vocab, "dropout_rate": dropout, "tie_word_embeddings": tied, **overrides}
    model = T5ForConditionalGeneration(T5Config(**fields))
    if not tied:  # transformers 5 ties a new T5 whatever its config says
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.2)
    return model


DECODER: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}


def small_decoder(kind: str = "llama", seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A decoder of some ten thousand parameters in fp32; `gemma3` has two windowed layers of three."""
    torch.manual_seed(seed)
    fields = {**DECODER, **overrides}
    if kind == "gemma3":
        layers = ["sliding_attention", "full_attention", "sliding_attention"]
        fields = {"sliding_window": 16, "layer_types": layers, "query_pre_attn_scalar": 8, **fields}
    config = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma3": Gemma3TextConfig}[kind](**fields)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def ranked(model: PreTrainedModel, sources: Any, options: Any) -> list[list[float]]:
    """Scores of options behind their sources, by the model's family."""
    family = family_of(model.config)
    return family.rank(model, family.read(model, sources), options)


def generated(model: PreTrainedModel, sources: Any, max_new_tokens: int, ends: tuple[int, ...] = (1,)) -> Any:
    """Greedy texts behind sources, by the model's family."""
    family = family_of(model.config)
    return family.generate(model, family.read(model, sources), ends=ends, max_new_tokens=max_new_tokens)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; a test that needs it skips where it is absent."""
    folder = Path(os.environ.get("TINYLLM_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data" / "release").is_dir():
        pytest.skip(f"needs the real data in {folder} (or TINYLLM_SHARED=<folder>)")
    return folder
