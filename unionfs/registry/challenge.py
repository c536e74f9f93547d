"""WWW-Authenticate: what a server asks for (RFC 9110, 11.6.1). Parses, and decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|$)")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")(?=[ \t]*(?:,|$))')
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)")
_BETWEEN = re.compile(r"[ \t,]*")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate; scheme and names of parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of all such headers, in order. What follows something malformed is left out."""
    return [challenge for header in headers for challenge in _parse(header)]


def _parse(header: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while True:
        between = _BETWEEN.match(header, at)
        assert between is not None
        at = between.end()
        parameter = _PARAMETER.match(header, at)
        scheme = _SCHEME.match(header, at)
        if parameter is not None and found:
            name, token, quoted = parameter.groups()
            found[-1][1].setdefault(name.lower(), token or re.sub(r"\\(.)", r"\1", quoted or ""))
            at = parameter.end()
        elif scheme is not None:
            found.append((scheme[1].lower(), {}))
            at = scheme.end()
            token68 = _TOKEN68.match(header, at)
            if token68 is not None:
                at = token68.end()
        else:
            return [Challenge(name, parameters) for name, parameters in found]
