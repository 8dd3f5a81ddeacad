"""Model folders as the hub lays them out, made here with small widths: `google/flan-t5-small` and a sharded decoder.

The tokenizer's files are written with `sentencepiece` and `tokenizers` in the hub's form, not by transformers, which
then has to read them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from tests.conftest import byte_level, small_decoder
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaForCausalLM

PIECES, EXTRA = 32_000, 100
"""Pieces of T5's `spiece.model`, and sentinels `<extra_id_99>` to `<extra_id_0>` behind them: 32,100 tokens."""
PADDED = 32_128
"""Rows of FLAN-T5's embedding: a multiple of 128."""
FLAN_T5_FILES = {
    "config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
SENTINELS = [f"<extra_id_{number}>" for number in range(EXTRA)]
_SPECIAL = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

FLAN_T5_CONFIG: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 24,
    "d_kv": 4,
    "d_model": 16,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "transformers_version": "4.23.1",
    "use_cache": True,
    "vocab_size": PADDED,
}
"""FLAN-T5-small's keys with other widths: 3 heads of 4 do not make up the width of 16, as its 6 of 64 do not 512."""


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _sentencepiece(folder: Path) -> sentencepiece_model_pb2.ModelProto:
    """A unigram model with T5's normaliser: its characters are trained, and frequent words are put in."""
    words = random.Random(0)
    texts = [
        "Which tool cuts wood? Answer Choices: (a) a saw (b) a spoon (c) a rope",
        "explain: predict: rationale: é ß",
    ]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?()'-"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, " ".join(letters)]),
        model_prefix=str(folder / "spiece"),
        vocab_size=110,
        hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
        minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "spiece.model").read_bytes())
    known = {piece.piece for piece in proto.pieces}
    own = ["▁" + word for text in texts for word in text.replace("?", "").split()]
    while len(proto.pieces) < PIECES:
        word = (
            own.pop()
            if own
            else "▁" * words.randrange(2) + "".join(words.choices("aeioulnrst", k=words.randrange(3, 7)))
        )
        if word not in known:
            known.add(word)
            proto.pieces.add(piece=word, score=-8.0 - len(proto.pieces) / 10_000)
    (folder / "spiece.model").write_bytes(proto.SerializeToString())
    return proto


def _t5_tokenizer(proto: sentencepiece_model_pb2.ModelProto) -> Tokenizer:
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary += [(name, 0.0) for name in reversed(SENTINELS)]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    made.add_special_tokens([AddedToken(name, normalized=False) for name in ("<pad>", "</s>", "<unk>", *SENTINELS)])
    return made


def flan_t5(folder: Path, *, both_embeddings: bool = False) -> Path:
    """Write the files of `google/flan-t5-small`.

    Args:
        folder: is made.
        both_embeddings: whether the weights also hold `encoder.embed_tokens` and `decoder.embed_tokens`, equal to
            `shared`, as some conversions do.
    """
    folder.mkdir(parents=True)
    config = FLAN_T5_CONFIG
    _write(folder / "config.json", config)
    _write(
        folder / "generation_config.json",
        {"_from_model_config": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    )
    _t5_tokenizer(_sentencepiece(folder)).save(str(folder / "tokenizer.json"))
    _write(folder / "special_tokens_map.json", {"additional_special_tokens": SENTINELS, **_SPECIAL})
    _write(
        folder / "tokenizer_config.json",
        {
            "additional_special_tokens": SENTINELS,
            **_SPECIAL,
            "extra_ids": EXTRA,
            "model_max_length": 512,
            "name_or_path": "google/t5-v1_1-small",
            "sp_model_kwargs": {},
            "tokenizer_class": "T5Tokenizer",
        },
    )
    weights = _t5_weights(config)
    if both_embeddings:
        weights |= {f"{part}.embed_tokens.weight": weights["shared.weight"].clone() for part in ("encoder", "decoder")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _t5_weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor of a T5 of version 1.1 by its name on the hub."""
    generator = torch.Generator().manual_seed(0)
    width, inner, hidden = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    weights = {"shared.weight": drawn(PADDED, width) * 3, "lm_head.weight": drawn(PADDED, width)}
    for stack, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        for block in range(config["num_layers"]):
            for number, name in enumerate(attentions):
                at = f"{stack}.block.{block}.layer.{number}"
                weights |= {f"{at}.{name}.{part}.weight": drawn(inner, width) for part in "qkv"}
                weights[f"{at}.{name}.o.weight"] = drawn(width, inner)
                weights[f"{at}.layer_norm.weight"] = 1 + drawn(width)
            at = f"{stack}.block.{block}.layer.{len(attentions)}"
            weights |= {f"{at}.DenseReluDense.wi_{part}.weight": drawn(hidden, width) for part in (0, 1)}
            weights[f"{at}.DenseReluDense.wo.weight"] = drawn(width, hidden)
            weights[f"{at}.layer_norm.weight"] = 1 + drawn(width)
        weights[f"{stack}.final_layer_norm.weight"] = 1 + drawn(width)
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        weights[bias] = drawn(config["relative_attention_num_buckets"], config["num_heads"])
    return weights


def sharded_decoder(folder: Path, shards: int = 3) -> Path:
    """Write the files of a Llama of the hub whose weights lie in several files with an index."""
    folder.mkdir(parents=True)
    texts = ["Which tool cuts wood? Answer Choices: (a) a saw (b) a spoon", "Answer: Explain: Rationale:"]
    tokenizer = byte_level(texts)
    model = small_decoder("llama", vocab_size=len(tokenizer))
    assert isinstance(model, LlamaForCausalLM)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    _write(folder / "special_tokens_map.json", special)
    _write(folder / "tokenizer_config.json", {**special, "tokenizer_class": "PreTrainedTokenizerFast"})
    _write(
        folder / "config.json",
        {**model.config.to_diff_dict(), "architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"},
    )
    _write(folder / "generation_config.json", {"eos_token_id": model.config.eos_token_id})
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = sorted(weights)
    index: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    return folder
