"""Prompts and answers that a server refuses to give out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import openai  # noqa: F401  (slow to import: not on the first test's time)
import pytest

from labeling.budget import BudgetedEngine, Usage
from labeling.errors import EngineError, WeakprefWarning
from labeling.llm import Sampling
from labeling.llm_cache import CachedEngine
from labeling.openai_engine import prompt_names
from labeling.pairwise_judge import PairwiseJudge
from tests.labeling.odd_server import Answer, body, completion, good, send

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(12)]


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
    with pytest.warns(WeakprefWarning, match=r"prompt ...'[13]\?'.* judges abstain") as warned:
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
        {"detail": [{"msg": "unknown field", "input": {"messages": "What is a maximum context length?"}}]},
    ],
)
def test_an_error_that_repeats_the_prompt_ends_the_run(serve: Any, error: dict[str, Any]) -> None:
    engine, _ = serve(body(json.dumps(error).encode(), 400))
    with pytest.raises(EngineError, match="refuses it"):
        engine.generate(PROMPTS[:1], Sampling())


TOO_LONG = {
    "OpenAI": {"error": {"message": "Please reduce the length.", "code": "context_length_exceeded"}},
    "vLLM": {"error": {"message": "This model's maximum context length is 2048 tokens. However, ...", "code": 400}},
    "llama.cpp": {"error": {"message": "too large", "type": "exceed_context_size_error", "code": 400}},
    "Anthropic": {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}},
}
"""What servers say of too long a prompt: in their error's code, type or message."""


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_prompt_too_long_for_the_server_has_no_answer_and_the_others_have(
    serve: Any, pairs_of: Any, server: str
) -> None:
    engine, script = serve(refuses_some(body(json.dumps(TOO_LONG[server]).encode(), 400)))
    with pytest.warns(WeakprefWarning, match=r"prompt ...'[13]\?'.* has no room .*max_prompt_tokens") as warned:
        texts = engine.generate(PROMPTS[:4], Sampling())
    assert len(warned) == 1
    assert [samples[0].finish_reason for samples in texts] == ["stop", "too_long", "stop", "too_long"]
    assert len(script.requests) == 4  # none is tried again
    pairs = pairs_of([("Question 0", "x", "y", 1.0), ("Question 1", "x", "y", 1.0)])
    found = PairwiseJudge(engine, on_flip="keep").judge(pairs.voter_table())
    assert np.isnan(found.margins).tolist() == [False, True]


def test_more_tokens_of_answer_than_the_model_holds_are_no_prompts_fault(serve: Any) -> None:
    said = "'max_tokens' is too large: 300. This model's maximum context length is 256 tokens"
    engine, _ = serve(body(json.dumps({"error": {"message": said, "code": 400}}).encode(), 400))
    with pytest.raises(EngineError, match=r"refuses it .*mend it and start again"):
        engine.generate(PROMPTS[:1], Sampling(max_tokens=256))
    with pytest.warns(WeakprefWarning, match="has no room for it"):
        assert engine.generate(PROMPTS[:1], Sampling(max_tokens=255))[0][0].finish_reason == "too_long"


@pytest.mark.filterwarnings("ignore:.*keeps an answer back:labeling.errors.WeakprefWarning")
@pytest.mark.parametrize("reasoning", [None, Sampling(max_tokens=5, temperature=1.0, n=2)])
def test_a_judge_abstains_where_the_server_refuses_a_prompt(
    serve: Any, pairs_of: Any, reasoning: Sampling | None
) -> None:
    engine, _ = serve(refuses_some(REFUSALS["content filter, an answer"]))
    pairs = pairs_of([("Question 0", "x", "y", 1.0), ("Question 1", "x", "y", 1.0)])
    found = PairwiseJudge(engine, on_flip="keep", reasoning=reasoning).judge(pairs.voter_table())
    assert np.isnan(found.margins).tolist() == [False, True]
    assert found.abstained["no_answer"] == 1


def keeps_back(answers: bytes, every: int) -> Answer:
    """Give this answer, and keep back each sample whose seed divides by `every`, in so many words."""
    kept_back = completion("No.").replace(b'"stop"', b'"content_filter"')
    return lambda handler, request: send(handler, 200, kept_back if request.get("seed", 1) % every == 0 else answers)


@pytest.mark.filterwarnings("ignore:.*keeps an answer back:labeling.errors.WeakprefWarning")
def test_one_answer_kept_back_leaves_the_other_samples_their_say(serve: Any, pairs_of: Any) -> None:
    engine, script = serve(keeps_back(completion("A"), 2), verdicts=40)
    with pytest.warns(WeakprefWarning, match=r"verdict \d+: m keeps an answer back \(content_filter\); it counts for"):
        p_a = np.exp(engine.choose(PROMPTS[:1], ["A", "B"])[0, 0])
    n_given = sum(request["seed"] % 2 for request in script.requests if "seed" in request)
    assert 5 < n_given < 35
    assert p_a == pytest.approx((n_given + 0.5) / (n_given + 1))
    nothing, _ = serve(keeps_back(completion("A"), 1))
    assert np.isnan(nothing.choose(PROMPTS[:1], ["A", "B"])).all()
    reasons, script = serve(keeps_back(completion("Because.", [{"A": -0.5, "B": -1.0}]), 2))
    judge = PairwiseJudge(reasons, on_flip="keep", reasoning=Sampling(max_tokens=5, temperature=1.0, n=12))
    found = judge.judge(pairs_of([("Question", "x", "y", 1.0)]).voter_table())
    drawn = [request["seed"] % 2 for request in script.requests if "seed" in request]
    assert 0 < sum(drawn) < 24 == len(drawn)
    assert (found.shown_first.item(), found.shown_second.item()) == pytest.approx((0.5, -0.5))


@pytest.mark.filterwarnings("ignore:.*keeps an answer back:labeling.errors.WeakprefWarning")
def test_an_answer_kept_back_costs_what_the_server_says_that_it_wrote(serve: Any) -> None:
    engine, _ = serve(keeps_back(completion("A"), 1))
    counted = BudgetedEngine(engine, meter=engine.meter)
    counted.generate(PROMPTS[:1], Sampling(max_tokens=50))
    assert counted.usage == Usage(1, engine.count_tokens(PROMPTS[:1])[0], 3)
    silent, _ = serve(body(completion(None).replace(b'"stop"', b'"content_filter"').replace(b"usage", b"no_usage")))
    counted = BudgetedEngine(silent, meter=silent.meter)
    counted.generate(PROMPTS[:1], Sampling(max_tokens=50))
    assert counted.usage.output_tokens == 50


def test_a_prompt_is_named_by_what_no_template_shares(serve: Any, pairs_of: Any) -> None:
    engine, _ = serve(body(b'{"error": {"message": "unknown model"}}', 404))
    pairs = pairs_of([(f"{color} or blue?", "x", "y", 1.0) for color in ("Red", "Green")])
    with pytest.raises(EngineError, match=r"prompt ...'\w{10}>>> (Red|Green) or blue\? <<<END QUESTION"):
        PairwiseJudge(engine).judge(pairs.voter_table())


def test_prompts_of_a_script_without_blanks_are_named_where_they_differ() -> None:
    shared = "请仔细阅读下面的问题并且用一句话回答它" * 9
    names = prompt_names([[{"role": "user", "content": f"{shared}{what}是什么"}] for what in ("猫", "狗")])
    assert "猫是什么" in names[0]
    assert "狗是什么" in names[1]
    assert prompt_names([[{"role": "user", "content": "a " * 99 + "end"}]])[0].endswith("end'")


def test_an_answer_cut_before_it_began_is_an_empty_one(serve: Any) -> None:
    engine, script = serve(body(completion(None).replace(b'"stop"', b'"length"')))
    [[found]] = engine.generate(PROMPTS[:1], Sampling())
    assert (found.text, found.finish_reason) == ("", "length")
    assert len(script.requests) == 1
