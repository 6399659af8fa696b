"""vLLM itself, on the CPU, against transformers. Run by `make test-vllm`, in an environment of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeling.errors import DataError
from labeling.llm import Sampling
from labeling.vllm_engine import engine_name, planned_config

TEXTS = ("Is fire hot? Answer yes or no.", "Name a colour.", "Which is better, A or B? " * 20, "数 🙂 <|im_end|>")
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.fixture
def plain(vllm_fp32: Any) -> Any:
    return vllm_fp32


@pytest.fixture
def reference(smollm2: Any) -> Any:
    return smollm2


def test_one_token_choices_have_the_log_probabilities_of_transformers(plain: Any, reference: Any) -> None:
    np.testing.assert_allclose(plain.choose(PROMPTS, ["A", "B"]), reference.choose(PROMPTS, ["A", "B"]), atol=5e-3)


def test_longer_choices_have_the_log_probabilities_of_transformers(plain: Any, reference: Any) -> None:
    choices = ["Response A", "Response B", "neither of the two"]
    np.testing.assert_allclose(plain.choose(PROMPTS, choices), reference.choose(PROMPTS, choices), atol=5e-3)


def test_greedy_texts_are_those_of_transformers(plain: Any, reference: Any) -> None:
    ours, theirs = (engine.generate(PROMPTS, Sampling(max_tokens=16)) for engine in (plain, reference))
    assert [row[0].text for row in ours] == [row[0].text for row in theirs]
    assert [row[0].n_tokens for row in ours] == [row[0].n_tokens for row in theirs]
    assert [row[0].finish_reason for row in ours] == [row[0].finish_reason for row in theirs]
    np.testing.assert_allclose([r[0].log_prob for r in ours], [r[0].log_prob for r in theirs], atol=2e-2)


def test_nothing_is_compiled_on_a_cpu_unless_asked_for(plain: Any) -> None:
    assert plain.llm.model_config.enforce_eager


def test_tokens_are_counted_as_transformers_counts_them(plain: Any, reference: Any) -> None:
    assert plain.count_tokens(PROMPTS) == reference.count_tokens(PROMPTS)


def test_a_sample_does_not_depend_on_its_neighbours(plain: Any) -> None:
    sampling = Sampling(n=3, temperature=1.0, top_p=0.9, max_tokens=12, seed=7)
    together = plain.generate(PROMPTS, sampling)
    alone = plain.generate(PROMPTS[1:2], Sampling(n=1, temperature=1.0, top_p=0.9, max_tokens=12, seed=7, first=2))
    assert alone[0][0].text == together[1][2].text
    assert len({completion.text for completion in together[1]}) == 3


def test_a_stop_text_ends_a_sample_and_is_not_part_of_it(plain: Any) -> None:
    whole = plain.generate(PROMPTS[1:2], Sampling(max_tokens=12))[0][0].text
    stop = whole.split()[2]
    cut = plain.generate(PROMPTS[1:2], Sampling(max_tokens=12, stop=(stop,)))[0][0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_an_adapter_changes_the_answers_and_the_name(tilted: Any, plain: Any) -> None:
    assert np.abs(tilted.choose(PROMPTS, ["A", "B"]) - plain.choose(PROMPTS, ["A", "B"])).max() > 0.05
    assert " + tilted@" in tilted.model
    assert tilted.model.endswith("(float32)")


def test_a_plan_names_the_engine_as_it_is_without_reading_its_weights(
    tilted: Any, smollm2_folder: Path, adapter: Path
) -> None:
    config = planned_config(smollm2_folder, "float32", 1024)
    assert engine_name(smollm2_folder, config.dtype, adapter=adapter) == tilted.model
    assert config.max_model_len == tilted.llm.model_config.max_model_len == 1024


def test_a_prompt_too_long_is_named(plain: Any) -> None:
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(DataError, match=r"prompt 1 is 2,0\d\d tokens; plain holds 1,024"):
        plain.choose([PROMPTS[0], long], ["A", "B"])


def test_no_prompts_give_no_answers(plain: Any) -> None:
    assert plain.generate([], Sampling()) == []
    assert plain.choose([], ["A", "B"]).shape == (0, 2)
