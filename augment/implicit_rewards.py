"""DPO-implicit rewards: how much likelier a policy finds a response than a reference does (arXiv 2305.18290)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from augment.policies import Ids, chat_tokens, load_policy
from labeling.errors import DataError
from labeling.llm import Conversation

if TYPE_CHECKING:
    import torch

    from labeling.transformers_engine import TransformersEngine

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Over = Literal["sum", "mean"]

BATCH_TOKENS = 4096
"""Most tokens of one batch, padding included; a longer conversation runs alone."""


@dataclass(frozen=True)
class ResponseLogProbs:
    """What a model thinks of n responses to their prompts."""

    total: FloatArray
    """Sum of the log-probabilities of a response's tokens (n,), <= 0, in nats; its end token counts."""
    n_tokens: IntArray
    """Tokens of a response (n,)."""

    @property
    def mean(self) -> FloatArray:
        """Mean log-probability of a token (n,); NaN where a response has none."""
        return self.total / np.where(self.n_tokens, self.n_tokens, np.nan)


def response_log_probs(
    policy: TransformersEngine,
    prompts: Sequence[Conversation],
    responses: Sequence[str],
    ended: Sequence[bool] | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> ResponseLogProbs:
    """Return the log-probabilities that a policy gives n responses; `ended` is as in `chat_tokens`.

    Raises DataError naming the first conversation that is too long for the model.
    """
    asked, written = chat_tokens(policy.tokenizer, prompts, responses, ended, ends=policy.end_tokens())
    return token_log_probs(policy, asked, written, batch_tokens=batch_tokens)


def compared_log_probs(
    models: Sequence[str | Path],
    prompts: Sequence[Conversation],
    responses: Sequence[str],
    ended: Sequence[bool] | None = None,
) -> list[ResponseLogProbs]:
    """Return the log-probabilities that each of some models gives n responses, all as the tokens of the first.

    A log-ratio is of one text: by its own template, another model would be asked about another one. Expects models of
    one vocabulary (`check_vocabulary`). Raises DataError as `response_log_probs`.
    """
    policy = load_policy(models[0])
    asked, written = chat_tokens(policy.tokenizer, prompts, responses, ended, ends=policy.end_tokens())
    found = [token_log_probs(policy, asked, written)]
    del policy  # one model at a time
    return found + [token_log_probs(load_policy(model), asked, written) for model in models[1:]]


def token_log_probs(
    policy: TransformersEngine, asked: Sequence[Ids], written: Sequence[Ids], *, batch_tokens: int = BATCH_TOKENS
) -> ResponseLogProbs:
    """Return the log-probabilities that a policy gives n responses to their prompts, both as `chat_tokens` makes them.

    Raises DataError naming the first conversation that is too long for the model.
    """
    from labeling.transformers_engine import batches

    lengths = [len(prompt) + len(response) for prompt, response in zip(asked, written, strict=True)]
    _check_lengths(policy, lengths)
    total = np.zeros(len(written))
    for rows in batches(lengths, batch_tokens):
        total[rows] = _summed(policy, [asked[i] for i in rows], [written[i] for i in rows])
    return ResponseLogProbs(total, np.array([len(ids) for ids in written], dtype=np.int64))


def implicit_rewards(policy: ResponseLogProbs, reference: ResponseLogProbs | None, over: Over = "sum") -> FloatArray:
    """Return n rewards: log pi(y|x) - log pi_ref(y|x), summed or averaged over the tokens; beta is left out.

    Without a reference it is the mean log-probability of a token, for sums would rank by length (METHODS 3).
    """
    if over not in ("sum", "mean"):
        raise DataError(f"over is {over!r}; expected sum or mean")
    if reference is None:
        return policy.mean
    if not np.array_equal(policy.n_tokens, reference.n_tokens):
        raise DataError("policy and reference cut the responses into other tokens; expected one tokenizer for both")
    return policy.total - reference.total if over == "sum" else policy.mean - reference.mean


def _check_lengths(policy: TransformersEngine, lengths: Sequence[int]) -> None:
    limit = getattr(policy.network.config.get_text_config(), "max_position_embeddings", None)
    for row, length in enumerate(lengths):
        if limit is not None and length > limit:
            raise DataError(
                f"prompt and response {row} are {length:,} tokens; {policy.model} holds {limit:,}; leave them out"
            )


def _summed(policy: TransformersEngine, asked: Sequence[list[int]], written: Sequence[list[int]]) -> FloatArray:
    """Return the summed log-probability of each response: rows are padded left, so that all responses end together."""
    import torch

    device = policy.network.device
    rows = [[*prompt, *response] for prompt, response in zip(asked, written, strict=True)]
    longest, width = max(map(len, rows)), max(map(len, written))
    if not width:
        return np.zeros(len(rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    with torch.inference_mode():
        logits = policy.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=width + 1,
        ).logits[:, :-1]
        log_p = _token_log_probs(logits, ids[:, -width:])
    kept = np.arange(width) >= width - np.array([[len(response)] for response in written])
    return np.asarray(np.where(kept, log_p.double().cpu().numpy(), 0.0).sum(axis=1))


def _token_log_probs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probability (rows, width) of tokens under logits (rows, width, vocabulary), a row at a time."""
    import torch

    found = [
        row.float().gather(1, ids[:, None])[:, 0] - row.float().logsumexp(-1)
        for row, ids in zip(logits, tokens, strict=True)
    ]
    return torch.stack(found)
