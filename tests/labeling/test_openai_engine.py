"""The HTTP engine against a server that misbehaves on purpose, on this machine."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai  # noqa: F401  (slow to import: not on the first test's time)
import pytest

from labeling.budget import BudgetedEngine, Limits, Price, Usage
from labeling.errors import BudgetError, EngineError
from labeling.llm import Engine, Sampling, renormalised
from labeling.llm_cache import CachedEngine
from tests.labeling.odd_server import (
    FAILURES,
    Answer,
    body,
    completion,
    good,
    refuses_log_probs,
    send,
    status,
    without_log_probs,
)

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(12)]


def test_it_is_an_engine_and_answers_come_back_in_order(serve: Any) -> None:
    engine, script = serve(good)
    checked: Engine = engine
    found = checked.generate(PROMPTS, Sampling(n=2, temperature=0.7, top_p=0.9, max_tokens=5, stop=("x",), seed=3))
    assert [[c.text for c in row] for row in found] == [[f"re: Question {i}?"] * 2 for i in range(12)]
    assert found[0][0].log_prob == pytest.approx(-0.7)
    assert (found[0][0].n_tokens, found[0][0].finish_reason) == (3, "stop")
    assert len({request["seed"] for request in script.requests}) == 24
    sent = script.requests[0]
    assert [sent[name] for name in ("model", "temperature", "top_p", "max_tokens", "stop")] == ["m", 0.7, 0.9, 5, ["x"]]


def test_choices_are_scored_by_the_first_tokens_log_probabilities(serve: Any) -> None:
    engine, script = serve(good)
    found = engine.choose(PROMPTS, ["A", "B", "C"])
    np.testing.assert_allclose(found, renormalised(np.array([[np.logaddexp(-0.2, -4.0), -2.0, -5.0]] * 12)))
    assert {(request["max_tokens"], request["top_logprobs"]) for request in script.requests} == {(1, 20)}
    assert engine.choose([], ["A", "B"]).shape == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("server", [without_log_probs, refuses_log_probs])
def test_without_log_probabilities_shares_of_sampled_answers_count(serve: Any, server: Answer) -> None:
    engine, script = serve(server, verdicts=200)
    p_a, p_b = np.exp(engine.choose(PROMPTS[:1], ["A", "B"])[0])
    says_a = sum(request["seed"] % 4 == 0 for request in script.requests if "seed" in request)
    assert sum("seed" in request for request in script.requests) == 200
    assert p_a == pytest.approx((says_a + 0.5) / 201)
    assert 0.15 < p_a < 0.35
    assert p_a + p_b == pytest.approx(1)


def test_a_word_that_begins_like_a_choice_is_no_vote_for_it(serve: Any) -> None:
    said = iter(["As", "Based", "**B**", "A)", "Answer"] * 8)
    engine, _ = serve(lambda handler, _: send(handler, 200, completion(next(said))), verdicts=5)
    p_a, p_b = np.exp(
        engine.choose(PROMPTS[:1], ["A", "B"])[0]
    )  # the first answer is thrown away: no log-probabilities
    assert p_a == pytest.approx(0.5)
    assert p_b == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("server", "limit", "n_asked"),
    [(without_log_probs, 30, 27), (refuses_log_probs, 30, 27), (good, 12, 12), (good, 10, 10)],
)
def test_a_budget_counts_every_verdict_that_is_sampled_and_is_kept(
    serve: Any, tmp_path: Path, server: Answer, limit: int, n_asked: int
) -> None:
    engine, script = serve(server)
    counted = BudgetedEngine(engine, Limits(limit), Price(0, 1), meter=engine.meter)
    with contextlib.nullcontext() if limit == 12 else pytest.raises(BudgetError, match=f"limit of {limit} requests"):
        CachedEngine(counted, tmp_path / "answers", divisible=True).choose(PROMPTS, ["A", "B"])
    assert counted.usage.n_requests == len(script.requests) == n_asked
    sent = [request["messages"] for request in script.requests]
    answered = sent if server is not refuses_log_probs else sent[: -n_asked // 9]  # refusals are not read
    assert counted.usage.prompt_tokens == sum(engine.count_tokens(answered))


def test_a_budget_counts_failed_tries_and_the_tokens_of_those_that_may_have_been_read(serve: Any) -> None:
    engine, script = serve(status(429), status(500), body(b"<html>busy</html>"), good, attempts=4)
    counted, sampling = BudgetedEngine(engine, meter=engine.meter), Sampling(max_tokens=50)
    counted.generate(PROMPTS[:1], sampling)
    assert len(script.requests) == 4
    read = engine.count_tokens(PROMPTS[:1])[0]
    assert counted.usage == Usage(4, 2 * read, 50 + 3)
    broken, script = serve(status(500))
    counted = BudgetedEngine(broken, meter=broken.meter)
    with pytest.raises(EngineError):
        counted.generate(PROMPTS[:1], sampling)
    assert counted.usage == Usage(3, 0, 0)


@pytest.mark.parametrize(
    ("failure", "limits", "words"),
    [
        ("500", Limits(9), "limit of 9 requests: 9 were made in this run, the next step takes 1$"),
        ("no JSON", Limits(max_cost=9e-6 * 50), r"limit of 0.00045 USD: this run cost 0.0004 \(9 requests\)"),
    ],
)
def test_no_try_is_sent_that_would_exceed_a_limit(serve: Any, failure: str, limits: Limits, words: str) -> None:
    engine, script = serve(FAILURES[failure], attempts=20, backoff_s=0.0)
    counted = BudgetedEngine(engine, limits, Price(0, 1), meter=engine.meter)
    with pytest.raises(BudgetError, match=words):
        counted.generate(PROMPTS[:4], Sampling(max_tokens=50))
    assert counted.usage.n_requests == len(script.requests) == 9
    with pytest.raises(BudgetError, match=r"9 were made|cost 0\.0004"):
        counted.generate(PROMPTS[:1], Sampling(max_tokens=50))
    assert len(script.requests) == 9


def test_a_server_that_refuses_log_probabilities_of_texts_is_asked_for_them_once(serve: Any) -> None:
    engine, script = serve(refuses_log_probs, concurrency=1)
    engine.generate(PROMPTS, Sampling())
    assert ["logprobs" in request for request in script.requests] == [True] + [False] * 12


def test_servers_of_one_name_share_no_answers_and_one_server_spelled_two_ways_does(serve: Any, tmp_path: Path) -> None:
    cache, sampling = tmp_path / "answers", Sampling()
    (first, one), (second, other) = serve(good), serve(body(completion("another")))
    for engine, text in ((first, "re: Question 0?"), (second, "another")):
        assert CachedEngine(engine, cache).generate(PROMPTS[:1], sampling)[0][0].text == text
    spelled = str(first.base_url).replace("http://", "HTTP://user:key@") + "/"
    CachedEngine(replace(first, base_url=spelled), cache).generate(PROMPTS[:1], sampling)
    assert (len(one.requests), len(other.requests)) == (1, 1)
    assert (first.model, second.model) == ("m", "m")


def test_where_a_server_is_not_known_yet_a_question_may_take_all_its_verdicts(serve: Any) -> None:
    engine, script = serve(good)
    with pytest.raises(BudgetError, match="0 were made in this run, the next step takes 9"):
        BudgetedEngine(engine, Limits(8), meter=engine.meter).choose(PROMPTS[:1], ["A", "B"])
    assert script.requests == []


def test_texts_come_without_log_probabilities_where_the_server_refuses_them(serve: Any) -> None:
    engine, _ = serve(refuses_log_probs, attempts=1)  # that refusal is no try
    found = engine.generate(PROMPTS[:1], Sampling())[0][0]
    assert math.isnan(found.log_prob)
    assert found.n_tokens == 3


@pytest.mark.parametrize("failure", [pytest.param(f, marks=[pytest.mark.slow] * (f == "hang")) for f in FAILURES])
def test_a_failure_that_passes_is_asked_again(serve: Any, failure: str) -> None:
    engine, script = serve(FAILURES[failure], FAILURES[failure], good, timeout_s=0.3 if failure == "hang" else 10)
    assert engine.generate(PROMPTS[:1], Sampling())[0][0].text == "re: Question 0?"
    assert len(script.requests) == 3
    assert script.began[2] - script.began[0] < 5  # a server that hangs is not waited for


@pytest.mark.parametrize("failure", [pytest.param(f, marks=[pytest.mark.slow] * (f == "hang")) for f in FAILURES])
def test_a_failure_that_stays_names_the_request(serve: Any, failure: str) -> None:
    engine, script = serve(FAILURES[failure], timeout_s=0.2 if failure == "hang" else 10)
    with pytest.raises(
        EngineError, match=r"prompt ...'Question 0\?': no usable answer from m in 3 tries; the last failure was \w+"
    ):
        engine.choose(PROMPTS[:1], ["A", "B"])
    assert len(script.requests) == 3


def test_a_request_the_server_refuses_is_not_asked_again(serve: Any) -> None:
    engine, script = serve(status(401))
    with pytest.raises(EngineError, match=r"prompt ...'Question 0\?', sample 0: m refuses it \(.*401.*on purpose"):
        engine.generate(PROMPTS[:1], Sampling())
    assert len(script.requests) == 1


def test_after_a_failure_for_good_no_further_request_is_begun(serve: Any) -> None:
    engine, script = serve(status(401), good, concurrency=2)
    script.pause_s = 0.05
    with pytest.raises(EngineError, match="prompt"):
        engine.generate(PROMPTS, Sampling())
    assert len(script.requests) < 6


@pytest.mark.slow
def test_pauses_grow_and_a_pause_the_server_asks_for_is_kept(serve: Any) -> None:
    engine, script = serve(status(500), backoff_s=0.1, attempts=4)
    with pytest.raises(EngineError):
        engine.generate(PROMPTS[:1], Sampling())
    assert (np.diff(script.began) >= [0.05, 0.1, 0.2]).all()
    engine, script = serve(status(429, Retry_After="0.4"), good)
    engine.generate(PROMPTS[:1], Sampling())
    assert 0.4 <= np.diff(script.began)[0] < 2


def test_no_more_requests_are_under_way_than_allowed(serve: Any) -> None:
    engine, script = serve(good, concurrency=3)
    script.pause_s = 0.03
    engine.generate(PROMPTS, Sampling())
    assert script.most_under_way == 3


def test_requests_keep_to_the_limits_a_minute(serve: Any) -> None:
    engine, script = serve(good, requests_per_minute=1200)
    engine.generate(PROMPTS[:6], Sampling())
    assert script.began[-1] - script.began[0] >= 0.2
