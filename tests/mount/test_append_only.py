"""Files and directories that are append-only or immutable in upper itself, as on kernel overlayfs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, errno_of, side
from tests.overlay.test_protect import chattr
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]


def append(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b"appended\n")
        os.write(fd, b"and more\n")
    finally:
        os.close(fd)


def overwrite(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, b"OVER", 0)
    finally:
        os.close(fd)


DEEDS: dict[str, Callable[[Path], object]] = {
    "append": append,
    "append to a full page": lambda path: append(path.with_name("long")),
    "write": overwrite,
    "cut": lambda path: os.truncate(path, 2),
    "open to cut": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "touch": os.utime,
    "touch a directory": lambda path: os.utime(path.with_name("d")),
    "set times": lambda path: os.utime(path, (1, 1)),
    "chmod": lambda path: os.chmod(path, 0o600),
    "unlink": os.unlink,
    "rename": lambda path: os.rename(path, path.with_name("other")),
    "make in a directory": lambda path: os.mkdir(path.with_name("d") / "new"),
    "unlink in a directory": lambda path: os.unlink(path.with_name("d") / "in"),
}


def place(root: Path, deed: str) -> Path:
    return root / deed.replace(" ", "-")


def seen(way: str, letters: str) -> dict[str, tuple[str, bytes, bool]]:
    """The outcome of each deed; what the files hold in upper after it; whether the file's time is another."""
    outcomes, found = {}, {}

    def populate(lower: Path, upper: Path) -> None:
        for deed in DEEDS:
            where = place(upper, deed)
            (where / "d").mkdir(parents=True)
            (where / "d/in").touch()
            (where / "f").write_bytes(b"data\n")
            (where / "long").write_bytes(b"x" * 5000)
            os.utime(where / "f", (5, 5))
            for name in ("f", "long", "d"):
                chattr(where / name, letters)

    with side(way, populate) as mounted:
        try:
            for deed, act in DEEDS.items():
                outcomes[deed] = errno_of(functools.partial(act, place(mounted.merged, deed) / "f"))
            os.sync()
            shown = {deed: (place(mounted.merged, deed) / "f").read_bytes() for deed in DEEDS}
        finally:
            for path in mounted.upper.glob("*/*"):
                chattr(path, "")
        for deed, said in outcomes.items():
            where = place(mounted.upper, deed)
            data, long = ((where / name).read_bytes() for name in ("f", "long"))
            assert data == shown[deed], deed
            found[deed] = (
                said,
                data + long.replace(b"x" * 5000, b"5000 x"),
                (where / "f").stat().st_mtime != 5,
            )
    return found


@pytest.mark.parametrize("way", WAYS)
def test_append_only_in_upper_itself(way: str) -> None:
    wanted, found = seen("overlayfs", "a"), seen(way, "a")
    if way == "cached":
        # The kernel opens without asking and has a new time by then; what may not be written fails when it
        # is written back.
        assert found["write"][0] in ("EPERM", "EIO")
        found["write"] = (wanted["write"][0], found["write"][1], wanted["write"][2])
    if way == "pyfuse3":
        # libfuse tells the time, and not that it is the one of now (docs).
        for deed in ("touch", "touch a directory"):
            assert found.pop(deed)[0] == wanted.pop(deed)[0].replace("ok", "EPERM")
    assert found == wanted
