"""Judges keep to what the model holds, the answer included, where fewer tokens are allowed than that."""

from __future__ import annotations

import dataclasses

import pytest

from labeling.budget import BudgetedEngine
from labeling.llm import Sampling
from labeling.llm_cache import CachedEngine
from labeling.openai_engine import OpenAIEngine
from labeling.pairwise_judge import PairwiseJudge
from labeling.planned_engine import PlannedEngine
from labeling.rubric_judge import RubricJudge

PAIRWISE = "{% if stage == 'verdict' %}A or B?{% else %}{{ question }}{{ response_a }}{{ response_b }}{% endif %}"
RUBRIC = "{{ question }}{{ response }}{{ reference or '' }}"
TWENTY = Sampling(n=2, max_tokens=20)
CONTEXT = 140


@pytest.fixture
def pairs(pairs_of):
    return pairs_of([("q", "a" * 9_000, "b" * 7_000, None), ("q", "a", "b", None)])


def written(texts, i):
    return f"{i} " + "word " * 15


@pytest.fixture(params=["pairwise", "reasoning", "digits", "grades"])
def judge(request, scripted, tmp_path):
    """A judge with a short template, on an engine that refuses what does not fit; texts it writes are 20 tokens."""
    path = tmp_path / "short.jinja"
    path.write_text(PAIRWISE if request.param in ("pairwise", "reasoning") else RUBRIC)
    if request.param in ("pairwise", "reasoning"):
        engine = scripted(writes=written, context=CONTEXT)
        return PairwiseJudge(engine, template=path, reasoning=TWENTY if request.param == "reasoning" else None)
    engine = scripted(lambda texts: [0.0] * 6, written, context=CONTEXT)
    return RubricJudge(engine, template=path, sampling=TWENTY if request.param == "grades" else None)


def test_a_long_pair_is_cut_to_what_the_model_holds_and_counted(judge, pairs):
    verdicts = judge.judge(pairs.voter_table())
    assert (verdicts.n_cut, verdicts.abstained["too_long"]) == (1, 0)
    drawn = 20 * (isinstance(judge, RubricJudge) and judge.sampling is not None)
    assert CONTEXT - drawn - 16 <= max(judge.engine.count_tokens(judge.engine.asked)) <= CONTEXT - drawn


def test_a_plan_counts_what_a_run_within_limits_over_a_cache_takes(judge, pairs):
    engine = judge.engine
    counted = BudgetedEngine(engine)
    run = dataclasses.replace(judge, engine=CachedEngine(counted, None)).judge(pairs.voter_table())
    planned = BudgetedEngine(PlannedEngine(engine.model, engine.count_tokens, CONTEXT))
    plan = dataclasses.replace(judge, engine=planned).judge(pairs.voter_table())
    assert (plan.n_cut, plan.cost.n_prompts) == (run.n_cut, run.cost.n_prompts) == (1, run.cost.n_prompts)
    assert planned.usage.n_requests == counted.usage.n_requests > 0


def test_where_not_even_the_template_fits_nothing_is_asked(judge, pairs):
    engine = dataclasses.replace(judge.engine, context=20)
    verdicts = dataclasses.replace(judge, engine=engine).judge(pairs.voter_table())
    assert verdicts.abstained["too_long"] == 2
    assert engine.asked == []


def test_what_a_server_holds_is_not_known():
    assert OpenAIEngine("m").context is None
