"""Pairs come from files, frames and the hub; what cannot be read says why."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.errors import DataError, LayoutError, RowError, WeakprefWarning
from labeling.pairs import SCHEMA, Pairs, prompt_id
from labeling.read import read_pairs

ROWS: list[dict[str, Any]] = [
    {"prompt": "Hi, 5 > 3?", "response_a": "Yes\nof course", "response_b": 'No, "never"', "gold": 1.0},
    {"prompt": "Naïve 数 🙂", "response_a": "NA", "response_b": "42", "gold": 0.25},
    {"prompt": "And now?", "response_a": "null", "response_b": "1.50", "gold": None},
]
LINES = [json.dumps(row) for row in ROWS]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS)


def write_jsonl(path: Path, lines: list[str] = LINES) -> Path:
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_csv(path: Path) -> Path:
    frame().to_csv(path, index=False)
    return path


def write_parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame().to_parquet(path)
    return path


def write_shards(folder: Path, first: str = "data/train-00000-of-00002.parquet") -> Path:
    table = pa.Table.from_pandas(frame())
    (folder / first).parent.mkdir(parents=True)
    pq.write_table(table.slice(0, 2), folder / first)
    pq.write_table(table.slice(2).set_column(3, "gold", pa.nulls(1)), folder / first.replace("00000-", "00001-"))
    return folder


WRITERS: dict[str, Callable[[Path], object]] = {
    "parquet": lambda at: write_parquet(at / "quiz.parquet"),
    "parquet as text": lambda at: str(write_parquet(at / "quiz.parquet")),
    "folder with data/train-*": lambda at: write_shards(at / "quiz"),
    "folder of shards": lambda at: write_shards(at / "quiz", "00000-.parquet"),
    "jsonl": lambda at: write_jsonl(at / "quiz.jsonl"),
    "jsonl.gz": lambda at: write_jsonl(at / "quiz.jsonl.gz"),
    "json, a list": lambda at: write_jsonl(at / "quiz.json", [json.dumps(ROWS, indent=1)]),
    "json, one object a line": lambda at: write_jsonl(at / "quiz.json"),
    "csv": lambda at: write_csv(at / "quiz.csv"),
    "pandas": lambda at: frame(),
    "pandas objects": lambda at: frame().astype(object),
    "pandas on arrow": lambda at: pa.Table.from_pylist(ROWS).to_pandas(types_mapper=pd.ArrowDtype),
    "pyarrow": lambda at: pa.Table.from_pylist(ROWS),
    "datasets": lambda at: datasets.Dataset.from_list(ROWS),
    "datasets, reordered": lambda at: datasets.Dataset.from_list(ROWS[::-1]).select([2, 1, 0]),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_source_gives_the_same_pairs(kind: str, tmp_path: Path) -> None:
    pairs = read_pairs(WRITERS[kind](tmp_path), name="quiz")
    assert pairs.table == read_pairs(pa.Table.from_pylist(ROWS), name="quiz").table
    assert pairs.table.schema == SCHEMA
    got = pairs.table.select(["response_a", "response_b", "gold"]).to_pylist()
    assert got == [{name: row[name] for name in ("response_a", "response_b", "gold")} for row in ROWS]
    assert [prompt[0]["content"] for prompt in pairs.table["prompt"].to_pylist()] == [row["prompt"] for row in ROWS]


def test_what_was_read_can_be_written_and_read_again(tmp_path: Path) -> None:
    pairs = read_pairs(frame(), name="quiz")
    pq.write_table(pairs.table, tmp_path / "again.parquet")
    assert read_pairs(tmp_path / "again.parquet").table == pairs.table
    assert read_pairs(pairs.to_pandas()).table == pairs.table
    assert read_pairs(pairs.table.to_pandas()).table == pairs.table


def test_pairs_are_returned_as_they_are() -> None:
    pairs = read_pairs(frame())
    assert read_pairs(pairs) is pairs


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text("ab", min_size=1), st.text("cd", min_size=1)), min_size=1, max_size=6, unique=True))
def test_reading_exchanged_responses_is_reading_and_then_swapping(texts: list[tuple[str, str]]) -> None:
    rows = [{"prompt": "?", "response_a": a, "response_b": b, "gold": (i % 3) / 2} for i, (a, b) in enumerate(texts)]
    other = [r | {"response_a": r["response_b"], "response_b": r["response_a"], "gold": 1 - r["gold"]} for r in rows]
    assert read_pairs(pa.Table.from_pylist(other)).table == read_pairs(pa.Table.from_pylist(rows)).swap().table


def test_a_missing_group_is_the_prompt_and_a_given_one_is_kept() -> None:
    pairs = read_pairs(frame().assign(group=["g", " ", None]))
    prompts = pairs.table["prompt"].to_pylist()
    assert pairs.groups.tolist() == ["g", prompt_id(prompts[1]), prompt_id(prompts[2])]


def test_a_missing_source_is_the_name_or_the_stem_or_nothing(tmp_path: Path) -> None:
    def sources(source: object, **options: str) -> list[str]:
        return read_pairs(source, **options).table["source"].to_pylist()  # type: ignore[arg-type, no-any-return]

    assert sources(frame()) == [""] * 3
    assert sources(frame(), name="quiz") == ["quiz"] * 3
    assert sources(frame().assign(source=["x", None, ""]), name="quiz") == ["x", "quiz", "quiz"]
    assert sources(write_jsonl(tmp_path / "my.jsonl.gz")) == ["my"] * 3
    assert sources(write_shards(tmp_path / "shards")) == ["shards"] * 3


def test_a_pair_id_column_is_computed_anew() -> None:
    pairs = read_pairs(frame().assign(pair_id="mine"))
    assert pairs.pair_ids.tolist() == read_pairs(frame()).pair_ids.tolist()


def test_training_shards_are_read_without_the_test_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "quiz")
    write_parquet(folder / "data" / "test-00000-of-00001.parquet")
    (folder / "data" / ".train-hidden.parquet").write_bytes(b"half written")
    assert len(read_pairs(folder)) == 3


def test_a_response_of_a_megabyte_in_a_csv_is_named(tmp_path: Path) -> None:
    frame().assign(response_a=["a", "x" * 1_000_000, "c"]).to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(RowError, match="row 1, column response_a: response over 500,000 characters"):
        read_pairs(tmp_path / "long.csv")
    assert len(read_pairs(tmp_path / "long.csv", max_chars=2_000_000)) == 3


def truncated(at: Path) -> Path:
    path = write_parquet(at / "cut.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    return path


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(at: Path) -> Path:
        (at / name).write_bytes(content)
        return at / name

    return write


def empty_folder(at: Path) -> Path:
    (at / "nothing").mkdir()
    return at / "nothing"


def clashing_shards(at: Path) -> Path:
    pq.write_table(pa.table({"prompt": ["a"]}), at / "1.parquet")
    pq.write_table(pa.table({"prompt": [[1.5]]}), at / "2.parquet")
    return at


LINE = LINES[0].encode()
UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (lambda at: at / "no.parquet", r"no\.parquet does not exist; expected a file \.parquet, \.jsonl"),
    "missing, as text": (lambda at: "no-such-file", "no-such-file does not exist; .* or a hub id .owner/name"),
    "missing, with a folder": (lambda at: "data/no.jsonl", r"data/no\.jsonl does not exist"),
    "folder without Parquet": (empty_folder, r"nothing holds no Parquet file, expected \*\.parquet or data/train-"),
    "folder of clashing shards": (clashing_shards, "the 2 shards differ in their columns .*; write them alike"),
    "empty file": (written("no.parquet", b""), r"no\.parquet is empty .0 bytes., expected preference pairs"),
    "empty JSONL": (written("no.jsonl", b""), "is empty .0 bytes."),
    "blank JSONL": (written("no.jsonl", b"\n\n"), r"no\.jsonl holds no rows, expected at least one preference pair"),
    "zero rows": (written("no.csv", b"prompt,response_a,response_b\n"), r"no\.csv holds no rows"),
    "zero rows in a frame": (lambda at: frame()[:0], "DataFrame holds no rows"),
    "truncated Parquet": (truncated, r"cut\.parquet is no readable Parquet file, perhaps truncated .*; copy or write"),
    "no Parquet at all": (written("no.parquet", b"prompt"), "is no readable Parquet file"),
    "other ending": (written("pairs.txt", b"prompt"), r"pairs\.txt is of no known kind, expected a file \.parquet"),
    "broken JSON": (written("a.jsonl", LINE + b"\n{\n"), r"a\.jsonl, line 2: no valid JSON .*; correct or remove"),
    "JSON in Latin-1": (written("a.jsonl", LINE + b'\n{"a": "\xe9"}'), "line 2: no valid JSON .*utf-8"),
    "JSON list": (written("a.jsonl", b"[" + LINE + b"]"), "line 1: expected one JSON object a line, found list"),
    "JSON of mixed kinds": (
        written("a.jsonl", LINE + b'\n{"prompt": ["x"]}'),
        r"column prompt must hold values of one kind, found str .row 0., list .row 1.",
    ),
    "truncated gzip": (written("a.jsonl.gz", gzip.compress(LINE * 99)[:-20]), r"a\.jsonl\.gz cannot be read"),
    "no gzip": (written("a.jsonl.gz", LINE), r"a\.jsonl\.gz cannot be read .*; copy or write it again"),
    "CSV with a short row": (
        written("a.csv", b"prompt,response_a,response_b\nx,y,z\nx,y\n1,2,3,4\n"),
        "record 3 .the header is record 1.: expected 3 fields, found 2: 'x,y'; 2 such records in all",
    ),
    "JSON cut short": (written("a.json", b'[{"prompt": "x"'), r"a\.json: no valid JSON .*; correct it"),
    "JSON of texts": (written("a.json", b'["x"]'), r"a\.json, element 0: expected an object, found str"),
    "CSV in Latin-1": (written("a.csv", b"prompt,response_a,response_b\n\xe9,a,b\n"), "no readable CSV file .*UTF-8"),
    "column twice": (written("a.csv", b"prompt,prompt\na,b\n"), "column prompt stands there more than once"),
    "column twice in a frame": (lambda at: pd.concat([frame(), frame()], axis=1), "names must be texts, each once"),
    "several splits": (lambda at: datasets.DatasetDict(train=None, test=None), "holds several splits .train, test"),
    "other type": (lambda at: [1, 2], "cannot read pairs from a list; expected a path, a hub id, a pandas DataFrame"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_says_why_and_the_way_out(case: str, tmp_path: Path) -> None:
    make, words = UNREADABLE[case]
    with pytest.raises(DataError, match=words):
        read_pairs(make(tmp_path))


def test_on_bad_rows_takes_two_words() -> None:
    with pytest.raises(DataError, match="on_bad_rows must be 'error' or 'drop', found 'skip'"):
        read_pairs(frame(), on_bad_rows="skip")  # type: ignore[arg-type]


def with_surrogate(column: str) -> list[dict[str, Any]]:
    return [ROWS[0], ROWS[1] | {column: "a\ud800b"}, ROWS[2]]


@pytest.mark.parametrize("column", ["prompt", "response_a", "response_b", "group"])
def test_lone_surrogates_are_named_in_jsonl_and_pandas(column: str, tmp_path: Path) -> None:
    rows = with_surrogate(column)
    path = write_jsonl(tmp_path / "a.jsonl", [json.dumps(row) for row in rows])
    for source in (path, pd.DataFrame(rows, dtype=object)):
        with pytest.raises(RowError, match=f"row 1, column {column}: lone surrogate or other invalid Unicode"):
            read_pairs(source)
        with pytest.warns(WeakprefWarning, match="left out 1 bad row"):
            assert len(read_pairs(source, on_bad_rows="drop")) == 2


def test_a_lone_surrogate_within_messages_is_named(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": text}] for text in ("fine", "a\udfffb")]
    rows = [ROWS[0] | {"prompt": prompt} for prompt in turns]
    with pytest.raises(RowError, match="row 1, column prompt: lone surrogate"):
        read_pairs(write_jsonl(tmp_path / "a.jsonl", [json.dumps(row) for row in rows]))
    arrays = [np.array(prompt, dtype=object) for prompt in turns]
    with pytest.raises(RowError, match="row 1, column prompt: lone surrogate"):
        read_pairs(pd.DataFrame(rows, dtype=object).assign(prompt=arrays))


def test_a_surrogate_pair_in_json_is_one_character(tmp_path: Path) -> None:
    (pair,) = read_pairs(write_jsonl(tmp_path / "a.jsonl", [json.dumps(ROWS[0] | {"response_a": "🙂"})]))
    assert pair.response_a == "🙂"


def test_bytes_that_are_no_utf8_in_arrow_are_named() -> None:
    texts = pa.array([b"fine", b"a\xed\xa0\x80b", b"fine too"]).view(pa.string())
    table = pa.Table.from_pylist(ROWS).set_column(1, "response_a", texts)
    with pytest.raises(RowError, match="row 1, column response_a: lone surrogate or other invalid Unicode"):
        read_pairs(table)
    with pytest.warns(WeakprefWarning, match="1 lone surrogate"):
        assert read_pairs(table, on_bad_rows="drop").table["response_a"].to_pylist() == ["fine", "fine too"]


def test_columns_that_no_layout_uses_may_hold_anything() -> None:
    assert len(read_pairs(frame().assign(notes=["\ud800", 1, [2]]).astype(object))) == 3
    odd = frame().assign(waves=np.array([1j, 2, 3]), zeros=pd.arrays.SparseArray([0, 0, 1]))
    assert len(read_pairs(odd)) == 3


def test_a_missing_column_is_named() -> None:
    with pytest.raises(LayoutError, match=r"columns prompt, response_a, gold match no .* no column response_b"):
        read_pairs(frame().drop(columns="response_b"))


def in_a_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "the Hugging Face hub could not be reached"),
        ({"HF_HUB_OFFLINE": "1"}, "unset HF_HUB_OFFLINE"),
    ],
)
def test_a_hub_out_of_reach_is_said_at_once(environment: dict[str, str], words: str, tmp_path: Path) -> None:
    code = (
        "import time; from labeling.errors import DataError; from labeling.read import read_pairs\n"
        "start = time.time()\n"
        "try: read_pairs('nobody/no-such-pairs')\n"
        "except DataError as error: print(error, time.time() - start < 20)"
    )
    said = in_a_process(code, HF_HOME=str(tmp_path), **environment)
    assert words in said
    assert "nobody/no-such-pairs: no such file here" in said
    assert "pass the local file (demo: DATA=path)" in said
    assert said.endswith("True\n")


@pytest.mark.parametrize(("file", "n"), [("ukp_convincing", 12_400), ("hh_harmless", 2_308), ("pandalm", 839)])
@pytest.mark.slow
def test_real_data_holds_no_bad_row(shared_data: Path, file: str, n: int) -> None:
    pairs = read_pairs(shared_data / f"{file}.parquet")
    original = pq.read_table(shared_data / f"{file}.parquet")
    assert (len(pairs), dict(pairs.dropped)) == (n, {})
    for name in original.column_names:
        assert pairs.table[name].to_pylist() == original[name].to_pylist()


def test_real_judge_votes_fit_the_canonical_layout_but_for_seven_rows(shared_data: Path) -> None:
    with pytest.raises(RowError, match=r"row 223, .*: identical responses; 7 bad rows in all: 5 duplicate"):
        read_pairs(shared_data / "judge_votes.parquet")
    with pytest.warns(WeakprefWarning, match="left out 7 bad rows, kept 559 pairs"):
        pairs: Pairs = read_pairs(shared_data / "judge_votes.parquet", on_bad_rows="drop")
    assert dict(pairs.dropped) == {"duplicate pair": 5, "empty response": 1, "identical responses": 1}


LONG = "The same long name of a group. " * 10


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([1 << 63, 1 << 63, 5], [f"{1 << 63}", f"{1 << 63}", "5"]),
        (["x" * 256, LONG + "a", LONG + "b"], ["x" * 256, None, None]),
        (["x", LONG + "a", LONG + "a"], ["x", None, None]),
    ],
)
def test_a_group_may_be_a_hash_or_a_text_and_takes_little_memory(tmp_path: Path, values: Any, groups: Any) -> None:
    rows = [row | {"group": value} for row, value in zip(ROWS, values, strict=True)]
    found = read_pairs(write_jsonl(tmp_path / "a.jsonl", [json.dumps(row) for row in rows])).groups
    assert [name if wanted else None for name, wanted in zip(found.tolist(), groups, strict=True)] == groups
    assert found.itemsize <= 256 * 4
    assert (found[1] == found[2]) == (values[1] == values[2])


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("gold", 1 << 60, r"column gold: label outside \[0, 1\] \(found 1.15"),
        ("gold", 1 << 100, "column gold should hold a number"),
        ("annotator_votes", [1 << 60], r"column annotator_votes: vote outside \[0, 1\]"),
        ("annotator_votes", [1 << 100], "column annotator_votes must hold values of one kind"),
    ],
)
def test_whole_numbers_too_large_to_be_labels_are_named(tmp_path: Path, column: str, value: Any, words: str) -> None:
    lines = [json.dumps(row | {column: value}) for row in ROWS]
    with pytest.raises(DataError, match=words):
        read_pairs(write_jsonl(tmp_path / "a.jsonl", lines))


def test_many_rows_of_broken_text_are_read_in_little_time() -> None:
    rows = [{"prompt": f"{i}", "response_a": "\ud800" if i % 2 else "a", "response_b": "b"} for i in range(20_000)]
    start = time.process_time()
    with pytest.warns(WeakprefWarning, match="left out 10,?000 bad rows"):
        assert len(read_pairs(pd.DataFrame(rows, dtype=object), on_bad_rows="drop")) == 10_000
    assert time.process_time() - start < 20  # in the square of the rows it was minutes


@pytest.mark.parametrize("column", ["winner", "Gold", "label"])
def test_labels_in_a_column_of_another_name_are_warned_of(column: str) -> None:
    other = frame().rename(columns={"gold": column})
    with pytest.warns(WeakprefWarning, match=f"no label is read: expected a column gold, .* found {column}"):
        assert np.isnan(read_pairs(other).gold).all()


@pytest.mark.parametrize("column", ["gold", "Label", "preference"])
def test_labels_beside_chosen_and_rejected_are_warned_of_for_every_row_counts_as_labelled(column: str) -> None:
    rows = {"prompt": ["Hi", "Ho"], "chosen": ["a", "b"], "rejected": ["c", "d"], column: [None, 0.5]}
    with pytest.warns(WeakprefWarning, match=rf"says itself which response is preferred, so {column} is not read, and"):
        assert not np.isnan(read_pairs(pd.DataFrame(rows)).gold).any()
    del rows[column]
    read_pairs(pa.table(rows | {"label": ["sports", "arts"]}))  # a topic


def test_pairs_show_how_many_they_are_and_no_text() -> None:
    pairs = read_pairs(frame())
    known = (~np.isnan(pairs.gold)).sum()
    assert repr(pairs) == f"<Pairs: {len(pairs)} pairs, {known} with gold, {len(set(pairs.groups))} groups>"


def test_bytes_that_are_no_text_are_bad_rows_whatever_they_begin_with() -> None:
    texts = [b"caf\xe9", b'[{"role": "user", "content": "\xff"}]', b"Hi"]
    prompts = pa.Array.from_buffers(pa.string(), 3, pa.array(texts, pa.binary()).buffers())
    rows = pa.table({"prompt": prompts, "response_a": ["a", "b", "c"], "response_b": ["d", "e", "f"]})
    with pytest.warns(WeakprefWarning, match="left out 2 bad rows"):
        assert len(read_pairs(rows, on_bad_rows="drop")) == 1
