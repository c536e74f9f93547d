"""Text for terminals. Names are anybody's, and a terminal obeys what it is sent."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything escaped that is no visible character: controls, line ends, broken bytes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
