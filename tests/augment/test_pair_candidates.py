"""Pairing: which candidates meet, which are left out and why, and that position and row order tell nothing."""

from __future__ import annotations

import itertools
import json
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment import generation_commands as commands
from augment.generate import SCHEMA
from augment.generation_commands import Prompting, read_prompts
from augment.models import ModelOptions
from augment.pair_candidates import Pairing, Scheme, pair_candidates
from augment.spending import SpendingOptions
from labeling import read_pairs
from labeling.errors import DataError
from labeling.llm import Completion, Sampling
from labeling.pairs import prompt_id


def candidates(*rows):
    """Rows of (prompt, response), (prompt, response, model) as candidates, numbered within prompt and model."""
    seen, records = {}, []
    for prompt, response, *model in rows:
        name = model[0] if model else "m"
        sample = seen[prompt, name] = seen.get((prompt, name), -1) + 1
        turns = [{"role": "user", "content": prompt}]
        records.append(
            {"prompt": turns, "prompt_id": prompt_id(turns), "response": response, "sample": sample, "model": name}
        )
    return pa.Table.from_pylist([dict.fromkeys(SCHEMA.names) | row for row in records], schema=SCHEMA)


BEST = Pairing("best-worst")


def texts(made):
    """Each pair as the set of its responses."""
    rows = zip(made.table["response_a"].to_pylist(), made.table["response_b"].to_pylist(), strict=True)
    return [{a, b} for a, b in rows]


def test_best_meets_worst_and_the_scores_go_with_them():
    made = pair_candidates(
        candidates(("p", "ok"), ("p", "best"), ("p", "bad"), ("q", "x"), ("q", "y")), [2, 3, 1, 5, 4], BEST
    )
    assert texts(made) == [{"best", "bad"}, {"x", "y"}]
    for row in made.table.to_pylist():
        score = {"best": 3, "bad": 1, "x": 5, "y": 4}
        assert (row["score_a"], row["score_b"]) == (score[row["response_a"]], score[row["response_b"]])
    assert made.table["gold"].null_count == 2
    assert made.left_out == {}


def test_ties_and_small_gaps_and_unusable_responses_are_left_out_and_counted():
    table = candidates(
        ("tie", "a"), ("tie", "b"), ("near", "a"), ("near", "b"), ("one", "a"), ("one", " \n"), ("nul", "a\0"),
        ("nul", "b"), ("nul", "c"), ("far", "a"), ("far", "b"), ("far", "unscored"), ("twice", "a"), ("twice", "a"),
        ("far", "z" * 500_001),
    )  # fmt: skip
    scores = [1, 1, 1, 1.4, 1, 2, 9, 1, 2, 1, 1.5, np.nan, 1, 2, 9]
    made = pair_candidates(table, scores, Pairing("best-worst", min_gap=0.5))
    assert texts(made) == [{"b", "c"}, {"a", "b"}]
    assert made.n_prompts == 6
    assert made.left_out == {
        "candidates: NUL character": 1,
        "candidates: empty response": 1,
        "candidates: no score": 1,
        "candidates: over 500,000 characters": 1,
        "candidates: same response": 1,
        "pairs: equal scores": 1,
        "pairs: gap below min_gap": 1,
        "prompts: under two candidates to pair": 2,
    }


def test_a_response_drawn_twice_has_its_mean_score():
    made = pair_candidates(candidates(("p", "a"), ("p", "a"), ("p", "b"), ("p", "c")), [9, 1, 6, 0], BEST)
    assert texts(made) == [{"b", "c"}]


@pytest.mark.parametrize("scheme", ["best-worst", "length-controlled"])
def test_where_scores_tie_it_does_not_matter_what_sorts_first(scheme):
    table = candidates(*((f"p{i}", word) for i in range(400) for word in ("above", "below", "later", "other")))
    made = pair_candidates(table, [1, 1, 0, 0] * 400, Pairing(scheme))
    first = [sum({"above", "later"} <= {*two} for two in texts(made)), sum("above" in two for two in texts(made))]
    assert 70 < first[0] < 130
    assert 160 < first[1] < 240


def test_length_control_takes_the_shortest_good_and_the_longest_bad():
    table = candidates(("p", "best " * 9), ("p", "good"), ("p", "middling"), ("p", "bad"), ("p", "also bad " * 5))
    scores = [10.0, 9.0, 5.0, 0.0, 1.0]
    assert texts(pair_candidates(table, scores, Pairing("length-controlled"))) == [{"good", "also bad " * 5}]
    narrow = Pairing("length-controlled", tier_share=0.0)
    assert texts(pair_candidates(table, scores, narrow)) == texts(pair_candidates(table, scores, BEST))


def test_length_control_takes_away_the_length_of_the_chosen():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 400, (200, 8))
    table = candidates(*((f"p{i}", "x" * n + f" {j}") for i, row in enumerate(lengths) for j, n in enumerate(row)))
    scores = (lengths / 400 + rng.normal(0, 0.3, lengths.shape)).ravel()

    def chosen_longer(scheme):
        rows = pair_candidates(table, scores, Pairing(scheme, tier_share=0.3)).table.to_pylist()
        won = [(row["score_a"] > row["score_b"]) == (len(row["response_a"]) > len(row["response_b"])) for row in rows]
        return np.mean(won)

    assert chosen_longer("best-worst") > 0.75
    assert chosen_longer("length-controlled") < chosen_longer("best-worst") - 0.15


def test_all_pairs_need_no_scores_and_random_pairs_are_some_of_them():
    table = candidates(*((p, f"r{i}") for p in "pq" for i in range(5)))
    everything = texts(pair_candidates(table))
    assert len(everything) == 20
    for ten in (everything[:10], everything[10:]):
        two = itertools.combinations([f"r{i}" for i in range(5)], 2)
        assert sorted(map(sorted, ten)) == [list(responses) for responses in two]
    some = texts(pair_candidates(table, how=Pairing("random", n=3)))
    assert len(some) == 6
    assert some != texts(pair_candidates(table, how=Pairing("random", n=3, seed=1)))
    assert some[:3] != some[3:]
    assert len(texts(pair_candidates(table, how=Pairing("random", n=99)))) == 20


def test_two_models_meet_in_their_first_samples():
    table = candidates(
        ("p", "a0", "m1"), ("p", "a1", "m1"), ("p", "b0", "m2"), ("q", "a", "m1"), ("q", "b", "m1"),
        ("r", "same", "m1"), ("r", "same", "m2"),
    )  # fmt: skip
    made = pair_candidates(table, how=Pairing("two-models"))
    assert texts(made) == [{"a0", "b0"}]
    row = made.table.to_pylist()[0]
    assert {row["response_a"]: row["model_a"], row["response_b"]: row["model_b"]} == {"a0": "m1", "b0": "m2"}
    assert row["source"] == "m1 | m2"
    assert made.left_out == {"pairs: same responses": 1, "prompts: candidates of one model only": 1}


def test_three_models_of_which_two_say_the_same_make_the_pair_once():
    table = candidates(("p", "x", "m1"), ("p", "x", "m2"), ("p", "y", "m3"))
    assert texts(pair_candidates(table, how=Pairing("two-models"))) == [{"x", "y"}]


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_every_scheme_depends_on_the_candidates_and_not_on_the_order_of_rows(scheme):
    rng = np.random.default_rng(0)
    rows = [(f"p{i % 4}", f"response {rng.integers(9)}", f"m{rng.integers(2)}") for i in range(40)]
    table, scores = candidates(*rows), rng.integers(0, 4, 40) / 2
    first = pair_candidates(table, scores, Pairing(scheme, n=2))
    assert first.table.num_rows
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(40)
        other = pair_candidates(table.take(pa.array(order)), scores[order], Pairing(scheme, n=2))
        assert other.table.sort_by("pair_id").equals(first.table.sort_by("pair_id"))
        assert other.left_out == first.left_out


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_what_is_written_is_read_as_pairs_without_a_label(scheme, tmp_path):
    table = candidates(*((f"p{i}", f"r{j}", f"m{j % 2}") for i in range(4) for j in range(3)))
    made = pair_candidates(table, np.arange(12.0), Pairing(scheme))
    made.write(tmp_path / "pairs.parquet")
    pairs = read_pairs(tmp_path / "pairs.parquet")
    assert pairs.table.equals(made.pairs.table)
    assert np.isnan(pairs.gold).all()
    assert set(pairs.groups) == {prompt_id([{"role": "user", "content": f"p{i}"}]) for i in range(4)}


def test_the_better_response_stands_first_as_often_as_second():
    table = candidates(*((f"p{i}", f"{word} {i}") for i in range(400) for word in ("good", "bad")))
    made = pair_candidates(table, np.tile([1.0, 0.0], 400), BEST)
    assert 160 < (np.asarray(made.table["score_a"]) == 1).sum() < 240


@pytest.mark.parametrize(
    ("scores", "how", "words"),
    [
        (None, {"scheme": "best-worst"}, "there are no scores, but best-worst"),
        (None, {"scheme": "all", "min_gap": 0.1}, "there are no scores, but all with min_gap 0.1"),
        ([1.0], {}, r"scores have shape \(1,\) and 0 infinite values; expected \(2,\)"),
        ([1.0, np.inf], {}, "1 infinite values"),
        ([1.0, 2.0], {"scheme": "worst-best"}, "scheme is 'worst-best'; expected one of best-worst"),
        ([1.0, 2.0], {"tier_share": 0.5}, r"tier_share 0.5 .* expected .* in \[0, 0.5\)"),
    ],
)
def test_scores_and_settings_that_make_no_sense_are_named(scores, how, words):
    with pytest.raises(DataError, match=words):
        pair_candidates(candidates(("p", "a"), ("p", "b")), scores, Pairing(**how))


class Echo:
    """Answers with the prompt and the number of the sample."""

    model = source = "echo@1"
    context = None

    def count_tokens(self, prompts):
        return [len(prompt[-1]["content"].split()) for prompt in prompts]

    def generate(self, prompts, sampling):
        return [
            [Completion(f"{prompt[-1]['content']} {i}", 2, -1.0, "stop") for i in range(sampling.n)]
            for prompt in prompts
        ]


class EchoModel(ModelOptions):
    """Options that load an Echo."""

    def load(self):
        return Echo()


class NoModel(ModelOptions):
    """Options of a model that must not be loaded."""

    def load(self):
        raise AssertionError("a model was loaded")


def generate(prompts, out, *, sampling=None, prompting=None, model=None):
    model, sampling, prompting = model or EchoModel("echo"), sampling or Sampling(), prompting or Prompting()
    return commands.generate(str(prompts), out, model, SpendingOptions(), sampling, prompting)


@pytest.fixture
def prompts_file(tmp_path):
    rows = [{"prompt": f"Question number {i} about the colours of the old town?"} for i in range(6)]
    rows += [{"prompt": "Why?"}, {"prompt": "why?  "}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "prompts.jsonl"


def test_the_commands_lead_from_prompts_to_pairs_with_manifests(tmp_path, prompts_file):
    out, pairs = tmp_path / "candidates.parquet", tmp_path / "pairs.parquet"
    line = generate(prompts_file, out, sampling=Sampling(n=3, temperature=1.0), prompting=Prompting(similar=0.99))
    assert line == f"{out}: 21 candidates for 7 of 8 prompts, 0 empty, 0 cut at 256 tokens"
    manifest = json.loads((tmp_path / "candidates.parquet.manifest.json").read_text())
    assert manifest["counts"]["same"] == 1
    assert commands.pair([out], pairs, Pairing("random")) == f"{pairs}: 7 pairs of 7 prompts (random)"
    assert len(read_pairs(pairs)) == 7
    table = pq.read_table(out)
    pq.write_table(table.append_column("quality", pa.array(range(21))), out)
    assert commands.pair([out], pairs, BEST, "quality") == f"{pairs}: 7 pairs of 7 prompts (best-worst)"
    assert json.loads((tmp_path / "pairs.parquet.manifest.json").read_text())["counts"]["pairs"] == 7


def test_prompts_of_the_evaluation_stop_the_command_before_a_model_runs(tmp_path, prompts_file):
    with pytest.raises(DataError, match="8 of 8 prompts share more than 50%"):
        generate(prompts_file, tmp_path / "out", prompting=Prompting(held_out=prompts_file), model=NoModel("none"))
    (tmp_path / "other.jsonl").write_text(json.dumps({"prompt": "Something else"}) + "\n")
    generate(prompts_file, tmp_path / "out", prompting=Prompting(held_out=tmp_path / "other.jsonl"))
    counts = json.loads((tmp_path / "out.manifest.json").read_text())["counts"]
    assert counts["contamination"]["n_over_limit"] == 0


def test_files_that_do_not_fit_are_named(tmp_path, prompts_file):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"expected a column prompt with texts or lists .* found text"):
        read_prompts(str(tmp_path / "text.parquet"))
    pq.write_table(pa.table({"prompt": ["a", None]}), tmp_path / "null.parquet")
    with pytest.raises(DataError, match="some prompts are null"):
        read_prompts(str(tmp_path / "null.parquet"))
    out = tmp_path / "candidates.parquet"
    generate(prompts_file, out)
    with pytest.raises(DataError, match="no column score of numbers"):
        commands.pair([out], tmp_path / "pairs", BEST, "score")
    with pytest.raises(DataError, match=r"no pair could be made of 8 candidates .* \(8 prompts: under two"):
        commands.pair([out], tmp_path / "pairs", Pairing("all"))
