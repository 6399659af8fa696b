"""Policies: causal language models that are trained, as engines that write and as plain model folders."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeling.chat_tokens import PLAIN_TEMPLATE, as_data, end_token, prompt_tokens
from labeling.errors import DataError
from labeling.files import replacing
from labeling.llm import Conversation

if TYPE_CHECKING:
    from labeling.transformers_engine import TransformersEngine

PACKAGED = "smollm2"
"""The model that needs no network and no path."""

Ids = list[int]


def load_policy(source: str | Path, *, dtype: str = "float32", device: str | None = None) -> TransformersEngine:
    """Return a causal language model as an engine: `smollm2`, a folder, or a hub id; on the GPU where there is one."""
    import torch

    from labeling.smollm2 import smollm2
    from labeling.transformers_engine import TransformersEngine

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(source) == PACKAGED:
        return smollm2(dtype=dtype, device=device)
    return TransformersEngine.load(source, dtype=dtype, device=device)


def policy_tokenizer(source: str | Path) -> Any:
    """Return a policy's tokenizer, without its weights. Raises DataError where there is no such model."""
    from labeling.smollm2 import packaged_tokenizer
    from labeling.transformers_engine import load_tokenizer, planned_context

    if str(source) == PACKAGED:
        return packaged_tokenizer()
    planned_context(source)  # a folder without a model's configuration holds no policy
    return load_tokenizer(source)


def policy_context(source: str | Path) -> int | None:
    """Return how many tokens a policy holds, None where it does not say; no weights are loaded."""
    from labeling.smollm2 import packaged_context
    from labeling.transformers_engine import planned_context

    return packaged_context() if str(source) == PACKAGED else planned_context(source)


def check_vocabulary(base: str | Path, policy: str | Path) -> None:
    """Raise DataError unless a base knows all tokens of a policy by the same numbers; no weights are loaded."""
    ours, theirs = (policy_tokenizer(source).get_vocab() for source in (policy, base))
    differ = sorted(token for token, number in ours.items() if theirs.get(token) != number)
    if differ:
        raise DataError(
            f"base {base} has another vocabulary than {policy}: it lacks {len(differ):,} of {len(ours):,} tokens or "
            f"numbers them otherwise, {differ[0]!r} for instance; expected all, for both are asked about the same "
            "tokens: pass the model that the policy was fine-tuned from (with the tokens that fine-tuning added, if it "
            "did), or leave base out"
        )


def save_policy(network: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer as a plain folder (safetensors) that transformers, TRL and vLLM load."""
    from labeling.transformers_engine import no_bars

    with no_bars():
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def save_as_folder(source: str | Path, folder: Path, dtype: str) -> None:
    """Write a named model to a folder, all or nothing, so that every later step loads a folder."""
    engine = load_policy(source, dtype=dtype, device="cpu")
    with replacing(folder) as part:
        save_policy(engine.network, engine.tokenizer, part)


def chat_tokens(
    tokenizer: Any,
    prompts: Sequence[Conversation],
    responses: Sequence[str],
    ended: Sequence[bool] | None = None,
    *,
    ends: Collection[int] | None = None,
) -> tuple[list[Ids], list[Ids]]:
    """Return prompts and responses as token ids: what the engine reads, and what it would have written.

    A response that `ended` (default: all did) closes with the end token of its chat (`end_token`, of the `ends` that
    generation stops at); one that was cut does not, or the model would learn to stop in mid-sentence. Special tokens
    written inside a response are data, as they are in a prompt. Equal lengths are expected.
    """
    if ended is None:
        ended = [True] * len(responses)
    if not len(prompts) == len(responses) == len(ended):
        raise DataError(f"there are {len(prompts)} prompts, {len(responses)} responses and {len(ended)} marks of ends")
    asked, written = prompt_tokens(tokenizer, prompts), as_data(tokenizer, responses)
    texts = list(tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]) if written else []
    last = end_token(tokenizer, ends)
    end = [] if last is None else [last]
    return asked, [[*ids, *(end if whole else [])] for ids, whole in zip(texts, ended, strict=True)]


def with_template(tokenizer: Any) -> Any:
    """Give a tokenizer without a chat template the plain one, since TRL needs one; return it."""
    tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
    return tokenizer


def need_rlhf() -> None:
    """Raise DataError unless TRL and peft are installed."""
    missing = [name for name in ("trl", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"training a policy needs {' and '.join(missing)}; install them: pip install 'weakpref[rlhf]'")


@contextmanager
def quiet_trl() -> Iterator[None]:
    """Hide TRL's warning of names that transformers has changed since, and its progress bars of tokenising."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()
