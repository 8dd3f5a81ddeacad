"""What is particular to decoder-only students: one prompt with many continuations, token losses, ranking, generation.

Shape suffixes: N tokens of a batch, K keys (remembered ones and those of the batch), M target tokens of a batch, D
width of the model, H heads, G heads of keys and values, W width of a head, B rows of a generation.

A question is computed once. Behind it come the leads (instructions) of its streams, and behind each lead its targets:

    question and options
      ├─ Answer:  ── answer
      └─ Explain: ── rationale

All tokens of a batch are one row without padding, and transformers' own model runs on it. Only attention differs, and
transformers calls it through a registered function: a token sees its question, its lead and its own text, and its
position counts from the start of the question.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
import torch._dynamo
from jinja2 import TemplateError
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tinyllm.config import Accelerator
from tinyllm.data.steps import Pair, TargetText
from tinyllm.data.tokens import Form, end_of
from tinyllm.errors import UserError
from tinyllm.prompts import on_a_fixed_day
from tinyllm.student.cpu_speed import accelerate
from tinyllm.student.generation import greedy
from tinyllm.student.losses import Batch, batch_loss, mean_by_text, moved, ranks, token_fields

log = logging.getLogger(__name__)

TREE = "tinyllm_tree"
"""Name of the attention function."""
TOGETHER = 64
"""Tokens behind a question that share one attention product, at most, where they are several texts: what they compute
for each other is thrown away, and what stands alone needs its question's keys copied."""
FLEX_FROM = 1024
"""On a GPU, keys of a batch from which FlexAttention, which skips what no token sees, replaces one masked product."""
FLEX_BLOCK = 128
"""Tokens of one side of a FlexAttention block."""


@dataclass(slots=True)
class Block:
    """Neighbours in the row whose attention is one product."""

    start: int
    """First token of the row."""
    stop: int
    prompt_start: int
    """First key of their question, counted with the remembered keys; empty where the block holds the question."""
    prompt_stop: int


@dataclass(slots=True)
class Nodes:
    """Where each token stands in the trees."""

    question_N: Tensor
    position_N: Tensor
    """From the start of the question."""
    node_N: Tensor
    """Text that it belongs to, counted over a question: 0 is the question, then leads and targets."""
    lead_N: Tensor
    """Node of its lead; 0 in the question."""


@dataclass(slots=True)
class TreeBatch(Batch):
    """The trees of some questions in one row."""

    token_N: Tensor
    nodes: Nodes
    blocks: list[Block]
    state_M: Tensor
    """Position in the row of the token before each target token: its state gives the logits."""

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return self.token_N.numel()


@dataclass(slots=True)
class Memory:
    """Sources that the model has read."""

    lengths: list[int]
    nodes: Nodes
    keys: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By layer, the keys and values of all sources one after the other, [1, G, N, W] each."""


class _Row:
    """The row under construction."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.nodes: list[tuple[int, int, int, int]] = []
        self.blocks: list[Block] = []

    def add(self, ids: Sequence[int], question: int, position: int, node: int, lead: int) -> None:
        self.tokens.extend(ids)
        self.nodes.extend((question, position + i, node, lead) for i in range(len(ids)))

    def token_tensor(self) -> Tensor:
        return torch.tensor(self.tokens)

    def node_tensors(self) -> Nodes:
        return Nodes(*torch.tensor(self.nodes).T.contiguous().unbind())


def _lay_out(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[TargetText]], *, remembered: bool
) -> TreeBatch:
    """Trees of distinct sources, or where these are remembered, what stands behind them."""
    row = _Row()
    ordered: list[TargetText] = []
    numbers: list[int] = []
    states: list[int] = []
    read = count = 0
    for question, (source, own) in enumerate(zip(sources, targets, strict=True)):
        prompt = (read, read + len(source)) if remembered else (len(row.tokens), len(row.tokens) + len(source))
        read += len(source)
        start, inside = len(row.tokens), not remembered
        if inside:
            row.add(source, question, 0, 0, 0)
        by_lead: dict[tuple[int, ...], list[int]] = {}
        for i, target in enumerate(own):
            by_lead.setdefault(target.lead, []).append(i)
        size = {lead: len(lead) + sum(len(own[i].ids) for i in members) for lead, members in by_lead.items()}
        node = held = 0
        for lead in sorted(by_lead, key=size.__getitem__):
            if held and held + size[lead] > TOGETHER:
                row.blocks.append(Block(start, len(row.tokens), *((0, 0) if inside else prompt)))
                start, inside, held = len(row.tokens), False, 0
            held += size[lead]
            node += 1
            lead_node = node
            row.add(lead, question, len(source), lead_node, lead_node)
            last = len(row.tokens) - 1 if lead else prompt[1] - 1
            for i in by_lead[lead]:
                ids = own[i].ids
                node += 1
                states.extend((last, *range(len(row.tokens), len(row.tokens) + len(ids) - 1)))
                row.add(ids[:-1], question, len(source) + len(lead), node, lead_node)
                ordered.append(own[i])
                numbers.append(count + i)
        row.blocks.append(Block(start, len(row.tokens), *((0, 0) if inside else prompt)))
        count += len(own)
    blocks = [block for block in row.blocks if block.stop > block.start]
    return TreeBatch(
        row.token_tensor(), row.node_tensors(), blocks, torch.tensor(states), **token_fields(ordered, numbers)
    )


def lay_out(pairs: Sequence[Pair], config: PreTrainedConfig) -> TreeBatch:
    """Lay pairs out as trees, without padding.

    A target's last token needs no place in the row: nothing comes behind it.

    Args:
        pairs: at least one, each with another source; every source and target has a token or more.
        config: of the model.

    Raises:
        ValueError: without a pair, or with an empty source or target.
    """
    if not pairs or any(not pair.source or not pair.targets for pair in pairs):
        raise ValueError("expected at least one pair, each with a source and a target of one token or more")
    if any(not target.ids for pair in pairs for target in pair.targets):
        raise ValueError("expected a target of one token or more, found an empty one")
    return _lay_out([pair.source for pair in pairs], [pair.targets for pair in pairs], remembered=False)


class _Tree:
    """What the attention function needs of a batch; masks serve all layers."""

    def __init__(self, queries: Nodes, blocks: list[Block], memory: Memory | None, *, keep: bool = False) -> None:
        self.queries, self.blocks, self.memory, self.keep = queries, blocks, memory, keep
        self.keys = queries
        if memory is not None and not keep:
            both = zip(_tensors(memory.nodes), _tensors(queries), strict=True)
            self.keys = Nodes(*(torch.cat(pair) for pair in both))
        self.offset = self.keys.node_N.numel() - queries.node_N.numel()
        self._masks: dict[tuple[int | None, torch.dtype], list[Tensor]] = {}
        self._whole: dict[int | None, Tensor] = {}
        self._flex: dict[int | None, BlockMask] = {}

    def visible(self, query: Any, keys: Any, window: int | None) -> Tensor:
        """Which of the keys each query sees, bool; indices that broadcast to each other."""
        q, k = (
            [part[index] for part in _tensors(nodes)] for nodes, index in ((self.queries, query), (self.keys, keys))
        )
        question, position, node, lead = zip(q, k, strict=True)
        above = (node[1] == 0) | (node[1] == lead[0]) | (node[1] == node[0])
        seen: Tensor = above & (question[0] == question[1]) & (position[1] <= position[0])
        return seen if window is None else seen & (position[0] - position[1] < window)

    def key_index(self, block: Block) -> Tensor:
        own = torch.arange(block.start, block.stop, device=self.keys.node_N.device) + self.offset
        prompt = torch.arange(block.prompt_start, block.prompt_stop, device=own.device)
        return torch.cat([prompt, own])

    def masks(self, window: int | None, dtype: torch.dtype) -> list[Tensor]:
        """Of every block, 0 at the keys that a query sees and the lowest number at others."""
        if (window, dtype) not in self._masks:
            device = self.keys.node_N.device
            rows = [torch.arange(b.start, b.stop, device=device)[:, None] for b in self.blocks]
            seen = (self.visible(q, self.key_index(b), window) for q, b in zip(rows, self.blocks, strict=True))
            self._masks[window, dtype] = [
                torch.zeros(one.shape, dtype=dtype, device=one.device).masked_fill_(~one, torch.finfo(dtype).min)
                for one in seen
            ]
        return self._masks[window, dtype]

    def mask(self, window: int | None) -> Tensor:
        """Which of all keys each query sees, bool [N, K]."""
        if window not in self._whole:
            rows, columns = (
                torch.arange(nodes.node_N.numel(), device=nodes.node_N.device) for nodes in (self.queries, self.keys)
            )
            self._whole[window] = self.visible(rows[:, None], columns, window)
        return self._whole[window]

    def block_mask(self, window: int | None) -> BlockMask:
        """The same for FlexAttention: blocks without a question in common are skipped."""
        if window not in self._flex:
            q, k = (nodes.question_N for nodes in (self.queries, self.keys))  # both ascend, but for what is remembered
            (q_first, q_last), (k_first, k_last) = _block_ranges(q), _block_ranges(k)
            shared = (q_first[:, None] <= k_last) & (k_first <= q_last[:, None])
            self._flex[window] = BlockMask.from_kv_blocks(
                shared.sum(dim=1, dtype=torch.int32)[None, None],
                shared.int().argsort(dim=1, descending=True, stable=True).int()[None, None],
                BLOCK_SIZE=FLEX_BLOCK,
                mask_mod=lambda _b, _h, row, column: self.visible(row, column, window),
                seq_lengths=(q.numel(), k.numel()),
            )
        return self._flex[window]

    def part(self, all_GKW: Tensor, block: Block) -> Tensor:
        """Keys (or values) of a block."""
        own = all_GKW[:, self.offset + block.start : self.offset + block.stop]
        if block.prompt_stop == block.prompt_start:
            return own
        return torch.cat([all_GKW[:, block.prompt_start : block.prompt_stop], own], dim=1)


def _block_ranges(question_N: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest question of every block of FlexAttention."""
    missing = -question_N.numel() % FLEX_BLOCK
    rows = torch.cat([question_N, question_N[-1:].expand(missing)]).view(-1, FLEX_BLOCK)
    return rows.amin(dim=1), rows.amax(dim=1)


@cache
def _flex() -> Callable[..., Tensor]:
    """Compiled once for all lengths, and anew for each window, type, and with or without gradients."""
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, 64)  # beyond it, all scores would be held
    return cast(Callable[..., Tensor], torch.compile(flex_attention, dynamic=True))


def _skipping(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float) -> Tensor | None:
    """FlexAttention, or None where it can't be compiled (it needs Triton and a C compiler): it is not tried again."""
    global FLEX_FROM
    key, value = key.to(query.dtype), value.to(query.dtype)
    try:
        return _flex()(query, key, value, block_mask=mask, scale=scaling, enable_gqa=True)
    except torch._dynamo.exc.TorchDynamoException as error:
        FLEX_FROM = 1 << 62
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("FlexAttention can't be compiled; masked products, which are slower, take its place: %s", reason)
        return None


def _tensors(nodes: Nodes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return nodes.question_N, nodes.position_N, nodes.node_N, nodes.lead_N


class _Attention(torch.autograd.Function):
    """Attention block by block; weights are never kept, backward computes them again.

    On a processor PyTorch's fused kernel is the fastest forward, and plain products are the fastest backward.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: _Tree, scaling: float, window: int | None
    ) -> Tensor:
        device = query.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
        ctx.types = query.dtype, key.dtype, value.dtype
        with torch.autocast(device, enabled=False):
            q_HNW, k_GKW, v_GKW = (part[0].to(dtype) for part in (query, key, value))
            heads, count, _ = q_HNW.shape
            out_NHW = q_HNW.new_empty(count, heads, v_GKW.shape[-1])
            for block, mask in zip(tree.blocks, tree.masks(window, dtype), strict=True):
                found = F.scaled_dot_product_attention(
                    q_HNW[None, :, block.start : block.stop],
                    tree.part(k_GKW, block)[None],
                    tree.part(v_GKW, block)[None],
                    attn_mask=mask,
                    scale=scaling,
                    enable_gqa=True,
                )
                out_NHW[block.start : block.stop] = found[0].transpose(0, 1)
        ctx.save_for_backward(q_HNW, k_GKW, v_GKW)
        ctx.tree, ctx.scaling, ctx.window = tree, scaling, window
        return out_NHW[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q_HNW, k_GKW, v_GKW = ctx.saved_tensors
        tree: _Tree = ctx.tree
        groups, share = k_GKW.shape[0], q_HNW.shape[0] // k_GKW.shape[0]
        grad_q, grad_k, grad_v = torch.empty_like(q_HNW), torch.zeros_like(k_GKW), torch.zeros_like(v_GKW)
        with torch.autocast(grad.device.type, enabled=False):
            grad_HNW = grad[0].to(q_HNW.dtype).transpose(0, 1)
            for block, mask in zip(tree.blocks, tree.masks(ctx.window, q_HNW.dtype), strict=True):
                rows = slice(block.start, block.stop)
                # The heads that share keys lie below each other: one product for all of them.
                q, g = (part[:, rows].reshape(groups, -1, part.shape[-1]) for part in (q_HNW, grad_HNW))
                k, v = tree.part(k_GKW, block), tree.part(v_GKW, block)
                scores = torch.bmm(q, k.transpose(1, 2)).mul_(ctx.scaling)
                scores.view(groups, share, *mask.shape).add_(mask)
                weights = torch.softmax(scores, dim=-1)
                grad_weights = torch.bmm(g, v.transpose(1, 2))
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scaling)
                grad_q[:, rows] = torch.bmm(grad_scores, k).view(-1, block.stop - block.start, k.shape[-1])
                for total, part in (
                    (grad_k, torch.bmm(grad_scores.transpose(1, 2), q)),
                    (grad_v, torch.bmm(weights.transpose(1, 2), g)),
                ):
                    prompt = block.prompt_stop - block.prompt_start
                    total[:, block.prompt_start : block.prompt_stop] += part[:, :prompt]
                    total[:, tree.offset + block.start : tree.offset + block.stop] += part[:, prompt:]
        types = ctx.types
        return grad_q[None].to(types[0]), grad_k[None].to(types[1]), grad_v[None].to(types[2]), None, None, None


def _by_block(query: Tensor) -> bool:
    """A processor computes block by block; a GPU would spend more time on starting so many small products."""
    return query.device.type == "cpu"


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    tree: _Tree | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function that transformers calls: over trees, or PyTorch's own where there are none."""
    if tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    if tree.memory is not None and tree.keep:
        tree.memory.keys[module.layer_idx] = key, value
    elif tree.memory is not None:
        known_key, known_value = tree.memory.keys[module.layer_idx]
        key, value = torch.cat([known_key, key], dim=2), torch.cat([known_value, value], dim=2)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not _by_block(query) and key.shape[2] >= FLEX_FROM:
        skipped = _skipping(query, key, value, tree.block_mask(sliding_window), scaling)
        if skipped is not None:
            return skipped.transpose(1, 2), None
    if not _by_block(query):
        # With a mask, `enable_gqa` would leave the kernel that keeps no weights [heads, N, K] for backward.
        share = query.shape[1] // key.shape[1]
        key, value = (part.to(query.dtype).repeat_interleave(share, dim=1) for part in (key, value))
        mask = tree.mask(sliding_window)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        return found.transpose(1, 2), None
    apply = cast(Callable[..., Tensor], _Attention.apply)
    return apply(query, key, value, tree, scaling, sliding_window), None


AttentionInterface.register(TREE, _attend)
AttentionMaskInterface.register(TREE, sdpa_mask)


def _run(model: PreTrainedModel, token_N: Tensor, tree: _Tree) -> Tensor:
    """Last states [N, D] of a row."""
    if model.config._attn_implementation != TREE:
        model.set_attn_implementation(TREE)
    base: Any = model.base_model
    found = base(
        input_ids=token_N[None],
        position_ids=tree.queries.position_N[None],
        attention_mask=torch.empty(1, 1, 1, 1, device=token_N.device),  # of four dimensions: no mask is made
        use_cache=False,
        tree=tree,
    )
    return cast(Tensor, found.last_hidden_state[0])


def target_states(model: PreTrainedModel, batch: TreeBatch, memory: Memory | None = None) -> Tensor:
    """The states [M, D] that the head reads to give target tokens: one pass over all streams."""
    states_ND = _run(model, batch.token_N, _Tree(batch.nodes, batch.blocks, memory))
    return states_ND.index_select(0, batch.state_M)


_LONG = 2048
"""Tokens of the longest question with its texts that students are expected to read."""


@torch.no_grad()
def check(model: PreTrainedModel, name: str) -> None:
    """Compare a small tree with transformers' own forward of each of its texts, before anything is trained.

    Raises:
        UserError: for an architecture whose attention or head is not served: positions other than rotary ones, or that
            depend on the length of a batch, windows that only a mask knows of, caps on scores or logits, layers that
            share keys.
    """
    rope: Any = getattr(model.config, "rope_parameters", None) or {}
    if (kind := rope.get("rope_type")) in ("dynamic", "longrope"):
        least = rope.get("original_max_position_embeddings") or model.config.max_position_embeddings
        if least < _LONG:
            raise UserError(
                f"student.pretrained={name}: rope_type={kind} beyond {least} tokens in its config.json: positions that "
                "depend on the longest text of a batch are not supported"
            )
    window = (
        getattr(model.config, "sliding_window", None) if getattr(model.config, "use_sliding_window", True) else None
    )
    length = window + 4 if window is not None and window < _LONG else 6  # long enough to leave the window
    source, lead, texts = tuple(3 + i % 6 for i in range(length)), (9, 10), ((11, 12, 13), (14, 15))
    targets = tuple(TargetText(ids, normaliser=1.0, lead=lead) for ids in texts)
    training = model.training
    model.eval()
    batch = lay_out([Pair(source, targets)], model.config).to(model.device)
    try:
        parts(model)
        _, losses_M = token_losses(model, batch)
        model.set_attn_implementation("sdpa")
        for number, ids in enumerate(texts):
            logits = model(input_ids=torch.tensor([[*source, *lead, *ids]], device=model.device)).logits[0].float()
            labels = torch.tensor(ids, device=model.device)
            expected = F.cross_entropy(logits[-len(ids) - 1 : -1], labels, reduction="none")
            if not torch.allclose(losses_M[batch.text_M == number], expected, rtol=1e-3, atol=1e-3):
                raise ValueError("it computes something else")
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"student.pretrained={name}: decoders of model_type {model.config.model_type} are not supported "
            f"({reason}): use a model of the Llama, Qwen, SmolLM or Gemma 3 family"
        ) from error
    finally:
        model.train(training)
    keys = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
    if dropped := [f"{key}={value}" for key in keys if (value := getattr(model.config, key, 0))]:
        raise UserError(
            f"student.pretrained={name}: {dropped[0]} in its config.json: attention dropout is not supported: set it "
            "to 0"
        )
    model.set_attn_implementation(TREE)


def prepare(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Choose the fast parts for where the model will run; weights are untouched."""
    model.set_attn_implementation(TREE)
    if accelerator is Accelerator.cpu:
        accelerate(model)


def parts(model: PreTrainedModel) -> list[list[torch.nn.Module]]:
    """The layers."""
    base: Any = model.base_model
    return [[layer] for layer in base.layers]


def token_losses(model: PreTrainedModel, batch: TreeBatch, factor_M: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The batch's loss, a scalar, and each target token's cross-entropy [M] in nats, detached; see `batch_loss`."""
    return batch_loss(_head(model), target_states(model, batch), batch, factor_M)


@torch.no_grad()
def token_ranks(model: PreTrainedModel, batch: TreeBatch) -> tuple[Tensor, Tensor]:
    """Place among the vocabulary and cross-entropy (nats) of each target token, [M] each; see `losses.ranks`."""
    return ranks(_head(model), target_states(model, batch), batch.label_M)


def _head(model: PreTrainedModel) -> torch.nn.Module:
    return cast(torch.nn.Module, model.get_output_embeddings())


@torch.no_grad()
def read(model: PreTrainedModel, sources: Sequence[Sequence[int]]) -> Memory:
    """Run the model on sources and keep their keys and values, for ranking and generation."""
    row = _Row()
    for question, source in enumerate(sources):
        row.blocks.append(Block(len(row.tokens), len(row.tokens) + len(source), 0, 0))
        row.add(source, question, 0, 0, 0)
    memory = Memory([len(source) for source in sources], moved(row.node_tensors(), model.device))
    _run(model, row.token_tensor().to(model.device), _Tree(memory.nodes, row.blocks, memory, keep=True))
    return memory


@torch.no_grad()
def rank(
    model: PreTrainedModel, memory: Memory, options: Sequence[Sequence[Sequence[int]]], lead: Sequence[int] = ()
) -> list[list[float]]:
    """Mean token log-likelihood (nats, the end token included) of every option behind its source and the lead.

    Args:
        model: the student.
        memory: of `read`.
        options: of every source.
        lead: one token or more.
    """
    texts = [[TargetText(tuple(ids), stream=i, lead=tuple(lead)) for i, ids in enumerate(own)] for own in options]
    sources = [range(length) for length in memory.lengths]  # only their lengths are looked at
    batch = _lay_out(sources, texts, remembered=True).to(model.device)
    _, losses_M = batch_loss(_head(model), target_states(model, batch, memory), batch)
    scores = iter((-mean_by_text(losses_M, batch.text_M)).tolist())
    return [[next(scores) for _ in own] for own in options]


def _padded(part: Tensor, inside_BS: Tensor) -> Tensor:
    """[1, G, N, W] -> [B, G, S, W], zeros at padding."""
    rows = part.new_zeros(*inside_BS.shape, part.shape[1], part.shape[3])
    rows[inside_BS] = part[0].transpose(0, 1)
    return rows.transpose(1, 2)


@torch.no_grad()
def generate(
    model: PreTrainedModel, memory: Memory, lead: Sequence[int] = (), *, ends: Collection[int], max_new_tokens: int
) -> list[list[int]]:
    """Greedy generation behind every source and the lead, with the model's own cache.

    Args:
        model: the student.
        memory: of `read`.
        lead: one token or more.
        ends: ids that end a text; not part of the result.
        max_new_tokens: of a text.
    """
    device = model.device
    longest = max(memory.lengths)
    length_B = torch.tensor(memory.lengths, device=device)
    inside_BS = torch.arange(longest, device=device) >= longest - length_B[:, None]  # padded on the left
    cache = DynamicCache(config=model.config)
    for layer, (key, value) in sorted(memory.keys.items()):
        cache.update(_padded(key, inside_BS), _padded(value, inside_BS), layer)
    mask_BS = inside_BS.long()
    position_B1 = length_B[:, None]

    def step(token_BL: Tensor, row_B: Tensor | None) -> Tensor:
        nonlocal mask_BS, position_B1
        if row_B is not None:
            cache.batch_select_indices(row_B)
            mask_BS, position_B1 = mask_BS[row_B], position_B1[row_B]
        mask_BS = torch.cat([mask_BS, torch.ones_like(token_BL)], dim=1)
        position_BL = position_B1 + torch.arange(token_BL.shape[1], device=device)
        position_B1 = position_B1 + token_BL.shape[1]
        found: Any = model(
            input_ids=token_BL,
            attention_mask=mask_BS,
            position_ids=position_BL,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cast(Tensor, found.logits)

    first_BL = torch.tensor(lead, device=device).expand(len(memory.lengths), -1)
    return greedy(step, first_BL, ends=ends, max_new_tokens=max_new_tokens)


def form(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> Form:
    """The question comes first, then the stream's instruction, then the target; in a chat, the target is the reply.

    Raises:
        UserError: for a chat without a template, or whose template refuses the user's words or does not show them as
            they are; for a tokenizer without an end token.
    """
    if not chat:
        with_specials, plain = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (True, False))
        begins = len(with_specials) > len(plain) and with_specials[0] == tokenizer.bos_token_id
        start = cast(str, tokenizer.bos_token) if begins else ""
        return Form(end_of(tokenizer), behind=True, start=start, space=" ")
    if not tokenizer.chat_template:
        raise UserError("student.chat=true: this model has no chat template: set student.chat=false")
    said, reply = "<<the question>>", "<<the reply>>"

    def rendered(messages: list[dict[str, str]], **options: Any) -> str:
        text: Any = tokenizer.apply_chat_template(
            messages, tokenize=False, enable_thinking=False, **on_a_fixed_day(tokenizer), **options
        )
        return cast(str, text)

    asked = [{"role": "user", "content": said}]
    try:
        text = rendered(asked, add_generation_prompt=True)
        whole = rendered([*asked, {"role": "assistant", "content": reply}])
    except (TemplateError, ValueError, TypeError) as error:
        raise UserError(
            f"student.chat=true: this model's chat template refuses a question and its answer ({error}): set "
            "student.chat=false"
        ) from error
    if text.count(said) != 1 or whole.count(reply) != 1:
        raise UserError(
            "student.chat=true: this model's chat template changes, repeats or drops a message's text: set "
            "student.chat=false"
        )
    start, turn = text.split(said)
    after = tokenizer(whole.split(reply)[1], add_special_tokens=False)["input_ids"]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    closes = bool(after) and after[0] in special
    return Form(after[0] if closes else end_of(tokenizer), behind=True, start=start, turn=turn)
