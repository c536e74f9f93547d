"""What single options switch off or on in the union: numbers, links, attributes, ACLs, syncs, UUIDs."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import build, directory, file, marks
from tests.support.mounts import loop_fs, needs_overlayfs, overlayfs
from unionfs.overlay.attr import link_counter
from unionfs.overlay.table import Numbers

ACCESS = "system.posix_acl_access"
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, who)
    for tag, perm, who in [(1, 6, ~0 & 0xFFFFFFFF), (2, 4, 7), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF)]
    + [(32, 0, 0xFFFFFFFF)]
)

# --- numbers ---------------------------------------------------------------------------------------


def test_numbers_without_xino_or_of_32_bits() -> None:
    off = Numbers(xino=False)
    assert off.of(5, 1 << 40) == 1 << 40
    others = [off.of(6, number) for number in (100, 1 << 40, 100, 1)]
    assert others[0] == others[2]
    assert len({*others, off.of(7, 100), off.allocate()}) == 5
    assert off.high_bits(5) == 0
    assert off.high_bits(6) is None
    short = Numbers(ino32=True)
    assert short.of(5, (1 << 31) - 1) == (1 << 31) - 1
    numbers = [short.of(5, 1 << 31), short.of(5, 1 << 40), short.of(6, 100), short.allocate()]
    assert len(set(numbers)) == 4
    assert all(1 << 31 <= number < 1 << 32 for number in numbers)
    assert numbers[:3] == [short.of(5, 1 << 31), short.of(5, 1 << 40), short.of(6, 100)]
    short._next = (1 << 32) - 2
    assert short.allocate() == (1 << 32) - 1
    with pytest.raises(OSError) as caught:
        short.allocate()
    assert caught.value.errno == errno.EOVERFLOW


@pytest.mark.parametrize("static", [True, False], ids=["static", "timeout"])
@pytest.mark.parametrize("options", [{"xino": "off"}, {"ino32": True}], ids=["xino=off", "ino32_t"])
def test_numbers_stay_unique_and_are_those_of_listings(
    stack: Stack, base: Path, options: dict[str, Any], static: bool
) -> None:
    stack.timeout = None if static else 1.0
    with loop_fs("tmpfs", directory=base) as one, loop_fs("tmpfs", directory=base) as two:
        for at, root in enumerate((one, two)):
            build(root, {f"{at}{i}": "" for i in range(20)} | {"d": {f"{at}{i}": "" for i in range(20)}})
        stack.layers({f"2{i}": "" for i in range(20)})
        stack.lowers += [one, two]
        with stack.open(**options) as view:
            listed = {f"{path}/{name}": ino for path in ("", "d") for name, ino in plain(view, path).items()}
            assert len(set(listed.values())) == len(listed) == 20 * 4 + 20 + 1
            assert {path: view.ino(path.lstrip("/")) for path in listed} == listed
            for name in view.ls():
                view.change(name, mtime_ns=2)
            assert {path: view.ino(path.lstrip("/")) for path in listed} == listed
            if "ino32" in options:
                assert max(listed.values()) < 1 << 32
            # Those of upper's filesystem are the real ones.
            assert {listed[f"/2{i}"] for i in range(20)} == {
                (stack.lowers[0] / f"2{i}").stat().st_ino for i in range(20)
            }


def plain(view: View, path: str) -> dict[str, int]:
    """The numbers that a listing tells without looking up."""
    handle = view.union.open_dir(view.ino(path))
    try:
        return {
            os.fsdecode(name): ino
            for name, ino, _, _ in view.union.read_dir_plain(handle, 0)
            if name not in (b".", b"..")
        }
    finally:
        view.union.release_dir(handle)


# --- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("static", [False, True])
def test_static_nlink(stack: Stack, static: bool) -> None:
    stack.layers({"low": {"a": {}, "b": {}}, "f": ""}, upper={"up": {"a": {}, "b": {}}, "low": {}})
    os.link(stack.lowers[0] / "f", stack.lowers[0] / "g")
    with stack.open(static_nlink=static) as view:
        count = link_counter(view.union.fs)
        links = {path: count(*view.union.getattr(view.ino(path))) for path in ("up", "low", "low/a", "f")}
    usual = {"up": 4, "low": 1, "low/a": 2, "f": 2}
    assert links == ({"up": 1, "low": 1, "low/a": 1, "f": 2} if static else usual)


# --- attributes and ACLs ---------------------------------------------------------------------------


def refused(view: View, path: str, name: str) -> list[int]:
    """What getting, setting and removing an attribute answers."""
    found = []
    for act in (
        lambda: view.getxattr(path, name),
        lambda: view.setxattr(path, name, ACL),
        lambda: view.removexattr(path, name),
    ):
        try:
            act()
        except OSError as error:
            found.append(error.errno or 0)
        else:
            found.append(0)
    return found


@pytest.mark.parametrize("path", ["low", "up", "d"])
def test_noxattrs(stack: Stack, path: str) -> None:
    has = {"user.x": b"1", ACCESS: ACL}
    stack.layers({"low": file("low", xattrs=has), "d": directory(xattrs=has)}, upper={"up": file(xattrs=has)})
    with stack.open(xattrs=False) as view:
        for name in ("user.x", "user.none", "security.capability", ACCESS, "trusted.x"):
            assert refused(view, path, name) == [errno.EOPNOTSUPP] * 3
        with pytest.raises(OSError) as caught:
            view.listxattr(path)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert os.listdir(stack.upper) == ["up"]
        # The union's own go on working, and what lowers have is copied up.
        view.chmod(path, 0o700)
        view.rename(path, "moved")
        view.unlink("low") if path == "up" else None
    assert os.getxattr(stack.upper / "moved", "user.x") == b"1"
    assert ("origin" in marks(stack.upper / "moved")) == (path != "up")
    with stack.open() as view:
        assert view.getxattr("moved", "user.x") == b"1"


@pytest.mark.parametrize("path", ["low", "up", "d"])
def test_noacl(stack: Stack, path: str) -> None:
    has = {"user.x": b"1", ACCESS: ACL}
    stack.layers({"low": file("low", xattrs=has), "d": directory(xattrs=has)}, upper={"up": file(xattrs=has)})
    with stack.open(acl=False) as view:
        assert view.listxattr(path) == ["user.x"]
        assert refused(view, path, ACCESS) == [errno.EOPNOTSUPP] * 3
        assert refused(view, path, "system.posix_acl_default") == [errno.EOPNOTSUPP] * 3
        assert refused(view, path, "user.x") == [0, 0, 0]
    assert os.getxattr(stack.upper / path, ACCESS) == ACL, "what is stored stays"


# --- syncs -----------------------------------------------------------------------------------------


def test_fsync_off_answers_without_syncing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.layers({"f": "f", "d": {}})
    done: list[int] = []
    monkeypatch.setattr("unionfs.linux.syscalls.syncfs", done.append)
    for fsync, expected in ((True, True), (False, False)):
        with stack.open(fsync=fsync) as view:
            assert view.union.fs.syncs == expected
            view.write("f", b"x")
            with view.opened("f", os.O_RDWR) as handle:
                fds = [view.union.sync_file(handle), view.union.sync_dir(view.ino(""))]
                assert [fd is not None for fd in fds] == [expected] * 2
                for fd in fds:
                    if fd is not None:
                        os.close(fd)
            view.union.syncfs_for_caller()
            assert len(done) == expected
            # The order of a copy-up and the end of the mount are no caller's wish.
            assert view.union.fs.write_out is not None
            done.clear()
            view.union.syncfs()
            assert len(done) == 1
            done.clear()


# --- uuid ------------------------------------------------------------------------------------------


@needs_overlayfs
def test_uuid_off_writes_and_reads_origins_as_overlayfs(stack: Stack) -> None:
    stack.layers({"f": "f", "g": "g"})
    with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged, options=["uuid=off"]) as merged:
        (merged / "f").chmod(0o600)
    theirs = marks(stack.upper / "f")["origin"]
    with stack.open(uuid="off") as view:
        assert view.ino("f") == (stack.lowers[0] / "f").stat().st_ino
        view.chmod("g", 0o600)
    ours = marks(stack.upper / "g")["origin"]
    assert theirs[5:21] == ours[5:21] == bytes(16)
    with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged, options=["uuid=off"]) as merged:
        assert (merged / "g").stat().st_ino == (stack.lowers[0] / "g").stat().st_ino
    # Without the option such an origin is of no filesystem that is there.
    with stack.open() as view:
        assert view.ino("g") == (stack.upper / "g").stat().st_ino


def test_uuid_off_with_layers_of_two_filesystems_changes_nothing(stack: Stack, base: Path) -> None:
    with loop_fs("tmpfs", directory=base) as other:
        build(other, {"f": "f"})
        stack.lowers.append(other)
        with stack.open(uuid="off") as view:
            view.chmod("f", 0o600)
        assert marks(stack.upper / "f")["origin"][5:21] != bytes(16)
