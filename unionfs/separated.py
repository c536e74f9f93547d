r"""Lists in one text: lowers, separated by colons, and mount options, separated by commas.

A backslash takes the next character as it is, so `\:` is a colon in a name and `\\` a backslash, as kernel
overlayfs reads them. Among options double quotes keep commas together, as mount(8) has it. Nothing here knows
what the parts mean.
"""

from __future__ import annotations

from collections.abc import Iterable

from unionfs.errors import OptionError


def split_lowers(text: str) -> list[str]:
    """The directories of a colon-separated list, escapes undone."""
    lowers = _split(text, ":", "the list of lowers")
    if "" in lowers:
        raise OptionError(
            f"the list of lowers {text!r} has an empty entry: separate directories by one colon, and write"
            " \\: for a colon in a name"
        )
    return lowers


def join_lowers(lowers: Iterable[str]) -> str:
    return ":".join(_escape(lower, "\\:") for lower in lowers)


def split_options(text: str) -> list[str]:
    """The words of a comma-separated list, escapes and quotes undone."""
    return _split(text, ",", "the mount options", quote='"')


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
                raise OptionError(f"{what} {text!r} end in a backslash: write \\\\ for a backslash in a name")
            part.append(escaped)
        elif character == quote:
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append("".join(part))
            part = []
        else:
            part.append(character)
    if quoted:
        raise OptionError(
            f'{what} {text!r} have a quotation mark that is not closed: write \\" for a plain one'
        )
    return [*parts, "".join(part)]
