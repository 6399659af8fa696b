"""`weakpref fit`, `compare` and `explain`: every label model, side by side, what it learned, and why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from augment.commands import MODELS
from labeling import VoteMatrix, read_votes, write_votes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def voted(folder, write_pairs):
    """Have the built-in heuristics vote on some pairs."""

    def vote(**fields):
        main(["label", str(write_pairs(folder / "pairs.parquet", **fields)), "-o", "votes.parquet"])

    return vote


@pytest.mark.parametrize("model", MODELS)
def test_every_label_model_can_be_fitted(folder, capsys, model, write_pairs):
    main(["label", str(write_pairs(folder / "pairs.parquet")), "-o", "votes.parquet"])
    assert main(["fit", "votes.parquet", "--model", model, "-o", "posterior.parquet"]) == 0
    p_a = pq.read_table("posterior.parquet")["p_a"].to_numpy()
    assert ((p_a >= 0) & (p_a <= 1)).all()


def test_a_voter_named_a_self_label_is_not_listened_to_without_gold(folder, write_pairs):
    main(["label", str(write_pairs(folder / "pairs.parquet", labelled=0)), "-o", "votes.parquet"])
    main(["fit", "votes.parquet", "-o", "all.parquet", "--report", "all"])
    main(["fit", "votes.parquet", "-o", "most.parquet", "--report", "most", "--self-labels", "length, questions"])
    weights = pd.read_csv("most/voters.csv", index_col=0)["weight"]
    assert weights["length"] == 0
    assert np.isnan(weights["questions"])  # it never votes
    assert pd.read_csv("all/voters.csv", index_col=0)["weight"]["length"] != 0


@pytest.mark.slow
def test_all_label_models_are_compared_side_by_side(folder, capsys, monkeypatch, voted):
    monkeypatch.setenv("COLUMNS", "80")
    voted()
    assert main(["compare", "votes.parquet", "-o", "compare.json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    report = json.loads(Path("compare.json").read_text())
    names = [row["label model"] for row in report["rows"]]
    assert set(names) == {*MODELS, "share of votes", "best single voter"} - {"majority"}
    assert (report["gold"], report["folds"]) == (40, 5)
    best = report["rows"][0]
    assert printed[-1] == f"lowest log-loss {best['log_loss']:.3f}: {names[0]}, accuracy {best['accuracy']:.3f}"
    assert all(any(line.startswith(name) for line in printed) for name in names)
    assert not any("…" in line for line in printed)
    manifest = json.loads(Path("compare.json.manifest.json").read_text())
    assert manifest["command"] == "compare"
    assert manifest["counts"] == {"gold": 40, "pairs": 60}


def test_votes_of_two_files_are_joined_and_fitted_together(folder, capsys, voted, fails):
    voted()
    votes, gold = read_votes("votes.parquet")
    names = votes.names
    write_votes("judged.parquet", replace(votes.select(names[:1]).take(range(20)), names=("judge",)))
    assert main(["join", "votes.parquet", "judged.parquet", "-o", "all.parquet"]) == 0
    n_gold = int((~np.isnan(gold)).sum())
    assert f"{len(names) + 1} voters of 2 files on 60 pairs, {n_gold} with gold" in capsys.readouterr().out
    joined, labels = read_votes("all.parquet")
    assert joined.names == (*names, "judge")
    assert (joined.votes[:20, -1] == joined.votes[:20, 0]).all()
    assert (joined.votes[20:, -1] == -1).all()
    np.testing.assert_array_equal(labels, gold)
    assert main(["fit", "all.parquet", "-o", "posterior.parquet"]) == 0
    assert "more than one file holds votes of" in fails("join", "votes.parquet", "votes.parquet", "-o", "x.parquet")


def test_a_comparison_names_the_folds_there_are(folder, capsys, voted):
    voted()
    votes, gold = read_votes("votes.parquet")
    some = votes.take(range(30))
    write_votes("votes.parquet", replace(some, groups=np.array([f"{i % 3}" for i in range(30)])), gold[:30])
    capsys.readouterr()
    assert main(["compare", "votes.parquet", "--models", "one-coin", "--folds", "50", "--out", "compare.json"]) == 0
    assert "cross-fitted in 3 folds" in capsys.readouterr().out
    assert json.loads(Path("compare.json").read_text())["folds"] == 3


def test_chosen_label_models_are_compared_without_writing(folder, capsys, voted):
    voted()
    capsys.readouterr()
    assert main(["compare", "votes.parquet", "--models", "majority, one-coin", "--folds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "in 2 folds" in printed
    assert "one-coin" in printed
    assert "dawid-skene" not in printed
    assert sorted(path.name for path in folder.glob("*")) == [
        "pairs.parquet",
        "votes.parquet",
        "votes.parquet.manifest.json",
    ]


@pytest.mark.parametrize(
    ("labelled", "arguments", "words"),
    [
        (0, [], "no gold label: label models are compared on pairs whose preferred response is known"),
        (4, [], "4 gold labels are no tie, expected 10 or more"),
        (40, ["--models", "label,best"], "label model 'best' is unknown; there are label, snorkel, majority"),
        (40, ["--folds", "1"], "n_folds is 1, expected 2 or more"),
        (40, ["-o", "votes.parquet"], "votes.parquet is also the input"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_what_to_do(folder, capsys, labelled, arguments, words, fails, voted):
    voted(labelled=labelled)
    capsys.readouterr()
    assert words in fails("compare", "votes.parquet", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [0, 40])
def test_a_report_says_what_the_label_model_learned(folder, capsys, labelled, voted):
    voted(labelled=labelled)
    capsys.readouterr()
    assert main(["fit", "votes.parquet", "-o", "posterior.parquet", "--report", "report"]) == 0
    printed = capsys.readouterr().out.splitlines()
    written = {path.name for path in Path("report").iterdir()} - {"manifest.json"}
    expected = {"model.json", "voters.csv", "evidence.png", "dependence.png"}
    assert written == expected | ({"reliability.png"} if labelled else set())
    assert set(json.loads(Path("report/manifest.json").read_text())["files"]) == written
    voters = Path("report/voters.csv").read_text().splitlines()
    assert voters[0] == "voter,accuracy,weight,nearest,dependence"
    assert len(voters) == 20
    assert printed[1].startswith("report: ")
    assert all(words in printed[1] for words in ("; most weight ", "; most alike ", "gold"))


@pytest.mark.slow
def test_the_report_on_the_same_votes_is_the_same_bytes(folder, voted):
    voted()
    for name in ("one", "two"):
        main(["fit", "votes.parquet", "-o", "posterior.parquet", "--report", name])
    for path in Path("one").iterdir():
        assert path.read_bytes() == (Path("two") / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_report_without_gold_leaves_no_reliability_of_an_earlier_one_but_other_files(folder, voted):
    voted()
    main(["fit", "votes.parquet", "-o", "posterior.parquet", "--report", "report"])
    Path("report/notes.txt").write_text("mine")
    voted(labelled=0)
    main(["fit", "votes.parquet", "-o", "posterior.parquet", "--report", "report"])
    assert not Path("report/reliability.png").exists()
    assert Path("report/notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_pair_is_explained_by_the_saved_model(folder, capsys, fails, voted):
    voted()
    main(["fit", "votes.parquet", "-o", "posterior.parquet", "--report", "report"])
    pair, p_a = (pq.read_table("posterior.parquet")[name][0].as_py() for name in ("pair_id", "p_a"))
    capsys.readouterr()
    arguments = ["explain", "votes.parquet", "--model-file", "report/model.json", "--pair"]
    assert main([*arguments, pair]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"pair {pair}: P(A preferred) = {p_a:.3f}, log-odds ")
    assert "\nlength " in printed
    assert main([*arguments, "0"]) == 0
    assert capsys.readouterr().out == printed
    assert "no saved label model" in fails("explain", "votes.parquet", "--model-file", "votes.parquet", "--pair", pair)
    assert "no row of the votes is of the pair nobody" in fails(*arguments, "nobody")
    assert "gone.json" in fails("explain", "votes.parquet", "--model-file", "gone.json", "--pair", pair)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "majority", "--report", "report"], "only the model 'label' says what it learned"),
        (["--model", "best"], "label model 'best' is unknown; there are label, snorkel, majority"),
        (["--report", "pairs.parquet"], "pairs.parquet is a file, expected a folder"),
        (["--model", "one-coin", "--self-labels", "length"], "only the model 'label' can tell self-labels apart"),
        (["--self-labels", "nobody"], "self_labels names nobody, but the voters are"),
    ],
)
def test_a_fit_that_cannot_be_made_writes_nothing(folder, capsys, arguments, words, fails, voted):
    voted()
    capsys.readouterr()
    assert words in fails("fit", "votes.parquet", "-o", "posterior.parquet", *arguments)
    assert not Path("posterior.parquet").exists()


def test_voters_that_never_vote_are_not_named_as_heavy(folder, capsys):
    said = np.array([[0, 1, -1], [1, 1, -1], [0, 0, -1]] * 20, np.int8)
    write_votes("votes.parquet", VoteMatrix.of(said, ["a", "b", "silent"]))
    assert main(["fit", "votes.parquet", "-o", "posterior.parquet", "--report", "report"]) == 0
    assert "silent" not in capsys.readouterr().out
