"""Generation: a table of candidates that is the same whether or not the run was killed on the way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from augment.generate import SCHEMA, generate, read_candidates
from augment.new_prompts import FewShot, new_prompts
from augment.pair_candidates import Pairing, pair_candidates
from labeling.chat_tokens import check_lengths
from labeling.errors import DataError, WeakprefWarning
from labeling.llm import Completion, Sampling
from labeling.pairs import prompt_id

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(10)]
SAMPLING = Sampling(n=3, temperature=1.0, max_tokens=8)


class Scripted:
    """Answers with words drawn from the prompt, the sample and the seed; remembers how many prompts it was asked."""

    model = source = "scripted@1"
    context = None

    def __init__(self):
        self.asked = 0

    def generate(self, prompts, sampling):
        self.asked += len(prompts)
        numbers = range(sampling.first, sampling.first + sampling.n)
        return [[self.complete(prompt, sampling, i) for i in numbers] for prompt in prompts]

    def complete(self, prompt, sampling, i):
        digest = hashlib.sha256(f"{prompt_id(prompt)} {sampling.seed} {i}".encode()).hexdigest()
        return Completion(digest[:8], 4, -int(digest[:4], 16) / 100, "stop")


class Odd(Scripted):
    """Answers with what is awkward: nothing, blanks, a NUL, a lone surrogate, and no log-probability."""

    texts = ("", " \n ", "a\0b", "\ud800 broken", "你好 " * 1000)

    def complete(self, prompt, sampling, i):
        return Completion(self.texts[i], i, float("nan"), "length" if i == 4 else "stop")


def test_candidates_name_their_prompt_sample_model_and_parameters(tmp_path):
    made = generate(PROMPTS, Scripted(), tmp_path / "out.parquet", SAMPLING, chunk=4)
    table = read_candidates(made.path)
    assert table.schema.remove_metadata() == SCHEMA
    assert (made.n_prompts, made.n_candidates, made.n_empty, made.n_tokens) == (10, 30, 0, 120)
    first = table.to_pylist()[4]
    assert first["prompt"] == PROMPTS[1]
    assert (first["prompt_id"], first["sample"], first["model"]) == (prompt_id(PROMPTS[1]), 1, "scripted@1")
    assert (first["temperature"], first["top_p"], first["max_tokens"], first["seed"]) == (1.0, 1.0, 8, 0)
    assert first["log_prob"] < 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_odd_responses_are_kept_and_counted(tmp_path):
    made = generate(PROMPTS[:2], Odd(), tmp_path / "out.parquet", replace(SAMPLING, n=5))
    assert (made.n_candidates, made.n_empty, made.n_cut) == (10, 4, 2)
    table = pq.read_table(made.path)
    assert table["response"].to_pylist()[:4] == ["", " \n ", "a\0b", "? broken"]
    assert table["log_prob"].null_count == 10


class Small(Scripted):
    """Holds 20 tokens, prompt and answer together, a word being one; refuses more, as engines do."""

    context = 20

    def count_tokens(self, prompts):
        return [len(prompt[-1]["content"].split()) for prompt in prompts]

    def generate(self, prompts, sampling):
        check_lengths(self.count_tokens(prompts), sampling.max_tokens, self.context, self.model)
        return super().generate(prompts, sampling)


def test_prompts_too_long_for_the_model_are_left_without_an_answer_and_the_others_are_answered(tmp_path):
    long, longest = ([{"role": "user", "content": "word " * n}] for n in (12, 13))
    prompts, engine = [longest, *PROMPTS[:3], long, [longest[0] | {"content": "word " * 999}]], Small()
    with pytest.warns(WeakprefWarning, match="2 of 6 prompts are too long for scripted@1 beside 8 tokens of answer"):
        made = generate(prompts, engine, tmp_path / "out.parquet", SAMPLING, chunk=1)
    assert (made.n_too_long, made.n_empty, made.n_candidates, engine.asked) == (2, 6, 18, 4)
    table = read_candidates(made.path)
    reasons = table["finish_reason"].to_pylist()
    assert reasons == ["too_long"] * 3 + ["stop"] * 12 + ["too_long"] * 3
    assert [not text for text in table["response"].to_pylist()] == [reason == "too_long" for reason in reasons]
    with pytest.warns(WeakprefWarning, match="2 of 6 prompts"):  # a finished file says so too
        assert generate(prompts, engine, tmp_path / "out.parquet", SAMPLING, chunk=1) == made
    pairs = pair_candidates(table, how=Pairing("all"))
    assert sorted(set(pairs.table["group"].to_pylist())) == sorted(prompt_id(p) for p in [*PROMPTS[:3], long])
    assert pairs.left_out["candidates: empty response"] == 6


def test_where_no_prompt_leaves_the_model_room_nothing_is_written(tmp_path):
    prompts = [[{"role": "user", "content": "word " * n}] for n in (13, 14)]
    with pytest.raises(DataError, match=r"2 of 2 prompts are too long for scripted@1 .* nothing to write"):
        generate(prompts, Small(), tmp_path / "out.parquet", SAMPLING)
    assert not list(tmp_path.iterdir())
    generate(PROMPTS, Small(), tmp_path / "out.parquet", SAMPLING)
    before = (tmp_path / "out.parquet").read_bytes()
    with pytest.raises(DataError, match="nothing to write"):
        generate(prompts, Small(), tmp_path / "out.parquet", SAMPLING)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert (tmp_path / "out.parquet").read_bytes() == before


def test_an_answer_longer_than_the_model_holds_is_refused_before_anything_is_asked(tmp_path):
    engine = Small()
    with pytest.raises(DataError, match="max_tokens is 20, but scripted@1 holds 20 tokens"):
        generate(PROMPTS, engine, tmp_path / "out.parquet", replace(SAMPLING, max_tokens=20))
    assert (engine.asked, list(tmp_path.iterdir())) == (0, [])


class Cut(Scripted):
    """Answers in bytes that are cut inside a character, and with the mark of that as a character of its own."""

    def complete(self, prompt, sampling, i):
        return Completion(("你好\ufffd", "你好\ufffd", "\ufffd")[i], 4, -1.0, ("length", "stop", "length")[i])


def test_what_a_cut_inside_a_character_leaves_is_no_part_of_a_response(tmp_path):
    made = generate(PROMPTS[:1], Cut(), tmp_path / "out.parquet", SAMPLING)
    assert pq.read_table(made.path)["response"].to_pylist() == ["你好", "你好\ufffd", ""]


def test_a_prompt_given_twice_is_answered_once(tmp_path):
    made = generate([*PROMPTS, PROMPTS[0]], Scripted(), tmp_path / "out.parquet", SAMPLING)
    assert (made.n_prompts, made.n_repeated, made.n_candidates) == (10, 1, 30)
    assert read_candidates(made.path)["prompt"][0].as_py() == PROMPTS[0]


def test_further_samples_go_on_counting(tmp_path):
    made = generate(PROMPTS[:1], Scripted(), tmp_path / "out.parquet", replace(SAMPLING, n=2, first=3))
    assert read_candidates(made.path)["sample"].to_pylist() == [3, 4]


def test_a_finished_file_is_not_made_again_and_another_run_replaces_it(tmp_path):
    out, engine = tmp_path / "out.parquet", Scripted()
    first = generate(PROMPTS, engine, out, SAMPLING)
    assert generate(PROMPTS, engine, out, SAMPLING) == first
    assert engine.asked == 10
    pq.write_table(pq.read_table(out).slice(0, 5), out)
    assert generate(PROMPTS, engine, out, SAMPLING) == first
    assert engine.asked == 20
    generate(PROMPTS, engine, out, replace(SAMPLING, seed=1))
    assert engine.asked == 30
    assert read_candidates(out)["seed"].unique().to_pylist() == [1]


class Stops(Scripted):
    """Fails once it has answered so many prompts."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def generate(self, prompts, sampling):
        if self.asked >= self.after:
            raise RuntimeError("out of memory")
        return super().generate(prompts, sampling)


def test_a_run_that_failed_goes_on_where_it_was_and_a_damaged_part_is_made_again(tmp_path):
    whole = generate(PROMPTS, Scripted(), tmp_path / "whole", SAMPLING, chunk=2).path.read_bytes()
    out = tmp_path / "out.parquet"
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(PROMPTS, Stops(6), out, SAMPLING, chunk=2)
    part = tmp_path / "out.parquet.parts" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    engine = Scripted()
    generate(PROMPTS, engine, out, SAMPLING, chunk=2)
    assert engine.asked == 2 + 4
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("prompts", "sampling", "chunk", "named"),
    [
        (PROMPTS[:9], SAMPLING, 2, "prompts"),
        (PROMPTS, replace(SAMPLING, seed=1), 2, "sampling"),
        (PROMPTS, SAMPLING, 5, "chunk"),
    ],
)
def test_parts_of_another_run_are_never_mixed_in(tmp_path, prompts, sampling, chunk, named):
    with pytest.raises(RuntimeError):
        generate(PROMPTS, Stops(6), tmp_path / "out", SAMPLING, chunk=2)
    with pytest.raises(DataError, match=f"run with other {named}; expected .* or delete the folder"):
        generate(prompts, Scripted(), tmp_path / "out", sampling, chunk=chunk)


class Short(Scripted):
    def generate(self, prompts, sampling):
        return super().generate(prompts, sampling)[1:]


@pytest.mark.parametrize(
    ("prompts", "engine", "sampling", "words"),
    [
        ([], Scripted(), SAMPLING, "no prompts"),
        ([[]], Scripted(), SAMPLING, "prompt 0 is .* the last of the user"),
        ([[*PROMPTS[0], {"role": "assistant", "content": "Yes."}]], Scripted(), SAMPLING, "the last of the user"),
        ([[{"role": "user", "content": ""}]], Scripted(), SAMPLING, "with texts"),
        ([PROMPTS[0], [{"role": "user", "content": " \n"}]], Scripted(), SAMPLING, "prompt 1 is .* not blank"),
        ([[{"role": "user", "content": "a\0b"}]], Scripted(), SAMPLING, "no NUL character"),
        (PROMPTS, Scripted(), replace(SAMPLING, temperature=0.0), "all samples are the same"),
        (PROMPTS, Short(), SAMPLING, "returned 27 completions for 9 prompts; expected 3 for each of 10"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_words(tmp_path, prompts, engine, sampling, words):
    with pytest.raises(DataError, match=words):
        generate(prompts, engine, tmp_path / "out", sampling)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_file_that_another_library_added_scores_to_still_holds_candidates(tmp_path, library):
    table = read_candidates(generate(PROMPTS, Scripted(), tmp_path / "out", SAMPLING).path)
    scores = np.arange(30.0)
    if library == "pandas":
        frame = pd.read_parquet(tmp_path / "out")
        frame["score"] = scores
        frame.to_parquet(tmp_path / "again")
    else:
        pl.read_parquet(tmp_path / "out").with_columns(score=scores).write_parquet(tmp_path / "again")
    assert pq.read_schema(tmp_path / "again") != table.schema  # it holds larger types
    again = read_candidates(tmp_path / "again")
    assert again.select(SCHEMA.names).cast(SCHEMA).equals(table.cast(SCHEMA))
    how = Pairing("best-worst")
    assert pair_candidates(again, scores, how).table.equals(pair_candidates(table, scores, how).table)


def test_a_file_of_something_else_is_no_file_of_candidates(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_candidates(tmp_path / "text")
    pq.write_table(SCHEMA.empty_table().drop_columns(["model"]), tmp_path / "less")
    with pytest.raises(DataError, match="expected the column model of type string"):
        read_candidates(tmp_path / "less")
    row = dict.fromkeys(SCHEMA.names) | {"model": "m", "sample": 0}
    pq.write_table(SCHEMA.empty_table().from_pylist([row], schema=SCHEMA), tmp_path / "null")
    with pytest.raises(DataError, match="1 rows have no prompt"):
        read_candidates(tmp_path / "null")


EVERY_STEP = """
import importlib.util, json, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
folder = Path(sys.argv[2])
STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.scandir", "engine")

def run(out, log, die_at):
    # In a process of its own: killed at its step number die_at, a step being anything it does to files, or an answer.
    if os.fork():
        return os.wait()[1] == signal.SIGKILL
    steps = 0
    def step(event, _):
        nonlocal steps
        steps += event in STEPS
        if event in STEPS and steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    class Logging(helpers.Scripted):
        def generate(self, prompts, sampling):
            sys.audit("engine")
            found = super().generate(prompts, sampling)
            with open(log, "a") as file:
                file.write(prompts[0][0]["content"] + "\\n")
            return found
    if die_at:
        sys.addaudithook(step)
    helpers.generate(helpers.PROMPTS, Logging(), out, helpers.SAMPLING, chunk=4)
    os._exit(0)

run(folder / "whole", folder / "log", 0)
k, killed, found = 1, True, []
while killed:
    place = folder / str(k)
    place.mkdir()
    killed = run(place / "whole", folder / f"{k}.log", k)
    run(place / "whole", folder / f"{k}.log", 0)
    same = (place / "whole").read_bytes() == (folder / "whole").read_bytes()
    answers = len((folder / f"{k}.log").read_text().splitlines())
    found.append([same, answers, sorted(path.name for path in place.iterdir())])
    k += 1
print(json.dumps(found))
"""


@pytest.mark.slow
def test_killed_at_any_step_it_goes_on_to_the_same_bytes_and_redoes_one_chunk_at_most(tmp_path):
    command = [sys.executable, "-c", EVERY_STEP, __file__, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(found) > 20
    for same, answers, left in found:
        assert same
        assert answers in (3, 4)
        assert left == ["whole"]


@pytest.mark.slow
def test_a_real_model_grows_a_set_of_pairs_and_does_the_same_again_after_a_stop(smollm2, tmp_path):
    engine = smollm2
    texts = ("Write a poem about the sea.", "Explain gravity to a child.", "Compare tea and coffee.")
    seeds = [[{"role": "user", "content": text}] for text in texts]
    drawn = Sampling(temperature=0.6, top_p=0.9, max_tokens=24)
    with pytest.warns(WeakprefWarning, match="of 50 new prompts after 2 requests; left out: "):
        new = new_prompts(seeds, engine, 50, how=FewShot(batch=2, max_requests=2), sampling=drawn)
    assert len(new.prompts) + sum(new.left_out.values()) >= 2
    prompts = [*seeds[:2], *new.prompts][:2]

    class StopsAfterOne:
        model, source, context, calls = engine.model, engine.source, None, 0

        def generate(self, prompts, how):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("stopped")
            return engine.generate(prompts, how)

    sampling = Sampling(n=3, temperature=0.7, top_p=0.9, max_tokens=8, seed=3)
    made = generate(prompts, engine, tmp_path / "whole", sampling, chunk=1)
    with pytest.raises(RuntimeError, match="stopped"):
        generate(prompts, StopsAfterOne(), tmp_path / "again", sampling, chunk=1)
    generate(prompts, engine, tmp_path / "again", sampling, chunk=1)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()

    table = read_candidates(made.path)
    log_p = np.asarray(table["log_prob"])
    assert (log_p < 0).all()
    assert all(0 < n <= 8 for n in table["n_tokens"].to_pylist())
    pairs = pair_candidates(table, log_p / np.asarray(table["n_tokens"]), Pairing("best-worst")).pairs
    assert 1 <= len(pairs) <= 2
