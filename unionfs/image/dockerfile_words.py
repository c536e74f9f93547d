"""Words of a Dockerfile: parted at blanks, with quotes and backslashes, and $VARIABLES replaced.

The rules are those of buildkit's frontend/dockerfile (parser, shell/lex.go). Raises ValueError, with what is
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?!$-]")


def split(text: str) -> list[str]:
    """The words of a line as they stand there, quotes and backslashes with them."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        at += 1
        if not quote and char.isspace():
            if word:
                words.append(word)
            word = ""
            continue
        word += char
        if char == "\\" and quote != "'" and at < len(text):
            word += text[at]
            at += 1
        elif char in "'\"":
            quote = "" if quote == char else quote or char
    return [*words, word] if word else words


def expand(word: str, variables: Mapping[str, str]) -> str:
    """A word as it is meant."""
    return _Expander(word, variables).until("")


class _Expander:
    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self._text = text
        self._at = 0
        self._variables = variables

    def until(self, stop: str) -> str:
        """Up to an unquoted *stop*, which is passed over; "": to the end."""
        found = ""
        while self._at < len(self._text):
            char = self._next()
            if char == stop:
                return found
            if char == "'":
                found += self._single_quoted()
            elif char == '"':
                found += self._double_quoted()
            elif char == "$":
                found += self._variable()
            elif char == "\\":
                found += self._next() if self._at < len(self._text) else ""
            else:
                found += char
        if stop:
            raise ValueError(f"{stop} is missing")
        return found

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise ValueError("a single quote is not closed")
        found = self._text[self._at : end]
        self._at = end + 1
        return found

    def _double_quoted(self) -> str:
        found = ""
        while self._at < len(self._text):
            char = self._next()
            if char == '"':
                return found
            if char == "$":
                found += self._variable()
            elif char == "\\" and self._at < len(self._text) and self._text[self._at] in '"$\\':
                found += self._next()
            else:
                found += char
        raise ValueError("a double quote is not closed")

    def _variable(self) -> str:
        if self._text.startswith("{", self._at):
            self._at += 1
            return self._braced()
        name = _NAME.match(self._text, self._at)
        if name is None:
            return "$"
        self._at = name.end()
        return self._variables.get(name[0], "")

    def _braced(self) -> str:
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise ValueError("${ without the name of a variable")
        self._at = name.end()
        value = self._variables.get(name[0])
        if self._text.startswith("}", self._at):
            self._at += 1
            return value or ""
        is_set = value is not None
        if self._text.startswith(":", self._at):
            self._at += 1
            is_set = bool(value)
        modifier = self._text[self._at : self._at + 1]
        self._at += 1
        if modifier not in ("-", "+"):
            raise ValueError(f"${{{name[0]}...}}: only :- and :+ may follow the name")
        word = self.until("}")
        if modifier == "-":
            return (value or "") if is_set else word
        return word if is_set else ""
