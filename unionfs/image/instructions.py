"""Dockerfile instructions that change an image's config, as `docker commit --change` has them.

The rules are those of moby's builder/dockerfile (`BuildFromConfig`, dispatchers.go) and buildkit's parser.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from unionfs.errors import OptionError
from unionfs.image import healthcheck
from unionfs.image.dockerfile_words import expand, split

_SHELL = ("/bin/sh", "-c")
_NEVER_LATER = ("ONBUILD", "FROM", "MAINTAINER")
_PORT = re.compile(r"(?:.*:)?(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_REAL_TIME = re.compile(r"RTM(IN\+|AX-)\d{1,2}|RTM(IN|AX)")
_MOST_SIGNAL = 64


def apply(config: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
    """The section `config` of an image's config, changed. Raises OptionError for what is wrong or unknown."""
    changed = _Config(dict(config))
    for text in _lines(instructions):
        word, _, rest = text.partition(" ")
        name = word.upper()
        if name not in INSTRUCTIONS:
            raise OptionError(
                f"--change {text[:200]!r}: {name[:50]} is no instruction that can change an image: these are"
                f" {', '.join(INSTRUCTIONS)}"
            )
        try:
            INSTRUCTIONS[name](changed, rest.strip())
        except ValueError as error:
            raise OptionError(f"--change {text[:200]!r}: {error}") from None
    return changed.fields


def _lines(instructions: Sequence[str]) -> list[str]:
    """One instruction each: a line may end in a backslash and go on in the next, and comments are skipped."""
    text = re.sub(r"\\[ \t]*\n", "", "\n".join(instructions))
    lines = (re.sub(r"\s", " ", line, count=1).strip() if line.strip() else "" for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


class _Config:
    """The section as JSON, and what one instruction must know of those before it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self._has_cmd = False

    def expand(self, word: str) -> str:
        env = dict(each.partition("=")[::2] for each in self.fields.get("Env") or ())
        return expand(word, env)

    def cmd(self, rest: str) -> None:
        self.fields["Cmd"] = self._command(rest)
        self._has_cmd = True

    def entrypoint(self, rest: str) -> None:
        """The command of the base belongs to its entrypoint."""
        self.fields["Entrypoint"] = self._command(rest)
        if not self._has_cmd:
            self.fields["Cmd"] = None

    def env(self, rest: str) -> None:
        pairs = [(self.expand(name), self.expand(value)) for name, value in _pairs(rest)]
        env = {each.partition("=")[0]: each for each in self.fields.get("Env") or ()}
        for name, value in pairs:
            if not name:
                raise ValueError("a variable without a name")
            env[name] = f"{name}={value}"
        self.fields["Env"] = list(env.values())

    def label(self, rest: str) -> None:
        pairs = [(self.expand(name), self.expand(value)) for name, value in _pairs(rest)]
        self.fields["Labels"] = {**(self.fields.get("Labels") or {}), **dict(pairs)}

    def expose(self, rest: str) -> None:
        ports = [port for word in self._words(rest) for port in _ports(word)]
        self.fields["ExposedPorts"] = {
            **(self.fields.get("ExposedPorts") or {}),
            **{each: {} for each in ports},
        }

    def healthcheck(self, rest: str) -> None:
        """The one before goes, as a whole."""
        self.fields["Healthcheck"] = healthcheck.parse(_needed(rest), _json_strings)

    def volume(self, rest: str) -> None:
        paths = _json_strings(rest)
        found = [self.expand(each).strip() for each in (split(_needed(rest)) if paths is None else paths)]
        if not all(found) or not found:
            raise ValueError("a volume needs a path")
        self.fields["Volumes"] = {**(self.fields.get("Volumes") or {}), **{each: {} for each in found}}

    def onbuild(self, rest: str) -> None:
        name = _needed(rest).partition(" ")[0].upper()
        if name in _NEVER_LATER:
            raise ValueError(f"{name} cannot be an instruction for later")
        self.fields["OnBuild"] = [*(self.fields.get("OnBuild") or ()), rest]

    def stopsignal(self, rest: str) -> None:
        text = self.expand(_needed(rest))
        name = text.upper().removeprefix("SIG")
        known = "SIG" + name in signal.Signals.__members__ or _REAL_TIME.fullmatch(name)
        if not known and not (name.isdecimal() and 0 < int(name) <= _MOST_SIGNAL):
            raise ValueError(f"{text!r} is no signal")
        self.fields["StopSignal"] = text

    def user(self, rest: str) -> None:
        self.fields["User"] = self.expand(_needed(rest))

    def workdir(self, rest: str) -> None:
        """A relative one is below the one before."""
        path = posixpath.join("/", self.fields.get("WorkingDir") or "/", self.expand(_needed(rest)))
        self.fields["WorkingDir"] = posixpath.normpath("/" + path.lstrip("/"))

    def _command(self, rest: str) -> list[str]:
        words = _json_strings(rest)
        return [*(self.fields.get("Shell") or _SHELL), _needed(rest)] if words is None else words

    def _words(self, rest: str) -> list[str]:
        return [part for word in split(_needed(rest)) for part in self.expand(word).split()]


INSTRUCTIONS: Mapping[str, Callable[[_Config, str], None]] = {
    "CMD": _Config.cmd,
    "ENTRYPOINT": _Config.entrypoint,
    "ENV": _Config.env,
    "EXPOSE": _Config.expose,
    "HEALTHCHECK": _Config.healthcheck,
    "LABEL": _Config.label,
    "ONBUILD": _Config.onbuild,
    "STOPSIGNAL": _Config.stopsignal,
    "USER": _Config.user,
    "VOLUME": _Config.volume,
    "WORKDIR": _Config.workdir,
}


def _needed(rest: str) -> str:
    if not rest:
        raise ValueError("nothing follows it")
    return rest


def _json_strings(text: str) -> list[str] | None:
    """A JSON array of strings; None for what is none, which is then meant as it stands."""
    if not text.startswith("["):
        return None
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("only strings may be in the array")
    return found


def _pairs(rest: str) -> list[tuple[str, str]]:
    """NAME=VALUE as often as wanted, or NAME and one value up to the end of the line."""
    words = split(_needed(rest))
    if "=" not in words[0]:
        name, _, value = rest.replace("\t", " ").partition(" ")
        if not value.strip():
            raise ValueError(f"{name} has no value: NAME=VALUE is expected")
        return [(name, value.strip())]
    for word in words:
        if "=" not in word:
            raise ValueError(f"{word!r} is not of the form NAME=VALUE")
    return [(name, value) for name, _, value in (word.partition("=") for word in words)]


def _ports(word: str) -> list[str]:
    """`80`, `80/udp` or `8000-8010`, and what Docker allows before a colon, which means nothing here."""
    found = _PORT.fullmatch(word)
    first = int(found[1]) if found else 0
    last = int(found[2]) if found and found[2] else first
    if found is None or not 0 < first <= last <= 65535:
        raise ValueError(f"{word!r} is no port: 80, 80/udp or 8000-8010 is expected")
    return [f"{port}/{(found[3] or 'tcp').lower()}" for port in range(first, last + 1)]
