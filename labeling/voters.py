"""Voters: anything that votes on pairs; the decorators that make one of a plain function."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa

from labeling.errors import VoterError
from labeling.pairs import Pair
from labeling.returned import Margins, Votes, as_margins, as_score, as_scores, as_vote, as_votes, shown, signs_to_votes


@dataclass(frozen=True)
class Ballot:
    """What one voter says of n pairs."""

    votes: Votes
    """Shape (n,): 0 = A, 1 = B, -1 = abstain."""
    margins: Margins
    """Shape (n,): signed strength, > 0 favours A, finite; NaN where the voter gives none."""
    errors: int = 0
    """On how many of the pairs the voter failed and was made to abstain."""


@runtime_checkable
class Voter(Protocol):
    """Anything that votes on a table of pairs: a labeling function, a built-in heuristic, a judge, a reward model."""

    @property
    def name(self) -> str:
        """Unique among the voters applied together."""

    @property
    def columnar(self) -> bool:
        """Whether `vote` is vectorised (run here, on big chunks) or goes row by row (spread over processes)."""

    def vote(self, table: pa.Table) -> Ballot:
        """Vote on n rows of `Pairs.voter_table()`, each by itself: what else is in the table must not matter."""


@runtime_checkable
class RowVoter(Voter, Protocol):
    """A voter that sees one pair at a time."""

    def vote_one(self, pair: Pair) -> tuple[int, float]:
        """Return the vote and the margin (NaN = none); raise VoterError where the function returned no vote."""


@runtime_checkable
class SelfLabelling(Voter, Protocol):
    """A voter that says whether it learned from labels of a label model, as a reward model may have."""

    @property
    def self_label(self) -> bool:
        """Whether it did: `LabelModel` then lets only gold give it weight."""


@dataclass(frozen=True)
class LabelingFunction:
    """A function that votes, as `@labeling_function` makes it; calling it calls the function, so it can be tested."""

    function: Callable[..., Any] = field(repr=False)
    name: str
    batch: bool = False
    """Whether the function takes a DataFrame of pairs instead of one pair."""

    def __post_init__(self) -> None:
        _check_function(self, "labeling_function")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself; what it returns is not checked."""
        return self.function(*args, **kwargs)

    @property
    def columnar(self) -> bool:
        """True for a batch function."""
        return self.batch

    def vote_one(self, pair: Pair) -> tuple[int, float]:
        """Vote on one pair; a batch function gets it as a DataFrame of one row."""
        return as_vote(self.function(pair)), math.nan

    def vote(self, table: pa.Table) -> Ballot:
        """Vote on n rows of `Pairs.voter_table()`; no margins. Raises VoterError if the function returns no votes."""
        if not self.batch:
            return _one_by_one(self, table)
        votes = as_votes(self.function(table.to_pandas(types_mapper=pd.ArrowDtype)), table.num_rows)
        return Ballot(votes, np.full(len(votes), np.nan, dtype=np.float32))


@dataclass(frozen=True)
class ScoringFunction:
    """A function that scores one response, as `@scoring_function` makes it; calling it calls the function.

    Its margin on a pair is score(a) - score(b), its vote the margin's sign: A if > 0, B if < 0, else abstain.
    """

    function: Callable[..., Any] = field(repr=False)
    name: str
    batch: bool = False
    """Whether the function takes Series of prompts and responses instead of one of each."""

    def __post_init__(self) -> None:
        _check_function(self, "scoring_function")
        _check_parameters(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself; what it returns is not checked."""
        return self.function(*args, **kwargs)

    @property
    def columnar(self) -> bool:
        """True for a batch function."""
        return self.batch

    def vote_one(self, pair: Pair) -> tuple[int, float]:
        """Score both responses of one pair and compare."""
        a = as_score(self.function(pair.prompt, pair.response_a), "A")
        b = as_score(self.function(pair.prompt, pair.response_b), "B")
        margin = as_margins(np.array([a - b]))
        return int(signs_to_votes(margin)[0]), float(margin[0])

    def vote(self, table: pa.Table) -> Ballot:
        """Vote on n rows of `Pairs.voter_table()`. Raises VoterError if a score is infinite or no number."""
        if not self.batch:
            return _one_by_one(self, table)
        frame = table.select(["prompt", "response_a", "response_b"]).to_pandas(types_mapper=pd.ArrowDtype)
        a = as_scores(self.function(frame["prompt"], frame["response_a"]), len(frame), "A")
        b = as_scores(self.function(frame["prompt"], frame["response_b"]), len(frame), "B")
        with np.errstate(over="ignore"):  # an overflow is refused by as_margins
            margins = as_margins(a - b)
        return Ballot(signs_to_votes(margins), margins)


@overload
def labeling_function(
    function: Callable[..., Any], /, *, name: str | None = ..., batch: bool = ...
) -> LabelingFunction: ...
@overload
def labeling_function(
    *, name: str | None = ..., batch: bool = ...
) -> Callable[[Callable[..., Any]], LabelingFunction]: ...
def labeling_function(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, batch: bool = False
) -> LabelingFunction | Callable[[Callable[..., Any]], LabelingFunction]:
    """Make a voter of a function that takes a `Pair` and returns Vote.A, Vote.B or Vote.ABSTAIN (0, 1, -1).

    With `batch=True` it takes a DataFrame of n pairs (Arrow-backed, the columns of `Pairs.voter_table()`) and returns n
    votes. It must judge each row by itself: batches have any size. The name is the function's unless given.

    >>> @labeling_function
    ... def no_refusal(pair):
    ...     return Vote.B if pair.response_a.startswith("I cannot") else Vote.ABSTAIN
    >>> no_refusal
    LabelingFunction(name='no_refusal', batch=False)
    """
    if function is None:
        return functools.partial(labeling_function, name=name, batch=batch)
    return LabelingFunction(function, _name(function, name), batch)


@overload
def scoring_function(
    function: Callable[..., Any], /, *, name: str | None = ..., batch: bool = ...
) -> ScoringFunction: ...
@overload
def scoring_function(
    *, name: str | None = ..., batch: bool = ...
) -> Callable[[Callable[..., Any]], ScoringFunction]: ...
def scoring_function(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, batch: bool = False
) -> ScoringFunction | Callable[[Callable[..., Any]], ScoringFunction]:
    """Make a voter of a function that takes (prompt, response) and returns a finite number; None or NaN = abstain.

    With `batch=True` it takes two Arrow-backed Series of n texts and returns n numbers. Whether more is better, and how
    much the score weighs, is learned by the label model.

    >>> @scoring_function(name="questions")
    ... def n_questions(prompt, response):
    ...     return response.count("?")
    >>> n_questions("Hi", "What? Why?")
    2
    """
    if function is None:
        return functools.partial(scoring_function, name=name, batch=batch)
    return ScoringFunction(function, _name(function, name), batch)


def rows(table: pa.Table) -> list[Pair]:
    """Return the rows of `Pairs.voter_table()` as row voters see them."""
    columns = [table[name].to_pylist() for name in Pair.__dataclass_fields__]
    return [Pair(i, p, q, tuple(m), a, b, g, s) for i, p, q, m, a, b, g, s in zip(*columns, strict=True)]


def gather(ballots: Sequence[tuple[int, float]]) -> Ballot:
    """Return (vote, margin) tuples of single pairs as one ballot."""
    votes = np.array([vote for vote, _ in ballots], dtype=np.int8)
    return Ballot(votes, np.array([margin for _, margin in ballots], dtype=np.float32))


def _one_by_one(voter: RowVoter, table: pa.Table) -> Ballot:
    return gather([voter.vote_one(pair) for pair in rows(table)])


def _name(function: Any, name: str | None) -> str:
    return str(getattr(function, "__name__", type(function).__name__)) if name is None else name


def _check_parameters(voter: ScoringFunction) -> None:
    try:
        names = list(inspect.signature(voter.function).parameters)[:2]
    except (TypeError, ValueError):  # some built-in functions have no signature
        return
    if names == ["response", "prompt"]:
        raise VoterError(
            f"{voter.name} takes (response, prompt), and scoring functions are called with (prompt, response); "
            "exchange its parameters"
        )


def _check_function(voter: LabelingFunction | ScoringFunction, decorator: str) -> None:
    if not callable(voter.function) or isinstance(voter.function, type):
        raise VoterError(
            f"@{decorator} was given {shown(voter.function)}; expected a function: write @{decorator} or "
            f"@{decorator}(name=..., batch=...) above it"
        )
    if not voter.name:
        raise VoterError(f"@{decorator} was given an empty name; name the voter")
    object.__setattr__(voter, "__doc__", voter.function.__doc__)
