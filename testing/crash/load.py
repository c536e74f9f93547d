"""One process of the load: random operations in its own part of the mount, with a journal outside of it.

The journal gets a line before each operation and one after its answer. Whatever stands there as answered
must be found after the daemon was killed. Must never go on after an error: from then on the journal would
say less than is there.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testing.crash.model import Model, Op, pattern
from testing.oracle.operations import RENAME_EXCHANGE, renameat2

PAGE = 4096


def draw(rng: random.Random, model: Model, part: str) -> Op:
    """An operation that must succeed on this model."""
    while True:
        op = _draw(rng, model, part)
        if op is not None:
            return op


def _draw(rng: random.Random, model: Model, part: str) -> Op | None:
    files, directories = model.of_kind("file"), model.of_kind("dir")
    file = rng.choice(files) if files else None
    directory = rng.choice(directories)
    new = f"{directory}/{part}-{rng.randrange(40)}"
    name = rng.choices(
        ["create", "append", "write", "rewrite", "truncate", "chmod", "chown", "utime", "setxattr", "unlink"]
        + ["mkdir", "rmdir", "symlink", "link", "rename", "rename dir", "exchange", "fsync"],
        [12, 12, 8, 5, 4, 8, 4, 4, 6, 10] + [6, 6, 3, 4, 12, 5, 3, 4],
    )[0]
    number = rng.randrange(1_000_000)
    length = rng.choice([1, 10, 300, PAGE])
    if name in ("create", "mkdir", "symlink"):
        if new in model.paths:
            return None
        return {"create": (name, new, number, length), "mkdir": (name, new)}.get(
            name, (name, new, f"to-{number}")
        )
    if name == "rmdir":
        empty = [path for path in directories if "/" in path and not model.children(path)]
        return (name, rng.choice(empty)) if empty else None
    if name == "rename dir":
        inner = [path for path in directories if path.count("/") == 1]
        if not inner or new in model.paths or rng.random() < 0.3:
            return None
        source = rng.choice(inner)
        return None if new.startswith(source + "/") else ("rename", source, new)
    if file is None:
        return None
    # Within one page a write is one request, and a request is done or not done.
    offset = rng.randrange(0, model[file].size // PAGE + 2) * PAGE
    other = rng.choice(files)
    if name == "rename":
        target = new if rng.random() < 0.5 else other
        if target in model.paths and model[target].kind != "file":
            return None
        return name, file, target
    if name == "link":
        return (name, file, new) if new not in model.paths else None
    if name == "exchange":
        return (name, file, other) if model.paths[file] != model.paths[other] else None
    if name == "append":
        room = PAGE - model[file].size % PAGE
        return name, file, number, min(length, room)
    changes: dict[str, Op] = {
        "write": ("write", file, offset, number, length),
        "rewrite": ("rewrite", file, number, length),
        "truncate": ("truncate", file, rng.choice([0, 5, model[file].size // 2, model[file].size + 100])),
        "chmod": ("chmod", rng.choice([file, directory]), rng.choice([0o700, 0o755, 0o775, 0o750])),
        "chown": ("chown", file, rng.randrange(3)),
        "utime": ("utime", file, rng.randrange(10**9, 15 * 10**17)),
        "setxattr": ("setxattr", rng.choice([file, directory]), f"user.{rng.choice('abc')}", number),
        "unlink": ("unlink", file),
        "fsync": ("fsync", file),
    }
    return changes[name]


def perform(op: Op, *, sync: bool = False) -> None:
    """The system calls of one operation, paths relative to the working directory."""
    name, path, *rest = op
    if name in _WRITES:
        flags, arguments = _WRITES[name]
        fd = os.open(path, flags, 0o640)
        try:
            offset, number, length = arguments(rest)
            data = pattern(number, length)
            done = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
            if done != length:
                raise AssertionError(f"short write of {done} of {length} bytes to {path}")
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
    else:
        _CALLS[name](path, *rest)


def _fsync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_WRITES: dict[str, tuple[int, Callable[[list[int]], tuple[int | None, int, int]]]] = {
    "create": (os.O_WRONLY | os.O_CREAT | os.O_EXCL, lambda rest: (0, rest[0], rest[1])),
    "rewrite": (os.O_WRONLY | os.O_TRUNC, lambda rest: (0, rest[0], rest[1])),
    "append": (os.O_WRONLY | os.O_APPEND, lambda rest: (None, rest[0], rest[1])),
    "write": (os.O_WRONLY, lambda rest: (rest[0], rest[1], rest[2])),
}
_CALLS: dict[str, Callable[..., None]] = {
    "truncate": os.truncate,
    "mkdir": lambda path: os.mkdir(path, 0o750),
    "symlink": lambda path, target: os.symlink(target, path),
    "chmod": os.chmod,
    "chown": lambda path, uid: os.chown(path, uid, -1),
    "utime": lambda path, time: os.utime(path, ns=(time, time)),
    "setxattr": lambda path, name, number: os.setxattr(path, name, pattern(number, 20)),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "link": os.link,
    "rename": os.rename,
    "exchange": lambda path, other: renameat2(path.encode(), other.encode(), RENAME_EXCHANGE),
    "fsync": _fsync,
}


def run(
    top: int, part: str, model: Model, seed: str, journal: Path, *, directories_move: bool = True
) -> None:
    """Perform operations until one fails: when the daemon is gone, all do.

    *top* is a descriptor of the mount's root: by its path a process that starts late finds what lies below
    the mount once that is detached, which has other errors.
    """
    os.umask(0)
    rng = random.Random(seed)
    log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def failed(error: OSError) -> None:
        entry = {"error": error.errno, "text": str(error), "at": time.monotonic_ns()}
        os.write(log, json.dumps(entry).encode() + b"\n")

    try:
        os.fchdir(top)
    except OSError as error:  # killed before the first operation
        failed(error)
        return
    while True:
        op = draw(rng, model, part)
        if op[0] == "rename" and model[op[1]].kind == "dir" and not directories_move:
            continue
        sync = rng.random() < 0.3
        entry = {"begin": op, "sync": sync, "at": time.monotonic_ns()}
        os.write(log, json.dumps(entry).encode() + b"\n")
        try:
            perform(op, sync=sync)
        except OSError as error:
            failed(error)
            return
        os.write(log, b'{"answered": true, "at": %d}\n' % time.monotonic_ns())
        model.apply(op)


@dataclass(frozen=True)
class Journal:
    """What a process of the load did."""

    answered: tuple[Op, ...]
    interrupted: Op | None
    error: int | None
    """The errno that ended it."""
    text: str = ""


def read_journal(path: Path) -> Journal:
    """What `run` wrote. A last line that is cut short belongs to an operation that had not begun."""
    answered: list[Op] = []
    begun: Op | None = None
    error, text = None, ""
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        entry = json.loads(line)
        if "begin" in entry:
            begun = tuple(entry["begin"])
        elif "answered" in entry and begun is not None:
            answered.append(begun)
            begun = None
        else:
            error, text = entry["error"], entry["text"]
    return Journal(tuple(answered), begun, error, text)
