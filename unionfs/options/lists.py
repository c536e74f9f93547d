r"""Lists in one text: lowers, separated by colons, and mount options, separated by commas.

A backslash takes the next character as it is, so `\:` is a colon in a name and `\\` a backslash, as kernel
overlayfs reads them. Among options double quotes keep commas together, as mount(8) has it; the escapes stay
in the words, for a word may be a list of lowers. Nothing here knows what the parts mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from unionfs.errors import OptionError


def split_lowers(text: str) -> tuple[list[str], list[str]]:
    """The directories of a colon-separated list, and the data-only ones that follow two colons each.

    Escapes are undone.
    """
    lowers: list[str] = []
    data: list[str] = []
    into, doubled = lowers, False
    for part in _split(text, ":", f"list of lowers {text!r}"):
        if part:
            if into is data and not doubled:
                raise OptionError(
                    f"invalid list of lowers {text!r}: {part!r} follows a data-only layer; give those last,"
                    " each after two colons"
                )
            into.append(unescape(part))
            doubled = False
        elif doubled or not lowers:
            raise _empty_entry(text)
        else:
            into, doubled = data, True
    if doubled or not lowers:
        raise _empty_entry(text)
    return lowers, data


def _empty_entry(text: str) -> OptionError:
    return OptionError(
        f"invalid list of lowers {text!r}: empty entry; separate directories by one colon (data-only layers"
        " by two), and write \\: for a colon in a name"
    )


def join_lowers(lowers: Iterable[str], data: Iterable[str] = ()) -> str:
    """What `split_lowers` reads as these directories."""
    return "::".join(
        [":".join(_escape(lower, "\\:") for lower in lowers), *(_escape(each, "\\:") for each in data)]
    )


def split_options(text: str) -> list[str]:
    """The words of a comma-separated list, quotes undone and escapes not: see `unescape`."""
    return _split(text, ",", f"mount options {text!r}", quote='"')


def unescape(value: str, special: str | None = None) -> str:
    """The text without the backslash before each character, or before each of the *special* ones."""
    escaped = "." if special is None else f"[{re.escape(special)}]"
    return re.sub(rf"\\({escaped})", r"\1", value, flags=re.DOTALL)


def escape(value: str) -> str:
    """What `split_options` reads as this value."""
    return _escape(value, '\\,"')


def _escape(text: str, special: str) -> str:
    return "".join("\\" + character if character in special else character for character in text)


def _split(text: str, separator: str, what: str, quote: str | None = None) -> list[str]:
    parts, part = [], []
    quoted = False
    characters = iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise OptionError(
                    f"invalid {what}: backslash at the end; write \\\\ for a backslash in a name"
                )
            part.append(character + escaped)
        elif character == quote:
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append("".join(part))
            part = []
        else:
            part.append(character)
    if quoted:
        raise OptionError(f'invalid {what}: unterminated quotation mark; write \\" for a literal one')
    return [*parts, "".join(part)]
