"""Templates: text, actions and blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from unionfs.cli.go_template.functions import TemplateError, is_true, printed
from unionfs.cli.go_template.pipelines import Pipeline, Scope, Tokens, pipeline
from unionfs.errors import OptionError

_Run = Callable[[Scope, list[str]], None]


class _Jump(Exception):
    """break or continue, on its way to its range."""

    def __init__(self, word: str) -> None:
        self.word = word


class Template:
    """A parsed template. Raises OptionError, with the place, for what is malformed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts = list(_split(text))
        self._at = 0
        try:
            self._body, end = self._block(in_range=False)
        except TemplateError as error:
            raise self._failure(error) from None
        if end:
            raise self._failure(TemplateError(f"unexpected {{{{{end}}}}}"))

    def render(self, value: object) -> str:
        """The text for a value. Raises OptionError where the template asks for what the value has not."""
        out: list[str] = []
        try:
            _execute(self._body, Scope(value), out)
        except TemplateError as error:
            raise self._failure(error) from None
        return "".join(out)

    def _failure(self, error: TemplateError) -> OptionError:
        return OptionError(f"--format {self._text[:200]!r}: {error}")

    # ---- blocks

    def _block(self, *, in_range: bool) -> tuple[list[_Run], str]:
        """Up to the end or else that closes it; and which that was."""
        body: list[_Run] = []
        while self._at < len(self._parts):
            kind, text = self._parts[self._at]
            self._at += 1
            if kind == "text":
                body.append(_literal(text))
                continue
            tokens = Tokens(text)
            word = tokens.keyword()
            if word == "end" or word == "else":
                return body, f"{word} {tokens.rest()}".strip()
            if word in ("if", "with", "range"):
                body.append(self._control(word, tokens, in_range=in_range))
            elif word in ("break", "continue"):
                if not in_range:
                    raise TemplateError(f"{{{{{word}}}}} outside {{{{range}}}}")
                tokens.finish()
                body.append(_jump(word))
            elif word is not None:
                raise TemplateError(f"{{{{{word}}}}} is not supported")
            else:
                body.append(_print(pipeline(tokens)))
        return body, ""

    def _control(self, word: str, tokens: Tokens, *, in_range: bool) -> _Run:
        given = pipeline(tokens)
        body, end = self._block(in_range=in_range or word == "range")
        otherwise: list[_Run] = []
        if end == "else":
            otherwise, end = self._block(in_range=in_range)
        elif end.startswith("else "):
            inner = Tokens(end[len("else ") :])
            following = inner.keyword()
            if following not in ("if", "with") or word == "range":
                raise TemplateError(f"unexpected {{{{{end}}}}}")
            # The end closes both.
            return _CONTROLS[word](given, body, [self._control(following, inner, in_range=in_range)])
        if end != "end":
            raise TemplateError(f"{{{{{word}}}}} without {{{{end}}}}")
        return _CONTROLS[word](given, body, otherwise)


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Plain text and what is in {{ }}, with blanks trimmed where {{- and -}} say so, without comments."""
    trim = False
    at = 0
    while True:
        begin = text.find("{{", at)
        plain = text[at:] if begin < 0 else text[at:begin]
        if trim:
            plain = plain.lstrip(" \t\r\n")
        if begin < 0:
            yield "text", plain
            return
        left = re.match(r"-[ \t\r\n]", text[begin + 2 :]) is not None
        yield "text", plain.rstrip(" \t\r\n") if left else plain
        begin += 3 if left else 2
        end = _end_of_action(text, begin)
        inside = text[begin:end]
        trim = re.search(r"[ \t\r\n]-$", inside) is not None
        inside = (inside[:-1] if trim else inside).strip(" \t\r\n")
        if not inside.startswith("/*"):
            yield "action", inside
        at = end + 2


def _end_of_action(text: str, begin: int) -> int:
    """Where its }} is, which is not one in a literal or a comment."""
    inside = re.compile(r'/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|`[^`]*`|\'(?:[^\'\\\n]|\\.)+\'|\}\}', re.DOTALL)
    for found in inside.finditer(text, begin):
        if found[0] == "}}":
            return found.start()
    raise OptionError(f"--format {text[:200]!r}: {{{{ without }}}}")


def _literal(text: str) -> _Run:
    return lambda scope, out: out.append(text)


def _jump(word: str) -> _Run:
    def run(scope: Scope, out: list[str]) -> None:
        raise _Jump(word)

    return run


def _execute(body: Sequence[_Run], scope: Scope, out: list[str]) -> None:
    for run in body:
        run(scope, out)


def _assign(pipeline: Pipeline, scope: Scope, values: Sequence[object]) -> None:
    for name, value in zip(pipeline.names, values, strict=True):
        (scope.variables if pipeline.declares else scope.holder(name))[name] = value


def _print(pipeline: Pipeline) -> _Run:
    def run(scope: Scope, out: list[str]) -> None:
        value = pipeline.value(scope)
        if pipeline.names:
            _assign(pipeline, scope, [value])
        else:
            out.append(printed(value))

    return run


def _if(pipeline: Pipeline, body: list[_Run], otherwise: list[_Run]) -> _Run:
    def run(scope: Scope, out: list[str]) -> None:
        inner = scope.inner(scope.dot)
        value = pipeline.value(inner)
        _assign(pipeline, inner, [value] * len(pipeline.names))
        _execute(body if is_true(value) else otherwise, inner, out)

    return run


def _with(pipeline: Pipeline, body: list[_Run], otherwise: list[_Run]) -> _Run:
    def run(scope: Scope, out: list[str]) -> None:
        inner = scope.inner(scope.dot)
        value = pipeline.value(inner)
        _assign(pipeline, inner, [value] * len(pipeline.names))
        if is_true(value):
            inner.dot = value
            _execute(body, inner, out)
        else:
            _execute(otherwise, inner, out)

    return run


def _range(pipeline: Pipeline, body: list[_Run], otherwise: list[_Run]) -> _Run:
    def run(scope: Scope, out: list[str]) -> None:
        items = list(_items(pipeline.value(scope)))
        if not items:
            _execute(otherwise, scope.inner(scope.dot), out)
        for key, value in items:
            inner = scope.inner(value)
            _assign(pipeline, inner, [key, value][-len(pipeline.names) :] if pipeline.names else [])
            try:
                _execute(body, inner, out)
            except _Jump as jump:
                if jump.word == "break":
                    return

    return run


def _items(value: object) -> Iterator[tuple[object, object]]:
    if value is None:
        return iter(())
    if isinstance(value, Mapping):
        return iter(sorted(value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return iter(enumerate(value))
    raise TemplateError(f"range can't iterate over {printed(value)[:100]}")


_CONTROLS = {"if": _if, "with": _with, "range": _range}
