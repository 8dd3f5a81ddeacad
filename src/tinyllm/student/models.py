"""Loading students: a T5 or a decoder by hub id or folder, or a T5 from random weights in a given architecture."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils.logging import disable_progress_bar

from tinyllm.errors import UserError
from tinyllm.methods import Stream
from tinyllm.pretrained import folder_of, loading, why
from tinyllm.prompts import student_source
from tinyllm.records import Question
from tinyllm.student.decoder import check
from tinyllm.student.tokenizer import train_tokenizer

log = logging.getLogger(__name__)
disable_progress_bar()
# It warns of every FLAN-T5, whose head is rightly not its embedding, and asks for a change that would be wrong.
logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "NOT tie them" not in record.getMessage())


def load_pretrained(
    name: str, *, revision: str | None = None, gguf_file: str | None = None, dropout: float | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A T5 or a decoder with its tokenizer, in fp32. Only safetensors and GGUF are read, and no remote code is run.

    Args:
        name: hub id, folder, or `package:<name>` for the folder of an installed Python package.
        revision: on the hub.
        gguf_file: file inside of `name`, for weights in GGUF; they are de-quantized.
        dropout: of a T5; None keeps its own.

    Raises:
        UserError: when it can't be had, or is of an architecture that can't be served.
    """
    folder = folder_of(name)
    try:
        source, weights = loading(revision, gguf_file)
        config = AutoConfig.from_pretrained(folder, **source)
        if config.is_encoder_decoder and not isinstance(config, T5Config):
            raise UserError(
                f"student.pretrained={name}: expected a T5 (model_type t5) or a decoder, found model_type "
                f"{config.model_type}: name a FLAN-T5 checkpoint or a causal language model"
            )
        if isinstance(config, T5Config) and dropout is not None:
            config.dropout_rate = dropout
        elif dropout:
            raise UserError(f"student.dropout={dropout}: a decoder has none: set student.dropout=null")
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        kind: Any = T5ForConditionalGeneration if isinstance(config, T5Config) else AutoModelForCausalLM
        model: PreTrainedModel
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            **weights,
        )
        if missing := sorted(info["missing_keys"]):  # transformers has drawn them at random
            raise UserError(
                f"student.pretrained={name}: expected all weights of a {config.model_type}, found none for "
                f"{len(missing)}, such as {missing[0]}: get the model's files again"
            )
    except UserError:
        raise
    except Exception as error:  # at a broken file safetensors and tokenizers raise exceptions of their own
        at = f"student.pretrained={name}" + (f", student.revision={revision}" if revision else "")
        found = "this folder can't be read" if Path(folder).is_dir() else "no such folder here, and not from the hub"
        raise UserError(
            f"{at}: expected a model, found none: {found} ({why(error)}); give a folder or a hub id, or "
            "student.pretrained=null for random weights"
        ) from error
    if not config.is_encoder_decoder:
        check(model, name)
    return model, tokenizer


def from_scratch(
    architecture: Mapping[str, float | int | str | bool],
    texts: Iterable[str],
    *,
    dropout: float | None = None,
    trim_vocabulary: bool = False,
) -> tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase]:
    """A T5 with random weights, and a tokenizer made from `texts`.

    Weights come from PyTorch's global generator: seed it first. `architecture` holds fields of transformers' T5Config;
    its `vocab_size` bounds the tokenizer, and is the size of the embedding, unless `trim_vocabulary` cuts that to
    the tokenizer.

    Raises:
        UserError: for a field that T5Config does not have, or a vocabulary too small for the characters of the texts.
    """
    if architecture.get("model_type", "t5") != "t5":
        raise UserError(
            f"student.architecture.model_type={architecture['model_type']}: random weights are made for a T5 alone: "
            "give a folder with a decoder's weights, random or not, as student.pretrained"
        )
    known = T5Config().to_dict()
    wrong = sorted(set(architecture) - set(known))
    if not architecture:
        raise UserError(
            "student.pretrained=null: this student has no student.architecture to draw random weights for: give "
            "student.pretrained a hub id or a folder"
        )
    if wrong or "vocab_size" not in architecture:
        some = ", ".join(sorted(known)[:8])
        raise UserError(
            f"student.architecture: expected vocab_size and other fields of T5Config ({some}, ...), "
            f"found {', '.join(wrong) or 'no vocab_size'}"
        )
    for name, value in architecture.items():
        if isinstance(value, str) and isinstance(known[name], int | float):
            raise UserError(f"student.architecture.{name}: expected a value like {known[name]}, found {value}")
    fields = dict(architecture)
    if int(fields.get("num_decoder_layers", 0)) > int(fields.get("num_layers", 6)):
        raise UserError(
            f"student.architecture.num_decoder_layers={fields['num_decoder_layers']}: expected num_layers or fewer, "
            "since transformers takes the length of its generation cache from the encoder"
        )
    if dropout is not None:
        fields["dropout_rate"] = dropout
    try:
        tokenizer = train_tokenizer(texts, int(fields["vocab_size"]))
    except ValueError as error:
        raise UserError(f"student.architecture.vocab_size: {error}") from error
    if trim_vocabulary:
        fields["vocab_size"] = -(-len(tokenizer) // 64) * 64  # a multiple of 64 keeps matrix products fast
    try:
        config = T5Config.from_dict({"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, **fields})
        model = T5ForConditionalGeneration(config)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"student.architecture: expected fields that make a T5, found ones that transformers refuses "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    if not fields.get("tie_word_embeddings", True):
        # transformers 5 ties a new T5 whatever its config says (and unties it when a checkpoint brings both weights).
        # The deviation keeps the first loss near that of a uniform guess.
        head = torch.empty_like(model.shared.weight)
        model.lm_head.weight = nn.Parameter(nn.init.normal_(head, std=config.d_model**-0.5))
    model.generation_config = GenerationConfig.from_model_config(config)
    return model, tokenizer


def tokenizer_texts(
    questions: Sequence[Question], streams: Sequence[Stream], rationales: Mapping[str, Sequence[str]] | None = None
) -> Iterator[str]:
    """What a student will read and write: the texts that a tokenizer of its own is made from.

    Args:
        questions: training questions.
        streams: what the student will be taught.
        rationales: question id -> one rationale for each option, part of that option's source (PINTO).
    """
    own = rationales or {}
    for question in questions:
        yield "".join(student_source(question, ""))
        yield from (student_source(question, "", text)[3] for text in own.get(question.id, ()))
    for stream in streams:
        yield stream.prefix
        yield from (text for target in stream.targets.values() for text, _ in target)
