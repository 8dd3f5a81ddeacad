"""What is particular to encoder-decoder students: batches without padding, token losses, ranking and generation.

Shape suffixes: N source tokens of a batch, M target tokens of a batch, D width of the model, H heads, K width of a
head, R rows of an attention group (one source or target a row), S and T their source and target positions.

All tokens of all streams lie one after the other, and everything but attention runs on [N, D] and [M, D]: no padding is
computed. For attention alone, sources and targets of similar length are put side by side into padded groups.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    T5ForConditionalGeneration,
)

from tinyllm.config import Accelerator
from tinyllm.data.steps import Pair, TargetText
from tinyllm.data.tokens import Form, end_of
from tinyllm.errors import UserError
from tinyllm.student.cpu_speed import accelerate, dropout
from tinyllm.student.generation import greedy
from tinyllm.student.losses import Batch, batch_loss, is_plain_linear, mean_by_text, moved, ranks, token_fields

ALIKE = 2.0
"""Lengths of one attention group differ by this factor at most, where the group has `FEW` rows already."""
FEW = 8


@dataclass(slots=True)
class Group:
    """Neighbours in the flat order that are padded together for attention."""

    start: int
    """First flat token."""
    stop: int
    rows: int
    length: int
    """Positions of a row."""
    slot_n: Tensor
    """Row * length + position of each of its tokens, in the padded group."""
    mask_R11S: Tensor
    """0 at tokens, the lowest finite fp32 number at padding."""


@dataclass(slots=True)
class FlatBatch(Batch):
    """The sources and targets of some pairs, both in order of length."""

    source_N: Tensor
    decoder_M: Tensor
    """Decoder input: each target shifted right by the start token."""
    source_groups: list[Group]
    target_groups: list[Group]
    cross_groups: list[Group]
    """For each target group, its targets' sources (repeated where a source has several targets)."""
    cross_n: Tensor
    """The flat source tokens of all cross groups, one after the other."""

    @property
    def tokens(self) -> int:
        """Source and target tokens."""
        return self.source_N.numel() + self.decoder_M.numel()


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Runs of the (ascending) lengths that are alike, as lists of indices."""
    runs: list[list[int]] = []
    for index, length in enumerate(lengths):
        run = runs[-1] if runs else None
        if run is not None and (length <= ALIKE * lengths[run[0]] or len(run) < FEW):
            run.append(index)
        else:
            runs.append([index])
    return runs


def _group(lengths: Sequence[int], start: int) -> Group:
    rows, longest = len(lengths), max(lengths)
    length_R = torch.tensor(lengths)
    inside_RS = torch.arange(longest) < length_R[:, None]
    mask_RS = torch.zeros(rows, longest).masked_fill_(~inside_RS, torch.finfo(torch.float32).min)
    return Group(
        start, start + sum(lengths), rows, longest, inside_RS.flatten().nonzero()[:, 0], mask_RS[:, None, None]
    )


def _lay_out_sources(sources: Sequence[Sequence[int]]) -> tuple[list[int], list[Group], dict[int, int]]:
    """Flat source tokens in order of length, their groups, and where each source begins."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    first: dict[int, int] = {}
    flat: list[int] = []
    for index in order:
        first[index] = len(flat)
        flat.extend(sources[index])
    groups: list[Group] = []
    for run in _groups([len(sources[i]) for i in order]):
        groups.append(_group([len(sources[order[i]]) for i in run], groups[-1].stop if groups else 0))
    return flat, groups, first


def lay_out(pairs: Sequence[Pair], config: PreTrainedConfig) -> FlatBatch:
    """Lay pairs out without padding.

    Args:
        pairs: at least one; every source and target has a token or more, and no target has a lead.
        config: of the model; names the decoder's start token.

    Raises:
        ValueError: without a pair, or with an empty source or target.
    """
    if not pairs or any(not pair.source or not pair.targets for pair in pairs):
        raise ValueError("expected at least one pair, each with a source and a target of one token or more")
    texts = [(number, target) for number, pair in enumerate(pairs) for target in pair.targets]
    if any(not target.ids for _, target in texts):
        raise ValueError("expected a target of one token or more, found an empty one")
    source, source_groups, first = _lay_out_sources([pair.source for pair in pairs])
    by_target = sorted(range(len(texts)), key=lambda i: len(texts[i][1].ids))
    sizes = [len(texts[i][1].ids) for i in by_target]
    ordered = [texts[i][1] for i in by_target]
    target_groups: list[Group] = []
    cross_groups: list[Group] = []
    cross_source: list[Tensor] = []
    start = 0
    for run in _groups(sizes):
        target_groups.append(_group([sizes[i] for i in run], start))
        start = target_groups[-1].stop
        members = [texts[by_target[i]][0] for i in run]
        cross_groups.append(_group([len(pairs[i].source) for i in members], 0))
        tokens = [torch.arange(first[i], first[i] + len(pairs[i].source)) for i in members]
        cross_source.append(torch.cat(tokens))
    return FlatBatch(
        source_N=torch.tensor(source),
        decoder_M=torch.tensor([t for target in ordered for t in (config.decoder_start_token_id, *target.ids[:-1])]),
        source_groups=source_groups,
        target_groups=target_groups,
        cross_groups=cross_groups,
        cross_n=torch.cat(cross_source),
        **token_fields(ordered, by_target),
    )


class _ToHeads(torch.autograd.Function):
    """[n, H * K] flat tokens -> [R, H, S, K] padded with zeros."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, slot_nH: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        ctx.save_for_backward(slot_nH)
        rows, heads, length, width = shape
        padded = flat.new_zeros(rows * heads * length, width)
        padded.index_copy_(0, slot_nH.flatten(), flat.reshape(-1, width))
        return padded.view(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slot_nH,) = ctx.saved_tensors
        width = grad.shape[-1]
        return grad.reshape(-1, width).index_select(0, slot_nH.flatten()).view(slot_nH.shape[0], -1), None, None


class _FromHeads(torch.autograd.Function):
    """[R, H, S, K] -> the tokens of a group, [n, H * K]."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, slot_nH: Tensor) -> Tensor:
        ctx.save_for_backward(slot_nH)
        ctx.shape = padded.shape
        width = padded.shape[-1]
        return padded.reshape(-1, width).index_select(0, slot_nH.flatten()).view(slot_nH.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slot_nH,) = ctx.saved_tensors
        padded = grad.new_zeros(ctx.shape)
        padded.view(-1, ctx.shape[-1]).index_copy_(0, slot_nH.flatten(), grad.reshape(-1, ctx.shape[-1]))
        return padded, None


_to_heads = cast(Callable[[Tensor, Tensor, tuple[int, int, int, int]], Tensor], _ToHeads.apply)
_from_heads = cast(Callable[[Tensor, Tensor], Tensor], _FromHeads.apply)


def _slots(group: Group, heads: int) -> Tensor:
    """[n, H]: where each head of each token stands in [R * H * S]."""
    row_n, position_n = group.slot_n // group.length, group.slot_n % group.length
    head_H = torch.arange(heads, device=group.slot_n.device)
    slots: Tensor = (row_n[:, None] * heads + head_H) * group.length + position_n[:, None]
    return slots


class _Attention:
    """Attention of one kind (self or cross) over the groups of a batch; biases and slots serve all layers."""

    def __init__(self, queries: list[Group], keys: list[Group], layer: Any, bias_g: list[Tensor]) -> None:
        self.heads, self.width = layer.n_heads, layer.key_value_proj_dim
        self.queries, self.keys, self.bias_g = queries, keys, bias_g
        self.query_slots = [_slots(group, self.heads) for group in queries]
        self.key_slots = self.query_slots if keys is queries else [_slots(group, self.heads) for group in keys]

    def __call__(self, layer: Any, hidden_XD: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`memory`: keys and values, for cross-attention."""
        q = layer.q(hidden_XD)
        k, v = memory if memory is not None else (layer.k(hidden_XD), layer.v(hidden_XD))
        results: list[Tensor] = []
        key_sizes = [slots.shape[0] for slots in self.key_slots]
        parts = zip(
            q.split([slots.shape[0] for slots in self.query_slots]), k.split(key_sizes), v.split(key_sizes), strict=True
        )
        with torch.autocast(q.device.type, enabled=False):
            for i, (q_n, k_n, v_n) in enumerate(parts):
                query, key, slots = self.queries[i], self.keys[i], self.key_slots[i]
                shape = (key.rows, self.heads, key.length, self.width)
                query_shape = (query.rows, self.heads, query.length, self.width)
                q_RHTK = _to_heads(q_n, self.query_slots[i], query_shape)
                k_RHSK, v_RHSK = _to_heads(k_n, slots, shape), _to_heads(v_n, slots, shape)
                scores = (q_RHTK @ k_RHSK.transpose(2, 3)).add_(self.bias_g[i])
                weights = dropout(torch.softmax(scores, dim=-1), layer.dropout, layer.training)
                results.append(_from_heads(weights @ v_RHSK, self.query_slots[i]))
        return layer.o(torch.cat(results))  # type: ignore[no-any-return]


def _memories(decoder: Any, encoded_ND: Tensor, token_n: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every decoder layer's cross-attention: one product for all, then one gather."""
    layers = [getattr(block.layer[1].EncDecAttention, name) for block in decoder.block for name in ("k", "v")]
    if all(is_plain_linear(layer) for layer in layers):
        everything = nn.functional.linear(encoded_ND, torch.cat([layer.weight for layer in layers]))
    else:
        everything = torch.cat([layer(encoded_ND) for layer in layers], dim=1)
    parts = everything.index_select(0, token_n).split([layer.out_features for layer in layers], dim=1)
    return list(zip(parts[::2], parts[1::2], strict=True))


def _self_attention(stack: Any, groups: list[Group], dtype: torch.dtype, *, causal: bool) -> _Attention:
    layer = stack.block[0].layer[0].SelfAttention
    longest = max(group.length for group in groups)
    bias_1HLL = layer.compute_bias(longest, longest).float()  # DeepSpeed trains bf16 weights
    if causal:
        ones = torch.ones(longest, longest, dtype=torch.bool, device=bias_1HLL.device)
        bias_1HLL = bias_1HLL.masked_fill(ones.triu(1), torch.finfo(torch.float32).min)
        bias_g = [bias_1HLL[:, :, : g.length, : g.length].to(dtype) for g in groups]  # padding stands after all queries
    else:
        bias_g = [(bias_1HLL[:, :, : g.length, : g.length] + g.mask_R11S).to(dtype) for g in groups]
    return _Attention(groups, groups, layer, bias_g)


def _feed_forward(layer: Any, hidden_XD: Tensor) -> Tensor:
    dense = layer.DenseReluDense
    if hasattr(dense, "wi_0"):
        inner = dense.act(dense.wi_0(hidden_XD)) * dense.wi_1(hidden_XD)
    else:
        inner = dense.act(dense.wi(hidden_XD))
    return dense.wo(dense.dropout(inner))  # type: ignore[no-any-return]


def _run(
    stack: Any,
    hidden: Tensor,
    attend: _Attention,
    cross: _Attention | None = None,
    memories: Sequence[tuple[Tensor, Tensor]] = (),
) -> Tensor:
    """The layers of a T5 stack on flat tokens (transformers' T5Stack computes the same on padded ones)."""
    hidden = stack.dropout(hidden)
    for number, block in enumerate(stack.block):
        layer = block.layer[0]
        hidden = hidden + layer.dropout(attend(layer.SelfAttention, layer.layer_norm(hidden)))
        if cross is not None:
            layer = block.layer[1]
            hidden = hidden + layer.dropout(cross(layer.EncDecAttention, layer.layer_norm(hidden), memories[number]))
        layer = block.layer[-1]
        hidden = hidden + layer.dropout(_feed_forward(layer, layer.layer_norm(hidden)))
    return stack.dropout(stack.final_layer_norm(hidden))  # type: ignore[no-any-return]


def _dtype(model: T5ForConditionalGeneration) -> torch.dtype:
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


def _encode(model: T5ForConditionalGeneration, embedded_ND: Tensor, groups: list[Group]) -> Tensor:
    return _run(model.encoder, embedded_ND, _self_attention(model.encoder, groups, _dtype(model), causal=False))


def _decode(model: T5ForConditionalGeneration, embedded_MD: Tensor, encoded_ND: Tensor, batch: FlatBatch) -> Tensor:
    attend = _self_attention(model.decoder, batch.target_groups, _dtype(model), causal=True)
    masks = [group.mask_R11S.to(_dtype(model)) for group in batch.cross_groups]
    decoder: Any = model.decoder
    cross = _Attention(batch.target_groups, batch.cross_groups, decoder.block[0].layer[1].EncDecAttention, masks)
    states_MD = _run(decoder, embedded_MD, attend, cross, _memories(decoder, encoded_ND, batch.cross_n))
    return states_MD * model.model_dim**-0.5 if model.config.scale_decoder_outputs else states_MD


def target_states(model: T5ForConditionalGeneration, batch: FlatBatch) -> Tensor:
    """The decoder's states [M, D] at target positions, as the head reads them (scaled where the model scales them).

    One encoder pass and one decoder pass over all streams; the embedding is gathered once for both.
    """
    embedded = model.get_input_embeddings()(torch.cat([batch.source_N, batch.decoder_M]))
    source_ND, decoder_MD = embedded.split([batch.source_N.numel(), batch.decoder_M.numel()])
    return _decode(model, decoder_MD, _encode(model, source_ND, batch.source_groups), batch)


def form(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> Form:
    """A stream's prefix, the question and an end token are read by the encoder; the target is decoded.

    Raises:
        UserError: for the chat form, or a tokenizer without an end token.
    """
    if chat:
        raise UserError("student.chat=true: expected a decoder with a chat template, found an encoder-decoder")
    return Form(end=end_of(tokenizer))


def prepare(model: T5ForConditionalGeneration, accelerator: Accelerator) -> None:
    """Choose the fast parts for where the model will run; weights are untouched."""
    if accelerator is Accelerator.cpu:
        accelerate(model)
    else:
        model.set_attn_implementation("sdpa")


def parts(model: T5ForConditionalGeneration) -> list[list[nn.Module]]:
    """What `_run` calls of every layer; the biases and memories that serve all layers are computed before it."""
    stacks: tuple[Any, Any] = (model.encoder, model.decoder)
    found = []
    for block in (block for stack in stacks for block in stack.block):
        before = [m for layer in block.layer for m in _before(layer)]
        shared = {id(m) for outer in before for m in outer.modules()}
        found.append([m for m in block.modules() if list(m.parameters(recurse=False)) and id(m) not in shared])
    return found


def _before(layer: Any) -> Iterator[nn.Module]:
    if hasattr(layer, "EncDecAttention"):
        yield from (layer.EncDecAttention.k, layer.EncDecAttention.v)
    elif hasattr(layer, "SelfAttention") and layer.SelfAttention.has_relative_attention_bias:
        yield layer.SelfAttention.relative_attention_bias


def token_losses(
    model: T5ForConditionalGeneration, batch: FlatBatch, factor_M: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The batch's loss, a scalar, and each target token's cross-entropy [M] in nats, detached; see `batch_loss`."""
    return batch_loss(model.lm_head, target_states(model, batch), batch, factor_M)


@dataclass(frozen=True, slots=True)
class Memory:
    """Sources that the encoder has read."""

    sources: list[tuple[int, ...]]
    encoded_ND: Tensor
    """In the order of `lay_out`."""
    first: dict[int, int]
    """Where each source begins."""


@torch.no_grad()
def read(model: T5ForConditionalGeneration, sources: Sequence[Sequence[int]]) -> Memory:
    """Run the encoder on sources, once for ranking and generation."""
    flat, groups, first = _lay_out_sources(sources)
    embedded_ND = model.get_input_embeddings()(torch.tensor(flat, device=model.device))
    encoded_ND = _encode(model, embedded_ND, moved(groups, model.device))
    return Memory([tuple(source) for source in sources], encoded_ND, first)


@torch.no_grad()
def token_ranks(model: T5ForConditionalGeneration, batch: FlatBatch) -> tuple[Tensor, Tensor]:
    """Place among the vocabulary and cross-entropy (nats) of each target token, [M] each; see `losses.ranks`."""
    return ranks(model.lm_head, target_states(model, batch), batch.label_M)


@torch.no_grad()
def rank(
    model: T5ForConditionalGeneration,
    memory: Memory,
    options: Sequence[Sequence[Sequence[int]]],
    lead: Sequence[int] = (),
) -> list[list[float]]:
    """Mean token log-likelihood (nats, the end token included) of every option of every source; there is no lead."""
    pairs = [
        Pair(source, tuple(TargetText(tuple(ids), stream=i) for i, ids in enumerate(texts)))
        for source, texts in zip(memory.sources, options, strict=True)
    ]
    batch = lay_out(pairs, model.config).to(model.device)
    states_MD = _decode(model, model.get_input_embeddings()(batch.decoder_M), memory.encoded_ND, batch)
    _, losses_M = batch_loss(model.lm_head, states_MD, batch)
    scores = iter((-mean_by_text(losses_M, batch.text_M)).tolist())
    return [[next(scores) for _ in texts] for texts in options]


@torch.no_grad()
def generate(
    model: T5ForConditionalGeneration,
    memory: Memory,
    lead: Sequence[int] = (),
    *,
    ends: Collection[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Greedy generation for a batch of sources; token ids without specials at either end, and there is no lead."""
    lengths = [len(source) for source in memory.sources]
    rows = [memory.encoded_ND[memory.first[i] :][:length] for i, length in enumerate(lengths)]
    states_BSD = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask_BS = torch.arange(max(lengths), device=model.device) < torch.tensor(lengths, device=model.device)[:, None]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    start = cast(int, model.config.decoder_start_token_id)

    def step(token_B1: Tensor, row_B: Tensor | None) -> Tensor:
        nonlocal states_BSD, mask_BS
        if row_B is not None:
            states_BSD, mask_BS = states_BSD[row_B], mask_BS[row_B]
            cache.self_attention_cache.batch_select_indices(row_B)
            cache.cross_attention_cache.batch_select_indices(row_B)
        found: Any = model(
            encoder_outputs=(states_BSD,),
            attention_mask=mask_BS.long(),
            decoder_input_ids=token_B1,
            past_key_values=cache,
            use_cache=True,
        )
        return cast(Tensor, found.logits)

    first_B1 = torch.full((len(lengths), 1), start, device=model.device)
    return greedy(step, first_B1, ends=ends, max_new_tokens=max_new_tokens)
