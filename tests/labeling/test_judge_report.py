"""The report on a judge: its figures counted by hand, its JSON, its table, its plot."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from labeling.errors import VotesError
from labeling.judge_plot import plot_verdicts
from labeling.judge_report import judge_report
from labeling.llm import Sampling
from labeling.pairwise_judge import PairwiseJudge
from labeling.rubric_judge import RubricJudge


@pytest.fixture
def pairs(pairs_of):
    """Five gold pairs, a tie, an unlabelled one; the longer response wins in three of the five."""
    return pairs_of(
        [
            ("q1", "good good good", "bad", 1.0),
            ("q1", "bad", "good good good good", 0.0),
            ("q2", "bad and long", "good", 0.0),
            ("q2", "good", "good, very good", 1.0),
            ("q3", "good good good", "bad", 1.0),
            ("q4", "good", "bad", 0.5),
            ("q5", "good good", "bad", None),
        ]
    )


def by_digits(texts):
    return [0.0 if digit == min(texts["RESPONSE"].count("good"), 5) else -50.0 for digit in range(6)]


def test_samples_of_one_order_that_disagree_are_reported_and_one_alone_is_not(scripted, pairs):
    def judged(n):
        turned = iter([1, 1, -1, *[1] * 39][: 14 * n])  # of all verdicts, one of the first prompt is the other way
        engine = scripted(lambda texts: (next(turned), 0.0), writes=lambda texts, i: f"Thought {i}.")
        judge = PairwiseJudge(engine, reasoning=Sampling(n=n, temperature=0.7))
        return judge_report(judge.judge(pairs.voter_table()), pairs)

    assert judged(3).sample_agreement_share == pytest.approx((13 + 1 / 3) / 14)
    assert "samples of one prompt    0.952 of their pairs agree" in str(judged(3))
    assert math.isnan(judged(1).sample_agreement_share)
    assert "samples of one prompt" not in str(judged(1))


@pytest.mark.slow
def test_every_figure_of_a_pairwise_judge_is_what_one_counts_by_hand(scripted, pairs):
    verdicts = PairwiseJudge(scripted(scripted.by_quality(1.5))).judge(pairs.voter_table())
    report = judge_report(verdicts, pairs)
    assert verdicts.votes.tolist() == [0, 1, -1, -1, 0, -1, 0]
    assert (report.n_pairs, report.n_gold) == (7, 5)
    assert report.vote_share == pytest.approx(4 / 7)
    assert report.abstained["flipped"] == 3
    assert report.pairwise_accuracy == pytest.approx(3 / 5)
    assert report.voted_accuracy == 1
    assert report.margin_accuracy == pytest.approx(4 / 5)
    assert 0 <= report.margin_accuracy_low <= 0.8 <= report.margin_accuracy_high <= 1
    assert report.position_bias == pytest.approx(1.5)
    assert report.first_share == pytest.approx((4 + 2 * 3) / 14)
    assert report.consistency_share == pytest.approx(4 / 7)
    assert report.longer_share == 1
    assert report.gold_longer_share == pytest.approx(3 / 5)
    assert report.length_correlation > 0.5
    assert report.rankings.n_prompts == 3
    assert report.rankings.exact_match_share == pytest.approx(2 / 3)
    assert report.score_counts == ()
    assert math.isnan(report.rankings.spearman)
    assert math.isnan(report.unparsed_share)
    assert report.n_prompts == 14


def test_rankings_of_a_rubric_judge_compare_scores_with_gold_by_prompt(scripted, pairs_of):
    rows = [
        ("q1", "good good good good good", "good good", 1.0),
        ("q1", "good good", "good", 1.0),
        ("q1", "good good good good good", "good", 1.0),
        ("q2", "good", "good good good good good ", 1.0),
        ("q3", "good", "good ", 1.0),
    ]
    pairs = pairs_of(rows)
    report = judge_report(RubricJudge(scripted(by_digits), sampling=None).judge(pairs.voter_table()), pairs)
    assert report.rankings.n_prompts == 3
    assert report.rankings.exact_match_share == pytest.approx(1 / 3)
    assert report.rankings.five_best_share == pytest.approx(1 / 2)
    assert report.rankings.spearman == pytest.approx((1 - 1 + 0) / 3)
    assert report.rankings.kendall == pytest.approx((1 - 1 + 0) / 3)
    assert report.score_counts == (0, 5, 2, 0, 0, 3)
    assert math.isnan(report.position_bias)
    assert math.isnan(report.consistency_share)


def test_unparsed_samples_are_a_share_of_all(scripted, pairs):
    judge = RubricJudge(scripted(writes=lambda texts, sample: "Score: 3" if sample else "hm"))
    report = judge_report(judge.judge(pairs.voter_table()), pairs)
    assert report.unparsed_share == pytest.approx(1 / 3)
    assert report.sampled_tokens == report.n_samples / 3 * (1 + 2 + 2)


def test_without_gold_or_pairs_agreement_is_unknown_and_the_rest_is_not(scripted, pairs, pairs_of):
    judge = PairwiseJudge(scripted(scripted.by_quality()))
    report = judge_report(judge.judge(pairs.voter_table()), pairs.with_gold(None))
    assert math.isnan(report.margin_accuracy)
    assert math.isnan(report.rankings.exact_match_share)
    assert report.consistency_share == 1
    nothing = pairs_of([])
    assert judge_report(judge.judge(nothing.voter_table()), nothing).n_pairs == 0


def test_swapping_the_responses_changes_no_figure(scripted, pairs):
    judge = PairwiseJudge(scripted(scripted.by_quality(1.5)))
    there, back = (judge_report(judge.judge(p.voter_table()), p) for p in (pairs, pairs.swap()))
    for name in ("margin_accuracy", "position_bias", "first_share", "longer_share", "length_correlation"):
        assert getattr(there, name) == pytest.approx(getattr(back, name))


def test_verdicts_on_other_pairs_are_refused(scripted, pairs):
    verdicts = PairwiseJudge(scripted()).judge(pairs.voter_table())
    with pytest.raises(VotesError, match="verdicts on 7 pairs, but 2 pairs; judge these pairs"):
        judge_report(verdicts, pairs.take([0, 1]))


def test_the_report_is_a_table_to_read_and_json_to_keep(scripted, pairs, tmp_path):
    report = judge_report(PairwiseJudge(scripted(scripted.by_quality(1.5))).judge(pairs.voter_table()), pairs)
    text = str(report)
    assert "bias 1.500 log-odds, first shown wins 0.714, both orders agree 0.571" in text
    assert "pairwise_judge (pairwise, scripted@1)" in text
    assert "nan" not in text
    report.to_json(tmp_path / "judge.json")
    read = json.loads((tmp_path / "judge.json").read_text())
    assert read["position_bias"] == pytest.approx(1.5)
    assert read["rankings"]["spearman"] is None
    assert read["abstained"]["flipped"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_verdicts_are_drawn_as_the_same_bytes(scripted, pairs, tmp_path, suffix):
    for judge in (
        PairwiseJudge(scripted(scripted.by_quality(1.5))),
        RubricJudge(scripted(by_digits), sampling=None),
    ):
        verdicts = judge.judge(pairs.voter_table())
        files = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
        for file in files:
            plot_verdicts(verdicts, pairs, file)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert files[0].stat().st_size > 5_000


def test_margins_that_are_all_unknown_or_zero_have_no_accuracy(scripted, pairs):
    idle = judge_report(PairwiseJudge(scripted()).judge(pairs.voter_table()), pairs)
    assert idle.abstained["tie"] == 7
    assert "accuracy of margins      -, 95 % interval - to -" in str(idle)
    verdicts = PairwiseJudge(scripted(), max_prompt_tokens=10).judge(pairs.voter_table())
    report = judge_report(verdicts, pairs)
    assert report.abstained["too_long"] == 7
    assert math.isnan(report.margin_accuracy)
    assert np.isnan(report.length_correlation)
