"""Reward models in vLLM's pooling: the same rewards as here, in float32, from token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rm.data import tokenise
from rm.handoff import save
from rm.model import RewardModel, load_base
from rm.vllm_scorer import VLLMScorer

SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "head_dim": 32}
ROWS = [
    [{"role": "user", "content": f"Name {i} colours, please. " * (1 + i % 3)}, {"role": "assistant", "content": answer}]
    for i in range(6)
    for answer in ("Red and green.", "I do not know.\n", "数 🙂 " * (i + 1))
]


def _base(name: str, tokenizer: Path, out: Path) -> Path:
    """A tiny model of random weights with SmolLM2's tokenizer; SmolLM2 itself is its own base."""
    if name == "smollm2":
        return tokenizer
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(out)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, vocab_size=len(words), num_key_value_heads=2, **SIZES)
        AutoModelForCausalLM.from_config(config).save_pretrained(out)
    return out


@pytest.fixture(params=["llama", "qwen3", "smollm2"])
def folder(request: pytest.FixtureRequest, smollm2_folder: Path, tmp_path: Path) -> Path:
    """A saved reward model whose head is random, and large, so that its rewards differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokenizer = load_base(str(_base(request.param, smollm2_folder, tmp_path / "base")), 256)
    model.score.weight.data *= 20
    save(RewardModel(model, tokenizer, 256), tmp_path / "rm")
    return tmp_path / "rm"


def test_vllm_gives_the_rewards_of_this_library(folder: Path) -> None:
    ours = RewardModel.load(folder)
    ids = tokenise(ours.tokenizer, ROWS, ours.max_length).ids
    expected, scorer = ours.score_ids(ids), VLLMScorer.load(folder)
    assert scorer.max_length == 256
    assert np.ptp(expected) > 1  # raw rewards: an activation would keep them between 0 and 1
    np.testing.assert_allclose(scorer.score_ids(ids), expected, atol=1e-3)
    assert all(row[0] != row[1] for row in ids)  # no token twice at the beginning
