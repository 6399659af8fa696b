"""Self-rewarding and CREAM: whole runs on a tiny policy, killed and gone on with; what each labels and why."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.dpo import PolicyConfig
from augment.implicit_rewards import implicit_rewards, response_log_probs
from augment.policies import check_vocabulary, load_policy, policy_context, save_policy
from augment.self_gold import decided, implicit_agreement, judge_agreement
from augment.self_iteration import _implicit, lineage
from augment.self_reward import SelfReward, begin, plan, self_reward
from augment.self_scores import agreement, judged
from labeling.errors import DataError
from labeling.llm import Completion, Sampling

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(4)]
TRAINING = PolicyConfig(learning_rate=3e-3, max_steps=2, batch_size=2, gradient_accumulation=1)
FEW = Sampling(n=3, temperature=1.0, max_tokens=6)
CREAM = SelfReward("cream", 2, candidates=FEW, training=TRAINING)
SRLM = SelfReward("srlm", 1, candidates=FEW, grades=Sampling(n=2, temperature=1.0, max_tokens=8), training=TRAINING)


class Grader:
    """Writes candidates of its own, and grades a response by how many letters e it has; some grades are unreadable."""

    model = source = "grader@1"
    context = None

    def generate(self, prompts, sampling):
        return [[self.complete(prompt[-1]["content"], i) for i in range(sampling.n)] for prompt in prompts]

    def complete(self, text, i):
        if "BEGIN RESPONSE" not in text:
            words = ("red", "green", "three e's: e e e", "")
            return Completion(words[i % 4], 3, -1.0, "stop" if i else "length")
        response = text.split("<<<BEGIN RESPONSE")[1].split(">>>\n")[1].split("\n<<<END")[0]
        grade = min(response.count("e"), 5)
        return Completion("I cannot say." if i == 1 else f"Because.\nScore: {grade}", 4, -1.0, "stop")

    def choose(self, prompts, choices):
        raise NotImplementedError

    def count_tokens(self, prompts):
        return [sum(len(turn["content"]) for turn in prompt) // 4 for prompt in prompts]


@pytest.fixture
def base_without_template(other_policy_folder, tmp_path):
    """A base as it comes: other weights, the same tokens, no chat template and another end token."""
    policy = load_policy(other_policy_folder)
    policy.tokenizer.chat_template, policy.tokenizer.eos_token = None, "<|im_start|>"
    save_policy(policy.network, policy.tokenizer, tmp_path / "base")
    return tmp_path / "base"


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_score_is_the_mean_of_the_readable_grades(candidates) -> None:
    table = candidates(["red", "green", " ", "green"])
    found = judged(table, Grader(), Sampling(n=3))
    np.testing.assert_array_equal(found.scores, [1, 2, np.nan, 2] * 2)
    assert found.counts["n_samples"] == 12  # two different responses to two prompts, three times
    assert found.counts["n_unparsed"] == 4
    assert found.counts["score_histogram"] == {"0": 0, "1": 2, "2": 4, "3": 0, "4": 0, "5": 0}


def test_responses_that_the_judge_cut_or_could_not_hold_are_counted(candidates) -> None:
    table, grader = candidates(["red", "green " * 400]), Grader()
    grader.context = 400
    found = judged(table, grader, Sampling(n=1, max_tokens=10))
    assert (found.counts["n_judge_cut"], found.counts["n_judge_too_long"]) == (2, 0)
    assert not np.isnan(found.scores).any()
    grader.context = 100
    found = judged(table, grader, Sampling(n=1, max_tokens=10))
    assert (found.counts["n_judge_cut"], found.counts["n_judge_too_long"], found.counts["n_unscored"]) == (0, 4, 4)
    assert judged(candidates([" "]), grader, Sampling()).counts["n_judge_cut"] == 0


def test_the_models_compared_are_the_current_one_and_the_one_before(tmp_path) -> None:
    names = [tmp_path / f"iteration-{i}" / "model" for i in range(4)]
    assert [lineage(tmp_path, CREAM, t) for t in (1, 2, 3, 4)] == [
        names[:1], names[:2], [names[0], *names[1:3]], [names[0], *names[2:4]],
    ]  # fmt: skip
    based = replace(CREAM, base="base")
    assert [lineage(tmp_path, based, t) for t in (1, 2, 3)] == [
        ["base", names[0]], ["base", *names[:2]], ["base", *names[1:3]],
    ]  # fmt: skip


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(DataError, match="method is 'ppo'"):
        SelfReward("ppo")
    with pytest.raises(DataError, match="expected 2 candidates a prompt or more"):
        SelfReward(candidates=Sampling(n=1))
    with pytest.raises(DataError, match="iterations is 0"):
        SelfReward(iterations=0)
    with pytest.raises(DataError, match="temperature is 0, where all candidates are the same"):
        SelfReward(candidates=Sampling(n=2))
    with pytest.raises(DataError, match="base is tiny, which the run starts from"):
        begin(Path("run"), PROMPTS, "tiny", replace(CREAM, base="tiny"))


def test_a_plan_says_what_is_to_be_done_and_writes_nothing(policy_folder, tmp_path) -> None:
    lines = list(plan(PROMPTS, policy_folder, replace(SRLM, iterations=2), tmp_path / "run"))
    assert lines[0] == "srlm: 2 iterations of 4 prompts, 12 candidates, 24 grades"
    assert "to do candidates.parquet, scores.parquet, pairs.parquet, model" in lines[2]
    assert not (tmp_path / "run").exists()


def test_a_plan_knows_the_run_it_finds_and_all_of_its_steps(policy_folder, tmp_path, six_pairs) -> None:
    how = replace(SRLM, new_prompts=2)
    begin(tmp_path, PROMPTS, str(policy_folder), how, decided(six_pairs))  # as a run does: ties say nothing
    (tmp_path / "iteration-1").mkdir()
    (tmp_path / "iteration-1" / "gold.json").touch()
    lines = list(plan(PROMPTS, policy_folder, how, tmp_path, six_pairs))
    assert "done gold.json; to do prompts.parquet, candidates.parquet, scores.parquet" in lines[1]
    with pytest.raises(DataError, match="holds a run with other method"):
        list(plan(PROMPTS, policy_folder, replace(CREAM, new_prompts=2), tmp_path, six_pairs))


@pytest.mark.slow
def test_self_rewarding_trains_on_best_against_worst_and_drops_ties(policy_folder, tmp_path) -> None:
    [row] = self_reward(PROMPTS, policy_folder, SRLM, tmp_path / "run", load=lambda _: Grader())
    pairs = pq.read_table(tmp_path / "run" / "iteration-1" / "pairs.parquet").to_pylist()
    assert {(p["chosen"], p["rejected"]) for p in pairs} == {("three e's: e e e", "red")}
    assert {(p["score_chosen"], p["score_rejected"], p["p_chosen"]) for p in pairs} == {(5.0, 1.0, 1.0)}
    assert {(p["chosen_ended"], p["rejected_ended"]) for p in pairs} == {(True, False)}
    assert (row["n_pairs"], row["tie_rate"], row["n_samples"], row["n_unparsed"]) == (4, 0.0, 24, 12)
    assert row["score_histogram"] == {"0": 0, "1": 4, "2": 4, "3": 0, "4": 0, "5": 4}
    assert (row["chosen_chars"], row["rejected_chars"], row["longer_chosen_share"]) == (16.0, 3.0, 1.0)
    assert row["steps"] == 2
    flat = replace(SRLM, candidates=Sampling(n=2, temperature=1.0))  # "red" and "green", graded 1 and 2
    other = self_reward(PROMPTS, policy_folder, flat, tmp_path / "flat", load=lambda _: Grader())
    assert other[0]["n_pairs"] == 4
    with pytest.raises(DataError, match="4 pairs: equal scores"):
        self_reward(PROMPTS, policy_folder, SRLM, tmp_path / "ties", load=lambda _: Tied())


class Tied(Grader):
    """Gives every response the same grade."""

    def complete(self, text, i):
        if "BEGIN RESPONSE" in text:
            return Completion("Score: 3", 4, -1.0, "stop")
        return super().complete(text, i)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:consistency rate")  # of two random models
def test_cream_labels_pairs_by_how_far_the_policy_before_agrees(policy_folder, other_policy_folder, tmp_path) -> None:
    how = replace(CREAM, iterations=1, base=str(other_policy_folder), candidates=replace(FEW, n=4))
    [row] = self_reward(PROMPTS, policy_folder, how, tmp_path / "run")
    folder = tmp_path / "run" / "iteration-1"
    table = pq.read_table(folder / "candidates.parquet")
    ended = [reason == "stop" for reason in table["finish_reason"].to_pylist()]
    asked = table["prompt"].to_pylist(), table["response"].to_pylist(), ended
    ours, base = (response_log_probs(load_policy(path), *asked) for path in (policy_folder, other_policy_folder))
    j, k = implicit_rewards(ours, base), implicit_rewards(base, None)
    scores = pq.read_table(folder / "scores.parquet")
    kept = ~np.isnan(scores["score"].to_numpy())
    np.testing.assert_allclose(scores["score"].to_numpy()[kept], j[kept])
    np.testing.assert_allclose(scores["score_before"].to_numpy()[kept], k[kept])
    rates = agreement(table, np.where(kept, j, np.nan), k)
    assert row["consistency"] == pytest.approx({kind: rate.mean for kind, rate in rates.items()})
    assert row["q"] == pytest.approx(max(row["consistency"]["kendall"], 0.5))
    for pair in pq.read_table(folder / "pairs.parquet").to_pylist():
        rows = [i for i, name in enumerate(table["prompt_id"].to_pylist()) if name == pair["prompt_id"] and kept[i]]
        assert pair["score_chosen"] == pytest.approx(max(j[i] for i in rows))
        assert pair["score_rejected"] == pytest.approx(min(j[i] for i in rows))


@pytest.mark.slow
def test_without_a_model_before_it_the_first_iteration_is_plain_dpo(policy_folder, tmp_path) -> None:
    first, second = self_reward(PROMPTS, policy_folder, CREAM, tmp_path / "run")
    assert (first["consistency"], first["q"]) == (None, 1.0)
    assert second["consistency"].keys() == {"kendall", "spearman", "top-order"}
    assert second["q"] == pytest.approx(max(second["consistency"]["kendall"], 0.5))


def test_agreement_with_people_is_that_of_the_implicit_rewards(policy_folder, other_policy_folder, six_pairs) -> None:
    gold = decided(six_pairs)
    assert gold.gold.tolist() == [1, 0]  # the tie and the unlabelled pairs say nothing
    found = implicit_agreement(gold, policy_folder, other_policy_folder, "sum")
    prompts, texts = gold.table["prompt"].to_pylist(), [gold.table[f"response_{side}"].to_pylist() for side in "ab"]
    ours, theirs = (load_policy(folder) for folder in (policy_folder, other_policy_folder))
    a, b = (
        implicit_rewards(response_log_probs(ours, prompts, some), response_log_probs(theirs, prompts, some))
        for some in texts
    )
    assert found["accuracy"] == np.mean((a > b) == (gold.gold == 1))
    assert implicit_agreement(gold, policy_folder, policy_folder, "sum")["accuracy"] == 0.5
    with pytest.raises(DataError, match="none of 3 pairs says which"):
        decided(six_pairs.take(np.arange(3, 6)))


def test_policy_and_base_are_asked_about_the_same_tokens_whatever_the_base_has_for_a_template(
    policy_folder, other_policy_folder, base_without_template, six_pairs, tmp_path, candidates
) -> None:
    table = candidates(["red", "blue"], ["stop", "length"])
    run = shutil.copytree(policy_folder, tmp_path / "run" / "iteration-0" / "model").parent.parent
    bases = [str(folder) for folder in (base_without_template, other_policy_folder)]
    bare, templated = (_implicit(table, run, replace(CREAM, base=base), 1) for base in bases)
    np.testing.assert_allclose(bare[0], templated[0], atol=1e-4)
    np.testing.assert_allclose(bare[1], templated[1], atol=1e-4)
    gold = decided(six_pairs)
    assert implicit_agreement(gold, policy_folder, bases[0], "sum") == implicit_agreement(
        gold, policy_folder, bases[1], "sum"
    )


@pytest.mark.parametrize(
    ("prompts", "change", "words"),
    [
        (PROMPTS, {"base": "no/such/base"}, "no/such/base: expected a causal language model"),
        ([*PROMPTS, [{"role": "user", "content": ""}]], {}, "prompt 4 is .* expected turns"),
        ([[{"role": "system", "content": "Hi"}]], {"new_prompts": 1}, "prompt 0 has no user turn with a text"),
        ([], {}, "there are no prompts"),
        (PROMPTS, {"candidates": replace(FEW, max_tokens=600)}, "holds 512 tokens, too few .* ask for shorter answers"),
        (PROMPTS, {"candidates": replace(FEW, max_tokens=512), "new_prompts": 2}, "holds 512 tokens, too few"),
    ],
)
def test_what_a_run_would_fail_on_later_is_told_before_it_writes_anything(
    policy_folder, tmp_path, prompts, change, words
) -> None:
    for run in (self_reward, lambda *given: list(plan(*given))):
        with pytest.raises(DataError, match=words):
            run(prompts, policy_folder, replace(CREAM, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_that_holds_fewer_tokens_than_are_asked_for_is_told_before_it_writes(policy_folder, tmp_path) -> None:
    base = shutil.copytree(policy_folder, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))
    with pytest.raises(DataError, match=r"base holds 8 tokens, too few .* ask for shorter answers"):
        self_reward(PROMPTS, policy_folder, replace(CREAM, base=str(base)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gold_that_the_model_does_not_hold_is_told_before_it_writes(policy_folder, six_pairs, tmp_path) -> None:
    held = policy_context(policy_folder)
    prompt = [{"role": "user", "content": "long " * held}]
    table = six_pairs.table.set_column(six_pairs.table.schema.get_field_index("prompt"), "prompt", pa.array([
        prompt if i == 0 else turns for i, turns in enumerate(six_pairs.table["prompt"].to_pylist())
    ], six_pairs.table.schema.field("prompt").type))  # fmt: skip
    long = replace(six_pairs, table=table)
    with pytest.raises(DataError, match=rf"1 of 2 gold pairs are longer than the {held:,} tokens .* leave them out"):
        self_reward(PROMPTS, policy_folder, CREAM, tmp_path / "run", gold=long)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_none_is_told_before_anything_is_written(tmp_path) -> None:
    for run in (self_reward, lambda *given: list(plan(*given))):
        with pytest.raises(DataError, match="no/such/model: expected a causal language model"):
            run(PROMPTS, "no/such/model", CREAM, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_of_another_vocabulary_is_refused_before_anything_is_written(
    policy_folder, base_without_template, tmp_path
) -> None:
    check_vocabulary(base_without_template, policy_folder)
    policy = load_policy(policy_folder)
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    policy.network.resize_token_embeddings(len(policy.tokenizer))
    save_policy(policy.network, policy.tokenizer, tmp_path / "tuned")
    how = replace(CREAM, base=str(base_without_template))
    with pytest.raises(DataError, match=r"lacks 1 of 259 tokens .*'<\|tool\|>' for instance; .* or leave base out"):
        self_reward(PROMPTS, tmp_path / "tuned", how, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_agreement_of_grades_with_people_is_measured_by_prompt(make_pairs) -> None:
    rows = [(PROMPTS[0], "green eel", "red"), (PROMPTS[1], "red", "green")]
    found = judge_agreement(make_pairs(rows, [1.0, 1.0]), Grader(), Sampling(n=3))
    assert (found["n"], found["accuracy"], found["exact_match_share"]) == (2, 0.5, 0.5)
    assert (found["kendall"], found["n_prompts"]) == (0.0, 2)


@pytest.mark.slow
def test_the_ledger_says_how_far_the_labelling_policy_agrees_with_people(policy_folder, six_pairs, tmp_path) -> None:
    [row] = self_reward(PROMPTS, policy_folder, replace(CREAM, iterations=1), tmp_path / "run", gold=six_pairs)
    assert row["gold"] == implicit_agreement(decided(six_pairs), policy_folder, None, CREAM.over)
    with pytest.raises(DataError, match="holds a run with other gold"):
        self_reward(PROMPTS, policy_folder, replace(CREAM, iterations=1), tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_files(policy_folder, tmp_path) -> None:
    code = (
        "import sys; from tests.augment.test_self_reward import PROMPTS, CREAM, self_reward; "
        "self_reward(PROMPTS, sys.argv[1], CREAM, sys.argv[2], say=lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", code, str(policy_folder)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    options = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    for step in ("1 of 2: candidates", "1 of 2: model", "2 of 2: scores", "2 of 2: model"):
        with subprocess.Popen([*command, str(tmp_path / "killed")], **options) as run:
            for line in run.stdout:
                if line.startswith(f"iteration {step}"):
                    time.sleep(0.05)
                    run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    said: list[str] = []
    self_reward(PROMPTS, policy_folder, CREAM, tmp_path / "killed", say=said.append)
    assert said == ["iteration 2 of 2: model"]
    self_reward(PROMPTS, policy_folder, CREAM, tmp_path / "straight")
    assert digests(tmp_path / "killed") == digests(tmp_path / "straight")


@pytest.mark.slow
def test_a_folder_with_another_run_is_refused_and_a_finished_one_does_nothing(policy_folder, tmp_path) -> None:
    how = replace(CREAM, iterations=1)
    ledger = self_reward(PROMPTS, policy_folder, how, tmp_path / "run")
    said: list[str] = []
    assert self_reward(PROMPTS, policy_folder, how, tmp_path / "run", say=said.append) == ledger
    assert said == []
    assert [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()] == ledger
    with pytest.raises(DataError, match="holds a run with other prompts and n_prompts"):
        self_reward(PROMPTS[:2], policy_folder, how, tmp_path / "run")
    write_ledger = (tmp_path / "run" / "ledger.jsonl").write_text
    write_ledger("".join(f"{json.dumps(row)}\n" for row in ledger * 2))
    with pytest.raises(DataError, match="holds 2 finished iterations; expected iterations 2 or more"):
        self_reward(PROMPTS, policy_folder, how, tmp_path / "run")
    with pytest.raises(DataError, match="holds a run with other over"):
        self_reward(PROMPTS, policy_folder, replace(how, over="mean"), tmp_path / "run")
