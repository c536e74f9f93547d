"""What an ordinary user does where modes keep it out: `python -m ... KIND DIRECTORY OUT`.

KIND is `plain` (the filesystem itself), `overlay` (kernel overlayfs; run as root of a user namespace, whose
capabilities are dropped once it is mounted), `union`, or `asked`: a union whose kernel asks for each open.
Every deed has a tree of its own below one mount: descriptors are opened while access is there, then a mode is
closed, then the deed is done. What it answered and what is seen afterwards is written to OUT as JSON: two
kinds are alike where these are.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.programs.closed_deeds import (
    DATA,
    DEEDS,
    FIRST_BY_DIRECTORY,
    Held,
    attempt,
    content,
    in_json,
    make_tree,
    snapshot,
    stale,
)
from tests.support.mounts import make_directories, overlayfs, pyunionfs

_libc = ctypes.CDLL(None, use_errno=True)

CLOSED_IN_LOWER = (0, 0o111, 0o333, 0o222, 0o444)


BY_FILE, BY_DIRECTORY, ALL = "file", "directory", "all"


CLOSED = (
    # origin of the tree, what is closed (the directory above, the directory, the file), mode, which deeds
    ("lower", "g", 0, ALL),
    ("lower", "e", 0, BY_FILE),
    ("lower", "e", 0o333, BY_DIRECTORY),
    ("lower", "f", 0, BY_FILE),
    ("upper", "e", 0o444, BY_DIRECTORY),
    ("new", "e", 0, BY_FILE),
    ("new", "f", 0o222, BY_FILE),
)


def cases(kind: str) -> Iterator[tuple[str, str, str, str, int]]:
    """Each case: its label, the deed, the origin, what is closed and how."""
    names = list(DEEDS)
    first = names.index(FIRST_BY_DIRECTORY)
    for origin, closed, mode, which in CLOSED:
        if kind == "asked" and closed != "f":
            continue
        for deed in names[:first] if which is BY_FILE else names[first:] if which is BY_DIRECTORY else names:
            yield f"{origin}, {closed} {mode:03o}: {deed}", deed, origin, closed, mode


def perform(root: Path, kind: str) -> dict[str, dict[str, Any]]:
    outcomes: dict[str, dict[str, Any]] = {}
    paths = {"g": "g", "e": "g/e", "f": "g/e/f"}
    for number, (label, deed, origin, closed, mode) in enumerate(cases(kind)):
        top = root / f"c{number}"
        if origin == "new":
            top.mkdir()
            make_tree(top)
        elif origin == "upper":
            os.utime(top / "g/e/f")
            os.utime(top / "g/e/h")
            os.utime(top / "g/e/sub/x")
        held = Held(top)
        try:
            os.chmod(top / paths[closed], mode)
            outcome = attempt(DEEDS[deed], held)
            if origin == "new":  # nothing but the deed and what it is lent for changes upper
                old = stale(held)
                assert not old, f"{label}: {old}"
        finally:
            closing = held.close()
        if closing:
            outcome = [outcome, *closing]
        for path in ("g", "g2", "g/e", "g2/e"):
            with suppress(FileNotFoundError):
                kept = stat.S_IMODE((top / path).stat().st_mode)
                os.chmod(top / path, kept | 0o700)
        try:
            after: Any = snapshot(top)
        except OSError as error:
            after = f"{errno.errorcode[error.errno or 0]} {error.filename}"
        outcomes[label] = {"outcome": outcome, "after": after}
    for label, answer in closed_in_lower(root / "closed").items():
        outcomes[label] = {"outcome": answer, "after": {}}
    return outcomes


def make_closed(top: Path) -> None:
    """What a lower has closed itself: directories of these modes, empty and with a file; files."""
    for mode in CLOSED_IN_LOWER:
        for name in (f"empty{mode:03o}", f"full{mode:03o}"):
            (top / name).mkdir()
            if name.startswith("full"):
                (top / name / "h").write_bytes(b"below\n")
            (top / name).chmod(mode)
        (top / f"file{mode:03o}").write_bytes(DATA)
        (top / f"file{mode:03o}").chmod(mode)


def _append(path: Path) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(b"more\n")


def _opened(path: Path) -> object:
    path.chmod(0o755)
    return sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()


def closed_in_lower(top: Path) -> dict[str, object]:
    """Deeds on what was closed before it was mounted, one after the other, and what they answer."""
    said: dict[str, object] = {}
    for mode in CLOSED_IN_LOWER:
        empty, full, file = (top / f"{kind}{mode:03o}" for kind in ("empty", "full", "file"))
        moved = top / f"moved{mode:03o}"
        deeds: dict[str, Callable[[], object]] = {
            "rmdir of an empty one": empty.rmdir,
            "look at no name": (full / "none").lstat,
            "make": (full / "made").mkdir,
            "rmdir of what was made": (full / "made").rmdir,
            "unlink": (full / "h").unlink,
            "rmdir of an emptied one": full.rmdir,
            "append": functools.partial(_append, file),
            "rename": functools.partial(file.rename, moved),
            "chmod and read": functools.partial(_opened, moved),
            "chmod and list": functools.partial(_opened, full),
        }
        for name, deed in deeds.items():
            try:
                answer = deed()
                said[f"{mode:03o}: {name}"] = in_json(answer) if isinstance(answer, bytes | list) else "ok"
            except OSError as error:
                said[f"{mode:03o}: {name}"] = errno.errorcode[error.errno or 0]
    said["closed: what is left"] = sorted(os.listdir(top))
    return said


def drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def build_lower(lower: Path, kind: str) -> None:
    for number, (_, _, origin, _, _) in enumerate(cases(kind)):
        if origin != "new":
            top = lower / f"c{number}"
            top.mkdir()
            make_tree(top)
    (lower / "closed").mkdir()
    make_closed(lower / "closed")


def main(kind: str, where: str, out: str) -> None:
    options = ["timeout=0"] if kind == "asked" else []
    base = Path(where) / kind
    base.mkdir()
    lower, upper, work, merged = make_directories(base)
    build_lower(lower, kind)

    @contextmanager
    def mounted() -> Iterator[Path]:
        if kind == "plain":
            yield lower
        elif kind == "overlay":
            with overlayfs([lower], upper, work, merged, options=["userxattr"]):
                yield merged
        else:
            with pyunionfs([lower], upper, work, merged, options=options):
                yield merged

    if kind == "overlay":
        # The mount needs capabilities, the deeds must have none: a child gives them up.
        with mounted() as root:
            if os.fork() == 0:
                status = 1
                try:
                    drop_capabilities()
                    outcomes = perform(root, kind)
                    Path(out).write_text(json.dumps(outcomes))
                    status = 0
                finally:
                    os._exit(status)
            assert os.wait()[1] == 0
        return
    with mounted() as root:
        outcomes = perform(root, kind)
    with mounted() as root:
        for number, (label, outcome) in enumerate(outcomes.items()):
            if not outcome["after"]:
                continue
            kept = content(snapshot(root / f"c{number}"))
            assert kept == content(outcome["after"]), f"{label}: lost by the next mount"
    Path(out).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
