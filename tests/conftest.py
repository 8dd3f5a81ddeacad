"""Shared fixtures: a tiny student, and the folder of real data where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
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


SPLITS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How byte-level tokenizers split a text before they merge bytes: `qwen` joins a full stop and the newline after it."""
CHATML = (
    "{{ bos_token or '' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level(texts: Iterable[str], split: str = "gpt2", size: int = 400, **tokens: str) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer without a pad token; `tokens` may name a `bos_token`, which it then puts first."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLITS[split]), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|im_start|>", "<|im_end|>", *tokens.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    inner.train_from_iterator(texts, trainer)
    if "bos_token" in tokens:
        first = tokens["bos_token"]
        inner.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, inner.token_to_id(first))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", **tokens)
    made.chat_template = CHATML
    return made


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
