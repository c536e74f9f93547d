"""Text for terminals: names may hold control characters, which a terminal would execute."""

from __future__ import annotations

import codecs

RAW_OR_ESCAPED = "pyunionfs.raw_or_escaped"
"""The error handler of output: undecodable bytes of a name are written as they are, characters that the
encoding lacks are escaped."""


def printable(text: str) -> str:
    """The text with all non-printable characters escaped: controls, line ends, undecodable bytes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _raw_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(RAW_OR_ESCAPED, _raw_or_escaped)
