"""How far the policy that labels agrees with people: what a consistency rate and a score do not say."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.implicit_rewards import Over, compared_log_probs, implicit_rewards
from augment.policies import chat_tokens, policy_context, policy_tokenizer
from labeling.errors import DataError
from labeling.judge_report import judge_report
from labeling.llm import Engine, Sampling
from labeling.metrics import accuracy, accuracy_interval
from labeling.pairs import Pairs
from labeling.rubric_judge import RubricJudge


def decided(pairs: Pairs) -> Pairs:
    """Return the pairs whose gold label is no tie. Raises DataError where there are none."""
    kept = ~np.isnan(pairs.gold) & (pairs.gold != 0.5)
    if not kept.any():
        raise DataError(f"none of {len(pairs)} pairs says which response is better; pass pairs with a gold column")
    return pairs.take(kept)


def check_lengths(pairs: Pairs, policy: str | Path) -> None:
    """Raise DataError where a policy does not hold a prompt with both its responses; no weights are loaded."""
    limit, tokenizer = policy_context(policy), policy_tokenizer(policy)
    if limit is None:
        return
    prompts = pairs.table["prompt"].to_pylist()
    longest = np.zeros(len(pairs), dtype=np.int64)
    for side in ("response_a", "response_b"):
        asked, written = chat_tokens(tokenizer, prompts, pairs.table[side].to_pylist())
        longest = np.maximum(longest, [len(x) + len(y) for x, y in zip(asked, written, strict=True)])
    if (longest > limit).any():
        first = int((longest > limit).argmax())
        raise DataError(
            f"{(longest > limit).sum()} of {len(pairs)} gold pairs are longer than the {limit:,} tokens that {policy} "
            f"holds, the first is {pairs.pair_ids[first]} with {longest[first]:,}; leave them out"
        )


def judge_agreement(pairs: Pairs, engine: Engine, sampling: Sampling | None) -> dict[str, Any]:
    """Return how a policy's grades agree with gold: the five figures of METHODS 4, and an interval by group.

    `accuracy` is over all pairs: equal scores and missing ones count as wrong. `low` and `high` are the 95 % interval
    of `margin_accuracy`, in which they are half right.
    """
    found = judge_report(RubricJudge(engine, sampling=sampling).judge(pairs.voter_table()), pairs)
    figures = {"n": found.n_gold, "accuracy": found.pairwise_accuracy, "margin_accuracy": found.margin_accuracy}
    interval = {"low": found.margin_accuracy_low, "high": found.margin_accuracy_high}
    return figures | interval | asdict(found.rankings)


def implicit_agreement(pairs: Pairs, policy: str | Path, base: str | Path | None, over: Over) -> dict[str, Any]:
    """Return how a policy's implicit rewards against a base agree with gold; equal rewards are half right."""
    prompts = pairs.table["prompt"].to_pylist()
    texts = pairs.table["response_a"].to_pylist() + pairs.table["response_b"].to_pylist()
    models = [policy] if base is None else [policy, base]
    ours, *theirs = compared_log_probs(models, prompts + prompts, texts)
    a, b = implicit_rewards(ours, theirs[0] if theirs else None, over).reshape(2, -1)
    p_a: npt.NDArray[np.float64] = np.select([a > b, a < b], [1.0, 0.0], 0.5)
    low, high = accuracy_interval(p_a, pairs.gold, pairs.groups)
    return {"n": len(pairs), "accuracy": accuracy(p_a, pairs.gold), "low": low, "high": high}
