"""Frozen dataclasses as groups of command-line options: a field is an option, its help text the option's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer


def option(help: str, default: Any = None) -> Any:  # noqa: A002
    """Return a dataclass field that is an option with this help text."""
    return field(default=default, metadata={"help": help})


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command for typer whose parameters of a dataclass type are replaced by an option for each field."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += [_parameter(one, get_type_hints(groups[name])[one.name]) for one in fields(groups[name])]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{one.name: given.pop(one.name) for one in fields(group)})
        command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(one: Field[Any], hint: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if one.default is MISSING else one.default
    name = f"-{one.name}" if len(one.name) == 1 else f"--{one.name.replace('_', '-')}"
    text = one.metadata["help"].replace("[", "\\[")  # no markup
    annotation = Annotated[hint, typer.Option(name, help=text)]
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
