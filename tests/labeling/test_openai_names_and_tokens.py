"""What the HTTP engine does without asking a server: whom an answer belongs to, tokens read and counted."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from labeling.errors import DataError
from labeling.openai_engine import OpenAIEngine, Pace
from labeling.server_answers import first_token_scores

PROMPTS = [[{"role": "user", "content": "A or B?"}]]


def test_an_answer_belongs_to_the_server_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert OpenAIEngine("m").source == "m at https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://Somewhere:80/v1/?token=secret")
    assert OpenAIEngine("m").source == "m at http://somewhere/v1"
    assert OpenAIEngine("m", "http://[::1]:8000").source == "m at http://[::1]:8000"


def test_how_verdicts_are_sampled_belongs_to_a_cached_answer() -> None:
    usual = OpenAIEngine("m", "http://here")
    assert usual.source == OpenAIEngine("m", "http://here", verdicts=8, seed=0).source
    sources = {usual.source, replace(usual, verdicts=4).source, replace(usual, seed=1).source}
    assert len(sources) == 3


def test_first_tokens_count_for_the_one_choice_they_start() -> None:
    assert first_token_scores({" B": -1.0, "A": -2.0}, ["A", "B"]).tolist() == [-2.0, -1.0]
    both = first_token_scores({"A": -5.0, " A": -0.5, "B": -3.0}, ["A", "B"])  # one spelling of A is unlikelier than B
    np.testing.assert_allclose(both, [np.logaddexp(-5.0, -0.5), -3.0])
    assert first_token_scores({"Response": -0.1, "No": -3.0}, ["Response A", "Response B"]).tolist() == [0.0, 0.0]
    assert first_token_scores({"ye": -1.0, "n": -2.0, "": -0.1}, ["yes", "no"]).tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("choices", [["A", "A"], ["yes", "yes, it is"]])
def test_choices_of_which_one_starts_the_other_are_refused(choices: list[str]) -> None:
    with pytest.raises(DataError, match="is the start of another, or is there twice"):
        OpenAIEngine("m", api_key="none").choose(PROMPTS, choices)


def test_tokens_keep_to_the_limit_a_minute() -> None:
    pace, began = Pace(math.inf, 60_000), time.monotonic()
    for tokens in (100, 100, 1):
        pace.wait(tokens)
    assert 0.2 <= time.monotonic() - began < 1


def test_tokens_are_estimated_from_bytes() -> None:
    assert OpenAIEngine("m").count_tokens([[{"role": "user", "content": "é" * 30}], []]) == [28, 0]
