"""Low-rank adapters on a student (Hu et al. 2022), by peft: trained in place of the weights, merged at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import peft
from torch import nn
from transformers import PreTrainedModel

from tinyllm.config import LoraConfig
from tinyllm.errors import UserError

ALL_LINEAR = "all-linear"
"""Stands for every linear layer but the head."""


def add_adapters(model: PreTrainedModel, lora: LoraConfig) -> peft.PeftModel:
    """Put adapters into a student, in place, and freeze everything else.

    The model keeps its class, and its wrapped layers add their update, so the same code trains it; add adapters before
    `Student.prepare`, which then reaches their dropout too. Their first weights come from PyTorch's global generator.

    Returns:
        What saves and merges the adapters.

    Raises:
        UserError: for settings that peft refuses, target modules that the student does not have, and the head where it
            shares its weights with the embedding: merged, its update would change what the student reads, too.
    """
    head = model.get_output_embeddings()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    linear = sorted({name.rpartition(".")[2] for name in layers})
    unknown = sorted(set(lora.target_modules) - {*linear, ALL_LINEAR})
    if unknown or not lora.target_modules:
        raise UserError(
            f"method.lora.target_modules: expected {ALL_LINEAR} or names of {', '.join(linear)}, "
            f"found {', '.join(unknown) or 'none'}"
        )
    name = next((name.rpartition(".")[2] for name, m in layers.items() if m is head), "")
    if name in lora.target_modules and head.weight is model.get_input_embeddings().weight:
        raise UserError(
            f"method.lora.target_modules: expected no {name}, as this student's head and embedding share their "
            f"weights: leave it out, or use {ALL_LINEAR}"
        )
    try:
        settings = peft.LoraConfig(
            task_type=peft.TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else peft.TaskType.CAUSAL_LM,
            r=lora.r,
            lora_alpha=cast(Any, lora.alpha),  # peft's annotation says int; it only divides by r
            lora_dropout=lora.dropout,
            target_modules=[name for name, m in layers.items() if m is not head]
            if ALL_LINEAR in lora.target_modules
            else list(lora.target_modules),
        )
        return cast(peft.PeftModel, peft.get_peft_model(cast(Any, model), settings))
    except ValueError as error:
        raise UserError(f"method.lora: {' '.join(str(error).split())}") from error


def save_and_merge(adapters: peft.PeftModel, trained: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Write the adapters in peft's format and give the student with their updates in its weights, adapters gone.

    Args:
        adapters: as `add_adapters` gave them.
        trained: the student with the best weights (a copy of the one inside `adapters` where a strategy shards).
        folder: receives `adapter_config.json` and `adapter_model.safetensors`.
    """
    base = cast(Any, adapters.base_model)
    base.model = trained
    adapters.save_pretrained(str(folder), save_embedding_layers=cast(Any, False))  # `auto` would ask the hub
    return cast(PreTrainedModel, base.merge_and_unload())
