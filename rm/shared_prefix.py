"""Rewards of packed rows: a prompt is encoded once for all its responses, and no response sees another.

The model is transformers' own. What is ours is an entry in its attention registry, which knows the tokens that belong
together, and that the score head is applied where each conversation ends.
"""

from __future__ import annotations

import functools
import os
import shutil
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rm.packing import Ids, PackedRow, Tree, alike, fill_rows, pack, tree_of

ATTENTION = "weakpref_trees"
"""The name of our attention in transformers' registry."""
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
ENCODERS = ("bert",)
"""Model types in which nothing but attention and positions ties tokens together; a test covers each."""
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that depend on a token's position alone, and not on the longest input."""
BLOCK = 128
"""Tokens a side of flex attention's blocks."""
FLEX_HEAD_DIMS = (16, 32, 64, 128, 256)
FLEX_TOKENS = 1024
"""Tokens of a row from which flex attention is worth compiling: that takes half a minute, once a process.

Below 128 it would fail where several query heads share a key head: torch 2.11 takes its decoding kernel, which then has
no block size that divides `BLOCK` (`torch._inductor.kernel.flex.flex_decoding`).
"""


def cannot_pack(model: PreTrainedModel, max_length: int) -> str | None:
    """Return why packed rows of conversations of up to max_length tokens do not suit a model; None where they do."""
    config, name = model.config.get_text_config(), type(model).__name__
    if config.model_type not in (*DECODERS, *ENCODERS):
        return f"{name}: packed rows are known to be exact for {', '.join((*DECODERS, *ENCODERS))} only"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < max_length:
        return f"{name}: its attention slides over {window} tokens, and conversations have up to {max_length}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in STATIC_ROPE:
        return f"{name}: its rotary embedding ({rope}) depends on the longest input"
    if config.model_type in ENCODERS and config.is_decoder:
        return f"{name}: an encoder configured as a decoder"
    return None


def is_causal(model: PreTrainedModel) -> bool:
    """Return whether tokens of a (packable) model see only what precedes them, so that a beginning can be shared."""
    return model.config.get_text_config().model_type in DECODERS


def accept_packed(model: PreTrainedModel, attention: str = ATTENTION) -> None:
    """Teach a model packed rows: `packed_rewards` then works, through any wrapper (DDP, FSDP2, LoRA) as well.

    All else it does as before. `attention="sdpa"` masks all of a row's tokens against all: slow, a reference for tests.
    """
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(attention)
    model.forward = types.MethodType(_forward, model)


def packed_rewards(model: torch.nn.Module, row: PackedRow) -> torch.Tensor:
    """Return the reward of each conversation of a row, float32 (n,), in order of its trees.

    `model` is one that `accept_packed` was given, or a wrapper around it, on the row's device.
    """
    rewards: torch.Tensor = model(
        input_ids=row.input_ids, position_ids=row.position_ids, read_at=row.read_at, trees=row.trees
    )
    return rewards.float()


@torch.inference_mode()
def score_packed(model: PreTrainedModel, ids: Sequence[Ids], token_budget: int) -> npt.NDArray[np.float64]:
    """Return the reward of each tokenised conversation, float64 (n,), in rows of at most `token_budget` tokens.

    Conversations that begin alike (two responses to a prompt, or twenty) share their beginning, wherever they stand.
    """
    causal = is_causal(model)
    groups = alike(ids, token_budget) if causal else [[i] for i in range(len(ids))]
    n_tokens = [tree_of([ids[i] for i in group], causal).n_tokens for group in groups]
    rewards = np.empty(len(ids), dtype=np.float64)
    for members in fill_rows(n_tokens, token_budget):
        row = pack([[ids[i] for i in groups[g]] for g in members], causal=causal).to(model.device)
        rewards[[i for g in members for i in groups[g]]] = packed_rewards(model, row).cpu().numpy()
    return rewards


@dataclass(frozen=True)
class _Layout:
    """What attention needs to know of a row, the same in all layers."""

    trees: tuple[Tree, ...]
    masks: tuple[torch.Tensor | None, ...]
    """For each rest but a tree's first, which of [beginning | rest] its tokens see; None where nothing is shared."""
    causal: bool


def _forward(
    self: PreTrainedModel,
    input_ids: torch.Tensor | None = None,
    *args: Any,
    read_at: torch.Tensor | None = None,
    trees: tuple[Tree, ...] | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Stand in for `*ForSequenceClassification.forward`, which pools one reward a row: rewards of a packed row."""
    if trees is None or read_at is None or input_ids is None:
        return type(self).forward(self, input_ids, *args, position_ids=position_ids, **kwargs)
    causal = is_causal(self)
    hidden = self.base_model(
        input_ids=input_ids,
        position_ids=position_ids,
        **_attention_inputs(self, trees, causal, input_ids.device),
        **({"use_cache": False} if causal else {}),
    ).last_hidden_state[0, read_at]
    return _head(self, hidden)[:, 0]


def _head(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return the score head's output, (n, 1), for the hidden states (n, width) at which rewards are read."""
    head: Any = model
    if is_causal(model):
        return head.score(hidden)  # type: ignore[no-any-return]
    return head.classifier(head.dropout(head.base_model.pooler(hidden[:, None])))  # type: ignore[no-any-return]


def _attention_inputs(
    model: PreTrainedModel, trees: tuple[Tree, ...], causal: bool, device: torch.device
) -> dict[str, Any]:
    """Return the attention mask and, for our own attention, the layout; transformers passes a 4-D mask on as it is."""
    if model.config._attn_implementation != ATTENTION:
        seen = sees(trees, causal, device)
        return {"attention_mask": torch.zeros_like(seen, dtype=model.dtype).masked_fill(~seen, -torch.inf)}
    if takes_flex(model, sum(tree.n_tokens for tree in trees), device):
        _allow_recompiling()
        return {"attention_mask": block_mask(trees, causal, device)}
    masks = tuple(
        torch.ones(rest, tree.prefix + rest, dtype=torch.bool, device=device).tril(tree.prefix) if tree.prefix else None
        for tree in trees
        for rest in tree.rests[1:]
    )
    unused = torch.empty(1, 1, 1, 1, device=device)
    return {"attention_mask": unused, "layout": _Layout(trees, masks, causal)}


def takes_flex(model: PreTrainedModel, n_tokens: int, device: torch.device) -> bool:
    """Return whether a row of a packable model is left to flex attention, and not attended to tree by tree."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return device.type == "cuda" and n_tokens >= FLEX_TOKENS and head_dim in FLEX_HEAD_DIMS and has_compiler()


@functools.cache
def has_compiler() -> bool:
    """Return whether Triton, which compiles flex attention, finds the C compiler it asks for."""
    return bool(os.environ.get("CC")) or any(map(shutil.which, ("gcc", "clang", "cc")))


@functools.cache
def _allow_recompiling() -> None:
    """Let flex attention be compiled once for each architecture, dtype and kind of pass of this process.

    From the eighth on torch would leave it uncompiled, where it holds all tokens against all, with a line in a log.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)


def _numbered(trees: tuple[Tree, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's tree and, within it, its part: 0 the beginning, 1 the first rest, ...; int64 (n_tokens,)."""
    parts = [(t, part, size) for t, tree in enumerate(trees) for part, size in enumerate((tree.prefix, *tree.rests))]
    table = torch.tensor(parts, device=device)
    numbers = table[:, :2].repeat_interleave(table[:, 2], dim=0)
    return numbers[:, 0], numbers[:, 1]


def sees(trees: tuple[Tree, ...], causal: bool, device: torch.device) -> torch.Tensor:
    """Return which tokens (rows) see which (columns), bool (1, 1, n_tokens, n_tokens): the rule, written out."""
    tree, part = _numbered(trees, device)
    allowed = (tree[:, None] == tree) & ((part[:, None] == part) | (part == 0))
    return (allowed.tril() if causal else allowed)[None, None]


def block_mask(trees: tuple[Tree, ...], causal: bool, device: torch.device) -> BlockMask:
    """Return the same rule for flex attention, which skips blocks of a row that see nothing of each other.

    It is looked at a row of blocks at a time, since all tokens against all would be 268 MB for 16,384 of them.
    """
    tree, part = _numbered(trees, device)

    def rule(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        allowed = (tree[q] == tree[k]) & ((part[q] == part[k]) | (part[k] == 0))
        return allowed & (q >= k) if causal else allowed

    n, k = len(tree), torch.arange(len(tree), device=device)
    padding, zero = (0, -n % BLOCK), torch.zeros((), dtype=torch.long, device=device)
    seen = torch.stack(
        [
            pad(rule(zero, zero, q[:, None], k), padding).view(len(q), -1, BLOCK).sum((0, 2))
            for q in torch.split(k, BLOCK)
        ]
    )
    full = seen == BLOCK * BLOCK
    numbers = (*_in_order((seen > 0) & ~full), *_in_order(full))
    return BlockMask.from_kv_blocks(*numbers, BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(n, n))


def _in_order(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many blocks of each row are marked (1, 1, n), and the blocks, marked ones first, (1, 1, n, n)."""
    order = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    return blocks.sum(1).int()[None, None], order.int()[None, None]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    layout: _Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within trees, or as transformers does where the input is no packed row."""
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, scaling=scaling)[0], None
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    groups = query.shape[1] // key.shape[1]
    output = attend(query, repeat_kv(key, groups), repeat_kv(value, groups), layout, scaling)
    return output.transpose(1, 2).contiguous(), None


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: _Layout, scaling: float | None
) -> torch.Tensor:
    """Return attention tree by tree, (1, heads, n_tokens, width): work and memory grow with trees, not their square.

    The beginning and the first rest are one causal block; every other rest attends to [beginning | itself].
    """
    sizes = [size for tree in layout.trees for size in (tree.prefix + tree.rests[0], *tree.rests[1:])]
    blocks = zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True)
    masks, output = iter(layout.masks), []
    for tree in layout.trees:
        q, k, v = next(blocks)
        output.append(scaled_dot_product_attention(q, k, v, is_causal=layout.causal, scale=scaling))
        for _ in tree.rests[1:]:
            q, own_k, own_v = next(blocks)
            mask = next(masks)
            keys = own_k if mask is None else torch.cat([k[:, :, : tree.prefix], own_k], dim=2)
            values = own_v if mask is None else torch.cat([v[:, :, : tree.prefix], own_v], dim=2)
            plain = layout.causal and mask is None
            output.append(scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=plain, scale=scaling))
    return torch.cat(output, dim=2)
