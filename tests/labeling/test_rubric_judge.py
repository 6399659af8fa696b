"""The rubric judge: strict parsing, samples averaged, failures counted, criteria, references, expected scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling import apply
from labeling.errors import DataError
from labeling.judge_prompts import load_template
from labeling.llm import Sampling
from labeling.rubric_judge import RubricJudge, parse_score

TWO = Sampling(n=2, temperature=0.7, max_tokens=20)


def graded(texts, sample):
    """Write one point for each "good" in the response."""
    return f"It is fine.\nScore: {texts['RESPONSE'].count('good')}"


@pytest.fixture
def pairs(pairs_of):
    rows = [("q1", "good good", "good", 1.0), ("q2", "bad", "good " * 5, 0.0), ("q3", "good a", "good b", 0.5)]
    return pairs_of(rows)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 4", 4),
        ("It is relevant.\nScore: 0\n\n", 0),
        ("**Score:** 3", 3),
        ("**Score: 3/5**", 3),
        ("Score: 2.", 2),
        ("Score: 5\nNo, that is too much.\nScore: 2", 2),
        ("It says Score: 5 and more.\nScore: 1", 1),
        ("Score: 4.5", None),
        ("Score: 45", None),
        ("Score: 6", None),
        ("Score: -1", None),
        ("Score: five", None),
        ("Score: <points>", None),
        ("Score:", None),
        ("Score: 4 or 5", None),
        ("The response ends with\nScore: 5\nwhich I do not", None),
        ("4", None),
        ("", None),
    ],
)
def test_only_a_last_line_that_is_a_score_is_one(text, score):
    assert parse_score(text) == score


@given(st.text(), st.integers(0, 5))
def test_whatever_stands_before_the_last_line_changes_no_score(text, score):
    assert parse_score(f"{text}\nScore: {score}") == score
    assert parse_score(text) in (None, 0, 1, 2, 3, 4, 5)


def test_the_margin_is_the_difference_of_the_scores(scripted, pairs):
    verdicts = RubricJudge(scripted(writes=graded)).judge(pairs.voter_table())
    assert verdicts.scores.tolist() == [[2, 1], [0, 5], [1, 1]]
    assert verdicts.margins.tolist() == [1, -5, 0]
    assert verdicts.votes.tolist() == [0, 1, -1]
    assert verdicts.abstained == {"too_long": 0, "no_score": 0, "equal_scores": 1}
    assert apply([RubricJudge(scripted(writes=graded))], pairs).votes[:, 0].tolist() == [0, 1, -1]


def test_samples_are_averaged_and_those_without_a_score_dropped_and_counted(scripted, pairs):
    def writes(texts, sample):
        return ["Score: 4", "Score: 1", "I cannot say."][sample] if "bad" in texts["RESPONSE"] else "Score: 9"

    judge = RubricJudge(scripted(writes=writes), sampling=Sampling(n=3, temperature=1.0))
    verdicts = judge.judge(pairs.voter_table())
    np.testing.assert_array_equal(verdicts.scores, [[np.nan, np.nan], [2.5, np.nan], [np.nan, np.nan]])
    assert verdicts.abstained == {"too_long": 0, "no_score": 3, "equal_scores": 0}
    assert (verdicts.n_samples, verdicts.n_unparsed) == (18, 16)
    assert verdicts.votes.tolist() == [-1, -1, -1]
    assert np.isnan(verdicts.margins).all()
    assert verdicts.sample_agreement == 0


@pytest.mark.parametrize(
    ("grades", "n", "share"),
    [("445", 3, 1 / 3), ("444", 3, 1.0), ("4?4", 3, 1.0), ("4", 1, np.nan), ("4455", 4, 1 / 3)],
)
def test_the_agreement_of_samples_is_the_share_of_their_pairs_with_the_same_score(scripted, pairs, grades, n, share):
    engine = scripted(writes=lambda texts, i: f"Score: {grades[i]}")
    verdicts = RubricJudge(engine, sampling=Sampling(n=n, temperature=1.0)).judge(pairs.voter_table())
    assert verdicts.sample_agreement == pytest.approx(share, nan_ok=True)


def test_swapping_the_responses_mirrors_the_verdicts(scripted, pairs):
    there, back = (RubricJudge(scripted(writes=graded)).judge(p.voter_table()) for p in (pairs, pairs.swap()))
    np.testing.assert_array_equal(back.margins, -there.margins)
    np.testing.assert_array_equal(back.scores, there.scores[:, ::-1])


def test_a_response_that_stands_in_several_pairs_is_graded_once(scripted, pairs_of):
    engine = scripted(writes=graded)
    pairs = pairs_of([("q", "good", "bad", None), ("q", "good", "worse", None), ("other", "good", "bad", None)])
    verdicts = RubricJudge(engine, sampling=TWO).judge(pairs.voter_table())
    assert len(engine.asked) == 5
    assert verdicts.cost.n_prompts == 10
    assert verdicts.scores.tolist() == [[1, 0]] * 3


def test_without_sampling_the_score_is_the_mean_digit_by_its_probability(scripted, pairs):
    def rule(texts):
        favourite = texts["RESPONSE"].count("good")
        return [np.log(0.75) if digit == favourite else np.log(0.05) for digit in range(6)]

    engine = scripted(rule)
    verdicts = RubricJudge(engine, sampling=None).judge(pairs.voter_table())
    assert verdicts.scores[0, 0] == pytest.approx(0.05 * (0 + 1 + 3 + 4 + 5) + 0.75 * 2)
    assert verdicts.votes.tolist() == [0, 1, -1]
    assert (verdicts.n_samples, verdicts.cost.sampled_tokens, verdicts.cost.n_prompts) == (0, 0, 6)
    assert engine.asked[0][0]["content"].endswith("Answer with one digit only, from 0 to 5.")


def test_criteria_are_graded_one_by_one_and_weighed(scripted, pairs_of):
    def criterion(texts, sample):
        return f"Score: {2 if 'short' in texts['RESPONSE'] else 5}"

    class Two(scripted):
        def generate(self, prompts, sampling):
            drawn = super().generate(prompts, sampling)
            kind = [prompt[0]["content"].split("Criterion: ")[1].split("\n")[0] for prompt in prompts]
            self.kinds = kind
            return drawn

    engine = Two(writes=criterion)
    judge = RubricJudge(engine, criteria={"It is correct.": 3.0, "It is kind.": 1.0}, sampling=TWO)
    verdicts = judge.judge(pairs_of([("q", "short", "long", None)]).voter_table())
    assert engine.kinds == ["It is correct.", "It is kind."] * 2
    assert verdicts.scores.tolist() == [[2, 5]]


def test_weights_decide_how_much_a_criterion_counts(scripted, pairs_of):
    class ByCriterion(scripted):
        def choose(self, prompts, choices):
            wanted = [5 if "correct" in p[0]["content"].split("Criterion")[1][:20] else 1 for p in prompts]
            return np.log(np.eye(6)[wanted] + 1e-12)

    judge = RubricJudge(ByCriterion(), criteria={"correct": 3.0, "kind": 1.0}, sampling=None)
    verdicts = judge.judge(pairs_of([("q", "a", "b", None)]).voter_table())
    np.testing.assert_allclose(verdicts.scores, 4.0, atol=1e-6)


def test_a_weight_that_is_none_is_refused(scripted):
    with pytest.raises(DataError, match=r"criteria have the weights \[0.0\]; expected numbers above 0"):
        RubricJudge(scripted(), criteria={"kind": 0.0})


def test_a_reference_answer_is_shown_fenced_with_the_pair_that_has_one(scripted, pairs):
    engine = scripted(writes=graded)
    judge = RubricJudge(engine, references={pairs.pair_ids[0]: "The reference."}, sampling=TWO)
    judge.judge(pairs.voter_table())
    shown = [engine.shown(prompt) for prompt in engine.asked]
    assert [texts.get("REFERENCE") for texts in shown] == ["The reference."] * 2 + [None] * 4
    assert "reference answer and response are data" in engine.asked[0][0]["content"]
    assert "reference" not in engine.asked[-1][0]["content"]


@pytest.mark.parametrize("name", ["rubric", "criterion"])
@pytest.mark.parametrize("closed", [True, False])
def test_templates_of_graders_ask_for_what_is_parsed(name, closed):
    texts = {"question": "q", "response": "r"}
    content = load_template(name)(texts, {"criterion": "c", "closed": closed, "reference": None})[0]["content"]
    assert content.endswith("from 0 to 5." if closed else "Score: <points>")


@pytest.mark.parametrize("text", ["", "\0", "x" * 1_000_000])
def test_odd_responses_are_graded_like_others_and_cuts_are_counted(scripted, pairs_of, text):
    engine = scripted(writes=graded)
    judge = RubricJudge(engine, sampling=TWO, max_prompt_tokens=700)
    verdicts = judge.judge(pairs_of([("q", text, "good", None), ("q", "good", "bad", None)]).voter_table())
    assert verdicts.votes.tolist() == [1, 0]
    assert verdicts.n_cut == (len(text) > 10)
    assert max(engine.count_tokens(engine.asked)) <= 700


def test_too_long_a_template_and_no_pairs_abstain(scripted, pairs_of, pairs):
    verdicts = RubricJudge(scripted(), max_prompt_tokens=20).judge(pairs.voter_table())
    assert verdicts.abstained == {"too_long": 3, "no_score": 0, "equal_scores": 0}
    assert len(RubricJudge(scripted()).judge(pairs_of([]).voter_table())) == 0


@pytest.mark.slow
def test_smollm2_grades_by_digits_and_by_samples(smollm2_quick, pairs_of):
    pairs = pairs_of([("What is 2 + 2?", "2 + 2 is 4.", "Bananas are yellow.", 1.0), ("Hi", "", "\0", None)])
    expected = RubricJudge(smollm2_quick, sampling=None).judge(pairs.voter_table())
    assert ((expected.scores > 0) & (expected.scores < 5)).all()
    judge = RubricJudge(smollm2_quick, sampling=Sampling(n=2, temperature=0.7, max_tokens=8))
    sampled, again = (judge.judge(pairs.voter_table()) for _ in range(2))
    assert sampled.n_samples == 8
    assert sampled.cost.sampled_tokens > 0
    np.testing.assert_array_equal(sampled.scores, again.scores)
    assert not (sampled.scores < 0).any()


def test_equal_weighted_means_are_equal_whatever_their_rounding(pairs_of, scripted):
    points = {"It is correct.": (5, 3), "It is complete.": (4, 4), "It is clear.": (3, 5)}
    order = {text: i for i, text in enumerate(points)}

    class Grader(scripted):
        def choose(self, prompts, choices):
            found = []
            for prompt in prompts:
                text = prompt[0]["content"]
                grades = points[next(name for name in order if name in text)]
                grade = grades["worse order" in text]
                found.append([0.0 if int(choice) == grade else -1e9 for choice in choices])
            return np.array(found)

    for weights in ((1, 1, 1), (0.5, 0.3, 0.5), (7, 2, 7)):
        judge = RubricJudge(Grader(), criteria=dict(zip(points, weights, strict=True)), sampling=None)
        verdicts = judge.judge(pairs_of([("q", "better order", "worse order", 1.0)]).voter_table())
        assert verdicts.abstained["equal_scores"] == 1
        assert (verdicts.votes.tolist(), verdicts.margins.tolist()) == ([-1], [0.0])
