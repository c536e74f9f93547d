"""The functions of templates for `--format`: text/template's and Docker's, and how Go's fmt prints values.

Values are those of JSON. What a function refuses is a TemplateError, which go_template.py reports.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class TemplateError(Exception):
    """A template is malformed, or asks for what a value has not."""


def is_true(value: object) -> bool:
    """text/template's truth: what is empty, zero or nil is false."""
    if isinstance(value, bool | int | float):
        return value != 0
    return value is not None and value not in ("", [], {}, ())


def printed(value: object) -> str:
    """A value as an action prints it."""
    return "<no value>" if value is None else formatted(value)


def formatted(value: object) -> str:
    """A value by fmt's %v."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case float():
            return _float(value)
        case Mapping():
            return "map[" + " ".join(f"{formatted(k)}:{formatted(v)}" for k, v in sorted(value.items())) + "]"
        case list() | tuple():
            return "[" + " ".join(map(formatted, value)) + "]"
    return str(value)


def _float(value: float) -> str:
    """%v of a float64 is %g with the shortest digits, exponents from 21 on (fmt/format.go)."""
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if value == 0 or (not e and 1e-4 <= abs(value) < 1e21):
        return text.removesuffix(".0")
    if e and 1e-4 <= abs(value) < 1e21:
        return f"{value:.0f}"
    return f"{mantissa.removesuffix('.0')}e{exponent}" if e else text


def _kind(value: object) -> str:
    """A value's type, as fmt names it."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case Mapping():
            return "map[string]interface {}"
    return "[]interface {}"


def quoted(value: str) -> str:
    """A text as a literal of Go (%q)."""
    named = {
        "\a": "a",
        "\b": "b",
        "\f": "f",
        "\n": "n",
        "\r": "r",
        "\t": "t",
        "\v": "v",
        "\\": "\\",
        '"': '"',
    }
    out = []
    for each in value:
        if each in named:
            out.append("\\" + named[each])
        elif each.isprintable():
            out.append(each)
        else:
            number = ord(each)
            width, letter = (2, "x") if number < 0x80 else (4, "u") if number < 0x10000 else (8, "U")
            out.append(f"\\{letter}{number:0{width}x}")
    return f'"{"".join(out)}"'


_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+|\*)?(?:\.(?P<precision>\d+|\*)?)?(?P<verb>.)", re.DOTALL
)


def printf(form: object = "", *arguments: object) -> str:
    """fmt.Sprintf, without indexes of arguments."""
    left = list(arguments)

    def number(text: str | None) -> int | None:
        if text != "*":
            return int(text) if text else None
        taken = left.pop(0) if left else None
        return taken if isinstance(taken, int) else None

    def one(found: re.Match[str]) -> str:
        flags, verb = found["flags"], found["verb"]
        width, precision = number(found["width"]), number(found["precision"])
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        text, numeric = _verb(left.pop(0), verb, flags, precision, dot="." in found[0])
        if width is None:
            return text
        if "-" in flags:
            return text.ljust(width)
        if "0" in flags and numeric:
            sign = text[:1] if text[:1] in "+-" else ""
            return sign + text[len(sign) :].rjust(width - len(sign), "0")
        return text.rjust(width)

    made = _VERB.sub(one, _text("printf", form))
    if left:
        made += "%!(EXTRA " + ", ".join(f"{_kind(each)}={formatted(each)}" for each in left) + ")"
    return made


def _verb(value: object, verb: str, flags: str, precision: int | None, *, dot: bool) -> tuple[str, bool]:
    """A value by a verb, and whether zeros may fill it up."""
    plus = "+" if "+" in flags else " " if " " in flags else ""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if verb == "v":
        return formatted(value), whole
    if verb == "T":
        return _kind(value), False
    if verb == "t" and isinstance(value, bool):
        return formatted(value), False
    if verb in "dxXobc" and whole:
        assert isinstance(value, int)
        return (chr(value), False) if verb == "c" else (format(value, plus + verb), True)
    if verb in "eEfFgG" and isinstance(value, float):
        return format(value, f"{plus}.{0 if precision is None and dot else precision or 6}{verb}"), True
    if isinstance(value, str):
        if verb in "sq":
            cut = value if precision is None and not dot else value[: precision or 0]
            return (quoted(cut) if verb == "q" else cut), False
        if verb in "xX":
            shown = value.encode("utf-8", "surrogateescape").hex()
            return (shown.upper() if verb == "X" else shown), False
    if isinstance(value, list | tuple) and verb in "sqdxX":
        return "[" + " ".join(_verb(each, verb, flags, precision, dot=dot)[0] for each in value) + "]", False
    return f"%!{verb}({_kind(value)}={formatted(value)})" if value is not None else f"%!{verb}(<nil>)", False


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TemplateError(f"{name}: {formatted(value)[:100]!r} is not a string")
    return value


def _list(name: str, value: object) -> Sequence[object]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise TemplateError(f"{name}: {formatted(value)[:100]!r} is not a list")
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TemplateError(f"{name}: {formatted(value)[:100]!r} is not a number")
    return value


def encode_json(value: object) -> str:
    """`json`: compact, as Docker writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            # A map's zero value: of a map of texts, as labels are, that is an empty one.
            zero = "" if all(isinstance(each, str) for each in value.values()) else None
            value = value.get(key, zero)
        elif isinstance(value, list | tuple | str):
            at = _whole("index", key)
            if not 0 <= at < len(value):
                raise TemplateError(f"index: {at} is out of range: there are {len(value)}")
            value = ord(value[at]) if isinstance(value, str) else value[at]
        else:
            raise TemplateError(f"index: {formatted(value)[:100]!r} has no elements")
    return value


def _slice(value: object, *bounds: object) -> object:
    if not isinstance(value, list | tuple | str):
        raise TemplateError(f"slice: {formatted(value)[:100]!r} has no elements")
    begin, end = ([_whole("slice", each) for each in bounds] + [0, len(value)][len(bounds) :])[:2]
    if len(bounds) > 2 or not 0 <= begin <= end <= len(value):
        raise TemplateError(f"slice: {begin}:{end} is out of range: there are {len(value)}")
    return value[begin:end]


def _len(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if value is None or not isinstance(value, Mapping | list | tuple):
        raise TemplateError(f"len: {formatted(value)[:100]!r} has no length")
    return len(value)


def _print(*values: object) -> str:
    """fmt.Sprint: blanks between operands of which neither is a text."""
    out = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out += " "
        out += formatted(value)
    return out


def _println(*values: object) -> str:
    return " ".join(map(formatted, values)) + "\n"


def _same(one: object, other: object) -> bool:
    if one is None or other is None:
        return one is other
    for value in (one, other):
        if not isinstance(value, str | bool | int | float):
            raise TemplateError(f"eq: {formatted(value)[:100]!r} cannot be compared")
    if _kind(one) != _kind(other):
        raise TemplateError("eq: values of different types")
    return one == other


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise TemplateError("eq: a second value is missing")
    return any(_same(first, each) for each in others)


def _ordered(name: str, compare: Callable[[Any, Any], bool]) -> Callable[[object, object], bool]:
    def function(one: object, other: object) -> bool:
        if isinstance(one, bool) or not isinstance(one, str | int | float) or _kind(one) != _kind(other):
            raise TemplateError(
                f"{name}: {formatted(one)[:50]!r} and {formatted(other)[:50]!r} have no order"
            )
        return compare(one, other)

    return function


def _split(text: object, separator: object) -> list[str]:
    by = _text("split", separator)
    return _text("split", text).split(by) if by else list(_text("split", text))


def _title(text: object) -> str:
    return re.sub(r"(^|\s)(\S)", lambda found: found[1] + found[2].upper(), _text("title", text))


def _truncate(text: object, length: object) -> str:
    return _text("truncate", text)[: _whole("truncate", length)]


def _pad(text: object, before: object, after: object) -> str:
    """Docker's `pad`: so many blanks on either side of what is not empty."""
    shown = _text("pad", text)
    return " " * _whole("pad", before) + shown + " " * _whole("pad", after) if shown else ""


_UNCHECKED: Mapping[str, Callable[..., object]] = {
    "eq": _eq,
    "ne": lambda one, other: not _same(one, other),
    "lt": _ordered("lt", lambda one, other: one < other),
    "le": _ordered("le", lambda one, other: one <= other),
    "gt": _ordered("gt", lambda one, other: one > other),
    "ge": _ordered("ge", lambda one, other: one >= other),
    "not": lambda value: not is_true(value),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "print": _print,
    "printf": printf,
    "println": _println,
    "json": encode_json,
    "join": lambda items, by: _text("join", by).join(_text("join", each) for each in _list("join", items)),
    "split": _split,
    "lower": lambda text: _text("lower", text).lower(),
    "upper": lambda text: _text("upper", text).upper(),
    "title": _title,
    "truncate": _truncate,
    "pad": _pad,
}


def _checked(name: str, function: Callable[..., object]) -> Callable[..., object]:
    form = inspect.signature(function)

    def call(*arguments: object) -> object:
        try:
            form.bind(*arguments)
        except TypeError:
            raise TemplateError(f"{name}: wrong number of arguments: {len(arguments)}") from None
        return function(*arguments)

    return call


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    name: _checked(name, function) for name, function in _UNCHECKED.items()
}
"""All but `and` and `or`, which do not evaluate all their arguments."""
