"""Why two consumers of a reward model give a conversation different rewards: what each gave the model, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rm.checkpoint import read_record
from rm.consumers import Taken


@dataclass(frozen=True)
class Facts:
    """What in a directory makes consumers differ."""

    tokenizer: PreTrainedTokenizerBase
    dtype: str
    """Of the saved weights, in which consumers compute unasked."""
    problem_type: str | None
    """What pipelines choose an activation by: none for regression, else a sigmoid where there is one output."""
    pad_token_id: int | None
    """Of config.json: transformers reads a decoder's reward at the last token that is not this one."""
    decoder: bool
    """Whether the reward is read at the last token, and not at the first."""

    @classmethod
    def of(cls, model: str | Path, tokenizer: PreTrainedTokenizerBase, *, decoder: bool) -> Facts:
        """Read the facts from a directory; of a hub id only the tokenizer is known."""
        config = read_record(Path(model) / "config.json")
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        return cls(tokenizer, str(dtype), config.get("problem_type"), config.get("pad_token_id"), decoder)


def cause(expected: Taken, taken: Taken, facts: Facts) -> str:
    """Return why a consumer's rewards are not ours, from the conversation on which they differ most."""
    worst = int(np.abs(taken.rewards - expected.rewards).argmax())
    ours, theirs = expected.ids[worst], taken.ids[worst]
    if theirs != ours:
        return _other_tokens(ours, theirs, facts)
    if np.allclose(taken.rewards, 1 / (1 + np.exp(-expected.rewards)), atol=1e-3):
        return (
            f"its activation is on (a sigmoid), since problem_type in config.json is {facts.problem_type}: write "
            '"regression" there, or turn it off (function_to_apply="none")'
        )
    end = facts.tokenizer.eos_token_id
    pad = facts.tokenizer.pad_token_id
    if end is not None and (pad is None or end in (pad, facts.pad_token_id)):
        what = "the pad token is" if pad is not None else "there is no pad token, and it takes for one"
        return (
            f"{what} the end token ({facts.tokenizer.eos_token}), so the reward is read before the end that was taken "
            "for padding: give the tokenizer and config.json a pad token of its own"
        )
    if facts.dtype != "float32":
        return f"it computes in {facts.dtype}, the dtype in config.json, and this library in float32: pass a dtype"
    return "the tokens are the same, the rewards are not: it pads, pools or computes otherwise; report this"


def notes(facts: Facts, n_too_long: int) -> tuple[str, ...]:
    """Return what in the directory may make a difference that scored conversations did not show."""
    found = []
    if n_too_long:
        found.append(f"{n_too_long} conversations over {facts.tokenizer.model_max_length} tokens were left out")
    if not facts.decoder:
        found.append(
            "rewardbench pads on the left, and an encoder's reward is read at the first place, where a pad then "
            "stands: run it with --batch_size 1, as was done here"
        )
    if facts.tokenizer.truncation_side != "left":
        found.append(
            "truncation_side in tokenizer_config.json is right: who truncates cuts off the end of the response, on "
            "which a decoder's reward is read; write left"
        )
    if facts.tokenizer.pad_token_id is None:
        found.append("there is no pad token: some consumers take the end token for it, and read the reward before it")
    if facts.dtype != "float32":
        found.append(f"the weights are {facts.dtype}: rewards of two engines then agree to two or three digits only")
    return tuple(found)


def _other_tokens(ours: Sequence[int], theirs: Sequence[int], facts: Facts) -> str:
    special = set(facts.tokenizer.all_special_ids)
    extra = len(theirs) - len(ours)
    if extra > 0 and list(theirs[extra:]) == list(ours) and set(theirs[:extra]) <= special:
        return (
            f"it adds {_shown(theirs[:extra], facts)} to a text that begins with {_shown(ours[:1], facts)}: BOS twice; "
            "take BOS from the tokenizer's post-processor, since the chat template has it"
        )
    if extra > 0 and set(_around(ours, theirs)) <= special:
        return (
            f"it adds special tokens ({_shown(_around(ours, theirs), facts)}) to a text that has its own: take them "
            "from the tokenizer's post-processor, or from the chat template"
        )
    common = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    left, right, end = ours[common:], theirs[common:], facts.tokenizer.eos_token_id
    if ours[:common][-1:] == [end] and not str(facts.tokenizer.decode(list(left))).strip():
        return (
            f"the chat template ends in {_shown(left, facts)} after the end token, which this consumer strips: let the "
            "template end exactly at the end token"
        )
    if right[-1:] == [end] and end not in left:
        return (
            f"the chat template does not end in the end token ({facts.tokenizer.eos_token}), so this consumer adds "
            f"{_shown(right, facts)}: let the template end exactly at the end token"
        )
    return (
        f"it makes other tokens of the text: {_shown(right[:5], facts)} from token {common} on, where this library has "
        f"{_shown(left[:5], facts)}"
    )


def _around(ours: Sequence[int], theirs: Sequence[int]) -> list[Any]:
    """Return what stands before and after our tokens in theirs; a token that is none, where ours are not in theirs."""
    for start in range(len(theirs) - len(ours) + 1):
        if list(theirs[start : start + len(ours)]) == list(ours):
            return [*theirs[:start], *theirs[start + len(ours) :]]
    return [None]


def _shown(ids: Sequence[int], facts: Facts) -> str:
    return repr(str(facts.tokenizer.decode(list(ids)))) if len(ids) else "nothing"
