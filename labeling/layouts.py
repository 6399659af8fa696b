"""The layouts in which preference pairs come, recognised by their columns and never guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from labeling import convert, pairs
from labeling.errors import LayoutError
from labeling.rows import Converted


@dataclass(frozen=True)
class Kind:
    """What a column may hold; a column of nothing but nulls passes for any kind."""

    name: str
    holds: Callable[[pa.DataType], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.name} or {other.name}", lambda found: self.holds(found) or other.holds(found))


def is_text(found: pa.DataType) -> bool:
    """Tell whether a type is some string (plain, large, view, or dictionary-encoded)."""
    if pa.types.is_dictionary(found):
        return is_text(found.value_type)
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def is_number(found: pa.DataType) -> bool:
    """Tell whether a type is some number or boolean."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(kind(found) for kind in kinds)


def is_list_of(element: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    """Return the test for a list, of whatever build, whose type of element passes `element`."""
    kinds = (
        pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
        pa.types.is_large_list_view,
    )  # fmt: skip
    return lambda found: any(kind(found) for kind in kinds) and element(found.value_type)


def _is_message(found: pa.DataType) -> bool:
    parts = {entry.name: entry.type for entry in found} if pa.types.is_struct(found) else {}
    return all(name in parts and (_null(parts[name]) or is_text(parts[name])) for name in ("role", "content"))


def _null(found: pa.DataType) -> bool:
    return bool(pa.types.is_null(found))


def _or_null(element: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda found: _null(found) or element(found)


TEXT = Kind("text", is_text)
NUMBER = Kind("a number", is_number)
MESSAGES = Kind("a list of {role, content}", is_list_of(_or_null(_is_message)))
TEXTS = Kind("a list of texts", is_list_of(_or_null(is_text)))
NUMBERS = Kind("a list of numbers", is_list_of(_or_null(is_number)))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts, lists of texts and messages in their plain Arrow types, other columns as they are."""
    kinds = (
        (is_text, pa.string()),
        (is_list_of(is_text), pa.list_(pa.string())),
        (is_list_of(_is_message), pairs.MESSAGES),
    )
    return next((column.cast(wanted) for holds, wanted in kinds if holds(column.type)), column)


@dataclass(frozen=True)
class Layout:
    """One way to store preference pairs."""

    name: str
    columns: dict[str, Kind]
    """Columns that must be there."""
    convert: Callable[[pa.Table], Converted]
    """Makes canonical columns of a table that holds `columns` and some of `optional`."""
    optional: dict[str, Kind] = field(default_factory=dict)
    """Columns that are used where they are there."""
    without: tuple[str, ...] = ()
    """Columns that mean another layout."""
    looks: Callable[[pa.Table], bool] = lambda _: True
    """What the values must look like, where the columns alone do not tell."""


COMMON = {"group": TEXT | NUMBER, "source": TEXT}
SCORES = COMMON | {name: NUMBER for pair in convert.SCORES for name in pair}
CONVERSATIONS = {"chosen": MESSAGES, "rejected": MESSAGES}
STRINGS = {"chosen": TEXT, "rejected": TEXT}

LAYOUTS = (
    Layout(
        "canonical",
        {"prompt": TEXT | MESSAGES, "response_a": TEXT, "response_b": TEXT},
        convert.canonical,
        COMMON | {"gold": NUMBER, "annotator_votes": NUMBERS},
    ),
    Layout(
        "weakpref",
        CONVERSATIONS | {"messages": MESSAGES, "p_chosen": NUMBER, "flipped": NUMBER, "gold": NUMBER},
        convert.weakpref_export,
        COMMON,
    ),
    Layout("trl-implicit", CONVERSATIONS, convert.conversations, SCORES, ("prompt", "p_chosen", "score_chosen")),
    Layout("trl-explicit", CONVERSATIONS | {"prompt": MESSAGES}, convert.conversations, SCORES),
    Layout("trl-standard", STRINGS | {"prompt": TEXT}, convert.standard, SCORES | {"system": TEXT}, ("subset",)),
    Layout("hh-rlhf", STRINGS, convert.hh_rlhf, COMMON, ("prompt", "question", "input"), convert.looks_like_hh_rlhf),
    Layout(
        "ultrafeedback-h4",
        CONVERSATIONS | {"prompt": TEXT, "score_chosen": NUMBER, "score_rejected": NUMBER},
        convert.conversations,
        COMMON,
    ),
    Layout(
        "ultrafeedback-trl",
        CONVERSATIONS | {"score_chosen": NUMBER, "score_rejected": NUMBER},
        convert.conversations,
        COMMON,
        ("prompt",),
    ),
    Layout("distilabel", CONVERSATIONS | {"prompt": TEXT}, convert.conversations, SCORES, ("score_chosen",)),
    Layout("distilabel-orca", STRINGS | {"input": TEXT}, convert.standard, COMMON | {"system": TEXT}, ("prompt",)),
    Layout("orca", STRINGS | {"question": TEXT}, convert.standard, COMMON | {"system": TEXT}, ("prompt",)),
    Layout("rewardbench", STRINGS | {"prompt": TEXT, "subset": TEXT}, convert.standard, COMMON),
    Layout(
        "rewardbench-2",
        {"prompt": TEXT, "chosen": TEXTS, "rejected": TEXTS},
        convert.rewardbench_2,
        COMMON | {"subset": TEXT},
    ),
    Layout(
        "judgebench",
        {"question": TEXT, "response_A": TEXT, "response_B": TEXT, "label": TEXT},
        convert.judgebench,
        COMMON,
    ),
)
"""Every layout `read_pairs` knows, by the names its `layout` argument takes."""

COLUMNS = frozenset(name for layout in LAYOUTS for name in (*layout.columns, *layout.optional))
"""Every column some layout uses."""

MESSAGES_COLUMNS = frozenset(
    name for layout in LAYOUTS for name, kind in layout.columns.items() if kind.holds(pairs.MESSAGES)
)
"""The columns that some layout reads as conversations."""

TEXT_COLUMNS = frozenset(
    name for layout in LAYOUTS for name, kind in (layout.columns | layout.optional).items() if kind.holds(pa.string())
)
"""The columns that some layout reads as text: in a CSV file they are text even where they look like numbers."""


def find(table: pa.Table, label: str, name: str | None = None) -> Layout:
    """Return the layout of the given name, or the only one that a table's columns match.

    Raises LayoutError where the columns match none, or two, or do not fit the layout named.
    """
    if name is not None:
        return _named(table, label, name)
    matches = [layout for layout in LAYOUTS if _fits(layout, table)]
    if not matches:
        raise LayoutError(_no_match(table, label))
    if len(matches) > 1:
        names, first = " and ".join(layout.name for layout in matches), matches[0].name
        raise LayoutError(
            f"{label}: the columns {_names(table.column_names)} match two layouts, {names}; "
            f'say which one is meant, for instance layout="{first}" (command line: --layout {first})'
        )
    _check_optional(matches[0], table, label)
    return matches[0]


def _named(table: pa.Table, label: str, name: str) -> Layout:
    known = {layout.name: layout for layout in LAYOUTS}
    if name not in known:
        raise LayoutError(f"no layout is called {name!r}; known are {', '.join(known)}")
    wrong = _wrong(known[name], table)
    if wrong:
        raise LayoutError(
            f"{label}: the layout {name} was asked for, but {', '.join(wrong)}; rename or add the columns"
        )
    _check_optional(known[name], table, label)
    return known[name]


def _fits(layout: Layout, table: pa.Table) -> bool:
    others = set(layout.without) & set(table.column_names)
    return not others and not _wrong(layout, table) and layout.looks(table)


def _wrong(layout: Layout, table: pa.Table) -> list[str]:
    """Return what keeps a table from being in a layout, in words."""
    found = dict(zip(table.column_names, table.schema.types, strict=True))
    missing = [f"there is no column {name}" for name in layout.columns if name not in found]
    kinds = [_mismatch(name, kind, found[name]) for name, kind in layout.columns.items() if name in found]
    return missing + [text for text in kinds if text]


def _mismatch(name: str, kind: Kind, found: pa.DataType) -> str:
    return "" if _null(found) or kind.holds(found) else f"column {name} should hold {kind.name}, found {found}"


def _check_optional(layout: Layout, table: pa.Table, label: str) -> None:
    for name, kind in layout.optional.items():
        wrong = _mismatch(name, kind, table.schema.field(name).type) if name in table.column_names else ""
        if wrong:
            raise LayoutError(f"{label}, read as layout {layout.name}: {wrong}; convert or rename that column")


def _no_match(table: pa.Table, label: str) -> str:
    known = "; ".join(f"{layout.name} ({', '.join(layout.columns)})" for layout in LAYOUTS)
    there = set(table.column_names)
    nearest = min(LAYOUTS, key=lambda layout: (len(layout.columns.keys() - there), len(_wrong(layout, table))))
    wrong = _wrong(nearest, table) or ["its values look otherwise"]
    return (
        f"{label}: the columns {_names(table.column_names)} match no known layout; the nearest is {nearest.name}, but "
        f"{', '.join(wrong)}. Known are {known}. Rename the columns, or name the layout with layout=... "
        f"(command line: --layout)"
    )


def _names(columns: Sequence[str]) -> str:
    return ", ".join(columns) or "(none)"
