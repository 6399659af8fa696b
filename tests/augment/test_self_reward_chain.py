"""Self-rewarding as a chain: which model writes, grades and is trained in each iteration; which run a folder holds."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from augment.dpo import PolicyConfig, Trained
from augment.generate import RUN
from augment.implicit_rewards import ResponseLogProbs
from augment.models import CHUNKS
from augment.policies import load_policy
from augment.self_reward import SelfReward, begin, one_engine, plan, policy_of, self_reward
from labeling.errors import DataError, WeakprefWarning
from labeling.files import replacing
from labeling.llm import Completion, Sampling
from labeling.parts import stamped
from labeling.vllm_engine import VLLMEngine

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(4)]
HOW = SelfReward("srlm", 2, candidates=Sampling(n=2, temperature=1.0), grades=Sampling(n=1, temperature=1.0), seed=5)


class Model:
    """Writes prompts, answers and grades, and notes who was asked for what, with which seed."""

    context = None

    def __init__(self, folder, asked):
        self.model = self.source = folder.parent.name
        self.asked = asked

    def generate(self, prompts, sampling):
        kind = {"Below are": "prompts"}.get(prompts[0][0]["content"][:9], "answers")
        kind = "grades" if "BEGIN RESPONSE" in prompts[0][-1]["content"] else kind
        self.asked.append((self.model, kind, sampling.seed))
        return [[self.complete(kind, prompt, i, sampling) for i in range(sampling.n)] for prompt in prompts]

    def complete(self, kind, prompt, i, sampling):
        letters = [f"{letter}{sampling.seed}" for letter in "abcdefg"]
        texts = {
            "prompts": f"Task 1: {' '.join(letters)}\nTask 2: Draw a picture of a cat.",
            "answers": ("good", "bad")[i],
            "grades": "Score: 5" if ">>>\ngood" in prompt[-1]["content"] else "Score: 1",
        }
        return Completion(texts[kind], 3, -1.0, "stop")

    def count_tokens(self, prompts):
        return [1 for _ in prompts]


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Run self-rewarding with models that are made up; return its ledger, who was asked, and who was trained from."""

    def run(how, load=Model):
        asked, started, configs = [], [], []

        def train(start, pairs, config, out, *, note):
            started.append(start.parent.name)
            configs.append(config)
            with replacing(out) as part:
                part.mkdir()
                note(Trained(out, 1, len(pairs), 0, []), part)

        monkeypatch.setattr("augment.self_training.train_dpo", train)
        (tmp_path / "run" / "iteration-0" / "model").mkdir(parents=True)
        ledger = self_reward(PROMPTS, "m", how, tmp_path / "run", load=lambda folder: load(folder, asked))
        return ledger, asked, started, configs

    return run


def test_a_run_starts_from_float32_whatever_its_weights_are_kept_in(policy_folder, tmp_path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr("augment.self_reward.save_as_folder", lambda *given: saved.append(given))
    monkeypatch.setattr("augment.self_iteration.run_iteration", lambda *given: {"n_pairs": 1, "stopped": None})
    how = replace(HOW, iterations=1, training=PolicyConfig(weights="bfloat16", lora_rank=2))
    self_reward(PROMPTS, str(policy_folder), how, tmp_path / "run")
    assert [dtype for *_, dtype in saved] == ["float32"]


def test_each_iteration_is_written_graded_and_trained_by_the_model_of_the_one_before(chain, tmp_path) -> None:
    _, asked, started, configs = chain(HOW)
    assert [config.seed for config in configs] == [6, 7]
    assert started == ["iteration-0", "iteration-1"]
    assert asked == [
        ("iteration-0", "answers", 6), ("iteration-0", "grades", 6),
        ("iteration-1", "answers", 7), ("iteration-1", "grades", 7),
    ]  # fmt: skip
    for iteration in (1, 2):
        table = pq.read_table(tmp_path / "run" / f"iteration-{iteration}" / "candidates.parquet")
        assert set(table["model"].to_pylist()) == {f"iteration-{iteration - 1}"}


@pytest.mark.parametrize("per_prompt", [False, True])
def test_a_run_ends_where_consistency_is_no_better_than_chance(chain, monkeypatch, tmp_path, per_prompt) -> None:
    """Trained at q = 0.5 the policy would stay as it is, agree with itself next time, and be believed."""

    def contrary(models, table):
        """Every policy but the first thinks the opposite of the one before it."""
        good = np.array([text == "good" for text in table["response"].to_pylist()])
        depth = [int(str(model.parent.name)[-1]) for model in models]
        return [
            ResponseLogProbs(np.where(good == (i % 2 == 0), -1.0, -2.0) * (i + 1), np.ones(len(good))) for i in depth
        ]

    monkeypatch.setattr("augment.self_iteration._log_probs", contrary)
    how = SelfReward("cream", 4, candidates=HOW.candidates, per_prompt=per_prompt)
    with pytest.warns(WeakprefWarning, match=r"below 0\.5"):
        ledger, _, started, _ = chain(how)
    run = tmp_path / "run"
    assert [row["stopped"] for row in ledger] == [None, "no consistency above chance"]
    assert [row["q"] for row in ledger] == [1.0, 0.5]
    assert started == ["iteration-0"]
    assert policy_of(run, ledger) == run / "iteration-1" / "model"
    assert not (run / "iteration-2" / "model").exists()
    assert [line.split(": ")[1] for line in plan(PROMPTS, "m", how, run)][
        -1
    ] == "its pairs teach nothing, which ends the run"
    assert self_reward(PROMPTS, "m", how, run, load=lambda folder: Model(folder, [])) == ledger


class Small(Model):
    """Holds 2,000 tokens, prompt and answer together; the prompt of colour i has 1,990 + i of them."""

    context = 2_000

    def count_tokens(self, prompts):
        colours = [re.search(r"^Name colour (\d)", prompt[-1]["content"]) for prompt in prompts]
        return [1_990 + int(colour[1]) if colour else 1 for colour in colours]


def test_prompts_that_leave_the_model_no_room_are_left_out_of_every_iteration(chain, tmp_path) -> None:
    how = replace(HOW, candidates=replace(HOW.candidates, max_tokens=8))
    with pytest.warns(WeakprefWarning, match="1 of 4 prompts are too long for iteration-.*, 8 of them asked"):
        ledger, *_ = chain(how, Small)
    assert [row["n_prompts"] for row in ledger] == [3, 3]
    again = self_reward(PROMPTS, "m", how, tmp_path / "run", load=lambda folder: Small(folder, []))
    for row in (*ledger, *again):  # gone on with or not
        assert (row["n_prompts_left_out"], row["n_judge_cut"], row["n_judge_too_long"], row["n_clamped"]) == (
            1,
            0,
            0,
            0,
        )
    assert [row["n_empty"] for row in ledger] == [0, 0]


def test_a_run_none_of_whose_prompts_leaves_the_model_room_ends_there(chain) -> None:
    how = replace(HOW, candidates=replace(HOW.candidates, max_tokens=11))
    with pytest.raises(DataError, match=r"4 of 4 prompts are too long .* ask for shorter answers"):
        chain(how, Small)


class Tied(Model):
    """Gives every response of the second iteration the same grade."""

    def complete(self, kind, prompt, i, sampling):
        found = super().complete(kind, prompt, i, sampling)
        tied = kind == "grades" and self.model == "iteration-1"
        return replace(found, text="Score: 3") if tied else found


def test_an_iteration_whose_scores_all_tie_is_in_the_ledger_before_it_ends_the_run_time_and_again(
    chain, tmp_path
) -> None:
    run, said = tmp_path / "run", r"iteration-2: no pair could be made of 8 candidates \(4 pairs: equal scores\)"
    with pytest.raises(DataError, match=said):
        chain(HOW, Tied)
    ledger = (run / "ledger.jsonl").read_text()
    first, second = map(json.loads, ledger.splitlines())
    assert (first["n_pairs"], first["tie_rate"], first["steps"]) == (4, 0.0, 1)
    assert (second["n_pairs"], second["tie_rate"], second["chosen_chars"], second["q"]) == (0, 1.0, None, None)
    assert second["score_histogram"] == {"0": 0, "1": 0, "2": 0, "3": 8, "4": 0, "5": 0}
    assert second["left_out"] == {"pairs: equal scores": 4}
    for _ in range(2):
        with pytest.raises(DataError, match=said):
            self_reward(PROMPTS, "m", HOW, run, load=lambda folder: Tied(folder, []))
        assert (run / "ledger.jsonl").read_text() == ledger
    assert not (run / "iteration-2" / "model").exists()


def test_an_iteration_without_two_different_answers_to_a_prompt_is_in_the_ledger(chain, tmp_path) -> None:
    class Same(Model):
        def complete(self, kind, prompt, i, sampling):
            return super().complete(kind, prompt, 0, sampling)

    with pytest.raises(DataError, match=r"no pair .* \(4 candidates: same response, 4 prompts: under two candidates"):
        chain(HOW, Same)
    [row] = map(json.loads, (tmp_path / "run" / "ledger.jsonl").read_text().splitlines())
    assert (row["n_pairs"], row["tie_rate"], row["left_out"]["candidates: same response"]) == (0, None, 4)


def test_new_prompts_come_from_the_starting_model_others_each_time_and_what_was_left_out_is_told(
    chain, tmp_path
) -> None:
    ledger, asked, *_ = chain(replace(HOW, new_prompts=1))
    assert [(model, seed) for model, kind, seed in asked if kind == "prompts"] == [
        ("iteration-0", 1_005), ("iteration-0", 2_005),
    ]  # fmt: skip
    assert [model for model, kind, _ in asked if kind == "answers"] == ["iteration-0", "iteration-1"]
    for iteration, row in enumerate(ledger, start=1):
        folder = tmp_path / "run" / f"iteration-{iteration}"
        [prompt] = {turns[0]["content"] for turns in pq.read_table(folder / "candidates.parquet")["prompt"].to_pylist()}
        assert prompt.startswith(f"a{iteration}005 b{iteration}005")
        assert row["new_prompts"] == json.loads((folder / "prompts.json").read_text())["new_prompts"]
        assert row["new_prompts"]["n"] == 1
        assert row["new_prompts"]["left_out"] == {"enough were found before": 31}


def test_new_prompts_are_none_of_an_earlier_iteration(chain, tmp_path) -> None:
    class Repeats(Model):
        def complete(self, kind, prompt, i, sampling):
            found = super().complete(kind, prompt, i, sampling)
            return replace(found, text=f"Task 1: Name seven long rivers.\n{found.text}") if kind == "prompts" else found

    chain(replace(HOW, new_prompts=1), Repeats)
    found = [tmp_path / "run" / f"iteration-{n}" / "prompts.parquet" for n in (1, 2)]
    [[[first]], [[second]]] = [pq.read_table(path)["prompt"].to_pylist() for path in found]
    assert first["content"] == "Name seven long rivers."
    assert second["content"].startswith("a2005")


def test_what_a_killed_run_had_half_written_is_deleted(chain, tmp_path) -> None:
    (tmp_path / "run" / "iteration-0" / ".model.9.part").mkdir(parents=True)
    (tmp_path / "run" / ".ledger.jsonl.9.part").touch()
    (tmp_path / "run" / "iteration-1").mkdir()
    (tmp_path / "run" / "iteration-1" / ".model.9.part").mkdir()
    chain(replace(HOW, iterations=1))
    assert not list((tmp_path / "run").rglob("*.part"))


def test_a_run_killed_before_it_deleted_the_parts_of_its_candidates_deletes_them(chain, tmp_path) -> None:
    chain(replace(HOW, iterations=1))
    folder = tmp_path / "run" / "iteration-1"
    (folder / "candidates.parquet.parts").mkdir()
    (folder / "candidates.parquet.parts" / "000000.parquet").touch()
    self_reward(PROMPTS, "m", replace(HOW, iterations=1), tmp_path / "run", load=lambda folder: Model(folder, []))
    assert not (folder / "candidates.parquet.parts").exists()


def test_a_run_goes_on_with_the_engine_and_the_dtype_it_began_with_alone(chain, tmp_path) -> None:
    def load(dtype):
        def loaded(folder):
            model = Model(folder, [])
            model.model += f" ({dtype})"
            return model

        return loaded

    chain(replace(HOW, iterations=1), lambda folder, _: load("float32")(folder))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["engine"] == "Model (float32)"
    for other, here in ((load("bfloat16"), r"Model \(bfloat16\)"), (lambda _: served(None), "Served")):
        with pytest.raises(DataError, match=rf"of the engine Model \(float32\), and this is {here}; expected one"):
            self_reward(PROMPTS, "m", HOW, tmp_path / "run", load=other)
    ledger = self_reward(PROMPTS, "m", HOW, tmp_path / "run", load=load("float32"))
    assert len(ledger) == 2


def test_another_engine_may_begin_where_the_first_has_answered_nothing(tmp_path) -> None:
    begin(tmp_path, PROMPTS, "m", HOW)
    for engine in (Model(tmp_path, []), served(None)):
        one_engine(tmp_path, lambda _, engine=engine: engine)(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["engine"] == "Served"


@dataclass(frozen=True, eq=False)
class Served(VLLMEngine):
    """The same by way of vLLM."""

    writer: Model | None = None
    context = None

    def generate(self, prompts, sampling):
        return self.writer.generate(prompts, sampling)

    def count_tokens(self, prompts):
        return self.writer.count_tokens(prompts)


def served(writer, end=lambda: None):
    core = SimpleNamespace(shutdown=lambda timeout: end())
    return Served(SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core)), "m", writer=writer)


def test_vllm_is_ended_after_every_step_before_the_next_begins(chain, monkeypatch, tmp_path) -> None:
    running, free = [], []

    def load(folder, asked):
        assert not running
        running.append(folder)
        return served(Model(folder, asked), running.clear)

    monkeypatch.setattr("torch.cuda.empty_cache", lambda: free.append(list(running)))
    chain(replace(HOW, new_prompts=1), load)
    assert free == [[]] * 8  # four steps of two iterations
    assert stamped(tmp_path / "run" / "iteration-1" / "candidates.parquet", RUN)["chunk"] == CHUNKS["vllm"]


def test_the_learning_rate_of_srlm_falls_to_a_tenth_as_in_the_paper_unless_another_is_named(chain) -> None:
    *_, configs = chain(replace(HOW, training=PolicyConfig(learning_rate=1e-6)))
    assert [config.final_learning_rate for config in configs] == pytest.approx([1e-7, 1e-7])
    named = replace(HOW, training=PolicyConfig(final_learning_rate=0.0))
    assert named.training_of(1).final_learning_rate == 0
    assert SelfReward("cream").training_of(1).final_learning_rate is None


@pytest.mark.slow
def test_the_second_iteration_starts_where_the_first_ended_with_itself_as_the_reference(
    policy_folder, tmp_path
) -> None:
    training = PolicyConfig(learning_rate=3e-3, max_steps=2, batch_size=2, gradient_accumulation=1)
    drawn = Sampling(n=2, temperature=1.0, max_tokens=6)
    how = SelfReward("cream", 2, candidates=drawn, training=training, seed=3)
    _, second = self_reward(PROMPTS, policy_folder, how, tmp_path / "run")
    assert second["q"] > 0.5  # at 0.5 there is no gradient, and the model would be the one before
    written = pq.read_table(tmp_path / "run" / "iteration-2" / "candidates.parquet")["model"].to_pylist()
    models = [load_policy(tmp_path / "run" / f"iteration-{i}" / "model").model for i in range(3)]
    assert len(set(models)) == 3
    assert set(written) == {models[1]}
    assert second["training"]["first"]["rewards/margins"] == pytest.approx(0, abs=1e-5)


def weights(folder, content):
    """A folder that holds no more of a model than the name of its file."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def begin_and_answer(run, model, how):
    """Begin a run, and have it answer a prompt: from then on its folder is its own."""
    begin(run, PROMPTS, model, how)
    (run / "iteration-1" / "candidates.parquet.parts").mkdir(parents=True)
    (run / "iteration-1" / "candidates.parquet.parts" / "000000.parquet").touch()


def test_a_folder_in_which_nothing_was_answered_is_taken_over_by_any_run(tmp_path) -> None:
    run = tmp_path / "run"
    begin(run, PROMPTS, "mine/model", SelfReward())
    start, parts = run / "iteration-0" / "model", run / "iteration-1" / "candidates.parquet.parts"
    for folder in (start, parts):
        folder.mkdir(parents=True)
        (folder / "run.json").touch()
    begin(run, PROMPTS, "mine/model", SelfReward(iterations=3))
    assert start.is_dir()
    begin(run, PROMPTS, "yours/model", SelfReward())
    assert json.loads((run / "run.json").read_text())["model"] == "yours/model"
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_a_run_knows_its_models_by_what_is_in_them_not_by_the_names_of_folders(tmp_path) -> None:
    ours, other = weights(tmp_path / "a" / "model", b"one"), weights(tmp_path / "b" / "model", b"two")
    begin_and_answer(tmp_path / "run", str(ours), SelfReward())
    begin(tmp_path / "run", PROMPTS, str(shutil.copytree(ours, tmp_path / "moved")), SelfReward())
    with pytest.raises(DataError, match=r"a run with other model \(model is \w{12} there and \w{12} here\)"):
        begin(tmp_path / "run", PROMPTS, str(other), SelfReward())
    based = SelfReward("cream", base=str(other))
    begin_and_answer(tmp_path / "cream", str(ours), based)
    third = weights(tmp_path / "c" / "model", b"three")
    with pytest.raises(DataError, match="holds a run with other base"):
        begin(tmp_path / "cream", PROMPTS, str(ours), replace(based, base=str(third)))
    with pytest.raises(DataError, match="which the run starts from"):
        begin(tmp_path / "cream", PROMPTS, str(ours), replace(based, base=str(tmp_path / "moved")))


def test_models_on_the_hub_are_known_by_their_whole_name(tmp_path) -> None:
    begin_and_answer(tmp_path / "run", "mine/model", SelfReward())
    with pytest.raises(DataError, match=r"model is mine/model there and yours/model here"):
        begin(tmp_path / "run", PROMPTS, "yours/model", SelfReward())


def test_a_run_of_other_settings_says_which_and_what_they_were(tmp_path) -> None:
    begin_and_answer(tmp_path / "run", "m", SelfReward())
    changed = SelfReward(iterations=3, training=PolicyConfig(beta=0.2))
    with pytest.raises(DataError, match=r"other training\.beta \(training\.beta is 0\.1 there and 0\.2 here\)"):
        begin(tmp_path / "run", PROMPTS, "m", changed)
    begin(tmp_path / "run", PROMPTS, "m", SelfReward(iterations=3))
