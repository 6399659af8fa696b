"""Every layout, in a small example shaped like the real data, gives the same canonical pairs."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling import layouts
from labeling.errors import LayoutError, RowError, WeakprefWarning
from labeling.pairs import Pairs, pair_id
from labeling.read import read_pairs

Rows = list[dict[str, Any]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


GOOD, BAD = "It is Paris.", "It is Lyon."
ASKED = [user("The capital of France?")]
EXAMPLES: dict[str, Rows] = {
    "canonical": [{"prompt": ASKED, "response_a": GOOD, "response_b": BAD, "gold": 1.0}],
    "weakpref": [
        {
            "chosen": [*ASKED, assistant(GOOD)],
            "rejected": [*ASKED, assistant(BAD)],
            "question": ASKED[0]["content"],
            "messages": ASKED,
            "pair_id": pair_id(ASKED, BAD, GOOD),
            "p_chosen": 0.9,
            "weight": 1.0,
            "flipped": True,
            "origin": "gold",
            "iteration": 0,
            "gold": 1.0,
            "votes": [{"voter": "length", "vote": 0, "margin": 1.0}],
            "source": "quiz",
            "split": "train",
        }
    ],
    "trl-implicit": [{"chosen": [*ASKED, assistant(GOOD)], "rejected": [*ASKED, assistant(BAD)]}],
    "trl-explicit": [{"prompt": ASKED, "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}],
    "trl-standard": [{"prompt": ASKED[0]["content"], "chosen": GOOD, "rejected": BAD}],
    "hh-rlhf": [
        {
            "chosen": f"\n\nHuman: The capital of France?\n\nAssistant: {GOOD}",
            "rejected": f"\n\nHuman: The capital of France?\n\nAssistant: {BAD}",
        }
    ],
    "ultrafeedback-h4": [
        {
            "prompt": ASKED[0]["content"],
            "prompt_id": "f0e37e9f",
            "chosen": [*ASKED, assistant(GOOD)],
            "rejected": [*ASKED, assistant(BAD)],
            "messages": [*ASKED, assistant(GOOD)],
            "score_chosen": 8.0,
            "score_rejected": 7.5,
        }
    ],
    "ultrafeedback-trl": [
        {
            "chosen": [*ASKED, assistant(GOOD)],
            "rejected": [*ASKED, assistant(BAD)],
            "score_chosen": 8.0,
            "score_rejected": 7.5,
        }
    ],
    "distilabel": [
        {
            "prompt_id": "f0e37e9f",
            "prompt": ASKED[0]["content"],
            "chosen": [*ASKED, assistant(GOOD)],
            "rejected": [*ASKED, assistant(BAD)],
            "all_generated_responses": [GOOD, BAD],
            "all_rm_scores": [0.5, 0.1],
        }
    ],
    "distilabel-orca": [{"system": "", "input": ASKED[0]["content"], "chosen": GOOD, "rejected": BAD}],
    "orca": [{"system": None, "question": ASKED[0]["content"], "chosen": GOOD, "rejected": BAD}],
    "rewardbench": [
        {
            "prompt": ASKED[0]["content"],
            "chosen": GOOD,
            "chosen_model": "gpt",
            "rejected": BAD,
            "rejected_model": "llama",
            "subset": "alpacaeval-easy",
            "id": 3,
        }
    ],
    "rewardbench-2": [
        {
            "id": "0",
            "prompt": ASKED[0]["content"],
            "chosen": [GOOD],
            "rejected": [BAD],
            "num_correct": 1,
            "subset": "Factuality",
        }
    ],
    "judgebench": [
        {
            "pair_id": "81ec57f2",
            "original_id": "10646",
            "source": "mmlu-pro",
            "question": ASKED[0]["content"],
            "response_model": "gpt-4o",
            "response_A": GOOD,
            "response_B": BAD,
            "label": "A>B",
        }
    ],
}


def table(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows)


def preferred(pairs: Pairs) -> list[str | None]:
    rows = pairs.table.to_pylist()
    return [None if r["gold"] in (None, 0.5) else r["response_a" if r["gold"] == 1.0 else "response_b"] for r in rows]


def test_there_is_an_example_of_every_layout() -> None:
    assert list(EXAMPLES) == [layout.name for layout in layouts.LAYOUTS]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_layout_is_recognised_by_its_columns(name: str) -> None:
    assert layouts.find(table(EXAMPLES[name]), "table").name == name


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_layout_gives_the_same_prompt_responses_and_winner(name: str) -> None:
    pairs = read_pairs(table(EXAMPLES[name]))
    (row,) = pairs.table.to_pylist()
    assert row["prompt"] == ASKED
    assert {row["response_a"], row["response_b"]} == {GOOD, BAD}
    assert preferred(pairs) == [GOOD]
    assert row["pair_id"] == pair_id(ASKED, row["response_a"], row["response_b"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_layout_can_be_named(name: str) -> None:
    assert read_pairs(table(EXAMPLES[name]), layout=name).table == read_pairs(table(EXAMPLES[name])).table


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"canonical", "judgebench", "weakpref"}))
def test_layouts_that_name_a_winner_agree_on_the_order_of_the_responses(name: str) -> None:
    (row,) = read_pairs(table(EXAMPLES[name])).table.to_pylist()
    (other,) = read_pairs(table(EXAMPLES["trl-standard"])).table.to_pylist()
    assert (row["response_a"], row["gold"], row["pair_id"]) == (other["response_a"], other["gold"], other["pair_id"])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text("abc", min_size=1), st.text("xyz", min_size=1)), min_size=1, max_size=5, unique=True))
def test_exchanging_chosen_and_rejected_keeps_the_order_and_mirrors_gold(texts: list[tuple[str, str]]) -> None:
    rows = [{"prompt": "?", "chosen": a, "rejected": b} for a, b in texts]
    pairs = read_pairs(table(rows))
    mirrored = read_pairs(table([r | {"chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]))
    assert pairs.pair_ids.tolist() == mirrored.pair_ids.tolist()
    assert (pairs.gold == 1.0 - mirrored.gold).all()


def test_position_says_nothing_about_the_winner() -> None:
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(2000)]
    assert abs(read_pairs(table(rows)).gold.mean() - 0.5) < 0.05  # four standard errors


def test_an_export_comes_back_in_its_original_order() -> None:
    (row,) = read_pairs(table(EXAMPLES["weakpref"])).table.to_pylist()
    assert (row["response_a"], row["response_b"], row["gold"], row["source"]) == (BAD, GOOD, 0.0, "quiz")
    assert row["pair_id"] == EXAMPLES["weakpref"][0]["pair_id"]


def test_an_export_without_gold_comes_back_without_gold() -> None:
    (pair,) = EXAMPLES["weakpref"]
    for flipped in (True, False):
        assert read_pairs(table([pair | {"gold": None, "flipped": flipped}])).table["gold"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("completion", "prompt"),
    [
        ([assistant(GOOD)], ASKED),
        ([*ASKED, assistant(GOOD)], ASKED),
        ([{"role": "system", "content": "Be brief."}, *ASKED, assistant(GOOD)], ASKED),
        ([assistant(GOOD)], ASKED[0]["content"]),
        ([*ASKED, assistant(GOOD)], ASKED[0]["content"] + "\n"),
    ],
)
def test_a_prompt_that_the_conversations_repeat_stands_there_once(completion: Any, prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": completion, "rejected": [*completion[:-1], assistant(BAD)]}
    (pair,) = read_pairs(table([row])).table.to_pylist()
    assert [turn["content"] for turn in pair["prompt"]].count(ASKED[0]["content"]) == 1
    assert pair["prompt"] == (completion[:-1] or ASKED)


def test_the_system_text_of_an_orca_row_becomes_the_first_turn() -> None:
    row = EXAMPLES["orca"][0] | {"system": "Be brief."}
    assert read_pairs(table([row])).table["prompt"].to_pylist() == [
        [{"role": "system", "content": "Be brief."}, *ASKED]
    ]


def test_an_hh_dialogue_keeps_its_turns() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: The capital of France?\n\nAssistant: "
    (row,) = read_pairs(table([{"chosen": start + GOOD, "rejected": start + BAD}])).table.to_pylist()
    assert row["prompt"] == [user("Hi"), assistant("Hello."), *ASKED]


def test_a_prompt_column_of_hh_text_becomes_turns() -> None:
    row = {"prompt": "\n\nHuman: The capital of France?\n\nAssistant:", "chosen": GOOD, "rejected": BAD}
    assert read_pairs(table([row])).table["prompt"].to_pylist() == [ASKED]


def test_rewardbench_2_pairs_every_chosen_with_every_rejected() -> None:
    row = {"prompt": "?", "chosen": ["a1", "a2"], "rejected": ["b1", "b2", "b3"], "subset": "Ties"}
    pairs = read_pairs(table([row]))
    assert len(pairs) == 6
    assert sorted(preferred(pairs)) == ["a1"] * 3 + ["a2"] * 3
    assert len(set(pairs.groups)) == 1


@pytest.mark.parametrize(("label", "gold"), [("A>B", 1.0), ("B>A", 0.0), ("A=B", 0.5), (None, None)])
def test_a_judgebench_label_becomes_gold(label: str | None, gold: float | None) -> None:
    rows = [EXAMPLES["judgebench"][0] | {"label": label}]
    schema = table(EXAMPLES["judgebench"]).schema
    assert read_pairs(pa.Table.from_pylist(rows, schema=schema)).table["gold"].to_pylist() == [gold]


@pytest.mark.parametrize("name", ["ultrafeedback-h4", "ultrafeedback-trl"])
def test_equal_scores_are_a_tie(name: str) -> None:
    row = EXAMPLES[name][0] | {"score_rejected": 8.0}
    assert read_pairs(table([row])).gold.tolist() == [0.5]


@pytest.mark.parametrize("names", [("chosen_rating", "rejected_rating"), ("chosen-rating", "rejected-rating")])
def test_equal_ratings_are_a_tie(names: tuple[str, str]) -> None:
    row = EXAMPLES["distilabel"][0] | dict.fromkeys(names, 4.0)
    assert read_pairs(table([row])).gold.tolist() == [0.5]


def test_large_strings_and_other_list_types_are_read_alike() -> None:
    turn = pa.struct([("content", pa.large_string()), ("name", pa.int64()), ("role", pa.string_view())])
    wide = pa.table(
        {
            "prompt": pa.array([ASKED], pa.large_list(turn)),
            "response_a": pa.array([GOOD], pa.large_string()),
            "response_b": pa.array([BAD], pa.string_view()),
            "gold": pa.array([1], pa.int8()),
            "group": pa.array([7], pa.int64()),
            "source": pa.array(["quiz"]).dictionary_encode(),
        }
    )
    (row,) = read_pairs(wide).table.to_pylist()
    assert (row["prompt"], row["gold"], row["group"], row["source"]) == (ASKED, 1.0, "7", "quiz")


def test_a_polars_frame_is_read_through_arrow() -> None:
    frame = pl.DataFrame({name: [value] for name, value in EXAMPLES["canonical"][0].items()})
    assert preferred(read_pairs(frame.to_arrow())) == [GOOD]


@pytest.mark.parametrize("empty", [[], [None]])
@pytest.mark.parametrize(("name", "column"), [("canonical", "prompt"), ("trl-implicit", "rejected")])
def test_a_column_of_empty_lists_only_is_still_read(name: str, column: str, empty: list[None]) -> None:
    with pytest.raises(RowError, match=r"row 0, column (prompt|rejected): (empty prompt|message|no assistant|null)"):
        read_pairs(table([EXAMPLES[name][0] | {column: empty}]))


def test_unknown_columns_are_named_with_the_layouts_known_and_the_option() -> None:
    with pytest.raises(LayoutError) as error:
        read_pairs(pa.table({"text_1": ["a"], "text_2": ["b"]}))
    for words in ("text_1, text_2", "match no known layout", "judgebench (question, response_A", "layout=", "--layout"):
        assert words in str(error.value)


def test_the_nearest_layout_and_what_it_lacks_are_named() -> None:
    with pytest.raises(LayoutError, match="nearest is canonical, but there is no column response_b"):
        read_pairs(pa.table({"prompt": ["?"], "response_a": ["b"]}))
    with pytest.raises(LayoutError, match="column response_b should hold text, found int64"):
        read_pairs(pa.table({"prompt": ["?"], "response_a": ["b"], "response_b": [1]}))


def test_two_matching_layouts_are_both_named_and_one_can_be_chosen() -> None:
    both = table([EXAMPLES["trl-standard"][0] | EXAMPLES["canonical"][0] | {"prompt": "?"}])
    with pytest.raises(LayoutError, match=r'two layouts, canonical and trl-standard; .*layout="canonical".*--layout'):
        read_pairs(both)
    with pytest.warns(
        WeakprefWarning, match="layout trl-standard says itself which response is preferred, so gold is not read"
    ):
        assert len(read_pairs(both, layout="trl-standard")) == 1


def test_plain_texts_without_a_prompt_are_not_guessed_at() -> None:
    with pytest.raises(LayoutError, match="match no known layout"):
        read_pairs(pa.table({"chosen": ["The sky is blue."], "rejected": ["The sky is green."]}))


@pytest.mark.parametrize(
    ("name", "words"),
    [("hh", "no layout is called 'hh'; known are canonical, "), ("canonical", "there is no column prompt")],
)
def test_a_layout_that_was_named_must_be_known_and_fit(name: str, words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        read_pairs(pa.table({"chosen": ["a"], "rejected": ["b"]}), layout=name)


@pytest.mark.parametrize("extra", [{"gold": "yes"}, {"annotator_votes": "1, 0"}, {"source": 5}])
def test_an_optional_column_of_the_wrong_kind_is_named(extra: dict[str, Any]) -> None:
    (name,) = extra
    with pytest.raises(LayoutError, match=f"column {name} should hold .*, found .*; convert or rename"):
        read_pairs(table([EXAMPLES["canonical"][0] | extra]))


OTHERS_PROMPT = {"chosen": [user("Of Spain?"), assistant(BAD)]}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("trl-implicit", OTHERS_PROMPT, "chosen and rejected: prompts that differ"),
        ("trl-implicit", {"rejected": ASKED}, "rejected: no assistant turn at the end .found user"),
        ("trl-implicit", {"rejected": []}, "rejected: no assistant turn at the end .found no turn"),
        ("trl-implicit", {"rejected": None}, "rejected: null response"),
        ("trl-implicit", {"rejected": [None]}, "rejected: null message"),
        ("trl-implicit", {"rejected": [assistant("")]}, "chosen and rejected: prompts that differ"),
        ("trl-explicit", {"prompt": [None]}, "prompt: null message"),
        ("trl-explicit", OTHERS_PROMPT, "prompt and chosen: prompts that differ"),
        ("distilabel", OTHERS_PROMPT, "prompt and chosen: prompts that differ"),
        ("distilabel", {"prompt": "Of Spain?"}, "prompt and chosen: prompts that differ"),
        ("trl-standard", {"prompt": None}, "prompt: null prompt"),
        ("trl-standard", {"chosen": None}, "response_.: null response"),
        ("rewardbench-2", {"rejected": []}, "rejected: no response in the list"),
        ("rewardbench-2", {"chosen": None}, "chosen: no response in the list"),
        ("judgebench", {"label": "A"}, "label: unknown label .found 'A', expected one of A>B, B>A, A=B"),
        ("hh-rlhf", {"chosen": "no dialogue"}, "chosen: no dialogue of .* .found 'no dialogue'"),
        ("hh-rlhf", {"chosen": "So:\n\nHuman: Hi\n\nAssistant: Hello"}, "chosen: no dialogue of"),
        ("hh-rlhf", {"chosen": "\n\nHuman: Hi"}, "chosen: no assistant turn at the end .found user"),
        ("hh-rlhf", {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello"}, "chosen and rejected: prompts that differ"),
    ],
)
def test_a_row_that_cannot_be_converted_is_named(name: str, change: dict[str, Any], words: str) -> None:
    (good,) = EXAMPLES[name]
    with pytest.raises(RowError, match=f"row 1, column {words}.*1 bad row in all.*drop-bad-rows"):
        read_pairs(table([good, good | change]))


def test_rows_that_cannot_be_converted_are_dropped_with_the_others() -> None:
    (good,) = EXAMPLES["trl-implicit"]
    broken = [good | OTHERS_PROMPT, good, good | {"rejected": ASKED}, good]
    with pytest.warns(WeakprefWarning, match="left out 3 bad rows, kept 1 pairs"):
        pairs = read_pairs(table(broken), on_bad_rows="drop")
    assert pairs.dropped == {"duplicate pair": 1, "no assistant turn at the end": 1, "prompts that differ": 1}
