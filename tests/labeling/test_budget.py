"""Budgets: what is counted, what is let through, prices read from a file; and the cache over a budget."""

from __future__ import annotations

import math

import pytest

from labeling.budget import FREE, BudgetedEngine, Limits, Price, Usage, read_prices
from labeling.errors import BudgetError, DataError
from labeling.llm import Sampling
from labeling.llm_cache import CachedEngine

PROMPTS = [[{"role": "user", "content": f"Question {i:02}?"}] for i in range(20)]
"""Four tokens each for the engine of these tests."""


@pytest.fixture
def engine(scripted):
    return scripted(writes=lambda texts, sample: "two words")


def test_samples_and_closed_questions_are_counted_with_what_is_read_and_written(engine):
    seen = []
    counted = BudgetedEngine(engine, watch=lambda **told: seen.append(told))
    assert (counted.model, counted.usage) == ("scripted@1", Usage())
    counted.generate(PROMPTS[:3], Sampling(n=2, temperature=1.0, max_tokens=9))
    assert counted.usage == Usage(6, 24, 12)
    counted.choose(PROMPTS[:5], ["A", "B"])
    assert counted.usage == Usage(11, 44, 17)
    assert counted.usage - Usage(6, 24, 12) == Usage(5, 20, 5)
    assert seen == [{"tokens": 36}, {"tokens": 25}]


def test_tokens_of_a_prompt_are_counted_once(engine, monkeypatch):
    counted, asked = BudgetedEngine(engine), []
    once = type(engine).count_tokens
    monkeypatch.setattr(type(engine), "count_tokens", lambda self, some: asked.append(len(some)) or once(self, some))
    assert counted.count_tokens(PROMPTS) == [4] * 20
    counted.choose(PROMPTS, ["A", "B"])
    assert counted.count_tokens([*PROMPTS[:2], [{"role": "user", "content": "More"}]]) == [4, 4, 2]
    assert asked == [20, 1]


@pytest.mark.parametrize(
    ("limits", "n_let_through"),
    [(Limits(max_requests=8), 4), (Limits(max_requests=7), 3), (Limits(max_cost=8 * 28), 4), (Limits(max_cost=223), 3)],
)
def test_a_call_is_let_through_only_if_its_longest_answers_keep_to_the_limit(engine, limits, n_let_through):
    sampling = Sampling(n=2, temperature=1.0, max_tokens=10)
    counted = BudgetedEngine(engine, limits, Price(input=2e6, output=2e6))
    with pytest.raises(BudgetError, match="stopped before the limit of"):
        counted.generate(PROMPTS[: n_let_through + 1], sampling)
    assert engine.asked == []
    counted.generate(PROMPTS[:n_let_through], sampling)
    assert len(engine.asked) == n_let_through


def test_a_cost_counts_what_was_written_not_what_might_have_been(engine):
    counted = BudgetedEngine(engine, Limits(max_cost=101), Price(0, 1e6))
    for i in range(2):
        counted.generate(PROMPTS[i : i + 1], Sampling(max_tokens=99))
    with pytest.raises(BudgetError, match=r"this run cost 4.0000 \(2 requests\), the next step costs up to 99.0000"):
        counted.generate(PROMPTS[2:3], Sampling(max_tokens=99))


def test_a_limit_on_an_unknown_cost_and_one_below_nothing_are_refused(engine):
    with pytest.raises(DataError, match="no price of scripted@1 is known"):
        BudgetedEngine(engine, Limits(max_cost=1))
    BudgetedEngine(engine, Limits(max_cost=0), FREE).choose(PROMPTS, ["A", "B"])
    for limits in ({"max_requests": -1}, {"max_cost": math.nan}):
        with pytest.raises(DataError, match="expected 0 or more"):
            Limits(**limits)
    with pytest.raises(DataError, match="a price is -1; expected USD per million tokens"):
        Price(-1, 0)


def test_prices_are_read_from_json_and_csv(tmp_path):
    (tmp_path / "p.json").write_text('{"m": {"input": 0.5, "output": 2}}')
    (tmp_path / "p.csv").write_text("model,input,output\nm,0.5,2\n")
    assert read_prices(tmp_path / "p.json") == read_prices(tmp_path / "p.csv") == {"m": Price(0.5, 2)}
    for text in ("[]", "{", '{"m": 3}', '{"m": {"input": 1}}', '{"m": {"input": "much", "output": 1}}'):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(DataError, match=r"p\.json: expected prices in USD per million tokens"):
            read_prices(tmp_path / "p.json")


# The cache over a budget


def test_a_divisible_chunk_is_asked_as_far_as_the_budget_goes_and_kept(engine, tmp_path):
    for limit in (7, 7, 7):
        cached = CachedEngine(BudgetedEngine(engine, Limits(limit)), tmp_path / "a", chunk=16, divisible=True)
        if limit + len(engine.asked) < 20:
            with pytest.raises(BudgetError, match=rf"{len(engine.asked) + 7} of 20 answers lie in .*a"):
                cached.choose(PROMPTS, ["A", "B"])
        else:
            cached.choose(PROMPTS, ["A", "B"])
    assert sorted(map(str, engine.asked)) == sorted(map(str, PROMPTS))


def test_a_chunk_that_is_not_divisible_is_asked_whole_or_not_at_all(engine, tmp_path):
    cached = CachedEngine(BudgetedEngine(engine, Limits(15)), tmp_path / "a", chunk=8)
    with pytest.raises(BudgetError, match="8 of 20 answers"):
        cached.choose(PROMPTS, ["A", "B"])
    assert len(engine.asked) == 8


def test_prompts_that_start_alike_are_asked_together_and_answered_in_their_places(engine, tmp_path):
    texts = [f"{start} {i}?" for i in range(6) for start in ("Sea", "Air", "Fire")]
    mixed = [[{"role": "user", "content": text}] for text in texts]
    by_length = type(engine)(lambda texts: (0.0, 0.0), writes=lambda texts, sample: "")
    CachedEngine(by_length, tmp_path / "a", chunk=6).choose(mixed, ["A", "B"])
    starts = [prompt[0]["content"].split()[0] for prompt in by_length.asked]
    assert starts == ["Air"] * 6 + ["Fire"] * 6 + ["Sea"] * 6


def test_without_a_file_answers_are_kept_for_one_call(engine):
    cached = CachedEngine(engine, None)
    cached.choose([*PROMPTS, *PROMPTS], ["A", "B"])
    assert (len(engine.asked), cached.hits) == (20, 0)  # what is asked once for two is no answer of a file
    cached.choose(PROMPTS, ["A", "B"])
    assert len(engine.asked) == 40


def test_what_is_read_only_is_neither_made_nor_filled(engine, tmp_path):
    CachedEngine(engine, tmp_path / "none", read_only=True).choose(PROMPTS, ["A", "B"])
    assert list(tmp_path.iterdir()) == []
    CachedEngine(engine, tmp_path / "a").choose(PROMPTS[:5], ["A", "B"])
    before = (tmp_path / "a").read_bytes()
    planned = CachedEngine(engine, tmp_path / "a", read_only=True)
    planned.choose(PROMPTS, ["A", "B"])
    assert (planned.hits, planned.misses) == (5, 15)
    assert (tmp_path / "a").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_watch_is_told_of_every_chunk_and_cached_answers_are_done(engine, tmp_path):
    seen = []
    for n in (8, 20):
        cached = CachedEngine(engine, tmp_path / "a", chunk=10, watch=lambda **told: seen.append(told))
        cached.choose(PROMPTS[:n], ["A", "B"])
    assert seen == [{"wanted": 8}, {"done": 8}, {"wanted": 20}, {"done": 10}, {"done": 10}]
