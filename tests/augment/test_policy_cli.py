"""The commands about policies, on a tiny policy; and once on SmolLM2."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment import export
from augment.cli import main
from augment.generate import generate
from augment.policies import load_policy
from augment.policy_commands import SelfRewardOptions, alignment_prompts
from augment.self_reward import CANDIDATES, GRADES
from labeling.errors import DataError
from labeling.llm import Completion, Sampling
from labeling.pairs import MESSAGES, Pairs
from labeling.vllm_engine import VLLMEngine

TINY = ["--learning-rate", "1e-3", "--max-steps", "2", "--batch-size", "2", "--gradient-accumulation", "1"]


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": [f"Name colour {i}." for i in range(3)]}), path)
    return path


@dataclass(frozen=True, eq=False)
class Served(VLLMEngine):
    """Answers as if by way of vLLM."""

    context = None

    def generate(self, prompts, sampling):
        return [[Completion(f"Red {i}.", 2, -1.0, "stop") for i in range(sampling.n)] for _ in prompts]


@pytest.fixture
def augmented(six_pairs: Pairs, tmp_path):
    return export(tmp_path / "augmented", six_pairs, [0.9, 0.1, 0.5, 0.8, 0.3, 0.6])


def test_a_method_brings_the_settings_of_its_paper() -> None:
    from augment.dpo import PolicyConfig

    for method in ("srlm", "cream"):
        how = SelfRewardOptions(method=method).settings(PolicyConfig(seed=4))
        assert (how.candidates, how.grades, how.seed) == (CANDIDATES[method], GRADES, 4)
    changed = SelfRewardOptions(method="cream", n=3, temperature=0.5).settings(PolicyConfig())
    assert (changed.candidates.n, changed.candidates.temperature, changed.candidates.top_p) == (3, 0.5, 0.95)


def test_a_dry_run_says_what_would_be_done(prompts, policy_folder, tmp_path, capsys) -> None:
    given = ("self-reward", prompts, "-o", tmp_path / "run", "--model", policy_folder, "--dry-run")
    assert run(*given) == 2  # it holds 512 tokens, all of which the answer would take
    assert "ask for shorter answers" in capsys.readouterr().err
    assert run(*given, "--max-tokens", "100") == 0
    assert "srlm: 2 iterations of 3 prompts, 12 candidates, 36 grades" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_prompts_to_align_on_come_from_pairs_or_from_prompts(augmented, prompts) -> None:
    found = alignment_prompts(str(augmented))
    assert len(found) == 6
    assert {turns[0]["content"] for turns in found} >= {"Be brief.", "Question 0 about colours?"}
    assert alignment_prompts(str(prompts))[0] == [{"role": "user", "content": "Name colour 0."}]
    twice = prompts.with_name("twice.parquet")
    pq.write_table(pa.table({"prompt": ["Hi", "Hi", "Ho"]}), twice)
    assert [turns[0]["content"] for turns in alignment_prompts(str(twice))] == ["Hi", "Ho"]
    pq.write_table(pa.table({"prompt": ["Hi", " "]}), twice)
    with pytest.raises(DataError, match=r"prompt 1 is .* with texts that are not blank"):
        alignment_prompts(str(twice))


def test_conversations_that_hold_the_answer_are_no_prompts(augmented, tmp_path) -> None:
    asked, answered = ({"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello")))
    both = tmp_path / "both.parquet"
    pq.write_table(pa.table({"prompt": ["Hi"], "messages": [[asked, answered]]}), both)
    assert alignment_prompts(str(both)) == [[asked]]
    for messages in ([asked, answered], None, []):
        pq.write_table(pa.table({"messages": pa.array([[asked], messages], MESSAGES)}), both)
        with pytest.raises(DataError, match=r"prompt 1 is .* the last of the user"):
            alignment_prompts(str(both))


def test_best_of_n_names_a_missing_reward_model_before_it_asks_and_ends_vllm_before_it_scores(
    prompts, tmp_path, monkeypatch, capsys
) -> None:
    ended = []
    engine = Served(SimpleNamespace(llm_engine=None), "m")
    monkeypatch.setattr(VLLMEngine, "close", lambda _: ended.append(True))
    monkeypatch.setattr("augment.models.ModelOptions.load", lambda _: engine)
    common = ("best-of-n", prompts, "-o", tmp_path / "best.parquet", "-n", 2, "--model", "m", "--engine", "vllm")
    assert run(*common, "--rm", tmp_path / "rm") == 2
    assert f"{tmp_path / 'rm'} does not exist" in capsys.readouterr().err
    assert not ended

    def load(folders):
        assert ended
        raise DataError("loaded then")

    monkeypatch.setattr("augment.policy_commands.Ensemble.load", load)
    monkeypatch.setattr("rm.model.check_reward_model", lambda _: None)
    assert run(*common, "--rm", tmp_path) == 2
    assert "loaded then" in capsys.readouterr().err


def test_what_does_not_belong_together_is_refused(augmented, policy_folder, tmp_path, capsys) -> None:
    common = ("align", augmented, "-o", tmp_path / "out", "--model", policy_folder)
    assert run(*common, "--method", "grpo") == 2
    assert "name one or more by --rm" in capsys.readouterr().err
    assert run(*common, "--rm", tmp_path) == 2
    assert "dpo learns from labels" in capsys.readouterr().err
    assert run("self-reward", augmented, "-o", tmp_path / "run") == 2
    assert "which model?" in capsys.readouterr().err
    vllm = ("self-reward", augmented, "-o", tmp_path / "run", "--model", policy_folder, "--engine", "vllm")
    assert run(*vllm, "--adapter", tmp_path) == 2
    assert "training would not see it; merge it into the model first" in capsys.readouterr().err


@pytest.mark.slow
def test_each_command_writes_what_it_says(augmented, prompts, policy_folder, rm_folders, tmp_path, capsys) -> None:
    few = ("-n", 2, "--max-tokens", 4)
    cream = ("--method", "cream", "--iterations", 1, "--temperature", 1, "--top-p", 1)
    assert run("self-reward", prompts, "-o", tmp_path / "run", "--model", policy_folder, *cream, *few, *TINY) == 0
    assert (tmp_path / "run" / "iteration-1" / "model" / "model.safetensors").is_file()
    assert re.search(r"iteration 1: \d pairs of 3 prompts, q 1.000", capsys.readouterr().out)
    out = tmp_path / "dpo"
    assert run("align", augmented, "-o", out, "--model", policy_folder, *TINY, "--lora-rank", 2) == 0
    assert "2 steps on 5 pairs" in capsys.readouterr().out
    rl = ("--method", "rloo", "--rm", rm_folders[0], "--rm", rm_folders[1], "--uncertainty-penalty", 0.1, "--beta", 0)
    assert run("align", prompts, "-o", tmp_path / "rl", "--model", policy_folder, *rl, *few, *TINY) == 0
    assert json.loads((tmp_path / "rl" / "manifest.json").read_text())["penalties"]["uncertainty_penalty"] == 0.1
    best = tmp_path / "best.parquet"
    assert run("best-of-n", prompts, "-o", best, "--rm", rm_folders[0], "--model", policy_folder, *few) == 0
    assert pq.read_table(best)["n"].to_pylist() == [2, 2, 2]
    assert re.search(r"best of 2: reward \S+ \[\S+, \S+\], \+\S+ \[\S+, \S+\] to one, KL", capsys.readouterr().out)
    assert (tmp_path / "best.parquet.manifest.json").is_file()
    assert run("best-of-n", tmp_path / "best.candidates.parquet", "-o", best, "--rm", rm_folders[0], "-n", 3) == 2
    assert "a prompt has 2 candidates; expected 3" in capsys.readouterr().err
    assert run("best-of-n", prompts, "-o", best, "--rm", rm_folders[0], "--model", policy_folder, *few) == 2
    assert "best.candidates.parquet exists, where answers would be written" in capsys.readouterr().err


@pytest.mark.slow
def test_best_of_n_of_a_file_of_candidates_needs_no_model(prompts, policy_folder, rm_folders, tmp_path, capsys) -> None:
    asked = [[{"role": "user", "content": "Hi"}]]
    generate(asked, load_policy(policy_folder), tmp_path / "c.parquet", Sampling(n=3, temperature=1.0, max_tokens=4))
    assert run("best-of-n", tmp_path / "c.parquet", "-o", tmp_path / "b.parquet", "--rm", rm_folders[0], "-n", 3) == 0
    said = capsys.readouterr().out
    rewards = [float(value) for value in re.findall(r"best of \d: reward (-?\d+\.\d+)", said)]
    assert re.search(r"best of 3: reward \S+, \+\d\.\d+ to one, KL at most \d", said)  # one prompt: no interval
    again = ("best-of-n", tmp_path / "c.parquet", "-o", tmp_path / "b.parquet", "--rm", rm_folders[0], "-n", 3)
    assert run(*again, "--model", policy_folder, "--temperature", 0.5, "--seed", 1) == 2
    assert "holds answers already, so --model, --temperature, --seed would do nothing" in capsys.readouterr().err
    assert rewards == sorted(rewards)
    assert len(rewards) == 3
