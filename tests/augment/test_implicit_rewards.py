"""Implicit rewards: equal to plain forwards, whatever stands beside a response."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augment.implicit_rewards import ResponseLogProbs, implicit_rewards, response_log_probs
from augment.policies import load_policy
from labeling.errors import DataError
from labeling.llm import Sampling

PROMPTS = [[{"role": "user", "content": text}] for text in ("Name a colour.", "Why is it so? " * 5, "数 🙂")]
RESPONSES = ["red", "", "because " * 9]


@pytest.fixture(scope="module")
def policy(policy_folder):
    return load_policy(policy_folder)


def plain(policy, prompt, response, ended=True):
    """Summed log-probability from one forward of one conversation, without padding."""
    start = policy.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    before = policy.tokenizer(start)["input_ids"]
    row = before + policy.tokenizer(response)["input_ids"] + [policy.tokenizer.eos_token_id] * ended
    with torch.inference_mode():
        log_p = policy.network(torch.tensor([row])).logits[0].log_softmax(-1)
    return sum(float(log_p[i - 1, row[i]]) for i in range(len(before), len(row))), len(row) - len(before)


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_log_probabilities_are_those_of_a_plain_forward(policy, batch_tokens) -> None:
    found = response_log_probs(policy, PROMPTS, RESPONSES, batch_tokens=batch_tokens)
    expected = [plain(policy, prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    np.testing.assert_allclose(found.total, [total for total, _ in expected], atol=2e-4)
    assert found.n_tokens.tolist() == [n for _, n in expected] == [4, 1, 73]
    np.testing.assert_allclose(found.mean, found.total / found.n_tokens)


def test_a_response_that_was_cut_has_no_end_token(policy) -> None:
    found = response_log_probs(policy, PROMPTS, RESPONSES, [True, False, False])
    assert found.n_tokens.tolist() == [4, 0, 72]
    assert found.total[2] == pytest.approx(plain(policy, PROMPTS[2], RESPONSES[2], ended=False)[0], abs=2e-4)
    assert (found.total[1], np.isnan(found.mean[1])) == (0, True)


def test_what_the_engine_wrote_has_the_log_probability_the_engine_gave_it(policy) -> None:
    [drawn] = policy.generate(PROMPTS[:1], Sampling(n=60, temperature=1.0, max_tokens=2))
    drawn = [one for one in drawn if one.text.isascii() and one.text]  # other bytes are no text to read again
    assert len(drawn) > 5
    prompts, texts = PROMPTS[:1] * len(drawn), [one.text for one in drawn]
    found = response_log_probs(policy, prompts, texts, [one.finish_reason == "stop" for one in drawn])
    assert found.n_tokens.tolist() == [one.n_tokens for one in drawn]
    np.testing.assert_allclose(found.total, [one.log_prob for one in drawn], atol=1e-3)


def test_the_reward_is_the_log_ratio_to_the_reference(policy, other_policy_folder) -> None:
    ours = response_log_probs(policy, PROMPTS, RESPONSES)
    theirs = response_log_probs(load_policy(other_policy_folder), PROMPTS, RESPONSES)
    reward = implicit_rewards(ours, theirs)
    np.testing.assert_array_equal(reward, ours.total - theirs.total)
    assert np.abs(reward).min() > 1e-3
    np.testing.assert_allclose(implicit_rewards(ours, theirs, "mean"), reward / ours.n_tokens)
    np.testing.assert_array_equal(implicit_rewards(theirs, ours), -reward)
    assert not implicit_rewards(ours, ours).any()


def test_without_a_reference_it_is_the_mean_of_a_token(policy) -> None:
    ours = response_log_probs(policy, PROMPTS, RESPONSES)
    np.testing.assert_array_equal(implicit_rewards(ours, None), ours.mean)


def test_models_with_other_tokens_and_unknown_sums_are_refused(policy) -> None:
    ours = response_log_probs(policy, PROMPTS, RESPONSES)
    with pytest.raises(DataError, match="one tokenizer"):
        implicit_rewards(ours, ResponseLogProbs(ours.total, ours.n_tokens + 1))
    with pytest.raises(DataError, match="expected sum or mean"):
        implicit_rewards(ours, ours, "max")


def test_a_conversation_too_long_for_the_model_is_named(policy) -> None:
    with pytest.raises(DataError, match=r"response 1 are 6\d\d tokens; .* holds 512"):
        response_log_probs(policy, PROMPTS[:2], ["short", "long " * 110])
