"""A policy trained by DPO: what is saved is a plain model that prefers what it was told to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from augment.dpo import PolicyConfig, SoftPairs, merged, token_pairs, train_dpo
from augment.implicit_rewards import implicit_rewards, response_log_probs
from augment.policies import load_policy
from augment.self_reward import SelfReward
from labeling.errors import DataError, WeakprefWarning

pytestmark = pytest.mark.slow

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(6)]
CHOSEN = [f"green {i}" for i in range(6)]
REJECTED = [f"no, not {i}" for i in range(6)]
FAST = PolicyConfig(learning_rate=3e-3, max_steps=6, batch_size=3, gradient_accumulation=2)


def rewards(folder, start, responses):
    ours, theirs = (response_log_probs(load_policy(path), PROMPTS, responses) for path in (folder, start))
    return implicit_rewards(ours, theirs)


def weights(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("rank", [None, 4])
def test_the_trained_policy_prefers_the_chosen_and_is_a_plain_model(policy_folder, tmp_path, rank) -> None:
    config = PolicyConfig(**vars(FAST) | {"lora_rank": rank, "learning_rate": 3e-2 if rank else 3e-3})
    done = train_dpo(policy_folder, SoftPairs(PROMPTS, CHOSEN, REJECTED, [1.0] * 6), config, tmp_path / "out")
    margin = rewards(done.folder, policy_folder, CHOSEN) - rewards(done.folder, policy_folder, REJECTED)
    assert (margin > 0).all()
    assert (done.steps, done.n_pairs, done.n_too_long) == (6, 6, 0)
    assert done.log[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert done.last["rewards/margins"] > done.log[0]["rewards/margins"]
    assert not list(done.folder.glob("adapter*"))
    assert json.loads((done.folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_what_adapters_learned_beside_weights_in_bfloat16_is_saved_whole(policy_folder, tmp_path, monkeypatch) -> None:
    seen = {}

    def keep(network, start):
        seen.update((name, value.clone()) for name, value in network.state_dict().items() if "lora_" in name)
        return merged(network, start)

    monkeypatch.setattr("augment.dpo.merged", keep)
    config = PolicyConfig(**vars(FAST) | {"max_steps": 2, "lora_rank": 2, "weights": "bfloat16"})
    before = torch.get_rng_state()
    done = train_dpo(policy_folder, SoftPairs(PROMPTS, CHOSEN, REJECTED, [1.0] * 6), config, tmp_path / "out")
    assert torch.get_rng_state().equal(before)
    assert json.loads((done.folder / "config.json").read_text())["dtype"] == "float32"
    ours, theirs = (load_policy(path).network.state_dict() for path in (done.folder, policy_folder))
    adapted = [name.removesuffix(".lora_A.default.weight") for name in seen if "lora_A" in name]
    assert len(adapted) == 14  # seven linear layers in each of two blocks
    for name in adapted:
        update = 2 * seen[f"{name}.lora_B.default.weight"] @ seen[f"{name}.lora_A.default.weight"]
        weight = f"{name.removeprefix('base_model.model.')}.weight"
        assert update.abs().max() > 0
        torch.testing.assert_close(ours[weight] - theirs[weight], update, atol=1e-7, rtol=0)


def test_soft_labels_hold_the_margin_at_their_log_odds(policy_folder, tmp_path) -> None:
    config = PolicyConfig(**vars(FAST) | {"max_steps": 60, "beta": 0.5})
    pairs = SoftPairs(PROMPTS, CHOSEN, REJECTED, [0.7] * 6)
    done = train_dpo(policy_folder, pairs, config, tmp_path / "out")
    h = 0.5 * (rewards(done.folder, policy_folder, CHOSEN) - rewards(done.folder, policy_folder, REJECTED))
    np.testing.assert_allclose(h.mean(), np.log(0.7 / 0.3), atol=0.15)


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_callers_randomness_alone(policy_folder, tmp_path) -> None:
    pairs = SoftPairs(PROMPTS, CHOSEN, REJECTED, [0.9] * 6)
    config = PolicyConfig(**vars(FAST) | {"max_steps": 2, "lora_rank": 2})
    np.random.seed(7)
    before = np.random.get_state()[1].tolist()
    first, second = (train_dpo(policy_folder, pairs, config, tmp_path / name) for name in "ab")
    assert np.random.get_state()[1].tolist() == before
    assert weights(first.folder) == weights(second.folder) != weights(policy_folder)
    assert first.log == second.log


def test_pairs_that_do_not_fit_are_counted_and_none_at_all_is_an_error(policy_folder) -> None:
    tokenizer = load_policy(policy_folder).tokenizer
    prompts = [[{"role": "user", "content": "long " * 30}], PROMPTS[0]]
    pairs = SoftPairs(prompts, CHOSEN[:2], REJECTED[:2], [1.0, 1.0])
    with pytest.warns(WeakprefWarning, match="1 of 2 pairs left out"):
        dataset, counts = token_pairs(tokenizer, pairs, 100)
    assert len(dataset) == 1
    assert counts == {"n_pairs": 1, "n_too_long": 1, "n_shortened": 0}
    with pytest.raises(DataError, match="none of 2 pairs can be trained on"):
        token_pairs(tokenizer, pairs, 8)


def test_responses_that_lose_their_end_are_counted(policy_folder) -> None:
    tokenizer = load_policy(policy_folder).tokenizer
    pairs = SoftPairs(PROMPTS[:2], ["long " * 9, "short"], ["no", "longer" * 9], [1.0, 1.0])
    dataset, counts = token_pairs(tokenizer, pairs, 512)
    assert counts == {"n_pairs": 2, "n_too_long": 0, "n_shortened": 0}
    longest = max(len(row["prompt_ids"]) + len(row["chosen_ids"]) for row in dataset)  # it just fits
    with pytest.warns(WeakprefWarning, match=r"1 of 4 responses lose their end: .* raise max_length"):
        assert token_pairs(tokenizer, pairs, longest)[1]["n_shortened"] == 1
    with pytest.warns(WeakprefWarning, match="2 of 4 responses lose their end"):
        assert token_pairs(tokenizer, pairs, longest - 1)[1]["n_shortened"] == 2


def test_the_learning_rate_falls_linearly_to_0_or_to_the_final_one(policy_folder, tmp_path) -> None:
    pairs = SoftPairs(PROMPTS, CHOSEN, REJECTED, [1.0] * 6)
    config = PolicyConfig(**vars(FAST) | {"max_steps": 4, "gradient_accumulation": 1, "learning_rate": 1e-3})
    for final, expected in ((None, [1e-3, 7.5e-4, 5e-4, 2.5e-4]), (2e-4, [1e-3, 8e-4, 6e-4, 4e-4])):
        done = train_dpo(policy_folder, pairs, replace(config, final_learning_rate=final), tmp_path / f"{final}")
        assert [entry["learning_rate"] for entry in done.log] == pytest.approx(expected)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match=r"final_learning_rate is 1e-06, expected 0 or more, and less than"):
        PolicyConfig(final_learning_rate=1e-6)
    with pytest.raises(DataError, match=r"beta is -0\.1, expected a number above 0, or 0 for grpo and rloo"):
        PolicyConfig(beta=-0.1)
    with pytest.raises(DataError, match="beta is 0, where no pair teaches DPO anything"):
        SelfReward(training=PolicyConfig(beta=0))
    with pytest.raises(DataError, match="beta is 0, where no pair teaches DPO anything"):
        train_dpo("nothing", SoftPairs([], [], [], []), PolicyConfig(beta=0), "out")
    with pytest.raises(DataError, match="lora_rank is 0"):
        PolicyConfig(lora_rank=0)
    with pytest.raises(DataError, match=r"weights are bfloat16 and lora_rank is not set: .* set lora_rank"):
        PolicyConfig(weights="bfloat16")
