"""utimensat(2) with each pair of now, a given time and none: what is shown, and what upper has in the end."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from testing.oracle.operations import UTIME_NOW, UTIME_OMIT, utimensat
from tests.mount.data_rig import WAYS, errno_of, fallocate, side
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]

BEFORE = 1_000_000_000 * 10**9 + 5
GIVEN = 1_200_000_000 * 10**9 + 7
ASKED = {"now": UTIME_NOW, "none": UTIME_OMIT, "given": GIVEN}
PAIRS = list(itertools.product(ASKED, ASKED))


def read(path: Path) -> tuple[str, str]:
    """Which time each of the two is."""
    st = path.stat()
    known = {BEFORE: "as before", GIVEN: "given"}
    return known.get(st.st_atime_ns, "now"), known.get(st.st_mtime_ns, "now")


def seen(way: str) -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
    """By file: the times that the union shows, and those in upper after its end."""

    def populate(lower: Path, upper: Path) -> None:
        for directory, (atime, mtime), how in itertools.product((lower, upper), PAIRS, ("path", "file")):
            path = directory / f"{directory.name}-{how}-{atime}-{mtime}"
            path.write_bytes(b"data")
            os.utime(path, ns=(BEFORE, BEFORE))

    shown = {}
    with side(way, populate) as mounted:
        for path in sorted(mounted.merged.iterdir()):
            _, how, atime, mtime = path.name.split("-")
            if how == "path":
                utimensat(-100, os.fsencode(path), ASKED[atime], ASKED[mtime], 0)
            else:
                with open(path, "wb", buffering=0) as file:
                    file.write(b"more")
                    utimensat(file.fileno(), None, ASKED[atime], ASKED[mtime], 0)
            shown[path.name] = read(path)
        os.sync()
        return {
            name: (times, read(mounted.upper / name) if (mounted.upper / name).exists() else ("", ""))
            for name, times in shown.items()
        }


@pytest.mark.parametrize("way", WAYS)
def test_times_are_those_that_were_asked_for(way: str) -> None:
    wanted, found = seen("overlayfs"), seen(way)
    assert {name: times for name, times in found.items() if times != wanted[name]} == {}


@pytest.mark.parametrize("way", ["overlayfs", *WAYS])
def test_a_truncation_to_the_same_size_stores_the_time_that_it_shows(way: str) -> None:
    """The kernel leaves the time where it keeps it (docs/semantics.md): the next mount must show the same."""

    def populate(lower: Path, upper: Path) -> None:
        for directory, size in itertools.product((lower, upper), (0, 5000)):
            path = directory / f"{directory.name}-{size}"
            path.write_bytes(b"x" * size)
            os.utime(path, ns=(BEFORE, BEFORE))

    wanted = "as before" if way == "cached" else "now"
    with loop_fs("ext4") as directory, side(way, populate, directory=directory) as mounted:
        paths = sorted(mounted.merged.iterdir())
        assert len(paths) == 4
        for path in paths:
            os.truncate(path, path.stat().st_size)
        os.sync()
        assert {path.name: read(path)[1] for path in paths} == dict.fromkeys(
            (path.name for path in paths), wanted
        )
        assert {path.name: read(mounted.upper / path.name)[1] for path in paths} == dict.fromkeys(
            (path.name for path in paths), wanted
        )


ZERO_RANGE = 16


@pytest.mark.parametrize("way", ["overlayfs", *(way for way in WAYS if way != "pyfuse3")])
def test_an_allocation_that_upper_does_not_have(way: str) -> None:
    """It changes no time, but where fuse.ko keeps the times and sets them first (docs/semantics.md)."""

    def populate(lower: Path, upper: Path) -> None:
        for directory in (lower, upper):
            (directory / directory.name).write_bytes(b"data")
            os.utime(directory / directory.name, ns=(BEFORE, BEFORE))

    wanted = "now" if way == "cached" else "as before"
    with loop_fs("tmpfs") as directory, side(way, populate, directory=directory) as mounted:
        for path in (mounted.merged / "lower", mounted.merged / "upper"):
            fd = os.open(path, os.O_RDWR)
            assert errno_of(lambda: fallocate(fd, ZERO_RANGE, 0, 1)) in ("EOPNOTSUPP", "ENOTSUP")  # noqa: B023
            assert read(path)[1] == wanted
            os.close(fd)
            assert read(mounted.upper / path.name)[1] == wanted
