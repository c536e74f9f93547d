"""Text for terminals. Names are anybody's, and a terminal obeys what it is sent."""

from __future__ import annotations

import codecs

RAW_OR_ESCAPED = "pyunionfs.raw_or_escaped"
"""How output is encoded: the bytes of a name that are no text as they are, and escaped what a terminal's
encoding lacks."""


def printable(text: str) -> str:
    """The text with everything escaped that is no visible character: controls, line ends, broken bytes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _raw_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(RAW_OR_ESCAPED, _raw_or_escaped)
