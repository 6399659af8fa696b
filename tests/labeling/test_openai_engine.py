"""The HTTP engine against a server that misbehaves on purpose, on this machine."""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openai  # noqa: F401  (slow to import: not on the first test's time)
import pytest

from labeling.budget import BudgetedEngine, Limits, Price, Usage
from labeling.errors import BudgetError, EngineError, WeakprefWarning
from labeling.llm import Engine, Sampling, renormalised
from labeling.llm_cache import CachedEngine
from labeling.openai_engine import OpenAIEngine
from labeling.pairwise_judge import PairwiseJudge

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(12)]
TOP = {"A": -0.2, "B": -2.0, " A": -4.0, "The": -5.0}
Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


@dataclass
class Script:
    """What the server does: the listed answers to the first requests, then always the last."""

    answers: list[Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    pause_s: float = 0.0
    """Before every answer; the requests under way are counted in it."""
    under_way: int = 0
    most_under_way: int = 0
    lock: Any = field(default_factory=threading.Lock)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(text: str | None, tops: list[dict[str, float]] | None = None) -> bytes:
    token = [
        {
            "token": next(iter(top)),
            "logprob": next(iter(top.values())),
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()],
        }
        for top in tops or []
    ]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    choice["logprobs"] = {"content": token} if tops else None
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def good(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    send(handler, 200, completion("re: " + request["messages"][-1]["content"], [TOP, {"!": -0.5}]))


def without_log_probs(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Says B three times of four."""
    send(handler, 200, completion("A." if request.get("seed", 0) % 4 == 0 else " B"))


def refuses_log_probs(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    if "logprobs" in request:
        send(handler, 400, b'{"error": {"message": "logprobs are not supported by this model"}}')
    else:
        without_log_probs(handler, request)


def status(code: int, **headers: str) -> Answer:
    return lambda handler, request: send(handler, code, b'{"error": {"message": "on purpose"}}', **headers)


def hang(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    time.sleep(30)


def cut(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "x", "cho')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def body(content: bytes, code: int = 200) -> Answer:
    return lambda handler, request: send(handler, code, content)


FAILURES = {
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "hang": hang,
    "cut connection": cut,
    "no JSON": body(b"<html>busy</html>"),
    "half JSON": body(b'{"choices": [{"mess'),
    "a list": body(b"[1]"),
    "no choices": body(b'{"id": "x", "choices": []}'),
    "empty choice": body(b'{"id": "x", "choices": [{}]}'),
    "no text": body(completion(None)),
}


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[OpenAIEngine, Script]]]:
    servers = []

    def begin(*answers: Answer, **settings: Any) -> tuple[OpenAIEngine, Script]:
        script = Script(list(answers))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with script.lock:
                    script.requests.append(request)
                    script.began.append(time.monotonic())
                    answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                    script.under_way += 1
                    script.most_under_way = max(script.most_under_way, script.under_way)
                time.sleep(script.pause_s)
                with script.lock:
                    script.under_way -= 1
                with contextlib.suppress(OSError):  # the client has hung up
                    answer(self, request)

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        defaults: dict[str, Any] = {"backoff_s": 0.01, "timeout_s": 10.0, "attempts": 3, "concurrency": 4}
        return OpenAIEngine("m", url, "no key", **(defaults | settings)), script

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


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


def refuses_some(answer: Answer) -> Answer:
    """Answer so where the prompt is Question 1 or 3, well elsewhere."""
    return lambda handler, request: (answer if re.search("Question [13]", str(request["messages"])) else good)(
        handler, request
    )


REFUSALS = {
    "content filter, an error": body(b'{"error": {"message": "on purpose", "code": "content_filter"}}', 400),
    "moderation, an error": body(b'{"error": {"message": "Your input was flagged"}}', 403),
    "content filter, an answer": body(completion(None).replace(b'"stop"', b'"content_filter"')),
    "refusal, an answer": body(completion(None).replace(b'"content": null', b'"content": null, "refusal": "No."')),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_prompt_the_server_refuses_has_no_answer_and_the_others_have(
    serve: Any, refusal: str, tmp_path: Path
) -> None:
    engine, script = serve(refuses_some(REFUSALS[refusal]))
    with pytest.warns(WeakprefWarning, match=r"prompt ...'Question [13]\?'.* m refuses it .* judges abstain") as warned:
        found = CachedEngine(engine, tmp_path / "answers").choose(PROMPTS[:5], ["A", "B"])
    assert len(warned) == 1
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False, True, False]
    assert len(script.requests) == 5  # none is tried again
    again = CachedEngine(engine, tmp_path / "answers").choose(PROMPTS[:5], ["A", "B"])
    np.testing.assert_array_equal(again, found)
    texts = engine.generate(PROMPTS[:2], Sampling())
    assert [samples[0].finish_reason for samples in texts] == ["stop", "refused"]
    assert texts[1][0].text == ""
    assert len(script.requests) == 7


@pytest.mark.parametrize(
    "error",
    [
        {"detail": [{"msg": "unknown field", "input": {"messages": "moderation, content filter"}}]},
        {"message": "This model's maximum context length is 8 tokens", "code": 400},
    ],
)
def test_an_error_that_repeats_the_prompt_or_is_about_lengths_ends_the_run(serve: Any, error: dict[str, Any]) -> None:
    engine, _ = serve(body(json.dumps(error).encode(), 400))
    with pytest.raises(EngineError, match="refuses it"):
        engine.generate(PROMPTS[:1], Sampling())


@pytest.mark.filterwarnings("ignore:.*refuses it:labeling.errors.WeakprefWarning")
@pytest.mark.parametrize("reasoning", [None, Sampling(max_tokens=5, temperature=1.0, n=2)])
def test_a_judge_abstains_where_the_server_refuses_a_prompt(
    serve: Any, pairs_of: Any, reasoning: Sampling | None
) -> None:
    engine, _ = serve(refuses_some(REFUSALS["content filter, an answer"]))
    pairs = pairs_of([("Question 0", "x", "y", 1.0), ("Question 1", "x", "y", 1.0)])
    found = PairwiseJudge(engine, on_flip="keep", reasoning=reasoning).judge(pairs.voter_table())
    assert np.isnan(found.margins).tolist() == [False, True]
    assert found.abstained["no_answer"] == 1


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
