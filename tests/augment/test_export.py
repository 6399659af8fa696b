"""Export: orientation, ties, weights, votes, bytes, and what it refuses."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from augment import ExportOptions, export
from augment.card import COLUMNS
from augment.columns import SCHEMA, conversations, tie_flips
from labeling.errors import DataError, RowError, VotesError
from labeling.pairs import MESSAGES, Pairs
from labeling.votes import VoteMatrix

P_A = [0.1, 0.9, 0.9, 0.8, 0.3, 0.5]
"""Of the six pairs; the first three contradict their gold labels 1, 0, 0.5."""


def read(folder: Path) -> dict[str, dict[str, object]]:
    rows = pq.read_table(sorted((folder / "data").iterdir())).to_pylist()
    return {row["pair_id"]: row for row in rows}


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def six_rows(six_pairs: Pairs, six_votes: VoteMatrix, tmp_path: Path) -> list[dict[str, object]]:
    """The six pairs as exported, in their own order."""
    rows = read(export(tmp_path / "augmented", six_pairs, P_A, votes=six_votes))
    return [rows[name] for name in six_pairs.pair_ids.tolist()]


def test_the_columns_are_those_of_the_universal_layout(six_pairs: Pairs, tmp_path: Path) -> None:
    path = export(tmp_path / "augmented", six_pairs, P_A) / "data" / "train-00000-of-00001.parquet"
    expected = (
        "chosen rejected question messages pair_id p_chosen weight flipped origin iteration gold votes source split"
    )
    assert pq.read_schema(path).names == expected.split() == [name for name, _, _ in COLUMNS]
    metadata = pq.ParquetFile(path).metadata
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}


def test_no_column_changes_what_a_trainer_does_behind_the_users_back() -> None:
    forbidden = (
        "margin prompt label completion tools images chosen_ids rejected_ids length chat_template_kwargs "
        "__index_level_0__"
    )
    assert not set(forbidden.split()) & set(SCHEMA.names)
    assert not re.search("large_|map<|dictionary<", str(SCHEMA.types))


def test_chosen_is_the_response_that_is_preferred_with_the_higher_probability(six_rows: list[dict]) -> None:
    assert [row["flipped"] for row in six_rows[3:5]] == [False, True]
    assert [row["chosen"][-1]["content"] for row in six_rows[3:5]] == ["Good answer 3.", "Bad answer, number 4."]
    assert [row["rejected"][-1]["content"] for row in six_rows[3:5]] == ["Bad answer, number 3.", "Good answer 4."]
    assert [row["p_chosen"] for row in six_rows[3:5]] == [0.8, 0.7]
    assert [(row["origin"], row["iteration"], row["gold"]) for row in six_rows[3:]] == [("weak", 1, None)] * 3


def test_a_gold_label_goes_before_the_weak_one(six_rows: list[dict]) -> None:
    assert [row["chosen"][-1]["content"] for row in six_rows[:2]] == ["Good answer 0.", "Bad answer, number 1."]
    assert [(row["p_chosen"], row["gold"]) for row in six_rows[:3]] == [(1.0, 1.0), (1.0, 1.0), (0.5, 0.5)]
    assert [(row["origin"], row["iteration"]) for row in six_rows[:3]] == [("gold", 0)] * 3


def test_a_conversation_is_the_prompts_turns_and_the_assistants_answer(six_rows: list[dict]) -> None:
    for row in six_rows:
        assert row["chosen"][:-1] == row["rejected"][:-1] == row["messages"]
        assert row["chosen"][-1]["role"] == row["rejected"][-1]["role"] == "assistant"
    assert [turn["role"] for turn in six_rows[1]["chosen"]] == ["system", "user", "assistant"]
    assert [turn["role"] for turn in six_rows[4]["chosen"]] == ["user", "assistant", "user", "assistant"]
    assert six_rows[4]["question"] == "Blue."


def test_votes_are_turned_with_the_pair(six_rows: list[dict]) -> None:
    assert six_rows[3]["votes"] == [
        {"voter": "longer", "vote": 0, "margin": 0.5},
        {"voter": "polite", "vote": 0, "margin": None},
    ]
    assert six_rows[4]["votes"] == [
        {"voter": "longer", "vote": 0, "margin": 0.25},
        {"voter": "polite", "vote": 0, "margin": None},
    ]
    assert six_rows[5]["votes"][1] == {"voter": "polite", "vote": -1, "margin": None}


def test_without_votes_the_column_is_null(six_pairs: Pairs, tmp_path: Path) -> None:
    assert {str(row["votes"]) for row in read(export(tmp_path / "augmented", six_pairs, P_A)).values()} == {"None"}


def test_ties_weigh_nothing_unless_kept(six_rows: list[dict], six_pairs: Pairs, tmp_path: Path) -> None:
    assert [row["weight"] for row in six_rows] == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    kept = read(export(tmp_path / "kept", six_pairs, P_A, options=ExportOptions(keep_ties=True)))
    assert {row["weight"] for row in kept.values()} == {1.0}
    assert {row["p_chosen"] for row in kept.values()} == {0.5, 0.7, 0.8, 1.0}


def test_either_response_of_a_tie_may_be_called_chosen(make_pairs: Callable[..., Pairs]) -> None:
    rows = [([{"role": "user", "content": f"Question {i}"}], "Yes.", "No.") for i in range(400)]
    assert 160 < tie_flips(make_pairs(rows)).sum() < 240  # four standard errors


def test_a_probability_that_rounds_to_a_half_is_a_tie(six_pairs: Pairs, tmp_path: Path) -> None:
    p_a = [np.nextafter(0.5, 0), 0.9, 0.9, 0.9, 0.9, 0.9]
    rows = read(export(tmp_path / "augmented", six_pairs.with_gold(None), p_a))
    assert [row["weight"] for row in rows.values() if row["p_chosen"] == 0.5] == [0.0]


def test_a_margin_of_nothing_has_no_sign(six_pairs: Pairs, six_votes: VoteMatrix, tmp_path: Path) -> None:
    p_a, nothing = [0.1] * 6, VoteMatrix(six_votes.votes, six_votes.margins * 0, six_votes.names, six_pairs.pair_ids)
    rows = read(export(tmp_path / "augmented", six_pairs.with_gold(None), p_a, votes=nothing))
    assert {str(row["votes"][0]["margin"]) for row in rows.values()} == {"0.0"}


def test_weights_are_multiplied_in_and_ties_stay_out(six_pairs: Pairs, tmp_path: Path) -> None:
    rows = read(export(tmp_path / "augmented", six_pairs, P_A, weights=[2, 1, 3, 0, 0.5, 1]))
    assert [rows[name]["weight"] for name in six_pairs.pair_ids.tolist()] == [2.0, 1.0, 0.0, 0.0, 0.5, 0.0]


def test_p_a_may_be_missing_where_there_is_gold(six_pairs: Pairs, tmp_path: Path) -> None:
    gold_only = six_pairs.take([0, 1])
    rows = read(export(tmp_path / "augmented", gold_only, [np.nan, np.nan]))
    assert {row["p_chosen"] for row in rows.values()} == {1.0}
    assert "All labels that count are gold" in (tmp_path / "augmented" / "README.md").read_text()


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
probabilities = st.floats(0, 1, allow_subnormal=False)


@pytest.mark.filterwarnings("ignore:all .* pairs have gold")
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking is slow
@given(st.data())
@pytest.mark.slow
def test_swapping_the_responses_changes_no_conversation_label_or_vote(make_pairs, tmp_path_factory, data) -> None:
    n = data.draw(st.integers(1, 4))
    contents = [data.draw(st.lists(texts, min_size=2, max_size=2, unique=True)) for _ in range(n)]
    rows = [([{"role": "user", "content": f"{i}"}], *pair) for i, pair in enumerate(contents)]
    pairs = make_pairs(rows, data.draw(st.lists(st.none() | probabilities, min_size=n, max_size=n)))
    p_a = np.asarray(data.draw(st.lists(probabilities, min_size=n, max_size=n)))
    said = np.asarray(data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=n, max_size=n)), dtype=np.int8)
    votes = VoteMatrix(said[:, None], (0.5 - p_a[:, None]).astype(np.float32), ("one",), pairs.pair_ids)
    swapped = pairs.swap()
    swapped_votes = votes.swap()
    swapped_votes = VoteMatrix(swapped_votes.votes, swapped_votes.margins, votes.names, swapped.pair_ids)
    out, options = tmp_path_factory.mktemp("swap"), ExportOptions(keep_ties=True)
    once = read(export(out / "once", pairs, p_a, votes, options=options))
    twice = read(export(out / "twice", swapped, 1 - p_a, swapped_votes, options=options))
    for here, there in zip(pairs.pair_ids.tolist(), swapped.pair_ids.tolist(), strict=True):
        a, b = once[here], twice[there]
        assert a.pop("flipped") != b.pop("flipped")
        assert (a.pop("pair_id"), b.pop("pair_id")) == (here, there)
        assert a == b


@given(st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=5), st.integers(0, 4))
def test_conversations_equal_the_plain_loop(prompts: list[list[str]], start: int) -> None:
    turns = [[{"role": "user", "content": text} for text in prompt] for prompt in prompts]
    answers = [f"answer {i}" for i in range(len(prompts))]
    sliced = pa.array(turns, MESSAGES)[start:]
    expected = [turns[i] + [{"role": "assistant", "content": answers[i]}] for i in range(start, len(turns))]
    assert conversations(sliced, pa.array(answers, pa.string())[start:]).to_pylist() == expected


def test_the_same_input_and_seed_give_the_same_bytes(six_pairs: Pairs, six_votes: VoteMatrix, tmp_path: Path) -> None:
    first = export(tmp_path / "one", six_pairs, P_A, votes=six_votes)
    second = export(tmp_path / "two", six_pairs, P_A, votes=six_votes)
    other = export(tmp_path / "three", six_pairs, P_A, votes=six_votes, options=ExportOptions(seed=1))
    assert tree(first) == tree(second)
    shard = "data/train-00000-of-00001.parquet"
    assert tree(first)[shard] != tree(other)[shard]
    assert read(first) == read(other)


def test_the_order_of_the_input_does_not_matter(six_pairs: Pairs, six_votes: VoteMatrix, tmp_path: Path) -> None:
    order = [4, 2, 0, 5, 1, 3]
    table = pa.concat_tables([six_pairs.take(order[:2]).table, six_pairs.take(order[2:]).table])
    first = export(tmp_path / "one", six_pairs, P_A, votes=six_votes)
    second = export(tmp_path / "two", Pairs(table, {}), np.take(P_A, order), votes=six_votes.take(order))
    assert tree(first) == tree(second)


def test_the_card_and_the_manifest_do_not_depend_on_the_order_either(make_pairs: Any, tmp_path: Path) -> None:
    pairs = make_pairs([([{"role": "user", "content": f"Question {i}?"}], "yes", "no") for i in range(4)])
    p_a = np.array([0.88, 0.81, 0.63, 0.95])  # in some orders their floating-point mean rounds up, in others down
    made = set()
    for number, order in enumerate(itertools.permutations(range(4))):
        folder = export(tmp_path / str(number), pairs.take(list(order)), p_a[list(order)])
        made.add((folder / "README.md").read_text() + (folder / "manifest.json").read_text())
    assert len(made) == 1


def test_a_long_source_is_cut_in_the_card(six_pairs: Pairs, tmp_path: Path) -> None:
    addresses = [f"https://example.org/{'x' * 30}/{i}/{'y' * 60}" for i in range(2)]
    column = pa.array(["word " * 20_000, *addresses, *["short"] * 3])
    at = six_pairs.table.schema.get_field_index("source")
    folder = export(tmp_path / "augmented", Pairs(six_pairs.table.set_column(at, "source", column), {}), P_A)
    card = (folder / "README.md").read_text()
    assert "| short | 3 |" in card
    assert re.search(r"\| word word [word ]+ \.\.\. \| 1 \|", card)
    assert all(f"| {address[:76]} ... | 1 |" in card for address in addresses)
    assert len(card) < 5_000


def test_shards_hold_every_row_once(six_pairs: Pairs, tmp_path: Path) -> None:
    folder = export(tmp_path / "augmented", six_pairs, P_A, options=ExportOptions(shard_rows=4))
    shards = sorted((folder / "data").iterdir())
    assert [path.name for path in shards] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert [pq.read_metadata(path).num_rows for path in shards] == [3, 3]
    assert set(read(folder)) == set(six_pairs.pair_ids.tolist())


def test_the_manifest_has_seed_counts_versions_and_hashes(six_pairs: Pairs, tmp_path: Path) -> None:
    folder = export(tmp_path / "augmented", six_pairs, P_A, options=ExportOptions(seed=7, origin="self", iteration=2))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seed"] == 7
    assert manifest["counts"]["origin"] == {"gold": 3, "self": 3}
    assert manifest["counts"]["ties"] == manifest["counts"]["weight_zero"] == 2
    assert manifest["versions"]["pyarrow"] == pa.__version__
    assert manifest["options"]["iteration"] == 2
    on_disk = tree(folder)
    del on_disk["manifest.json"]
    assert manifest["files"] == on_disk
    assert str(tmp_path) not in json.dumps(manifest) + (folder / "README.md").read_text()


def test_the_card_counts_and_names_the_source(six_pairs: Pairs, six_votes: VoteMatrix, tmp_path: Path) -> None:
    options = ExportOptions(source_note="Arguments, CC BY 4.0.")
    card = (export(tmp_path / "augmented", six_pairs, P_A, votes=six_votes, options=options) / "README.md").read_text()
    assert "Arguments, CC BY 4.0." in card
    assert "6 pairs, 2 of them with weight 0" in card
    assert "| gold | 3 | 1 | 0.833 |" in card
    assert "| weak | 3 | 1 | 0.667 |" in card
    assert "25.0% of these labels" in card
    assert "| polite | 83.3% |" in card
    assert "| made-up | 6 |" in card


def test_an_earlier_export_is_replaced(six_pairs: Pairs, tmp_path: Path) -> None:
    export(tmp_path / "augmented", six_pairs, P_A, options=ExportOptions(shard_rows=2))
    folder = export(tmp_path / "augmented", six_pairs, P_A)
    assert [path.name for path in (folder / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["augmented"]


def test_an_empty_folder_is_used(six_pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "augmented").mkdir()
    assert len(read(export(tmp_path / "augmented", six_pairs, P_A))) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("thesis.txt", "years of work", "is no earlier export"),
        ("manifest.json", '{"command": "train"}', "is no earlier export"),
        ("manifest.json", "not json", "is no earlier export"),
        ("manifest.json", "[1]", "is no earlier export"),
    ],
)
def test_a_folder_that_is_no_export_is_left_alone(six_pairs, tmp_path, name, content, message) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text(content)
    with pytest.raises(DataError, match=message):
        export(tmp_path / "mine", six_pairs, P_A)
    assert (tmp_path / "mine" / name).read_text() == content


@pytest.mark.parametrize("name", ["runs/model.bin", "data/train-extra.parquet"])
def test_an_export_with_other_files_in_it_is_left_alone(six_pairs: Pairs, tmp_path: Path, name: str) -> None:
    folder = export(tmp_path / "augmented", six_pairs, P_A)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("weights")
    with pytest.raises(DataError, match=rf"other files, as {re.escape(name)}; nothing was deleted"):
        export(folder, six_pairs, P_A)
    assert (folder / name).exists()


def test_a_file_is_left_alone(six_pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_text("data")
    with pytest.raises(DataError, match="is a file, expected a folder"):
        export(tmp_path / "pairs.parquet", six_pairs, P_A)


@pytest.mark.parametrize(
    ("p_a", "message"),
    [
        ([0.5] * 5, r"p_a has shape \(5,\), expected \(6,\)"),
        ([[0.5]] * 6, r"p_a has shape \(6, 1\), expected \(6,\)"),
        ([0.5, 0.5, 0.5, 0.5, np.nan, 0.5], r"p_a is NaN in 1 rows, as nan in row 4 \(pair "),
        ([1.5, 0.5, 0.5, -0.5, 0.5, 0.5], r"p_a is outside \[0, 1\] in 2 rows, as 1.5 in row 0"),
        ([0.5, 0.5, 0.5, 0.5, np.inf, 0.5], r"p_a is outside \[0, 1\] in 1 rows, as inf in row 4"),
    ],
)
def test_bad_probabilities_are_named(six_pairs: Pairs, tmp_path: Path, p_a: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        export(tmp_path / "augmented", six_pairs, p_a)
    assert not (tmp_path / "augmented").exists()


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_are_named(six_pairs: Pairs, tmp_path: Path, bad: float) -> None:
    with pytest.raises(DataError, match=f"weights must be finite and >= 0, found {bad:g} in row 3"):
        export(tmp_path / "augmented", six_pairs, P_A, weights=[1, 1, 1, bad, 1, 1])


def test_votes_of_other_pairs_are_refused(six_pairs: Pairs, six_votes: VoteMatrix, tmp_path: Path) -> None:
    with pytest.raises(VotesError, match="votes has 5 rows, expected 6"):
        export(tmp_path / "augmented", six_pairs, P_A, votes=six_votes.take(range(5)))
    with pytest.raises(VotesError, match="votes are of other pairs in 2 rows: row 0 is pair"):
        export(tmp_path / "augmented", six_pairs, P_A, votes=six_votes.take([1, 0, 2, 3, 4, 5]))


def test_nothing_but_ties_is_an_error(six_pairs: Pairs, tmp_path: Path) -> None:
    unlabelled = six_pairs.with_gold(None)
    with pytest.raises(DataError, match="nothing to export: all 6 pairs have weight 0"):
        export(tmp_path / "augmented", unlabelled, [0.5] * 6)
    with pytest.raises(DataError, match="nothing to export: all 0 pairs"):
        export(tmp_path / "augmented", unlabelled.take([]), [])


def test_a_pair_that_occurs_twice_is_an_error(six_pairs: Pairs, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"1 pairs occur more than once, as pair \w{32} \(2 times\)"):
        export(tmp_path / "augmented", six_pairs.take([0, 1, 2, 3, 4, 0]), P_A)


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure:"}], "the assistant's turn last"),
        ([], "no turn"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_an_error(make_pairs, tmp_path, prompt, found) -> None:
    pairs = make_pairs([([{"role": "user", "content": "Hi"}], "a", "b"), (prompt, "a", "b")])
    with pytest.raises(RowError, match=f"1 prompts cannot be answered.* found {found} in pair {pairs.pair_ids[1]}"):
        export(tmp_path / "augmented", pairs, [0.9, 0.9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"origin": "gold"}, "origin is 'gold', expected 'weak' or 'self'"),
        ({"iteration": 0}, "iteration is 0, expected 1 or more"),
        ({"shard_rows": 0}, "shard_rows is 0, expected 1 or more"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ExportOptions(**options)


def test_reading_an_export_gives_the_pairs_back_in_their_own_order_of_a_and_b(
    six_pairs: Pairs, six_votes: VoteMatrix, tmp_path: Path
) -> None:
    from labeling.read import read_pairs

    pairs = read_pairs(export(tmp_path / "augmented", six_pairs, P_A, votes=six_votes))
    order = [pairs.pair_ids.tolist().index(name) for name in six_pairs.pair_ids.tolist()]
    names = ["pair_id", "prompt", "response_a", "response_b", "gold", "source"]
    assert pairs.take(order).table.select(names).to_pylist() == six_pairs.table.select(names).to_pylist()


def test_each_label_can_be_of_its_own_round_and_gold_is_of_none(six_pairs, tmp_path):
    rounds = [9, np.nan, 9, 1, 2, 3]
    folder = export(tmp_path / "kept", six_pairs, P_A, iterations=rounds, options=ExportOptions(origin="self"))
    table = pq.read_table(next((folder / "data").glob("*.parquet")))
    found = dict(zip(table["pair_id"].to_pylist(), table["iteration"].to_pylist(), strict=True))
    assert [found[name] for name in six_pairs.pair_ids] == [0, 0, 0, 1, 2, 3]
    for bad in ([0] * 6, [1.5] * 6, [2**31] * 6, [np.inf] * 6):
        with pytest.raises(DataError, match="expected whole numbers of 1 to 2,147,483,647"):
            export(tmp_path / "bad", six_pairs, P_A, iterations=bad)
    with pytest.raises(DataError, match="iterations has shape"):
        export(tmp_path / "bad", six_pairs, P_A, iterations=[1, 2])
