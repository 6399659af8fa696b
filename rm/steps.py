"""The pairs of an optimizer step, cut into forward passes by a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rm.data import pad
from rm.packing import Ids, PackedRow, fill_rows, pack, tree_of
from rm.shared_prefix import packed_rewards


@dataclass(frozen=True)
class PaddedRows:
    """Conversations padded on the right, for models that packed rows do not suit."""

    input_ids: torch.Tensor
    """int64 (n, longest)."""
    attention_mask: torch.Tensor
    """int64 (n, longest)."""

    def to(self, device: torch.device | str) -> PaddedRows:
        """Return the same rows on a device."""
        return PaddedRows(self.input_ids.to(device), self.attention_mask.to(device))


@dataclass(frozen=True)
class Part:
    """The pairs of one forward pass."""

    rows: PackedRow | PaddedRows
    """Their conversations: chosen and rejected of the first pair, of the second, ..."""
    p_chosen: torch.Tensor
    """float32 (n,), in [0, 1]."""
    weight: torch.Tensor
    """float32 (n,), above 0 (0 in a part that is there to keep processes in step)."""

    def to(self, device: torch.device | str) -> Part:
        """Return the same part on a device."""
        return Part(self.rows.to(device), self.p_chosen.to(device), self.weight.to(device))


@dataclass(frozen=True)
class Step:
    """The parts of an optimizer step on one device."""

    parts: tuple[Part, ...]
    pairs: tuple[dict[str, Any], ...] = ()
    """The pairs as they came, to be shown where numbers break."""

    def to(self, device: torch.device | str) -> Step:
        """Return the same step on a device."""
        return Step(tuple(part.to(device) for part in self.parts), self.pairs)

    @property
    def weight(self) -> torch.Tensor:
        """The sum of weights, float32 ()."""
        return torch.stack([part.weight.sum() for part in self.parts]).sum()


def pair_rewards(model: torch.nn.Module, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Return r_chosen and r_rejected of a part's pairs, float32 (n,) each."""
    if isinstance(part.rows, PackedRow):
        rewards = packed_rewards(model, part.rows)
    else:
        rewards = model(part.rows.input_ids, attention_mask=part.rows.attention_mask).logits[:, 0].float()
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    return chosen, rejected


@dataclass(frozen=True)
class StepCollator:
    """Cuts the pairs of a step into parts of at most `token_budget` tokens (a pair above it is a part of its own).

    Packed, a part is one row without padding, in which causal models share what a pair begins with; padded, a part
    holds pairs of similar length.
    """

    token_budget: int
    pad_token_id: int
    packed: bool
    causal: bool

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> Step:
        """Return the step of some items of `TokenisedPairs`."""
        conversations = [(pair["chosen"], pair["rejected"]) for pair in pairs]
        cut = self._packed(conversations) if self.packed else self._padded(conversations)
        return Step(tuple(self._part([pairs[i] for i in members]) for members in cut), tuple(pairs))

    def _packed(self, conversations: Sequence[tuple[Ids, Ids]]) -> list[list[int]]:
        return fill_rows([tree_of(pair, self.causal).n_tokens for pair in conversations], self.token_budget)

    def _padded(self, conversations: Sequence[tuple[Ids, Ids]]) -> list[list[int]]:
        return fill_padded([max(len(ids) for ids in pair) for pair in conversations], self.token_budget)

    def _part(self, pairs: Sequence[dict[str, Any]]) -> Part:
        conversations = [(pair["chosen"], pair["rejected"]) for pair in pairs]
        rows: PackedRow | PaddedRows
        if self.packed:
            rows = pack(conversations, causal=self.causal)
        else:
            rows = PaddedRows(**pad([ids for pair in conversations for ids in pair], self.pad_token_id))
        numbers = (torch.tensor([pair[name] for pair in pairs], dtype=torch.float32) for name in ("p_chosen", "weight"))
        return Part(rows, *numbers)


def fill_padded(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return the places of pairs in each forward pass of padded rows, the longest pairs first.

    A pair's length is that of its longer conversation, to which all of a pass are padded.

    >>> fill_padded([10, 30, 20, 29], token_budget=120)
    [[1, 3], [2, 0]]
    """
    parts: list[list[int]] = []
    for pair in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not parts or 2 * (len(parts[-1]) + 1) * lengths[parts[-1][0]] > token_budget:
            parts.append([])
        parts[-1].append(pair)
    return parts


def in_step(step: Step, n_parts: int) -> Step:
    """Return the step with n_parts parts: sharded models must run as many forward passes in every process.

    What is added are copies of the last part with weight 0.
    """
    idle = Part(step.parts[-1].rows, step.parts[-1].p_chosen, torch.zeros_like(step.parts[-1].weight))
    return Step((*step.parts, *[idle] * (n_parts - len(step.parts))), step.pairs)
