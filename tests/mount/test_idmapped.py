"""Idmapped mounts, beside kernel overlayfs: of a union they are refused, of its layers they are followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, errno_of, in_thread, side
from tests.support.idmapped import SHIFT, idmapped
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root, overlayfs, pyunionfs
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]

ALL = ["overlayfs", *WAYS]
USER = 1000 + SHIFT


def populate(lower: Path, upper: Path) -> None:
    (lower / "low").write_text("low")
    os.chown(lower / "low", 1005, 1006)
    (upper / "up").write_text("up")
    os.chown(upper / "up", 1007, 1008)


@pytest.mark.parametrize("way", ALL)
def test_an_idmapped_mount_of_a_union_is_refused(way: str) -> None:
    with side(way, populate) as mounted:
        target = mounted.base / "target"
        target.mkdir()

        def tried(source: Path) -> str:
            def make() -> None:
                with idmapped(source, target):
                    assert (target / "up").stat().st_uid == 1007 + SHIFT

            return errno_of(make)

        # That the layers' own filesystem takes one shows that it is the union that refuses.
        assert (tried(mounted.upper), tried(mounted.merged)) == ("ok", "EINVAL")
        st = (mounted.merged / "up").stat()
        assert (st.st_uid, st.st_gid) == (1007, 1008)


@contextmanager
def over_idmapped_layers(way: str, where: Path) -> Iterator[tuple[Path, Path]]:
    """A union whose layers are seen through idmapped mounts, and the real directory of its upper."""
    real, seen, merged = where / "real", where / "seen", where / "merged"
    for path in (real, real / "lower", real / "upper", real / "work", seen, merged):
        path.mkdir()
    where.parent.chmod(0o755)
    populate(real / "lower", real / "upper")
    (real / "upper").chmod(0o777)
    with ExitStack() as stack:
        stack.enter_context(idmapped(real, seen))
        lowers, upper, work = [seen / "lower"], seen / "upper", seen / "work"
        if way == "overlayfs":
            stack.enter_context(overlayfs(lowers, upper, work, merged))
        else:
            stack.enter_context(pyunionfs(lowers, upper, work, merged, options=WAYS[way]))
        yield merged, real / "upper"


def seen_through(way: str) -> dict[str, object]:
    """Owners as shown and as stored, after changes by a user that the map has and by one that it lacks."""
    with loop_fs("ext4") as where, over_idmapped_layers(way, where) as (merged, upper):
        merged.chmod(0o777)
        found: dict[str, object] = {
            "known creates": in_thread(lambda: (merged / "new").write_text("new"), USER),
            "known makes a directory": in_thread(lambda: (merged / "dir").mkdir(), USER),
            "unknown creates": in_thread(lambda: (merged / "no").write_text("no"), 1000),
            "copied up": errno_of(lambda: (merged / "low").write_text("changed")),
            "chown to a known id": errno_of(lambda: os.chown(merged / "up", 1009 + SHIFT, 1010 + SHIFT)),
            "chown to an unknown id": errno_of(lambda: os.chown(merged / "up", 1009, 1010)),
            "names": sorted(os.listdir(merged)),
        }
        for name in ("new", "dir", "low", "up"):
            for place, directory in (("shown", merged), ("stored", upper)):
                st = (directory / name).stat()
                found[f"{name} {place}"] = (st.st_uid, st.st_gid, stat.filemode(st.st_mode))
        return found


@pytest.fixture(scope="module")
def wanted() -> dict[str, object]:
    return seen_through("overlayfs")


@pytest.mark.parametrize("way", WAYS)
def test_idmapped_layers_are_followed_as_by_overlayfs(way: str, wanted: dict[str, object]) -> None:
    assert wanted["low shown"] == (1005 + SHIFT, 1006 + SHIFT, "-rw-r--r--")
    assert seen_through(way) == wanted
