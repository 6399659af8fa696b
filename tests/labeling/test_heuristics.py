"""Built-in heuristics vote as they say, alike on every machine, row order, side and batch."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling import word_lists
from labeling.apply import apply
from labeling.errors import DataError
from labeling.heuristics import Heuristic, heuristics
from labeling.pairs import Pairs
from labeling.read import read_pairs
from labeling.voters import Ballot, Voter
from labeling.votes import Vote

A, B, ABSTAIN = Vote.A, Vote.B, Vote.ABSTAIN
PRESETS = ("default", "paper", "as_released")
LONG = "The cat that we saw yesterday was sitting on the mat near the old door."
PAPER = {  # name: (direction, least difference, greatest difference)
    "length": (1, 20, np.inf),
    "reading_ease": (-1, 5, 50),
    "lexical_diversity": (-1, 0.1, np.inf),
    "sentiment": (1, 0.05, np.inf),
    "numbers": (1, 3, np.inf),
    "phrases": (1, 0, np.inf),
    "keywords_offensive": (-1, 0, np.inf),
    "keywords_harmful": (-1, 0, np.inf),
    "keywords_bad": (-1, 0, np.inf),
}
EXAMPLES = [
    ("length", LONG, "The cat sat.", A),
    ("length", "The cat sat.", LONG, B),
    ("length", "The cat sat.", "The cat sat there.", ABSTAIN),
    ("reading_ease", "It is a difficult question for the town now.", "It is a hard question for the town now.", A),
    ("reading_ease", "Institutional considerations predominate everywhere.", "The cat sat on the mat.", ABSTAIN),
    ("reading_ease", "The cat sat on the mat.", "?!", ABSTAIN),
    ("lexical_diversity", "the cat and the cat and the cat", "every word here differs from others", A),
    ("lexical_diversity", "one two three", "four five six", ABSTAIN),
    ("sentiment", "I hate it.", "I love it!", B),
    ("sentiment", "A table.", "A chair.", ABSTAIN),
    ("numbers", "1, 2 and 3", "none", A),
    ("numbers", "in 2 ways", "none", A),
    ("numbers", "a1 b2 c3", "none", ABSTAIN),
    ("phrases", "There are pros and cons, for example cost.", "Maybe. I guess so.", A),
    ("phrases", "Perhaps.", "Yes.", B),
    ("phrases", "Why do you ask?", "Yes.", B),
    ("phrases", "It is.", "Yes.", ABSTAIN),
    ("keywords_offensive", "You IDIOT!", "You see.", B),
    ("keywords_offensive", "the class assumes", "You see.", ABSTAIN),
    ("keywords_harmful", "robbing and killing", "stealing", B),
    ("keywords_harmful", "a robot with skill", "a cat", ABSTAIN),
    ("keywords_bad", "a cat", "a porn site", A),
    ("refuses", "I can't help with that.", "Sure, here it is.", B),
    ("apologises", "Here it is.", "Sorry, no.", A),
    ("formatting", "- one\n- two", "one and two", A),
    ("formatting", "- one", "one", ABSTAIN),
    ("code_blocks", "```\nx = 1\n```", "x = 1", A),
    ("repetition", "go on and on. go on and on. go on and on.", "go on and on, then stop there.", B),
    ("prompt_overlap", "The moon orbits the earth.", "It does.", A),
    ("questions", "Is it? Why?", "It is.", B),
    ("exclamations", "It is!!!", "It is.", B),
    ("unfinished", "It is because the", "It is.", B),
    ("language_mismatch", "Она вращается вокруг", "It orbits the earth", B),
]

SENTENCES = st.sampled_from(
    [LONG, "I'm sorry.", "1 2 3 4", "- a\n- b\n", "Why?", "😀!", "İK ", "数字", "```x```", "\x00", "kill "]
)
RESPONSE = st.one_of(
    st.lists(SENTENCES, min_size=1, max_size=6).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80),
)


def table(*pairs: tuple[str, str], question: str = "Does the moon orbit the earth?") -> pa.Table:
    a, b = zip(*pairs, strict=True)
    return pa.table({"response_a": a, "response_b": b, "question": [question] * len(pairs)})


def named(preset: str = "default") -> dict[str, Heuristic]:
    return {voter.name: voter for voter in heuristics(preset) if isinstance(voter, Heuristic)}


def assert_mirrored(ballot: Ballot, swapped: Ballot) -> None:
    np.testing.assert_array_equal(np.where(ballot.votes < 0, -1, 1 - ballot.votes), swapped.votes)
    np.testing.assert_array_equal(ballot.margins, -swapped.margins)


@pytest.fixture(scope="module")
def rowwise() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "rowwise.py"
    spec = importlib.util.spec_from_file_location("rowwise", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    had = "pkg_resources" in sys.modules
    spec.loader.exec_module(module)
    if not had:
        sys.modules.pop("pkg_resources", None)
    return module


@pytest.fixture(scope="module", params=["hh_harmless", "pandalm", "ukp_convincing"])
def real_pairs(request: pytest.FixtureRequest, shared_data: Path) -> Pairs:
    pairs = read_pairs(shared_data / f"{request.param}.parquet", on_bad_rows="drop")
    return pairs.take(np.random.default_rng(0).permutation(len(pairs))[:300])


def test_the_paper_preset_has_the_papers_functions_and_thresholds() -> None:
    found = {name: (h.direction, h.min_difference, h.max_difference) for name, h in named("paper").items()}
    assert found == PAPER


@pytest.mark.parametrize(("dataset", "least"), [("hh", 3), ("ubp", 2), ("ub", 1), ("mt_bench", 1)])
@pytest.mark.parametrize("preset", ["paper", "as_released"])
def test_thresholds_and_keywords_follow_the_data_set(preset: str, dataset: str, least: int) -> None:
    found = {voter.name: voter for voter in heuristics(preset, dataset=dataset) if isinstance(voter, Heuristic)}
    assert found["numbers"].min_difference == least
    assert [name for name in PAPER if dataset == "hh" or not name.startswith("keywords")] == list(found)


def test_the_default_preset_extends_the_papers() -> None:
    names = list(named("default"))
    assert names[: len(PAPER)] == list(PAPER)
    assert set(names) >= {name for name, *_ in EXAMPLES}


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="preset is 'papers'; expected one of default, paper, as_released"):
        heuristics("papers")
    with pytest.raises(ValueError, match="dataset is 'hhh'; expected one of hh, ub, ubp, mt_bench"):
        heuristics("paper", dataset="hhh")


def test_the_default_preset_takes_no_data_set() -> None:
    with pytest.raises(
        ValueError, match="dataset is 'hh', but the default preset is the same for all data; leave it out"
    ):
        heuristics(dataset="hh")


def test_every_default_heuristic_has_an_example() -> None:
    assert {name for name, *_ in EXAMPLES} == set(named())


@pytest.mark.parametrize(("name", "a", "b", "vote"), EXAMPLES)
def test_votes_by_hand(name: str, a: str, b: str, vote: Vote) -> None:
    ballot = named()[name].vote(table((a, b), (b, a)))
    mirrored = vote if vote == ABSTAIN else 1 - vote
    assert ballot.votes.tolist() == [vote, mirrored]
    if vote != ABSTAIN:
        assert np.sign(ballot.margins).tolist() == ([1, -1] if vote == A else [-1, 1])


def test_the_papers_numbers_need_a_difference_of_three() -> None:
    ballot = named("paper")["numbers"].vote(table(("1 2", "none"), ("1 2 3", "none")))
    assert ballot.votes.tolist() == [ABSTAIN, A]
    assert ballot.margins.tolist() == [2, 3]


def test_margins_are_given_where_the_difference_is_too_small_or_too_large_for_a_vote() -> None:
    ease = named()["reading_ease"]
    ballot = ease.vote(
        table(
            ("Institutional considerations predominate everywhere.", "The cat sat on the mat."),
            ("It is a cat.", "It is a dog."),
        )
    )
    assert ballot.votes.tolist() == [ABSTAIN, ABSTAIN]
    assert ballot.margins[0] > ease.max_difference
    assert ballot.margins[1] == 0


def test_a_feature_that_is_not_defined_gives_no_margin() -> None:
    ballot = named()["reading_ease"].vote(table(("The cat sat on the mat.", "...")))
    assert np.isnan(ballot.margins).all()
    assert ballot.votes.tolist() == [ABSTAIN]


def test_thresholds_are_changed_by_replacing_them() -> None:
    strict = dataclasses.replace(named()["length"], min_difference=1000)
    assert strict.vote(table((LONG, "Short."))).votes.tolist() == [ABSTAIN]


@pytest.mark.parametrize("preset", PRESETS)
def test_heuristics_are_columnar_voters_with_unique_names(preset: str) -> None:
    voters = heuristics(preset)
    assert all(isinstance(voter, Voter) and voter.columnar for voter in voters)
    assert len({voter.name for voter in voters}) == len(voters)


@pytest.mark.parametrize("preset", PRESETS)
def test_heuristics_can_be_pickled(preset: str) -> None:
    pairs = table((LONG, "Sorry, I can't kill 3 cats?"))
    for voter in heuristics(preset):
        copy = pickle.loads(pickle.dumps(voter))
        assert copy.vote(pairs).votes.tolist() == voter.vote(pairs).votes.tolist()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_pairs_get_no_votes(preset: str) -> None:
    empty = pa.table({name: pa.array([], pa.string()) for name in ("response_a", "response_b", "question")})
    for voter in heuristics(preset):
        assert voter.vote(empty).votes.shape == (0,)
        assert voter.vote(empty).margins.shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_exchanging_the_responses_mirrors_the_votes_on_real_pairs(real_pairs: Pairs, preset: str) -> None:
    pairs, swapped = real_pairs.voter_table(), real_pairs.swap().voter_table()
    for voter in heuristics(preset):
        assert_mirrored(voter.vote(pairs), voter.vote(swapped))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(RESPONSE, RESPONSE), min_size=1, max_size=4), RESPONSE, st.sampled_from(PRESETS))
def test_exchanging_the_responses_mirrors_the_votes(pairs: list[tuple[str, str]], question: str, preset: str) -> None:
    straight = table(*pairs, question=question)
    swapped = table(*[(b, a) for a, b in pairs], question=question)
    for voter in heuristics(preset):
        assert_mirrored(voter.vote(straight), voter.vote(swapped))


@pytest.mark.slow
def test_each_row_is_judged_by_itself(real_pairs: Pairs) -> None:
    pairs = real_pairs.voter_table().slice(0, 60)
    for voter in heuristics():
        whole = voter.vote(pairs)
        parts = [voter.vote(pairs.slice(i, 1)) for i in range(len(pairs))]
        np.testing.assert_array_equal(whole.votes, np.concatenate([part.votes for part in parts]))
        np.testing.assert_array_equal(whole.margins, np.concatenate([part.margins for part in parts]))


@pytest.mark.slow
def test_ten_heuristics_vote_as_the_same_functions_row_by_row(real_pairs: Pairs, rowwise: ModuleType) -> None:
    by_name = named("default") | named("paper")
    names = [function.__name__ for function in rowwise.FUNCTIONS]
    votes = apply([by_name[name] for name in names], real_pairs).votes
    frame = real_pairs.voter_table().select(["question", "response_a", "response_b"]).to_pandas()
    expected = np.array([[function(row) for function in rowwise.FUNCTIONS] for row in frame.itertuples()])
    assert len(names) == 10
    for j, name in enumerate(names):
        np.testing.assert_array_equal(votes[:, j], expected[:, j], err_msg=name)


MATCHES = {
    "GOOD": [
        "according to her", "an overview of it", "pros and cons", "for example, this", "several options",
        "could you please clarify", "it’s possible that", "hard to say",
    ],
    "BAD": ["the best practices", "i am unsure about it", "so why would you ask that?", "perhaps"],
    "HH_GOOD": [
        "a long history", "various options", "the same thing again", "Can you clarify", "You’re welcome",
        "According to", "the the", "it could be so", "tricky to decide", "such as this", "advantages and disadvantages",
        "be kind", "summary of", "I understand now what the question is",
    ],
    "HH_BAD": ["maybe", "I see", "best approach", "unclear about it", "I don't know if", "and what a day!"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("phrases", "texts"),
    [
        (word_lists.GOOD, MATCHES["GOOD"]),
        (word_lists.BAD, MATCHES["BAD"]),
        (word_lists.RELEASED_GOOD["hh"], MATCHES["HH_GOOD"]),
        (word_lists.RELEASED_BAD["hh"], MATCHES["HH_BAD"]),
        (word_lists.RELEASED_GOOD["ub"][4:], ["aaaa"]),
    ],
)
def test_every_phrase_can_match(phrases: tuple[word_lists.Phrase, ...], texts: list[str]) -> None:
    for phrase, text in zip(phrases, texts, strict=True):
        assert phrase.pattern.search(text), phrase.pattern.pattern
        assert not phrase.hints or any(hint in text for hint in phrase.hints), phrase.pattern.pattern


def test_released_phrases_look_at_the_case_and_the_papers_do_not() -> None:
    pairs = table(("ACCORDING TO HER, yes.", "Yes."))
    assert named("paper")["phrases"].vote(pairs).votes.tolist() == [A]
    assert named("as_released")["phrases"].vote(pairs).votes.tolist() == [ABSTAIN]


def test_released_keywords_stand_between_spaces_and_the_papers_need_not() -> None:
    pairs = table(("They kill.", "They run."), ("They kill him", "They run"))
    assert named("paper")["keywords_harmful"].vote(pairs).votes.tolist() == [B, B]
    assert named("as_released")["keywords_harmful"].vote(pairs).votes.tolist() == [ABSTAIN, B]


@pytest.mark.slow
def test_released_phrases_match_what_the_released_expressions_match(real_pairs: Pairs) -> None:
    plain = {
        "same": r".*same.*again.*",
        "understand": r"(understand|comprehend|grasp)\b.*\b(your|the) (question|point|concern)",
    }
    texts = [
        *real_pairs.table["response_a"].to_pylist(),
        "same\nagain",
        "the same as the same again",
        "grasp the point",
    ]
    for phrase in word_lists.RELEASED_GOOD["hh"]:
        if phrase.hints and phrase.hints[0] in plain:
            expected = [re.search(plain[phrase.hints[0]], text) is not None for text in texts]
            assert [phrase.pattern.search(text) is not None for text in texts] == expected
