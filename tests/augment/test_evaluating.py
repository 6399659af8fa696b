"""`weakpref evaluate` beside a label model, by columns of the file and on a benchmark; whose value a pair has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from augment.commands import Reading
from augment.evaluating import MOST_VALUES, _unseen, columns_of
from labeling import apply, heuristics, read_pairs, write_votes
from labeling.errors import DataError, WeakprefWarning
from labeling.files import write_json

Capture = pytest.CaptureFixture[str]
ORIGINS = ["gold", "weak", "gold", None, "weak", "weak", "gold", "weak"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pairs.parquet", origin=pa.array(ORIGINS), year=pa.array([2024, 2025] * 4))
    return tmp_path


def write(path: Path, **columns: pa.Array) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Name {i} colours."}],
            "response_a": f"Red, {i} times, and blue.",
            "response_b": f"No, not {i}.",
            "gold": float(i % 3 > 0),
        }
        for i in range(len(ORIGINS))
    ]
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.append_column(name, values)
    pq.write_table(table, path)
    return path


def found(path: Path, *names: str, reading: Reading = Reading()) -> dict[str, list[str]]:  # noqa: B008
    return columns_of(str(path), reading(path), reading, names)


def test_origin_is_measured_by_wherever_a_file_has_it_and_other_columns_where_they_are_named(folder: Path) -> None:
    origins = [origin or "" for origin in ORIGINS]
    assert found(folder / "pairs.parquet") == {"origin": origins}
    assert found(folder / "pairs.parquet", "year") == {"year": ["2024", "2025"] * 4, "origin": origins}
    assert list(found(folder / "pairs.parquet", "origin")) == ["origin"]
    assert found(write(folder / "bare.parquet")) == {}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_origin_is_text_however_it_is_stored(folder: Path, kind: pa.DataType) -> None:
    path = write(folder / "stored.parquet", origin=pa.array(ORIGINS).cast(kind))
    assert found(path) == {"origin": [origin or "" for origin in ORIGINS]}


def test_values_stay_with_their_pairs_where_rows_are_dropped_or_come_twice(folder: Path) -> None:
    table = pq.read_table(folder / "pairs.parquet")
    rows = table.to_pylist()
    bad = rows[1] | {"response_a": None}
    pq.write_table(pa.Table.from_pylist([bad, *rows[2:], rows[4]], schema=table.schema), "odd.parquet")
    reading = Reading(drop_bad_rows=True)
    with pytest.warns(UserWarning, match="left out 2 bad rows, kept 6 pairs"):
        pairs = reading("odd.parquet")
    values = columns_of("odd.parquet", pairs, reading, ["year"])
    years = {pair.messages[0]["content"]: year for pair, year in zip(pairs, values["year"], strict=True)}
    assert years == {f"Name {i} colours.": str(2024 + i % 2) for i in range(2, 8)}


def test_values_that_no_usable_row_has_are_passed_over(folder: Path) -> None:
    years = pa.array([2024.0, float("nan"), None, 2025.0, 2026.0, 2024.0, 2024.0, 2024.0])
    rows = pq.read_table(write(folder / "odd.parquet", year=years)).to_pylist()
    table = pa.Table.from_pylist([row | {"response_a": None} if row["year"] == 2026 else row for row in rows])
    pq.write_table(table, "odd.parquet")
    reading = Reading(drop_bad_rows=True)
    with pytest.warns(UserWarning, match="left out 1 bad row, kept 7 pairs"):
        pairs = reading("odd.parquet")
    assert columns_of("odd.parquet", pairs, reading, ["year"])["year"] == ["2024.0", "", "", "2025.0", *["2024.0"] * 3]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--against", "rm", "--by", "year"], "--by does nothing with --against"),
        (["--against", "rm", "--posterior", "p.parquet"], "--posterior does nothing with --against"),
        (["--benchmark", "rewardbench", "--drop-bad-rows"], "--drop-bad-rows does nothing with --benchmark"),
    ],
)
def test_options_that_would_do_nothing_are_refused(given: list[str], words: str, capsys: Capture) -> None:
    assert main(["evaluate", "rm", "pairs.parquet", "-o", "out", *given]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_columns_that_cannot_be_measured_by_are_named(folder: Path) -> None:
    write(folder / "tags.parquet", tags=pa.array([["a"]] * 8))
    with pytest.raises(DataError, match=r"column tags is list<.*, expected one value a pair"):
        found(folder / "tags.parquet", "tags")
    with pytest.raises(DataError, match=r"has no column colour; it has prompt, response_a, .*, origin, year"):
        found(folder / "pairs.parquet", "colour")


def test_an_origin_of_too_many_values_is_an_error_only_where_it_was_asked_for(folder: Path) -> None:
    texts = [str(i) for i in range(MOST_VALUES + 1)]
    columns = {"prompt": texts, "response_a": ["Because."] * len(texts), "response_b": ["No idea."] * len(texts)}
    pq.write_table(pa.table(columns | {"origin": texts}), "many.parquet")
    assert found(folder / "many.parquet") == {}
    with pytest.raises(DataError, match="column origin has 1,001 values, expected at most 1000: choose another"):
        found(folder / "many.parquet", "origin")


@pytest.mark.slow
def test_a_model_is_measured_beside_a_posterior_and_by_columns(
    folder: Path, rm_folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(rm_folders[0])
    assert main(["label", "pairs.parquet", "-o", "votes.parquet", "--workers", "1"]) == 0
    assert main(["fit", "votes.parquet", "-o", "posterior.parquet"]) == 0
    beside = ["--posterior", "posterior.parquet", "--by", "year"]
    assert main(["evaluate", model, "pairs.parquet", "-o", "report.json", *beside]) == 0
    printed = capsys.readouterr().out
    assert "| label model | 8 | 0 |" in printed
    assert "| year | pairs |" in printed
    assert "| origin | pairs |" in printed
    assert "| weak | 4 | 0 |" in printed
    inputs = json.loads(Path("report.json.manifest.json").read_text())["inputs"]
    assert set(inputs) == {"pairs", "model", "posterior"}


@pytest.mark.slow
def test_a_file_of_rewardbench_is_scored_by_its_own_rules(
    folder: Path, rm_folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    subsets = ["alpacaeval-easy", "mt-bench-hard", "hep-python", "refusals-dangerous"] * 2
    rows = [
        {"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No.", "subset": subset}
        for i, subset in enumerate(subsets)
    ]
    Path("bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", str(rm_folders[0]), "bench.jsonl", "--benchmark"]
    assert main([*command, "rewardbench", "-o", "bench.json"]) == 0
    result = json.loads(Path("bench.json").read_text())
    assert result["average"]["n"] == 8
    assert f"bench.json: rewardbench {result['average']['score']:.3f} on 8 items" in capsys.readouterr().out
    assert main([*command, "rm-bench", "-o", "other.json"]) == 2
    assert "those of no benchmark (rm-bench: column chosen should hold a list of texts" in capsys.readouterr().err


def test_beside_a_reward_model_a_label_model_is_measured_on_gold_it_did_not_see(folder: Path, write_pairs) -> None:
    pairs = read_pairs(write_pairs(folder / "gold.parquet"))
    write_votes("votes.parquet", apply(heuristics(), pairs, progress=False), pairs.gold)
    assert main(["fit", "votes.parquet", "-o", "posterior.parquet"]) == 0
    table = pq.read_table("posterior.parquet")
    known = ~np.isnan(pairs.gold)
    assert (table["held_out"].is_valid().to_numpy() == known).all()
    p_a, held_out = (table[name].to_numpy() for name in ("p_a", "held_out"))
    found = _unseen(Path("posterior.parquet"), pairs)
    assert (found[known] == held_out[known]).all()
    assert (found[known] != p_a[known]).any()
    assert (found[~known] == p_a[~known]).all()
    assert (_unseen(Path("posterior.parquet"), pairs.take(~known)) == p_a[~known]).all()  # and nothing is warned of
    Path("posterior.parquet.manifest.json").write_text("[]")
    assert (_unseen(Path("posterior.parquet"), pairs.take(~known)) == p_a[~known]).all()


@pytest.mark.parametrize(("model", "learns"), [("logistic", True), ("majority", False)])
def test_a_label_model_that_saw_the_gold_it_is_measured_on_is_warned_of(
    folder: Path, write_pairs, model: str, learns: bool, recwarn
) -> None:
    pairs = read_pairs(write_pairs(folder / "gold.parquet"))
    write_votes("votes.parquet", apply(heuristics(), pairs, progress=False), pairs.gold)
    assert main(["fit", "votes.parquet", "--model", model, "-o", "posterior.parquet"]) == 0
    recwarn.clear()
    if learns:
        with pytest.warns(WeakprefWarning, match="was fitted on 40 gold labels and not cross-fitted: where these"):
            _unseen(Path("posterior.parquet"), pairs)
    else:
        _unseen(Path("posterior.parquet"), pairs)


def test_no_report_is_written_into_the_folder_of_a_reward_model(folder: Path, capsys: Capture) -> None:
    write_json(folder / "rm" / "manifest.json", {"command": "train"})
    before = (folder / "rm" / "manifest.json").read_bytes()
    assert main(["evaluate", "rm", "pairs.parquet", "-o", "rm"]) == 2
    assert "manifest.json is not of a report of evaluate and would be lost" in " ".join(capsys.readouterr().err.split())
    assert (folder / "rm" / "manifest.json").read_bytes() == before
