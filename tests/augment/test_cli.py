"""The command line: a new user's run from pairs to a report, and one line that helps for every kind of bad input."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from augment.commands import parse_gold
from labeling import read_pairs
from labeling.errors import DataError

PROMPT = [{"role": "user", "content": "Say something."}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_label_fit_and_export_make_an_augmented_dataset_with_manifests(folder, capsys, write_pairs):
    pairs = write_pairs(folder / "pairs.parquet")
    assert main(["label", str(pairs), "-o", "votes.parquet"]) == 0
    assert main(["fit", "votes.parquet", "-o", "posterior.parquet"]) == 0
    assert main(["export", str(pairs), "posterior.parquet", "--votes", "votes.parquet", "-o", "augmented"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert printed[0].startswith("votes.parquet: 19 voters on 60 pairs")
    assert "cross-fitted on 40 gold" in printed[1]
    assert printed[2] == "augmented: 60 pairs, 40 gold and 20 weak"
    manifest = json.loads(Path("votes.parquet.manifest.json").read_text())
    assert manifest["counts"]["gold"] == 40
    rows = pq.read_table("augmented/data/train-00000-of-00001.parquet").to_pylist()
    weak = [row for row in rows if row["origin"] == "weak"]
    assert len(weak) == 20
    assert all(len(row["chosen"][-1]["content"]) > len(row["rejected"][-1]["content"]) for row in weak)


def test_a_users_own_file_of_labeling_functions_votes(folder, capsys, write_pairs):
    pairs = write_pairs(folder / "pairs.parquet")
    Path("my_lfs.py").write_text(
        "from labeling import Vote, labeling_function, scoring_function\n"
        "@labeling_function\n"
        "def longer(pair):\n"
        "    return Vote.A if len(pair.response_a) > len(pair.response_b) else Vote.B\n"
        "@scoring_function\n"
        "def n_words(prompt, response):\n"
        "    return len(response.split())\n"
    )
    assert main(["label", str(pairs), "--lfs", "my_lfs.py", "--preset", "none", "-o", "votes.parquet"]) == 0
    table = pq.read_table("votes.parquet")
    assert table.column_names == ["pair_id", "group", "gold", "v:longer", "v:n_words", "m:n_words"]
    assert "2 voters on 60 pairs, 100.0% of pairs" in capsys.readouterr().out


def test_the_same_input_gives_the_same_bytes(folder, write_pairs):
    pairs = write_pairs(folder / "pairs.parquet")
    for name in ("one", "two"):
        main(["label", str(pairs), "-o", f"{name}.votes"])
        main(["fit", f"{name}.votes", "-o", f"{name}.posterior"])
    for kind in ("votes", "posterior"):
        assert Path(f"one.{kind}").read_bytes() == Path(f"two.{kind}").read_bytes()


@pytest.mark.slow
def test_train_score_and_evaluate_run_from_files(folder, write_pairs, fails):
    train, test = write_pairs(folder / "train.parquet"), write_pairs(folder / "test.parquet", 40, 40, first=1000)
    main(["label", str(train), "-o", "votes.parquet"])
    main(["fit", "votes.parquet", "-o", "posterior.parquet"])
    main(["export", str(train), "posterior.parquet", "-o", "augmented"])
    arguments = ["--model", "minilm", "--max-steps", "6", "--learning-rate", "1e-4", "--head-learning-rate", "1e-2"]
    assert main(["train", "augmented", "-o", "runs/rm0", *arguments, "--max-length", "64"]) == 0
    assert main(["score", "runs/rm0", str(test), "-o", "rewards.parquet"]) == 0
    assert main(["evaluate", "runs/rm0", str(test), "-o", "report.json"]) == 0
    rewards = pq.read_table("rewards.parquet")
    assert rewards.column_names == ["pair_id", "r_a", "r_b"]
    report = json.loads(Path("report.json").read_text())
    assert report["n"] == 40
    assert 0 <= report["accuracy"] <= 1
    assert main(["evaluate", "runs/rm0", str(test), "--against", "runs/rm0", "-o", "same.json"]) == 0
    assert json.loads(Path("same.json").read_text())["p_accuracy"] == 1.0
    assert "prompts to evaluate on were trained on" in fails("evaluate", "runs/rm0", train, "-o", "leaked.json")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.parquet", None, "gone.parquet"),
        ("empty.parquet", b"", "empty.parquet"),
        ("cut.parquet", "cut", "cut.parquet"),
        ("other.csv", b"x,y\n1,2\n", "x, y"),
        ("broken.jsonl", b'{"prompt": "Hi"\n', "line 1"),
        ("half.jsonl", b'{"prompt": "Hi", "response_a": "Yes", "response_b": null}\n', "response_b"),
        ("same.jsonl", b'{"prompt": "Hi", "response_a": "Yes", "response_b": "Yes"}\n', "identical responses"),
        ("gold.jsonl", b'{"prompt": "Hi", "response_a": "Yes", "response_b": "No", "gold": 2}\n', "gold"),
        ("nul.jsonl", b'{"prompt": "Hi", "response_a": "Y\\u0000s", "response_b": "No"}\n', "NUL"),
        ("lone.jsonl", b'{"prompt": "Hi", "response_a": "Y\\ud800s", "response_b": "No"}\n', "surrogate"),
    ],
)
def test_a_bad_file_ends_in_one_line_that_names_it(folder, name, content, words, write_pairs, fails):
    if content == "cut":
        whole = write_pairs(folder / "whole.parquet").read_bytes()
        Path(name).write_bytes(whole[: len(whole) // 2])
    elif content is not None:
        Path(name).write_bytes(content)
    line = fails("label", name, "-o", "votes.parquet")
    assert line.startswith("weakpref: error: ")
    assert words in line
    assert not Path("votes.parquet").exists()


def test_a_one_megabyte_response_is_named_and_can_be_dropped(folder, capsys, fails):
    rows = [
        {"prompt": PROMPT, "response_a": "x" * 1_000_000, "response_b": "short"},
        {"prompt": PROMPT, "response_a": "long enough", "response_b": "short"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), "big.parquet")
    assert "row 0" in fails("label", "big.parquet", "-o", "votes.parquet")
    assert main(["label", "big.parquet", "-o", "votes.parquet", "--drop-bad-rows"]) == 0
    assert pq.read_table("votes.parquet").num_rows == 1
    assert "note:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('boom')", "KeyError"),
        ("return None", "None"),
        ("return 7", "7"),
    ],
)
def test_a_labeling_function_that_fails_is_named_with_the_pair(folder, body, words, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet", n=4)
    Path("my_lfs.py").write_text(
        f"from labeling import labeling_function\n@labeling_function\ndef odd(pair):\n    {body}\n"
    )
    line = fails("label", pairs, "--lfs", "my_lfs.py", "-o", "votes.parquet")
    assert "odd" in line
    assert words in line
    assert "row 0" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "defines no voter"), ("import nothing_like_this", "failed to run: ModuleNotFoundError")],
)
def test_a_file_without_voters_is_named(folder, text, words, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet", n=4)
    Path("my_lfs.py").write_text(text)
    assert words in fails("label", pairs, "--lfs", "my_lfs.py", "-o", "votes.parquet")
    assert "does not exist" in fails("label", pairs, "--lfs", "none.py", "-o", "votes.parquet")
    assert "nobody votes" in fails("label", pairs, "--preset", "none", "-o", "votes.parquet")


def test_a_file_of_voters_may_import_its_neighbour_rename_a_voter_and_be_called_labeling(folder, capsys, write_pairs):
    pairs = write_pairs(folder / "pairs.parquet")
    (folder / "lfs").mkdir()
    (folder / "lfs" / "words_of_mine.py").write_text("LIMIT = 5\n")
    (folder / "lfs" / "labeling.py").write_text(
        "from words_of_mine import LIMIT\n"
        "from labeling import labeling_function\n"
        "@labeling_function\n"
        "def sure(pair):\n"
        "    return 0 if len(pair.response_a) > LIMIT else 1\n"
        "other_name = sure\n"
    )
    arguments = ["label", str(pairs), "--lfs", "lfs/labeling.py", "--preset", "none", "-o", "votes.parquet"]
    assert main(arguments) == 0
    assert "1 voters on 60 pairs" in capsys.readouterr().out


def test_a_file_of_voters_that_exits_is_named(folder, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet", n=4)
    Path("my_lfs.py").write_text("import sys\nsys.exit('done')\n")
    assert "failed to run: SystemExit: done" in fails("label", pairs, "--lfs", "my_lfs.py", "-o", "v.parquet")


def test_an_input_is_never_overwritten(folder, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet")
    before = pairs.read_bytes()
    assert "is also the input" in fails("label", pairs, "-o", pairs)
    assert pairs.read_bytes() == before
    assert "is a folder" in fails("label", pairs, "-o", folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["label"], "Missing argument"),
        (["label", "x.parquet", "--preset", "foo", "-o", "y"], "'foo' is not one of"),
        (["bogus"], "No such command 'bogus'"),
        (["evaluate", "gone", "pairs.parquet", "-o", "r.json"], "gone does not exist; expected a directory"),
        (["demo", "--gold", "inf"], "gold is 'inf'"),
    ],
)
def test_arguments_that_cannot_be_used_end_in_one_line(folder, arguments, words, write_pairs, fails):
    write_pairs(folder / "pairs.parquet", n=4)
    assert words in fails(*arguments)


def test_gold_ties_alone_fit_and_have_no_accuracy(folder):
    rows = [
        {"prompt": f"Why {i}?", "response_a": "Because it is so.", "response_b": "No.", "gold": 0.5} for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), "ties.parquet")
    assert main(["label", "ties.parquet", "-o", "votes.parquet"]) == 0
    assert main(["fit", "votes.parquet", "-o", "posterior.parquet"]) == 0
    record = json.loads(Path("posterior.parquet.manifest.json").read_text())
    assert record["counts"]["calibration"]["accuracy"] is None


def test_the_demo_refuses_to_keep_every_label(folder, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet", n=60, labelled=60)
    assert "keep fewer" in fails("demo", "--data", pairs, "--gold", "48", "--out", "demo")


def test_columns_of_another_type_are_named(folder, capsys, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet")
    main(["label", str(pairs), "-o", "votes.parquet"])
    table = pq.read_table("votes.parquet")
    text = pa.array(["yes"] * table.num_rows)
    pq.write_table(table.set_column(table.column_names.index("gold"), "gold", text), "text.parquet")
    pq.write_table(pa.table({"pair_id": table["pair_id"], "p_a": text}), "posterior.parquet")
    capsys.readouterr()
    assert "gold of type string, expected double" in fails("fit", "text.parquet", "-o", "p.parquet")
    assert "p_a of type string, expected double" in fails("export", pairs, "posterior.parquet", "-o", "out")


def test_fit_names_a_file_that_holds_no_votes(folder, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet")
    assert "expected the columns pair_id and v:<voter>" in fails("fit", pairs, "-o", "p.parquet")
    assert "does not exist" in fails("fit", "gone.parquet", "-o", "p.parquet")


def test_export_names_pairs_without_a_posterior(folder, capsys, write_pairs, fails):
    pairs, other = write_pairs(folder / "pairs.parquet"), write_pairs(folder / "other.parquet", first=500)
    main(["label", str(pairs), "-o", "votes.parquet"])
    main(["fit", "votes.parquet", "-o", "posterior.parquet"])
    capsys.readouterr()
    line = fails("export", other, "posterior.parquet", "-o", "augmented")
    assert "no posterior for 60 of 60 pairs" in line
    assert "expected pair_id and p_a" in fails("export", pairs, "votes.parquet", "-o", "augmented")


def test_export_names_a_pair_with_two_posteriors(folder, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet")
    names = [*read_pairs(pairs).pair_ids, read_pairs(pairs).pair_ids[7]]
    pq.write_table(pa.table({"pair_id": names, "p_a": [0.9] * len(names)}), "posterior.parquet")
    line = fails("export", pairs, "posterior.parquet", "-o", "augmented")
    assert f"has 2 posteriors for the pair {names[7]}; expected one a pair" in line


def test_a_negative_seed_is_refused_in_words(folder, capsys, write_pairs):
    pairs = write_pairs(folder / "pairs.parquet")
    assert main(["export", str(pairs), "posterior.parquet", "-o", "augmented", "--seed", "-1"]) == 2
    assert "Input should be greater than or equal to 0" in capsys.readouterr().err


def test_the_demo_without_any_label_says_so(folder, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet", labelled=0)
    assert "label" in fails("demo", "--data", pairs, "--out", "demo")


def test_the_demo_names_a_hub_id_that_cannot_be_reached(folder, monkeypatch, fails):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = fails("demo", "--data", "Anthropic/hh-rlhf", "--out", "demo")
    assert "Anthropic/hh-rlhf" in line


@pytest.mark.parametrize("text", ["many", "0", "-3", "1.5", ""])
def test_gold_is_a_number_of_pairs_or_a_share(text):
    with pytest.raises(DataError, match=r"expected a number of pairs \(150\) or a share below 1"):
        parse_gold(text)


def test_the_help_of_train_shows_the_configs_own_words(capsys):
    assert main(["train", "--help"]) == 0
    assert "[minilm]" in "".join(capsys.readouterr().out.split())


def test_the_console_script_is_ours_and_none_is_called_rm():
    import importlib.metadata

    homes = importlib.metadata.packages_distributions()
    for package in ("labeling", "augment", "rm"):
        assert set(homes.get(package, [])) <= {"weakpref"}  # an editable install lists none
    scripts = importlib.metadata.distribution("weakpref").entry_points.select(group="console_scripts")
    assert [script.name for script in scripts] == ["weakpref"]
    assert not importlib.metadata.entry_points(group="console_scripts", name="rm")


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"weakpref {version('weakpref')}\n"


def test_without_a_posterior_the_pairs_with_gold_are_exported(folder, capsys, write_pairs, fails):
    pairs = write_pairs(folder / "pairs.parquet")
    known = ~np.isnan(read_pairs(pairs).gold)
    main(["label", str(pairs), "-o", "votes.parquet"])
    capsys.readouterr()
    assert main(["export", str(pairs), "-o", "gold", "--votes", "votes.parquet"]) == 0
    assert capsys.readouterr().out == f"gold: {known.sum()} pairs, {known.sum()} gold and 0 weak\n"
    table = pq.read_table(next(Path("gold/data").glob("*.parquet")))
    assert set(table["pair_id"].to_pylist()) == set(read_pairs(pairs).pair_ids[known])
    assert set(table["origin"].to_pylist()) == {"gold"}
    bare = write_pairs(folder / "bare.parquet", labelled=0)
    assert "no pair of" in fails("export", bare, "-o", "none")


@pytest.mark.parametrize("name", ["votes.csv", "votes.jsonl", "votes.json"])
def test_a_parquet_file_gets_no_other_ending(folder, write_pairs, fails, name):
    pairs = write_pairs(folder / "pairs.parquet")
    assert f"{name} would be a Parquet file; expected a name that ends in .parquet" in fails("label", pairs, "-o", name)
    with pytest.raises(DataError, match="would be a Parquet file"):
        read_pairs(pairs).write(folder / name)
    assert not Path(name).exists()
