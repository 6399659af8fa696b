"""Options of the commands about policies that do not belong together, or cannot work."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment import export
from augment.align import Exploring, align_with_rewards
from augment.cli import main
from augment.dpo import PolicyConfig
from augment.self_reward import SelfReward
from labeling.errors import DataError

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(4)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["-n", "8"], "-n"),
        (["--temperature", "0.5"], "--temperature"),
        (["--max-tokens", "9", "--length-penalty", "1"], "--max-tokens, --length-penalty"),
        (["--rm", "rm"], "--rm"),
    ],
)
def test_dpo_refuses_options_of_methods_that_draw_responses(six_pairs, tmp_path, fails, options, named) -> None:
    data = export(tmp_path / "augmented", six_pairs, [0.9, 0.1, 0.5, 0.8, 0.3, 0.6])
    said = fails("align", data, "-o", tmp_path / "out", "--model", "m", *options)
    assert f"dpo learns from labels: {named} belong to grpo and rloo; leave them out" in said


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("srlm", ["--rate", "spearman", "--per-prompt"], "--rate, --per-prompt: of --method cream, not srlm"),
        ("srlm", ["--base", "b"], "--base: of --method cream, not srlm"),
        ("cream", ["--grades", "0"], "--grades: of --method srlm, not cream"),
        ("cream", ["--grade-tokens", "9"], "--grade-tokens: of --method srlm, not cream"),
        ("srlm", ["--grades", "0", "--grade-tokens", "50"], "--grade-tokens: no graded answer is drawn"),
        ("srlm", ["--grades", "-1"], "--grades is -1; expected 0 or more"),
    ],
)
def test_self_reward_refuses_options_that_do_nothing_and_grades_below_0(
    six_pairs, tmp_path, fails, method, options, said
) -> None:
    command = ("self-reward", tmp_path / "p.parquet", "-o", tmp_path / "run", "--model", "m", "--method", method)
    assert said in fails(*command, *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("srlm", {"base": "b", "per_prompt": True}, "base, per_prompt: of method cream, not srlm; leave it out"),
        ("srlm", {"rate": "spearman", "over": "mean"}, "rate, over: of method cream, not srlm"),
        ("cream", {"grades": None}, "grades: of method srlm, not cream"),
    ],
)
def test_settings_of_the_other_method_are_refused_from_python_too(method, settings, said) -> None:
    with pytest.raises(DataError, match=said):
        SelfReward(method, **settings)


@pytest.mark.parametrize(
    ("command", "options"), [("eft", ("--samples", "0")), ("best-of-n", ("--rm", "rm", "-n", "0"))]
)
def test_no_sample_is_refused_before_a_model_is_loaded(tmp_path, fails, command, options) -> None:
    found = fails(command, tmp_path / "p.parquet", "-o", tmp_path / "out", "--model", "m", *options)
    assert "n is 0 and max_tokens" in found


def test_responses_that_fill_a_conversation_are_refused_before_a_model_is_loaded(tmp_path) -> None:
    with pytest.raises(DataError, match="max_tokens 2048 of a response leaves a prompt no room in max_length 1024"):
        align_with_rewards(PROMPTS, "m", ["rm"], PolicyConfig(), tmp_path / "out", exploring=Exploring(max_tokens=2048))


def test_prompts_that_are_all_too_long_are_an_error_with_a_way_out(policy_folder, tmp_path) -> None:
    config, exploring = PolicyConfig(max_length=16), Exploring(max_tokens=8)
    with pytest.raises(DataError, match=r"expected 8 tokens or fewer .*: raise max_length, or lower max_tokens"):
        align_with_rewards(PROMPTS, policy_folder, ["rm"], config, tmp_path / "out", exploring=exploring)


def test_the_help_of_self_reward_says_which_engines_it_takes(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        raise SystemExit(main(["self-reward", "--help"]))
    assert "--engine is transformers or vllm here" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["self-reward", "best-of-n", "eft", "judge"])
def test_the_help_says_where_a_model_runs(command, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        raise SystemExit(main([command, "--help"]))
    assert "default: cpu; self-reward, best-of-n, eft: cuda if there is one" in capsys.readouterr().out


@pytest.mark.parametrize("command", [("best-of-n",), ("align", "--model", "m", "--method", "grpo")])
def test_a_file_that_only_looks_like_parquet_is_named(tmp_path, fails, command) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 and no more")
    said = fails(*command, path, "-o", tmp_path / "out.parquet", "--rm", tmp_path / "rm")
    assert f"{path} is not a readable Parquet file" in said
    missing = fails(*command, tmp_path / "no.parquet", "-o", tmp_path / "out.parquet", "--rm", tmp_path / "rm")
    assert f"{tmp_path / 'no.parquet'} is not a readable Parquet file" in missing


def test_options_of_a_model_that_would_not_be_asked_are_refused(tmp_path, fails) -> None:
    pq.write_table(pa.table({"prompt": ["Hi"], "response": ["Ho"]}), tmp_path / "c.parquet")
    engine = ("--engine", "vllm", "--dtype", "bfloat16", "--device", "cuda")
    said = fails("best-of-n", tmp_path / "c.parquet", "-o", tmp_path / "b.parquet", "--rm", tmp_path / "rm", *engine)
    assert "holds answers already, so --engine, --dtype, --device would do nothing; leave it out" in said
