"""Judges and generation on the command line: engines, dry run, limits, options; over HTTP with a server that counts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai  # noqa: F401  (slow to import: not on the first test's time)
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from labeling import read_votes

TEXTS = [f"Name a colour, number {i}." for i in range(6)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt": [{"role": "user", "content": TEXTS[i // 2]}],
            "response_a": f"Blue {i}.",
            "response_b": f"A red car {i}.",
            "gold": 1.0 if i % 3 else 0.0,
        }
        for i in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows), "pairs.parquet")
    pq.write_table(pa.table({"prompt": TEXTS}), "prompts.parquet")
    return tmp_path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def counts(name):
    return json.loads(Path(f"{name}.manifest.json").read_text())["counts"]


def plan(capsys, *arguments):
    """Run dry, and return the rows of the table: what is counted -> all, answered, to be asked; and the cost."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert run(*arguments, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert sorted(Path().rglob("*")) == before
    rows = re.findall(r"^(.+?)\s+([\d,]+)\s+([\d,]+)\s+([\d,]+)$", printed, re.MULTILINE)
    found = {name.split(",")[0]: [int(count.replace(",", "")) for count in row] for name, *row in rows}
    return found | {"cost": re.findall(r"^cost, at most +(.+)$", printed, re.MULTILINE)[0]}


# Engines


def test_settings_of_another_engine_are_refused_by_name(folder, fails):
    asked = ["judge", "pairs.parquet", "-o", "votes.parquet", "--model"]
    assert "--adapter is no option of --engine transformers, but of vllm" in fails(*asked, "x", "--adapter", "l")
    server = [*asked, "x", "--engine", "openai"]
    assert "--adapter is no option of --engine openai" in fails(*server, "--adapter", "l")
    assert "--dtype is no option of --engine openai, but of transformers and vllm" in fails(
        *server, "--dtype", "float32"
    )
    assert "--base-url is no option of --engine vllm" in fails(
        *asked, "x", "--engine", "vllm", "--base-url", "http://x"
    )
    assert "smollm2 runs on --engine transformers" in fails(*asked, "smollm2", "--engine", "vllm")
    assert "--concurrency is 0; expected a number above 0" in fails(*server, "--concurrency", "0")
    assert "--dtype is 'int8'; expected float32" in fails(*asked, "x", "--dtype", "int8")
    assert "Invalid value for '--engine'" in fails(*asked, "x", "--engine", "gguf")
    for command in ("generate", "new-prompts"):
        assert "which model? expected" in fails(command, "prompts.parquet", "-o", "out.parquet")


def test_a_server_needs_a_key_in_the_environment_or_an_address(folder, monkeypatch, fails):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked = ["judge", "pairs.parquet", "-o", "votes.parquet", "--engine", "openai", "--model", "m"]
    assert "OPENAI_API_KEY is not set; set it to your key" in fails(*asked)


def test_vllm_that_is_not_installed_is_named(folder, fails):
    asked = ["judge", "pairs.parquet", "-o", "votes.parquet", "--model", "x", "--engine", "vllm"]
    try:
        import vllm  # noqa: F401
    except ImportError:
        assert "pip install 'weakpref[vllm]'" in fails(*asked)


@pytest.mark.slow
def test_a_server_judges_and_its_report_and_plot_are_written(folder, server, over_http, capsys):
    options = ["--report", "judge.json", "--plot", "judge.png", "--concurrency", "2"]
    assert run("judge", "pairs.parquet", "-o", "votes.parquet", *over_http, *options) == 0
    assert len(server.requests) == 24
    assert {request["model"] for request in server.requests} == {"m"}
    assert counts("votes.parquet")["judge"]["model"] == "m"
    assert json.loads(Path("judge.json").read_text())["n_gold"] == 12
    assert Path("judge.png").stat().st_size > 5_000
    assert capsys.readouterr().err == ""  # no bar where there is no terminal


@pytest.mark.slow
@pytest.mark.parametrize("command", ["judge", "generate", "new-prompts"])
def test_on_a_terminal_a_bar_counts_answers_and_tokens_and_changes_no_byte(
    folder, server, over_http, capsys, monkeypatch, command
):
    server.says = lambda content, seed: f"Task 1: Tell me {seed} {seed + 1} {seed + 2} things."
    rest = ["prompts.parquet", "-n", "4"] if command != "judge" else ["pairs.parquet"]
    options = [command, *rest, *over_http, "--cache", "answers", "-o"]
    assert run(*options, "silent.parquet") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes a terminal of any stream for rich
    for cache in ("answers", "others"):
        options[-2] = cache
        Path("shown.parquet").unlink(missing_ok=True)  # or there is nothing to generate
        assert run(*options, "shown.parquet") == 0
        total = {"judge": "24/24", "generate": "6/6", "new-prompts": "4/4"}[command]
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)
        assert total in shown
        assert re.search(r"[\d,]+ tokens/s", shown)
        assert Path("shown.parquet").read_bytes() == Path("silent.parquet").read_bytes()


# Dry run


def test_a_dry_run_counts_what_a_run_then_asks_cached_answers_left_out(folder, server, over_http, capsys):
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http, "--cache", "answers"]
    assert plan(capsys, *judge)["requests"] == [24, 0, 24]
    assert server.requests == []
    assert run(*judge, "--limit", 5) == 0
    server.requests.clear()
    found = plan(capsys, *judge)
    assert run(*judge) == 0
    manifest = counts("votes.parquet")
    assert found["requests"] == [manifest["prompts"], 10, len(server.requests)] == [24, 10, 14]
    assert found["prompt tokens"][0] == manifest["prompt_tokens"]
    assert 0 < found["prompt tokens"][2] < manifest["prompt_tokens"]
    assert found["cost"] == "unknown: pass --prices FILE, or --price-in and --price-out"
    assert plan(capsys, *judge)["requests"] == [24, 24, 0]


def test_a_dry_run_needs_no_key(folder, capsys, monkeypatch, fails):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", "--engine", "openai", "--model", "gpt-4o-mini"]
    assert plan(capsys, *judge)["requests"] == [24, 0, 24]
    assert "OPENAI_API_KEY is not set" in fails(*judge)


def test_a_dry_run_of_closed_questions_says_what_a_server_without_log_probabilities_takes(folder, over_http, capsys):
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http, "--dry-run"]
    assert run(*judge) == 0
    assert "24 to be asked; a server that gives no log-probabilities takes 9 requests" in capsys.readouterr().out
    assert run(*judge, "--kind", "rubric") == 0
    assert "log-probabilities" not in capsys.readouterr().out


def test_a_dry_run_of_a_rubric_counts_samples_and_each_response_once(folder, server, over_http, capsys):
    Path("criteria.json").write_text('{"It is true.": 2, "It is short.": 1}')
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http, "--kind", "rubric", "--samples", "2"]
    judge += ["--criteria", "criteria.json"]
    found = plan(capsys, *judge)
    assert run(*judge) == 0
    manifest = counts("votes.parquet")
    assert found["requests"] == [manifest["prompts"], 0, len(server.requests)] == [96, 0, 96]
    assert found["prompt tokens"][0] == 2 * manifest["prompt_tokens"]
    assert found["output tokens"][0] == 96 * 300 > manifest["sampled_tokens"]


def test_reasoning_is_drawn_and_planned(folder, server, over_http, capsys):
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http, "--reasoning", "3", "--cache", "answers"]
    found = plan(capsys, *judge)
    assert run(*judge) == 0
    assert found["requests"] == [counts("votes.parquet")["prompts"], 0, len(server.requests)] == [144, 0, 144]
    assert plan(capsys, *judge)["requests"] == [144, 144, 0]


def test_a_dry_run_of_generation_counts_what_a_run_then_asks(folder, server, over_http, capsys):
    generate = ["generate", "prompts.parquet", "-o", "out.parquet", *over_http, "-n", "2", "--max-tokens", "9"]
    generate += ["--price-in", "1000", "--price-out", "1000000"]
    found = plan(capsys, *generate)
    assert run(*generate) == 0
    assert found["requests"] == [counts("out.parquet")["n_candidates"], 0, len(server.requests)] == [12, 0, 12]
    assert found["output tokens"] == [108, 0, 108]
    assert found["cost"] == f"{108 + found['prompt tokens'][2] / 1000:.4f} USD"
    assert plan(capsys, *generate)["requests"] == [12, 12, 0]


@pytest.mark.slow
def test_a_dry_run_of_a_local_model_reads_no_weights_and_counts_its_tokens(folder, smollm2_folder, capsys, monkeypatch):
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", "--limit", "2", "--model", smollm2_folder]
    judge += ["--dtype", "bfloat16", "--cache", "answers"]
    assert run(*judge, "--limit", "1") == 0
    with monkeypatch.context() as patched:
        patched.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: 1 / 0)
        found = plan(capsys, *judge)
    assert run(*judge) == 0
    assert found["requests"] == [counts("votes.parquet")["prompts"], 2, 2]
    assert found["prompt tokens"][0] == counts("votes.parquet")["prompt_tokens"]
    assert found["cost"] == "nothing: the model runs here"


@pytest.mark.slow
def test_prompts_longer_than_the_model_holds_are_told_by_a_dry_run_and_left_without_an_answer(
    folder, smollm2_folder, fails, capsys
):
    model = folder / "short"
    model.mkdir()
    for path in smollm2_folder.iterdir():
        (model / path.name).symlink_to(path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").unlink()
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100}))
    pq.write_table(pa.table({"prompt": [*TEXTS, "word " * 99]}), "prompts.parquet")
    generate = ["generate", "prompts.parquet", "-o", "out.parquet", "-n", "1", "--model", model, "--max-tokens"]
    assert re.search(r"max_tokens is 100, but short@\w+ \(float32\) holds 100 tokens", fails(*generate, 100))
    assert plan(capsys, *generate, 2)["requests"] == [6, 0, 6]
    assert run(*generate, 2, "--dry-run") == 0
    assert "1 prompts are too long and get no answer" in capsys.readouterr().out
    assert run(*generate, 2) == 0
    said = capsys.readouterr()
    assert "1 prompts too long" in said.out
    assert "1 of 7 prompts are too long for short@" in said.err
    assert [counts("out.parquet")[name] for name in ("n_candidates", "n_too_long")] == [7, 1]
    assert plan(capsys, *generate, 2)["requests"] == [6, 6, 0]


@pytest.mark.slow
def test_a_dry_run_of_the_packaged_model_counts_its_tokens(folder, smollm2_folder, capsys):
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet"]
    packaged, saved = (plan(capsys, *judge, "--model", model) for model in ("smollm2", smollm2_folder))
    assert packaged == saved
    assert packaged["requests"] == [24, 0, 24]


# Limits


def test_a_run_stops_before_its_limit_and_goes_on_to_the_same_bytes(folder, server, over_http, capsys):
    judge = ["judge", "pairs.parquet", *over_http]
    assert run(*judge, "-o", "straight.parquet") == 0
    server.requests.clear()
    limited = [*judge, "-o", "votes.parquet", "--cache", "answers", "--max-requests"]
    assert run(*limited, 10) == 3
    said = capsys.readouterr().err
    assert "stopped before the limit of 10 requests: 10 were made in this run" in said
    assert "10 of 24 answers lie in answers" in said
    assert said.strip().endswith("--cache answers --max-requests 10")
    assert len(server.requests) == 10
    assert not Path("votes.parquet").exists()
    assert run(*limited, 10) == 3
    assert run(*limited, 10) == 0
    assert len(server.requests) == 24
    for end in ("", ".manifest.json"):
        assert Path(f"votes.parquet{end}").read_bytes() == Path(f"straight.parquet{end}").read_bytes()


def test_a_run_stops_before_it_costs_more_than_its_limit(folder, server, over_http, capsys):
    Path("prices.json").write_text('{"m": {"input": 0, "output": 1000000}, "other": {"input": 1, "output": 1}}')
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http, "--prices", "prices.json"]
    assert plan(capsys, *judge)["cost"] == "24.0000 USD"
    limited = [*judge, "--cache", "answers", "--max-cost"]
    assert run(*limited, "8.5") == 3  # the first question might take nine requests
    assert "this run cost 0.0000 (0 requests), the next step costs up to 9.0000" in capsys.readouterr().err
    assert run(*limited, "9.5") == 3
    said = capsys.readouterr().err
    assert (
        "stopped before the limit of 9.5 USD: this run cost 9.0000 (9 requests), the next step costs up to 1.0000"
        in said
    )
    assert len(server.requests) == 9
    assert plan(capsys, *judge, "--cache", "answers")["cost"] == "15.0000 USD"
    assert run(*limited, "15") == 0
    assert len(server.requests) == 24


@pytest.mark.parametrize(("prices", "cost"), [(["--price-in", "0", "--price-out", "1e6"], 24.0), ([], None)])
def test_the_report_says_what_a_judge_cost_where_prices_were_given(folder, over_http, capsys, prices, cost):
    judge = [
        "judge",
        "pairs.parquet",
        "-o",
        "votes.parquet",
        *over_http,
        "--cache",
        "answers",
        "--report",
        "judge.json",
    ]
    assert run(*judge, *prices) == 0
    assert json.loads(Path("judge.json").read_text())["cost_usd"] == cost
    assert ("24.0000 USD" in capsys.readouterr().out) == (cost is not None)
    assert run(*judge, *prices) == 0
    assert json.loads(Path("judge.json").read_text())["cost_usd"] == (cost and 0.0)  # all from the cache


def test_generation_stops_and_goes_on_with_and_without_a_cache(folder, server, over_http, capsys, monkeypatch):
    monkeypatch.setitem(__import__("augment.models", fromlist=["CHUNKS"]).CHUNKS, "openai", 2)
    generate = ["generate", "prompts.parquet", *over_http, "-n", "2"]
    assert run(*generate, "-o", "straight.parquet") == 0
    for out, extra, made in (("plain.parquet", [], 4), ("cached.parquet", ["--cache", "answers"], 7)):
        server.requests.clear()
        assert run(*generate, "-o", out, *extra, "--max-requests", 7) == 3
        assert f"of 3 parts lie in {out}.parts" in capsys.readouterr().err
        assert len(server.requests) in (made, made - 1)  # a prompt's two samples are asked together
        assert run(*generate, "-o", out, *extra) == 0
        assert len(server.requests) == 12
        for end in ("", ".manifest.json"):
            assert Path(f"{out}{end}").read_bytes() == Path(f"straight.parquet{end}").read_bytes()


def test_limits_that_lose_answers_or_have_no_price_are_refused(folder, over_http, fails):
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http]
    assert "need --cache FILE" in fails(*judge, "--max-requests", "5")
    assert "--max-cost needs a price of m: pass --prices FILE" in fails(*judge, "--cache", "answers", "--max-cost", "5")
    assert "belong together" in fails(*judge, "--price-in", "5")
    Path("prices.csv").write_text("model,input,output\nother,1,2\n")
    assert "prices.csv has no price of m, found other" in fails(*judge, "--prices", "prices.csv")
    Path("prices.csv").write_text("model,cost\nm,1\n")
    assert "expected prices in USD per million tokens" in fails(*judge, "--prices", "prices.csv")
    assert "need --cache FILE" in fails(
        "new-prompts", "prompts.parquet", "-o", "new.parquet", *over_http, "--max-requests", "5"
    )


# What a judge is asked


def test_options_of_the_other_kind_of_judge_are_refused(folder, over_http, fails):
    judge = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http]
    assert "--samples is an option of --kind rubric" in fails(*judge, "--samples", "5")
    rubric = [*judge, "--kind", "rubric"]
    assert "--reasoning is an option of --kind pairwise" in fails(*rubric, "--reasoning", "5")
    assert "--on-flip is an option of --kind pairwise" in fails(*rubric, "--on-flip", "keep")
    Path("criteria.json").write_text('["It is true."]')
    assert "expected JSON {criterion in words: weight}" in fails(*rubric, "--criteria", "criteria.json")
    assert "--criterion and --criteria were both given" in fails(
        *rubric, "--criteria", "criteria.json", "--criterion", "short"
    )
    assert "reasoning is -1; expected 0 or more" in fails(*judge, "--reasoning", "-1")
    assert "expected --plot to end in .png or .svg" in fails(*judge, "--plot", "plot.gif")


def test_references_are_shown_with_the_prompts_they_belong_to(folder, server, over_http, fails):
    rubric = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http, "--kind", "rubric", "--samples", "1"]
    pq.write_table(pa.table({"prompt": TEXTS[:1], "reference": ["Teal, say."]}), "good.parquet")
    assert run(*rubric, "--references", "good.parquet") == 0
    assert counts("votes.parquet")["references"] == 2
    asked = [request["messages"][0]["content"] for request in server.requests]
    assert sum("Teal, say." in text for text in asked) == 4
    pq.write_table(pa.table({"prompt": ["Other?"], "reference": ["x"]}), "good.parquet")
    assert "none of its prompts is one of the pairs'" in fails(*rubric, "--references", "good.parquet")
    assert "found prompt (string); rename" in fails(*rubric, "--references", "prompts.parquet")
    pq.write_table(pa.table({"prompt": TEXTS[:1], "reference": [42]}), "good.parquet")
    server.requests.clear()
    assert run(*rubric, "--references", "good.parquet", "--drop-bad-rows", "--limit", "2", "--name", "strict") == 0
    assert any("\n42\n" in request["messages"][0]["content"] for request in server.requests)
    assert read_votes("votes.parquet")[0].names == ("strict",)


def test_a_report_on_a_judge_is_written_over_no_pairs(folder, over_http, fails):
    before = Path("pairs.parquet").read_bytes()
    Path("pairs.jsonl").write_text('{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}\n')
    asked = ("judge", "pairs.parquet", "-o", "votes.parquet", *over_http, "--report")
    assert "is also the input" in fails(*asked, "pairs.parquet")
    assert "pairs.jsonl holds preference pairs, which would be lost" in fails(*asked, "pairs.jsonl")
    assert Path("pairs.parquet").read_bytes() == before


@pytest.mark.slow
def test_a_flip_keeps_its_margin_where_that_is_asked_for(folder, over_http):
    judge = ["judge", "pairs.parquet", *over_http, "-o"]
    assert run(*judge, "abstain.parquet") == run(*judge, "keep.parquet", "--on-flip", "keep") == 0
    flipped = counts("keep.parquet")["abstained"]["flipped"]
    assert flipped > 0
    missing = [sum(m != m for m in read_votes(f"{name}.parquet")[0].margins[:, 0]) for name in ("abstain", "keep")]
    assert missing == [flipped, 0]


@pytest.mark.slow
def test_another_seed_draws_other_grades(folder, server, over_http):
    judge = ["judge", "pairs.parquet", *over_http, "--kind", "rubric", "-o"]
    assert run(*judge, "a.parquet") == run(*judge, "b.parquet", "--seed", "1") == 0
    seeds = [request["seed"] for request in server.requests]
    assert len(set(seeds)) == len(seeds) == 144
    assert json.loads(Path("b.parquet.manifest.json").read_text())["seed"] == 1
