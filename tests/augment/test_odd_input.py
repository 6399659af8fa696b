"""What is awkward, through the command line: odd responses and answers, models without a template, damaged caches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import openai  # noqa: F401  (slow to import: not on the first test's time)
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from labeling import read_votes

ODD = ("x" * 500_000, "\u202eabc", "数字 🙂", "<|im_end|>", "{{ prompt }}")
REFUSED = {"": "empty response", " \n": "empty response", "a\0b": "NUL character", "x" * 1_000_000: "over 500,000"}
GRADES = ("", "\0", "y" * 1_000_000, "Оценка: 5", "スコア: 5", "Score: ٥", "Score: 5\nUnd mehr.")


def write_pairs(*responses):
    prompt = [{"role": "user", "content": "Name a colour."}]
    rows = [{"prompt": prompt, "response_a": text, "response_b": f"Blue {i}."} for i, text in enumerate(responses)]
    pq.write_table(pa.Table.from_pylist(rows), "pairs.parquet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs("Red.", "Green.", "A car.")
    pq.write_table(pa.table({"prompt": ["Name a colour.", "Name a fruit."]}), "prompts.parquet")
    return tmp_path


@pytest.fixture
def over_http(server):
    return ["--engine", "openai", "--model", "m", "--base-url", server.url]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def counts(name):
    return json.loads(Path(f"{name}.manifest.json").read_text())["counts"]


@pytest.mark.parametrize("kind", ["pairwise", "rubric"])
def test_odd_responses_are_judged_beside_the_others(folder, server, over_http, kind):
    write_pairs(*ODD, "Red.")
    options = ["--kind", kind, "--max-prompt-tokens", "600"]
    assert run("judge", "pairs.parquet", "-o", "votes.parquet", *over_http, *options) == 0
    made = counts("votes.parquet")
    assert (made["pairs"], made["cut"]) == (6, 1)
    asked = [request["messages"][0]["content"] for request in server.requests]
    assert max(map(len, asked)) < 10_000


@pytest.mark.parametrize("text", REFUSED)
def test_an_empty_a_nul_and_a_megabyte_are_refused_by_name_or_dropped_and_counted(folder, over_http, capsys, text):
    write_pairs(text, "Red.")
    asked = ["judge", "pairs.parquet", "-o", "votes.parquet", *over_http]
    assert run(*asked) == 2
    assert REFUSED[text] in capsys.readouterr().err
    assert run(*asked, "--drop-bad-rows") == 0
    assert counts("votes.parquet")["pairs"] == 1
    assert sum(counts("votes.parquet")["dropped"].values()) == 1


@pytest.mark.parametrize("says", ["", " \n ", "a\0b", "z" * 1_000_000, "Синий цвет.", "青です。"])
def test_odd_candidates_are_kept_as_they_are(folder, server, over_http, says):
    server.says = lambda content, seed: says
    assert run("generate", "prompts.parquet", "-o", "out.parquet", *over_http, "-n", "2", "--cache", "answers") == 0
    assert pq.read_table("out.parquet")["response"].to_pylist() == [says] * 4
    assert counts("out.parquet")["n_empty"] == (0 if says.strip() else 4)


@pytest.mark.slow
def test_new_prompts_in_another_script_are_told_apart_like_others(folder, server, over_http):
    server.says = lambda content, seed: f"Task 1: Назови {seed} больших городов {seed + 1} {seed + 2} {seed + 3}."
    assert run("new-prompts", "prompts.parquet", "-o", "new.parquet", *over_http, "-n", "2", "--batch", "2") == 0
    assert len(pq.read_table("new.parquet")) == 2


@pytest.mark.slow
def test_a_model_without_a_chat_template_judges_and_is_planned(folder, policy_folder, capsys):
    shutil.copytree(policy_folder, "plain")
    Path("plain/chat_template.jinja").unlink()
    settings = json.loads(Path("plain/config.json").read_text())
    Path("plain/config.json").write_text(json.dumps(settings | {"max_position_embeddings": 4096}))  # it reads bytes
    asked = ["judge", "pairs.parquet", "-o", "votes.parquet", "--model", "plain", "--max-prompt-tokens", "3000"]
    assert run(*asked) == 0
    made = counts("votes.parquet")
    assert (made["prompts"], made["cut"], made["abstained"]["too_long"]) == (6, 0, 0)
    capsys.readouterr()
    assert run(*asked, "--dry-run") == 0
    assert f"requests{made['prompts']:>30,}" in capsys.readouterr().out
    assert run("generate", "prompts.parquet", "-o", "out.parquet", "--model", "plain", "--max-tokens", "4") == 0
    assert counts("out.parquet")["n_candidates"] == 8


@pytest.mark.slow
def test_a_damaged_cache_is_named_and_rebuilt_and_a_dry_run_leaves_it_alone(folder, server, over_http, capsys):
    asked = ["judge", "pairs.parquet", *over_http, "--cache", "answers", "-o"]
    assert run(*asked, "votes.parquet") == 0
    damaged = b"SQLite format 3\0" + b"no database" * 1000
    Path("answers").write_bytes(damaged)
    before = sorted(Path().iterdir())
    assert run(*asked, "again.parquet", "--dry-run") == 0
    said = capsys.readouterr().err
    assert "answers: the cache is damaged (file is not a database); 0 answers could be read from it" in said
    assert sorted(Path().iterdir()) == before
    assert Path("answers").read_bytes() == damaged
    assert run(*asked, "again.parquet") == 0
    assert "it is set aside as answers.damaged-" in capsys.readouterr().err
    assert len(server.requests) == 12
    assert Path("again.parquet").read_bytes() == Path("votes.parquet").read_bytes()
    assert run(*asked, "again.parquet") == 0
    assert (len(server.requests), capsys.readouterr().err) == (12, "")


def test_answers_that_name_no_choice_are_a_tie(folder, server, over_http):
    answer = server.answer

    def in_russian(request):
        found = answer(request)
        top = [{"token": "Да", "logprob": -0.1, "bytes": None}, {"token": "Нет", "logprob": -2.0, "bytes": None}]
        found["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = top
        return found

    server.answer = in_russian
    assert run("judge", "pairs.parquet", "-o", "votes.parquet", *over_http) == 0
    assert counts("votes.parquet")["abstained"]["tie"] == 3
    assert (read_votes("votes.parquet")[0].votes == -1).all()


def test_votes_are_written_over_no_other_pairs_and_nobody_votes_first(folder, over_http, server, capsys):
    before = Path("pairs.parquet").read_bytes()
    Path("others.parquet").write_bytes(before)
    for command in (["label"], ["judge", *over_http]):
        assert run(*command, "pairs.parquet", "-o", "others.parquet") == 2
        assert "others.parquet holds preference pairs, which would be lost" in capsys.readouterr().err
    assert Path("others.parquet").read_bytes() == before
    assert not server.requests


def test_nothing_but_pairs_is_written_over_pairs(folder, capsys):
    before = Path("pairs.parquet").read_bytes()
    assert run("label", "pairs.parquet", "-o", "votes.parquet") == 0
    made = (["fit", "votes.parquet"], ["compare", "votes.parquet"], ["best-of-n", "prompts.parquet", "--rm", "rm"])
    for command in (*made, ["verify", "rm"], ["eft", "others.parquet"], ["score", "rm", "others.parquet"]):
        assert run(*command, "-o", "pairs.parquet") == 2, command
        assert "pairs.parquet holds preference pairs, which would be lost" in " ".join(capsys.readouterr().err.split())
    assert Path("pairs.parquet").read_bytes() == before
