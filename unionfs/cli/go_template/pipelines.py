"""What stands in {{ }}: tokens, and pipelines of functions and operands as functions of a scope."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from unionfs.cli.go_template.functions import FUNCTIONS, TemplateError, is_true, printed

MAPS = frozenset({"Labels", "Volumes", "ExposedPorts", "Annotations"})
"""Fields whose value is a map with free keys: one that is missing is no error, as for a Go map."""

_TOKEN = re.compile(
    r"""(?P<blank>\s+)|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<char>'(?:[^'\\\n]|\\.)+')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))|(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)
    |(?P<word>[^\W\d]\w*)|(?P<mark>:=|[=|(),])""",
    re.VERBOSE,
)
_WORDS = {"true": True, "false": False, "nil": None}


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    joined: bool
    """Whether it follows its predecessor without a blank."""


class Scope:
    """What an action sees: dot, and the variables of the blocks around it."""

    def __init__(self, dot: object, outer: Scope | None = None) -> None:
        self.dot = dot
        self.variables: dict[str, object] = {"$": dot} if outer is None else {}
        self._outer = outer

    def inner(self, dot: object) -> Scope:
        return Scope(dot, self)

    def holder(self, name: str) -> dict[str, object]:
        """The variables among which that name is."""
        if name in self.variables:
            return self.variables
        if self._outer is None:
            raise TemplateError(f"undefined variable {name}")
        return self._outer.holder(name)


_Value = Callable[[Scope], object]


@dataclass(slots=True)
class Pipeline:
    value: _Value
    names: list[str] = field(default_factory=list)
    """The variables that get the value, which is then not printed; for range: the index and the element."""
    declares: bool = False


class Tokens:
    """What is in {{ }}."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[_Token] = []
        self._at = 0
        at, joined = 0, False
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise TemplateError(f"unexpected {text[at : at + 20]!r}")
            at = found.end()
            kind = found.lastgroup or ""
            if kind != "blank":
                self._tokens.append(_Token(kind, found[0], joined))
            joined = kind != "blank"

    def peek(self, ahead: int = 0) -> _Token | None:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def next(self) -> _Token:
        token = self.peek()
        if token is None:
            raise TemplateError(f"unexpected end of {{{{{self._text}}}}}")
        self._at += 1
        return token

    def accept(self, *texts: str) -> str | None:
        token = self.peek()
        if token is None or token.kind not in ("mark", "word") or token.text not in texts:
            return None
        self._at += 1
        return token.text

    def keyword(self) -> str | None:
        return self.accept(
            *("if", "else", "end", "range", "with", "break", "continue", "define", "template", "block")
        )

    def rest(self) -> str:
        rest = " ".join(token.text for token in self._tokens[self._at :])
        self._at = len(self._tokens)
        return rest

    def finish(self) -> None:
        token = self.peek()
        if token is not None:
            raise TemplateError(f"unexpected {token.text!r} in {{{{{self._text}}}}}")


def pipeline(tokens: Tokens) -> Pipeline:
    """To the end of an action."""
    names: list[str] = []
    declares = False
    ahead = 0
    while (token := tokens.peek(ahead)) is not None and token.kind == "variable":
        names.append(token.text)
        mark = tokens.peek(ahead + 1)
        if mark is not None and mark.text in (":=", "="):
            declares = mark.text == ":="
            for _ in range(ahead + 2):
                tokens.next()
            break
        if mark is None or mark.text != ",":
            names = []
            break
        ahead += 2
    else:
        names = []
    value = _commands(tokens)
    tokens.finish()
    return Pipeline(value, names, declares)


def _commands(tokens: Tokens) -> _Value:
    value = _command(tokens, None)
    while tokens.accept("|"):
        value = _command(tokens, value)
    return value


def _command(tokens: Tokens, last: _Value | None) -> _Value:
    """A function with its arguments, or one operand; *last* is what comes from the left of `|`."""
    token = tokens.peek()
    if token is not None and token.kind == "word" and token.text not in _WORDS:
        tokens.next()
        name = token.text
        if name not in FUNCTIONS and name not in ("and", "or"):
            raise TemplateError(f"function {name!r} not defined")
        arguments = []
        while (token := tokens.peek()) is not None and token.text not in ("|", ")"):
            arguments.append(_operand(tokens))
        return _call(name, [*arguments, *([last] if last is not None else [])])
    value = _operand(tokens)
    if last is not None:
        raise TemplateError("what follows | must be a function")
    following = tokens.peek()
    if following is not None and following.text not in ("|", ")"):
        raise TemplateError(f"unexpected {following.text!r}: only functions have arguments")
    return value


def _call(name: str, arguments: list[_Value]) -> _Value:
    if name in ("and", "or"):
        if not arguments:
            raise TemplateError(f"{name}: wrong number of arguments")
        return lambda scope: _lazy(arguments, scope, stop_at=name == "or")
    function = FUNCTIONS[name]
    return lambda scope: function(*(argument(scope) for argument in arguments))


def _lazy(arguments: list[_Value], scope: Scope, *, stop_at: bool) -> object:
    value: object = None
    for argument in arguments:
        value = argument(scope)
        if is_true(value) == stop_at:
            break
    return value


def _operand(tokens: Tokens) -> _Value:
    token = tokens.next()
    value: _Value
    if token.kind == "field":
        value = _field(lambda scope: scope.dot, token.text[1:], None)
    elif token.kind == "dot":
        return lambda scope: scope.dot
    elif token.kind == "variable":
        name = token.text
        value = lambda scope: scope.holder(name)[name]  # noqa: E731
    elif token.text == "(":
        value = _commands(tokens)
        if tokens.accept(")") is None:
            raise TemplateError("( without )")
    elif token.kind == "word" and token.text in _WORDS:
        return _constant(_WORDS[token.text])
    elif token.kind in ("text", "char", "number"):
        return _constant(_parsed(token))
    elif token.kind == "word" and token.text in FUNCTIONS:
        return _call(token.text, [])
    else:
        raise TemplateError(f"unexpected {token.text!r}")
    above = token.text[1:] if token.kind == "field" else None
    while (following := tokens.peek()) is not None and following.kind == "field" and following.joined:
        value = _field(value, tokens.next().text[1:], above)
        above = following.text[1:]
    return value


def _constant(value: object) -> _Value:
    return lambda scope: value


def _parsed(token: _Token) -> object:
    if token.text.startswith("`"):
        return token.text[1:-1]
    try:
        value: object = ast.literal_eval(token.text if token.kind != "number" else token.text.lstrip("+"))
    except (SyntaxError, ValueError):
        raise TemplateError(f"malformed {token.text}") from None
    return ord(value) if token.kind == "char" and isinstance(value, str) and len(value) == 1 else value


def _field(value: _Value, name: str, above: str | None) -> _Value:
    """A field of a value; *above* is the name of the field that the value is itself."""

    def get(scope: Scope) -> Any:
        holder = value(scope)
        if isinstance(holder, Mapping):
            if name in holder:
                return holder[name]
            if above in MAPS:
                return None
            raise TemplateError(f"there is no field {name!r}")
        if holder is None:
            raise TemplateError(f"nil has no field {name!r}")
        raise TemplateError(f"{printed(holder)[:100]!r} has no field {name!r}")

    return get
