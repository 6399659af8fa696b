"""Soft-pair DPO: TRL's own at q = 1, and the identities of consistency-regularised self-rewarding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import MixtralConfig, MixtralForCausalLM

from augment.dpo import PolicyConfig, SoftPairs, token_pairs, told
from augment.policies import load_policy, quiet_trl
from augment.soft_dpo import soft_dpo_trainer
from labeling.errors import DataError

pytestmark = pytest.mark.slow

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(4)]
CHOSEN = ["red", "green and blue", "I like yellow", "none"]
REJECTED = ["no", "ask me later, please", "blue", "what?"]
BETA = 0.5


@pytest.fixture(scope="module")
def build(policy_folder, other_policy_folder, tmp_path_factory):
    """A trainer of the policy against another as reference, and its first batch, with q and weights put in."""
    from trl import DPOConfig, DPOTrainer

    def make(p_chosen=(1.0,) * 4, weight=None, plain=False, experts=False, **options):
        policy, reference = load_policy(policy_folder), load_policy(other_policy_folder)
        networks = [mixture(seed) if experts else part.network for seed, part in enumerate((policy, reference))]
        dataset, _ = token_pairs(policy.tokenizer, SoftPairs(PROMPTS, CHOSEN, REJECTED, p_chosen, weight), 128)
        config = PolicyConfig(batch_size=4, gradient_accumulation=1)
        kind = soft_dpo_trainer()
        if plain:
            kind = type("Plain", (DPOTrainer,), {"_prepare_dataset": lambda self, dataset, *rest: dataset})
        with quiet_trl():
            trainer = kind(
                networks[0],
                ref_model=networks[1],
                args=told(DPOConfig, config, str(tmp_path_factory.mktemp("run")), beta=BETA, **options),
                train_dataset=dataset,
                processing_class=policy.tokenizer,
            )
        trainer.model.train()
        return trainer, trainer.data_collator([dataset[i] for i in range(4)])

    return make


def mixture(seed):
    """A mixture of experts that is strongly told to use all of them."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    few = {"num_local_experts": 3, "num_key_value_heads": 2, "router_aux_loss_coef": 0.5, "initializer_range": 0.2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MixtralForCausalLM(MixtralConfig(vocab_size=300, max_position_embeddings=512, **sizes, **few))


def loss_and_gradient(trainer, batch):
    trainer.model.zero_grad()
    with quiet_trl():
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    return loss.item(), gradient


def margins(trainer, batch):
    """h of each pair, from plain forwards of policy and reference, a row at a time."""
    found = []
    for ids, kept, mask in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True):
        row, written = ids[kept.bool()][None], mask[kept.bool()][1:]
        with torch.no_grad():
            log_p = [m(row).logits[0, :-1].log_softmax(-1) for m in (trainer.model, trainer.ref_model)]
        ratio = (log_p[0] - log_p[1]).gather(1, row[0, 1:, None])[:, 0]
        found.append((ratio * written).sum())
    chosen, rejected = torch.stack(found).chunk(2)
    return BETA * (chosen - rejected)


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])
def test_a_q_of_one_is_trls_own_dpo_in_loss_and_gradient(build, experts) -> None:
    loss, gradient = loss_and_gradient(*build(experts=experts))
    trainer, batch = build(plain=True, experts=experts)
    theirs, expected = loss_and_gradient(trainer, batch)
    assert loss == pytest.approx(theirs, abs=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert gradient.abs().max() > 1e-3


def test_the_loss_is_the_weighted_soft_pair_objective_of_plain_forwards(build) -> None:
    q, weight = torch.tensor([0.9, 0.5, 0.7, 1.0]), [2.0, 1.0, 0.5, 0.5]
    trainer, batch = build(q.tolist(), weight)
    h = margins(trainer, batch)
    expected = (torch.tensor(weight) * -(q * logsigmoid(h) + (1 - q) * logsigmoid(-h))).mean()
    assert loss_and_gradient(trainer, batch)[0] == pytest.approx(expected.item(), abs=1e-5)


def test_a_q_of_one_minus_e_is_label_smoothing_by_e(build) -> None:
    e = 0.2
    trainer, batch = build((1 - e,) * 4)
    loss, gradient = loss_and_gradient(trainer, batch)
    h = margins(trainer, batch)
    assert loss == pytest.approx(((1 - e) * -logsigmoid(h) + e * -logsigmoid(-h)).mean().item(), abs=1e-5)
    plain, straight = loss_and_gradient(*build())
    flipped, back = loss_and_gradient(*build((0.0,) * 4))
    assert loss == pytest.approx((1 - e) * plain + e * flipped, abs=1e-5)
    torch.testing.assert_close(gradient, (1 - e) * straight + e * back, atol=1e-5, rtol=1e-3)


def test_trls_own_losses_do_not_smooth_labels_this_way(build) -> None:
    ours, _ = loss_and_gradient(*build((0.8,) * 4))
    ignored, _ = loss_and_gradient(*build(plain=True, label_smoothing=0.2))
    robust, _ = loss_and_gradient(*build(plain=True, loss_type=["robust"], label_smoothing=0.2))
    assert ignored == pytest.approx(loss_and_gradient(*build())[0], abs=1e-6)
    assert abs(robust - ours) > 1e-3


def test_a_q_of_a_half_has_no_gradient_where_policy_and_reference_agree(build) -> None:
    trainer, batch = build((0.5,) * 4)
    trainer.ref_model.load_state_dict(trainer.model.state_dict())
    loss, gradient = loss_and_gradient(trainer, batch)
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert gradient.abs().max() < 1e-6


def test_exchanging_the_responses_mirrors_q(build) -> None:
    trainer, batch = build((0.8, 0.3, 1.0, 0.6))
    loss, gradient = loss_and_gradient(trainer, batch)
    mirrored = {name: torch.cat(values.chunk(2)[::-1]) for name, values in batch.items() if len(values) == 8}
    mirrored |= {"p_chosen": 1 - batch["p_chosen"], "weight": batch["weight"]}
    other, back = loss_and_gradient(trainer, mirrored)
    assert loss == pytest.approx(other, abs=1e-6)
    torch.testing.assert_close(gradient, back, atol=1e-6, rtol=1e-4)


def test_a_pair_of_no_weight_is_no_pair(build) -> None:
    dataset, _ = token_pairs(
        build()[0].processing_class, SoftPairs(PROMPTS, CHOSEN, REJECTED, [1.0] * 4, [1, 0, 3, 0]), 128
    )
    assert dataset["weight"][:] == [0.5, 1.5]


def test_precomputed_reference_log_probabilities_give_the_same_loss(build) -> None:
    straight, _ = loss_and_gradient(*build((0.7,) * 4))
    trainer, _ = build((0.7,) * 4, precompute_ref_log_probs=True)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    assert "ref_chosen_logps" in batch
    assert loss_and_gradient(trainer, batch)[0] == pytest.approx(straight, abs=1e-5)


def test_a_loss_of_another_kind_is_refused(build) -> None:
    with pytest.raises(DataError, match=r"label_smoothing=0.1.*p_chosen smooths"):
        build(label_smoothing=0.1)


def test_pairs_of_different_lengths_and_impossible_labels_are_refused() -> None:
    with pytest.raises(DataError, match="different lengths"):
        SoftPairs(PROMPTS, CHOSEN[:2], REJECTED, [1.0] * 4)
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        SoftPairs(PROMPTS, CHOSEN, REJECTED, [1.0, np.nan, 1.0, 1.0])
