"""Built-in heuristics: columnar voters that compare one feature of the two responses, in three presets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeling import prompt_features, text_features, word_lists
from labeling.errors import DataError
from labeling.readability import reading_ease
from labeling.responses import Feature, Responses, per_text
from labeling.returned import Margins, Votes
from labeling.sentiment import sentiment
from labeling.voters import Ballot, Voter
from labeling.votes import Vote

Preset = Literal["default", "paper", "as_released"]
DataSet = Literal["hh", "ub", "ubp", "mt_bench"]
MORE, LESS = 1, -1


@dataclass(frozen=True)
class Heuristic:
    """A voter that prefers the response with more (or less) of one feature."""

    name: str
    feature: Feature
    direction: int
    """+1 if more of the feature is preferred, -1 if less."""
    min_difference: float = 0.0
    """The vote abstains where the two values differ by less than this, and always where they are equal."""
    max_difference: float = math.inf
    """The vote abstains where the two values differ by more than this."""

    @property
    def columnar(self) -> bool:
        """True: `vote` is vectorised."""
        return True

    def vote(self, table: pa.Table) -> Ballot:
        """Vote on n rows of `Pairs.voter_table()`.

        The margin is direction * (feature of A - feature of B): also where the vote abstains because the difference is
        too small or too large; NaN only where the feature is not defined on both responses.
        """
        values = self.feature(Responses.of(table))
        difference = values[:, 0] - values[:, 1]
        size = np.abs(difference)
        votes = (size >= self.min_difference) & (size <= self.max_difference) & (size > 0)
        for_a = (difference > 0) == (self.direction > 0)
        choice: Votes = np.where(votes, np.where(for_a, Vote.A, Vote.B), Vote.ABSTAIN).astype(np.int8)
        margins: Margins = (self.direction * difference + 0.0).astype(np.float32)  # + 0.0: no negative zeros
        return Ballot(choice, margins)


def heuristics(preset: Preset = "default", *, dataset: DataSet | None = None) -> list[Voter]:
    """Return the built-in heuristics of a preset. No data was looked at to choose the default's thresholds.

    Args:
        preset: "paper": the labeling functions of arXiv 2410.20869. "as_released": with the phrases and the matching
            of the code its authors released (case-sensitive; keywords between spaces). "default": the paper's, any
            difference of numbers counting, and refusals, apologies, formatting, code, repetition, overlap with the
            question, questions, exclamations, unfinished endings, another script than the question's.
        dataset: Whose thresholds and lists the two presets take, "hh" unless given: numbers differ by at least 3 on hh,
            2 on ubp, 1 on ub and mt_bench; keywords are for hh only; released phrases differ.

    Raises DataError for a preset or data set that does not exist, or a data set with the default preset.

    >>> [voter.name for voter in heuristics("paper", dataset="ubp")]
    ['length', 'reading_ease', 'lexical_diversity', 'sentiment', 'numbers', 'phrases']
    """
    _check_choice("preset", preset, get_args(Preset))
    if preset == "default":
        if dataset is not None:
            raise DataError(f"dataset is {dataset!r}, but the default preset is the same for all data; leave it out")
        return [*_paper("hh", min_numbers=1), *_beyond_the_paper()]
    chosen: DataSet = "hh" if dataset is None else dataset
    _check_choice("dataset", chosen, get_args(DataSet))
    return _paper(chosen, MIN_NUMBERS[chosen]) if preset == "paper" else _as_released(chosen)


MIN_NUMBERS = {"hh": 3, "ubp": 2, "ub": 1, "mt_bench": 1}


def _measured(min_numbers: int) -> list[Voter]:
    return [
        Heuristic("length", per_text(text_features.length), MORE, 20),
        Heuristic("reading_ease", per_text(reading_ease), LESS, 5, 50),
        Heuristic("lexical_diversity", per_text(text_features.lexical_diversity), LESS, 0.1),
        Heuristic("sentiment", per_text(sentiment), MORE, 0.05),
        Heuristic("numbers", per_text(text_features.numbers), MORE, min_numbers),
    ]


def _paper(dataset: DataSet, min_numbers: int) -> list[Voter]:
    phrases = partial(text_features.phrases, good=word_lists.GOOD, bad=word_lists.BAD)
    voters = [*_measured(min_numbers), Heuristic("phrases", per_text(phrases), MORE)]
    return voters + _keywords(text_features.keywords) if dataset == "hh" else voters


def _as_released(dataset: DataSet) -> list[Voter]:
    good, bad = word_lists.RELEASED_GOOD[dataset], word_lists.RELEASED_BAD[dataset]
    phrases = partial(text_features.phrases, good=good, bad=bad, lower=False)
    voters = [*_measured(MIN_NUMBERS[dataset]), Heuristic("phrases", per_text(phrases), MORE)]
    return voters + _keywords(text_features.keywords_between_spaces) if dataset == "hh" else voters


def _keywords(count: Callable[..., npt.NDArray[Any]]) -> list[Voter]:
    return [
        Heuristic(f"keywords_{name}", per_text(partial(count, forms=word_lists.keyword_forms(words))), LESS)
        for name, words in word_lists.KEYWORDS.items()
    ]


def _beyond_the_paper() -> list[Voter]:
    return [
        Heuristic("refuses", per_text(text_features.refuses), LESS),
        Heuristic("apologises", per_text(text_features.apologises), LESS),
        Heuristic("formatting", per_text(text_features.formatting), MORE, 2),
        Heuristic("code_blocks", per_text(text_features.code_blocks), MORE),
        Heuristic("repetition", per_text(text_features.repetition), LESS, 0.05),
        Heuristic("prompt_overlap", prompt_features.prompt_overlap, MORE, 0.1),
        Heuristic("questions", per_text(text_features.questions), LESS),
        Heuristic("exclamations", per_text(text_features.exclamations), LESS),
        Heuristic("unfinished", per_text(text_features.unfinished), LESS),
        Heuristic("language_mismatch", prompt_features.language_mismatch, LESS, 0.25),
    ]


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DataError(f"{what} is {value!r}; expected one of {', '.join(choices)}")
