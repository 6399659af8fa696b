"""Votes on preference pairs, and the label models that turn them into a calibrated posterior.

>>> from labeling import LabelModel, Vote, apply, labeling_function, read_pairs
"""

from __future__ import annotations

from labeling.apply import apply
from labeling.calibration import Calibration
from labeling.compare import compare
from labeling.dawid_skene import DawidSkene, OneCoin
from labeling.errors import (
    DataError,
    GoldError,
    GroupLeakError,
    LayoutError,
    RowError,
    VoterError,
    VotesError,
    WeakprefError,
    WeakprefWarning,
)
from labeling.heuristics import heuristics
from labeling.join import join_votes
from labeling.label_model import LabelModel
from labeling.logistic_model import LogisticModel
from labeling.majority import MajorityVote
from labeling.noise_aware import NoiseAware
from labeling.pairs import Pair, Pairs
from labeling.read import read_pairs
from labeling.snorkel_model import SnorkelLabelModel
from labeling.sparse_low_rank import SparseLowRank
from labeling.split import check_disjoint, gold_sample, split_by_group
from labeling.summary import summary
from labeling.voters import labeling_function, scoring_function
from labeling.votes import Vote, VoteMatrix, read_votes, write_votes

__all__ = [
    "Calibration",
    "DataError",
    "DawidSkene",
    "GoldError",
    "GroupLeakError",
    "LabelModel",
    "LayoutError",
    "LogisticModel",
    "MajorityVote",
    "NoiseAware",
    "OneCoin",
    "Pair",
    "Pairs",
    "RowError",
    "SnorkelLabelModel",
    "SparseLowRank",
    "Vote",
    "VoteMatrix",
    "VoterError",
    "VotesError",
    "WeakprefError",
    "WeakprefWarning",
    "apply",
    "check_disjoint",
    "compare",
    "gold_sample",
    "heuristics",
    "join_votes",
    "labeling_function",
    "read_pairs",
    "read_votes",
    "scoring_function",
    "split_by_group",
    "summary",
    "write_votes",
]
