"""Prompts of judges: Jinja templates a user can replace, and texts fenced as data that cannot break out of the fence.

A text stands between `<<<BEGIN RESPONSE A code>>>` and `<<<END RESPONSE A code>>>`. The code is a hash of the texts,
the same in both orders of a pair, and occurs in none of them. Control tokens of chat templates (`<|im_end|>`,
`[INST]`, `</s>`) are broken by a space, or a text could end the turn it is quoted in; NUL becomes U+FFFD.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from labeling.errors import DataError
from labeling.llm import Conversation

TEMPLATES = Path(__file__).parent / "templates"
CODE_BYTES = 5
CONTROL = re.compile(
    r"([<\[])(?=[|｜]|/?(?:s|bos|eos|pad|unk|mask|cls|sep|INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT"
    r"|(?:start|end)_of_\w{1,20})[>\]]|/?<?/?SYS>)",
    re.IGNORECASE,
)
"""The bracket that opens a control token of the common chat templates."""

Template = Callable[[Mapping[str, str], Mapping[str, Any]], Conversation]
"""Renders texts by name (fenced) and other values (as they are) as one user turn."""


def load_template(name: str, path: str | Path | None = None) -> Template:
    """Return a template that comes with the package (`pairwise`, `rubric`, `criterion`), or a user's file in its place.

    The file sees the texts as fenced blocks, under their names. Raises DataError if it cannot be read or parsed; the
    template raises DataError if it leaves one of the texts out or names what there is not.
    """
    file = TEMPLATES / f"{name}.jinja" if path is None else Path(path)
    try:
        parsed = _environment().from_string(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"template {file} cannot be read ({error.strerror}); pass the path of a Jinja file") from None
    except (jinja2.TemplateSyntaxError, UnicodeDecodeError) as error:
        raise DataError(f"template {file} is no Jinja template: {error}; start from templates/{name}.jinja") from None

    def render(texts: Mapping[str, str], values: Mapping[str, Any]) -> Conversation:
        return [{"role": "user", "content": _rendered(parsed, file, texts, values)}]

    return render


def fenced(texts: Mapping[str, str]) -> dict[str, str]:
    """Return texts by name as blocks of data; exchanging two of them exchanges their blocks and changes no code.

    The first text has a code of its own, so that prompts which share it start alike and an engine can reuse the start.

    >>> print(fenced({"question": "Hi", "response_a": "Hello!"})["response_a"])
    <<<BEGIN RESPONSE A 0e5e50aac0>>>
    Hello!
    <<<END RESPONSE A 0e5e50aac0>>>
    """
    plain = {name: neutral(text) for name, text in texts.items()}
    names, everything = list(plain), list(plain.values())
    codes = dict.fromkeys(names, code(everything[1:], everything)) | {names[0]: code(everything[:1], everything)}
    return {name: _fence(name.replace("_", " ").upper(), text, codes[name]) for name, text in plain.items()}


def neutral(text: str) -> str:
    """Return a text with its control tokens broken and NUL replaced; else as it is.

    >>> neutral("Fine.<|im_end|>")
    'Fine.< |im_end|>'
    """
    return CONTROL.sub(r"\1 ", text.replace("\0", "\ufffd"))


def code(of: Sequence[str], absent_from: Sequence[str]) -> str:
    """Return a hash (10 hex digits) of some texts, whatever their order, that occurs in none of the others.

    It is looked for as a reader would: whatever the case, in full-width digits too, and across invisible characters.
    """
    seen = "\n".join(_folded(text) for text in absent_from)
    digest = hashlib.blake2b(digest_size=CODE_BYTES)
    for text in sorted(of):
        digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
    while digest.hexdigest() in seen:
        digest.update(b"again")
    return digest.hexdigest()


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    visible = "".join(char for char in text if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFKC", visible).casefold()


def _fence(title: str, text: str, code: str) -> str:
    return f"<<<BEGIN {title} {code}>>>\n{text}\n<<<END {title} {code}>>>"


def criterion_unseen(file: str | Path | None) -> DataError:
    """Return the error of a template that asks the same whatever the criterion."""
    return DataError(
        f"template {file} asks the same whatever the criterion; write {{{{ criterion }}}} in it, or leave that out"
    )


def _rendered(parsed: jinja2.Template, file: Path, texts: Mapping[str, str], values: Mapping[str, Any]) -> str:
    blocks = fenced(texts) if texts else {}
    try:
        content = parsed.render({**values, **blocks}).strip()
    except jinja2.TemplateError as error:
        known = ", ".join([*texts, *values])
        raise DataError(f"template {file} cannot be filled in: {error}; the names it may use are {known}") from None
    missing = [name for name, block in blocks.items() if block not in content]
    if missing:
        raise DataError(f"template {file} does not show {', '.join(missing)} as it is; write {{{{ {missing[0]} }}}}")
    return content


@cache
def _environment() -> jinja2.Environment:
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
