"""Frozen dataclasses as groups of command-line options: a field is an option, its help text the option's."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from labeling.errors import DataError

USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for arguments it cannot use; it exports only this subclass."""


def option(help: str, default: Any = None) -> Any:  # noqa: A002
    """Return a dataclass field that is an option with this help text."""
    return field(default=default, metadata={"help": help})


def expanded(
    command: Callable[..., None], defaults: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> Callable[..., None]:
    """Return a command for typer whose parameters of a dataclass type are replaced by an option for each field.

    An option has the field's default, or that in `defaults` where the field has none, its metadata "help", and stands
    in the panel of its metadata "section". Fields in `without` are no options. Several numbers are written with commas
    between. The command raises DataError where they are none.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += [_parameter(one, hint, defaults or {}) for one, hint in _options(groups[name], without)]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**given: Any) -> None:
        for name, group in groups.items():
            values = {one.name: _value(one.name, hint, given.pop(one.name)) for one, hint in _options(group, without)}
            given[name] = group(**values)
        command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options(group: Any, without: Collection[str]) -> Iterator[tuple[Field[Any], Any]]:
    """Yield the fields that are options, and their types."""
    hints = get_type_hints(group)
    return ((one, hints[one.name]) for one in fields(group) if one.name not in without)


def _parameter(one: Field[Any], hint: Any, defaults: Mapping[str, Any]) -> inspect.Parameter:
    missing = defaults.get(one.name, inspect.Parameter.empty)
    default = missing if one.default is MISSING else one.default
    text = one.metadata["help"].replace("[", "\\[")  # no markup
    info = typer.Option(*_names(one.name, default), help=text, rich_help_panel=one.metadata.get("section"))
    kind: Any = str | None if _is_several(hint) else hint  # typer knows no tuples of any length
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _names(name: str, default: Any) -> list[str]:
    """Return what the option is called, where typer would call it otherwise."""
    if len(name) == 1:
        return [f"-{name}"]
    return [f"--{name.replace('_', '-')}"] if default is False else []  # nobody says --no- to what is off


def _is_several(hint: Any) -> bool:
    return any(typing.get_origin(part) is tuple for part in (hint, *typing.get_args(hint)))


def _value(name: str, hint: Any, given: Any) -> Any:
    """Return "0.7,0.3" as (0.7, 0.3) where a field holds several numbers."""
    if given is None or not _is_several(hint):
        return given
    try:
        return tuple(float(part) for part in str(given).split(","))
    except ValueError:
        raise DataError(f"{name} is {given!r}, expected numbers with commas between, 0.7,0.3 for instance") from None
