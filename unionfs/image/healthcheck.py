"""HEALTHCHECK of a Dockerfile, as Docker stores it in a config's Healthcheck.

The rules are those of buildkit's frontend/dockerfile/instructions (parseHealthcheck, bflag.go), durations
those of Go's time.ParseDuration. Raises ValueError, with what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from unionfs.image.dockerfile_words import expand, split

_DURATIONS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}
"""Flags, and the fields that hold them, in nanoseconds."""
_RETRIES = "retries"
_MOST_RETRIES = 2**31 - 1

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_UNITS["h"] = 60 * _UNITS["m"]
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LEAST = _UNITS["ms"]
_MOST = 2**63 - 1


def parse(rest: str, json_strings: Callable[[str], list[str] | None]) -> dict[str, Any]:
    """The value of Healthcheck for what follows the instruction's name.

    *json_strings* reads an array of strings, and returns None for what is none.
    """
    flags, rest = _flags(rest)
    kind, _, command = rest.partition(" ")
    command = command.strip()
    match kind.upper():
        case "NONE":
            if command:
                raise ValueError("NONE takes no arguments")
            return {"Test": ["NONE"]}
        case "CMD":
            words = json_strings(command)
            if words == [] or not command:
                raise ValueError("a command is missing after CMD")
            test = ["CMD-SHELL", command] if words is None else ["CMD", *words]
            return {"Test": test, **_settings(flags)}
        case "":
            raise ValueError("NONE or CMD is missing")
        case _:
            raise ValueError(f"{kind!r} is neither NONE nor CMD")


def _flags(rest: str) -> tuple[list[str], str]:
    """The words that begin with --, without that, and what follows them; -- alone ends them."""
    found = []
    while rest.startswith("--"):
        word = split(rest)[0]
        rest = rest[len(word) :].lstrip()
        if word == "--":
            break
        found.append(expand(word.replace("$", r"\$"), {})[2:])  # quotes go, variables have no meaning
    return found, rest


def _settings(flags: list[str]) -> dict[str, int]:
    given: dict[str, str] = {}
    for flag in flags:
        name, equals, value = flag.partition("=")
        if name not in (*_DURATIONS, _RETRIES):
            raise ValueError(f"unknown flag: --{name}")
        if not equals:
            raise ValueError(f"--{name} has no value")
        if name in given:
            raise ValueError(f"--{name} is given twice")
        given[name] = value
    found = {field: _duration(name, given.get(name, "")) for name, field in _DURATIONS.items()}
    found["Retries"] = _retries(given.get(_RETRIES, ""))
    return {field: value for field, value in found.items() if value}


def _retries(text: str) -> int:
    if text and not (re.fullmatch(r"\+?\d+", text, re.ASCII) and int(text) <= _MOST_RETRIES):
        raise ValueError(f"--{_RETRIES}={text}: a number is expected, which is not negative")
    return int(text or 0)


def _duration(flag: str, text: str) -> int:
    """Nanoseconds; 0 for none."""
    plain = text.removeprefix("+")
    if plain in ("", "0") and text != "+":
        return 0
    parts = _PART.findall(plain)
    if "".join(number + unit for number, unit in parts) != plain or not parts:
        raise ValueError(f"--{flag}={text}: a duration is expected, as 30s, 1m30s or 500ms")
    found = sum(int(Decimal(number) * _UNITS[unit]) for number, unit in parts)
    if found and not _LEAST <= found <= _MOST:
        raise ValueError(f"--{flag}={text}: it cannot be shorter than 1ms, or longer than 292 years")
    return found
