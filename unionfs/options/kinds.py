"""The kinds of values that mount options have: how a text is read as one, and written again.

Knows no option. A text that is no value of its kind is an `OptionError`. Every `mount` loads this module.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from unionfs.errors import OptionError
from unionfs.options.lists import unescape
from unionfs.overlay.config import IdMap

Value = bool | str | float | IdMap

MIN_MAX_READ = 4096
"""The kernel's own lower bound of a read request."""

_MAX_ID = (1 << 32) - 2
"""4294967295 is "no id" to chown(2)."""


class Kind(NamedTuple):
    """A type of values: how one is read, written and completed, and its type in Python.

    `read` gets the option's name, for its messages, and the text. `write` makes the text that `read` takes.
    `unescape` undoes the escapes of a list of options. `completes` is "directory", "file" or nothing.
    """

    python: str
    read: Callable[[str, str], Value]
    write: Callable[[Any], str] = str
    unescape: Callable[[str], str] = unescape
    completes: str = ""


def invalid(name: str, text: str, wanted: str) -> OptionError:
    return OptionError(f"invalid value {text!r} of mount option {name}: {wanted}")


def _text(name: str, text: str) -> str:
    if any(ord(character) < 32 or character == "\x7f" for character in text):
        raise invalid(name, text, "it has control characters; leave them out")
    return text


def _label(name: str, text: str) -> str:
    if '"' in text:
        raise invalid(name, text, "an SELinux context has no quotation mark; leave it out")
    return _text(name, text)


def _path(name: str, text: str) -> str:
    if "\0" in text:
        raise invalid(name, text, "a path has no NUL byte; leave it out")
    return text


def _bytes(name: str, text: str) -> int:
    # The kernel has 32 bits for it.
    if not (text.isascii() and text.isdigit() and MIN_MAX_READ <= int(text) < 1 << 32):
        raise invalid(name, text, f"give a number of bytes, {MIN_MAX_READ} to {(1 << 32) - 1}")
    return int(text)


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 63):
        raise invalid(name, text, f"give an integer, 0 to {(1 << 63) - 1}")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise invalid(name, text, f"give a number of seconds, 0 or more, as in {name}=1.5")
    return seconds


def _id(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_ID):
        raise invalid(name, text, f"give a numeric ID, 0 to {_MAX_ID}")
    return int(text)


def _id_map(name: str, text: str) -> IdMap:
    # Container engines write a colon before the first triple, too; fuse-overlayfs ignores it.
    words = [word for word in text.split(":") if word]
    if not words or len(words) % 3 or not all(word.isascii() and word.isdigit() for word in words):
        raise invalid(
            name,
            text,
            "give triples STORED:SHOWN:LENGTH separated by colons (IDs in the container, on the host), as in"
            f" {name}=0:1000:1:1:100000:65536",
        )
    numbers = iter([int(word) for word in words])
    ranges = tuple(zip(numbers, numbers, numbers, strict=True))
    for stored, shown, length in ranges:
        if length == 0 or max(stored, shown) + length - 1 > _MAX_ID:
            raise invalid(
                name,
                text,
                f"the range {stored}:{shown}:{length} is empty or ends above {_MAX_ID}; correct its LENGTH",
            )
    for side, what in ((0, "container"), (1, "host")):
        ordered = sorted((each[side], each[2]) for each in ranges)
        for (first, length), (following, _) in itertools.pairwise(ordered):
            if first + length > following:
                raise invalid(
                    name,
                    text,
                    f"{what} ID {following} is in two ranges, and an ID has one mapping; correct them",
                )
    return ranges


def _write_seconds(seconds: float) -> str:
    return repr(float(seconds)).removesuffix(".0")


def _write_id_map(ranges: IdMap) -> str:
    return ":".join(str(number) for each in ranges for number in each)


def _as_it_is(raw: str) -> str:
    return raw


def _unescape_layer(raw: str) -> str:
    return unescape(raw, '\\,"')


TEXT = Kind("str", _text)
LABEL = Kind("str", _label)
# A list of lowers has escapes of its own, which `split_lowers` undoes.
LOWERS = Kind("Paths", _path, unescape=_as_it_is, completes="directory")
# overlayfs takes these literally; escaped is only what a list of options could not hold otherwise.
LAYER = Kind("Paths", _path, unescape=_unescape_layer, completes="directory")
DIRECTORY = Kind("StrOrBytesPath", _path, completes="directory")
FILE = Kind("StrOrBytesPath", _path, completes="file")
BYTES = Kind("int", _bytes)
COUNT = Kind("int", _count)
SECONDS = Kind("float", _seconds, _write_seconds)
ID = Kind("int", _id)
ID_MAP = Kind("IdRanges", _id_map, _write_id_map)
