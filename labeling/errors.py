"""The errors and warnings of weakpref; every one names the thing, what was expected, what was found, the way out.

WeakprefError
├── DataError (also a ValueError)   what was read or passed is not what it should be
│   ├── LayoutError                 the columns match no known layout, or two
│   ├── RowError                    rows that cannot be used (null, empty, identical, duplicate, ...)
│   ├── GoldError                   gold labels out of range, or too few of them to do what was asked
│   ├── GroupLeakError              a prompt or group stands on both sides of a split
│   └── VotesError                  a vote matrix that is malformed or belongs to other pairs
├── VoterError                      a labeling function raised, or returned what is no vote
├── EngineError                     a server of a language model gave no usable answer
└── BudgetError                     a run stopped before it would have exceeded its limits
"""

from __future__ import annotations


class WeakprefError(Exception):
    """Base of all errors raised on purpose by weakpref."""


class DataError(WeakprefError, ValueError):
    """What was read or passed is not what it should be."""


class LayoutError(DataError):
    """The columns match no known layout, or two of them."""


class RowError(DataError):
    """Some rows cannot be used."""


class GoldError(DataError):
    """Gold labels are out of range, or do not suffice for what was asked."""


class GroupLeakError(DataError):
    """A prompt or group stands on both sides of a split."""


class VotesError(DataError):
    """A vote matrix is malformed or belongs to other pairs."""


class VoterError(WeakprefError):
    """A labeling or scoring function raised, or returned what is no vote."""


class EngineError(WeakprefError):
    """A server gave no usable answer, however often it was asked."""


class BudgetError(WeakprefError):
    """A run stopped before it would have exceeded its limits; what was answered is kept, and it can go on."""


class WeakprefWarning(UserWarning):
    """Something was dropped, shrunk or cannot be promised; the message counts it."""
