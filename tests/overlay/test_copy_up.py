"""Copy-up: what arrives in upper, what must not travel, and what it leaves alone."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import TIME_NS, Spec, Tree, directory, disk, file, marks, node, symlink
from tests.support.mounts import loop_fs, needs_overlayfs

ACL_VERSION = 2
UNDEFINED = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    """system.posix_acl_*: (tag, permissions, id)."""
    return struct.pack("<I", ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# user::rw-, user:77:r-x, group::r--, mask::rwx, other::---
ACCESS = acl((1, 6, UNDEFINED), (2, 5, 77), (4, 4, UNDEFINED), (0x10, 7, UNDEFINED), (0x20, 0, UNDEFINED))
DEFAULT = acl((1, 7, UNDEFINED), (2, 5, 78), (4, 5, UNDEFINED), (0x10, 7, UNDEFINED), (0x20, 1, UNDEFINED))
# VFS_CAP_REVISION_2, cap_net_raw permitted and effective
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)

CHANGES: dict[str, Callable[[View], object]] = {
    "open for writing": lambda view: view.write("d/f", b""),
    "open for both": lambda view: view.union.release(view.open("d/f", os.O_RDWR)),
    "truncate": lambda view: view.change("d/f", size=5),
    "chmod": lambda view: view.chmod("d/f", 0o640),
    "chown": lambda view: view.change("d/f", uid=1, gid=2),
    "utimes": lambda view: view.change("d/f", atime_ns=1, mtime_ns=2),
    "setxattr": lambda view: view.setxattr("d/f", "user.x", b"1"),
    "removexattr": lambda view: view.removexattr("d/f", "user.there"),
    "link": lambda view: view.link("d/f", "d/g"),
    "rename": lambda view: view.rename("d/f", "d/g"),
}

READS: dict[str, Callable[[View], object]] = {
    "lookup": lambda view: view.exists("d/f"),
    "stat": lambda view: view.stat("d/f"),
    "read": lambda view: view.read("d/f"),
    "list": lambda view: view.ls("d"),
    "getxattr": lambda view: view.getxattr("d/f", "user.there"),
    "listxattr": lambda view: view.listxattr("d/f"),
    "readlink": lambda view: view.readlink("d/l"),
    "statfs": lambda view: view.union.statfs(),
    "syncfs": lambda view: view.union.syncfs(),
    "removexattr of what is not there": lambda view: _fails(
        errno.ENODATA, lambda: view.removexattr("d/f", "user.not")
    ),
    "unlink of what is not there": lambda view: _fails(errno.ENOENT, lambda: view.unlink("d/not")),
    "rename of what is not there": lambda view: _fails(errno.ENOENT, lambda: view.rename("d/not", "d/g")),
    "create of what is there": lambda view: _fails(errno.EEXIST, lambda: view.create("d/f")),
    "mkdir of what is there": lambda view: _fails(errno.EEXIST, lambda: view.mkdir("d/f")),
    "link to what is there": lambda view: _fails(errno.EEXIST, lambda: view.link("d/l", "d/f")),
    "rmdir of a full directory": lambda view: _fails(errno.ENOTEMPTY, lambda: view.rmdir("d")),
    "rename over a full directory": lambda view: _fails(errno.ENOTEMPTY, lambda: view.rename("e", "d")),
    "rename to itself": lambda view: view.rename("d/f", "d/f"),
}


def _fails(code: int, act: Callable[[], object]) -> None:
    with pytest.raises(OSError) as failure:
        act()
    assert failure.value.errno == code


def one(stack: Stack) -> Stack:
    return stack.layers(
        {"d": {"f": file("lower data", xattrs={"user.there": b"t"}), "l": symlink("to")}, "e": {}}
    )


@pytest.mark.parametrize("change", CHANGES)
def test_first_change_copies_up(stack: Stack, change: str) -> None:
    one(stack)
    before = disk(stack.lowers[0])
    with stack.open() as view:
        CHANGES[change](view)
        assert view.union.stats()["copy_ups"] == 2  # d and d/f
    held = disk(stack.upper)
    text = "lower" if change == "truncate" else "lower data"
    line = f"file {text!r} origin"
    wanted = {"d": "dir impure origin", "d/f": line}
    if change == "link":
        wanted["d/g"] = line
    elif change == "rename":
        wanted["d/f"], wanted["d/g"] = "whiteout", line
    assert held == wanted
    assert marks(stack.upper) == {"impure": b"y"}
    assert stack.work_names() == []
    assert disk(stack.lowers[0]) == before


@pytest.mark.parametrize("read", READS)
def test_reading_and_failing_copy_nothing_up(stack: Stack, read: str) -> None:
    one(stack)
    with stack.open() as view:
        READS[read](view)
        assert view.union.stats()["copy_ups"] == 0
    assert disk(stack.upper) == {}
    assert stack.work_names() == []


def test_metadata_arrives(stack: Stack) -> None:
    xattrs = {
        "user.a": b"1",
        "trusted.b": b"2",
        "security.capability": CAPABILITY,
        "system.posix_acl_access": ACCESS,
    }
    d_xattrs = {"user.d": b"d", "system.posix_acl_access": ACCESS, "system.posix_acl_default": DEFAULT}
    stack.layers(
        {
            "d": directory(
                {"f": file("data", mode=0o6751, owner=(11, 12), xattrs=xattrs)},
                mode=0o3750,
                owner=(13, 14),
                xattrs=d_xattrs,
            )
        }
    )
    lower = stack.lowers[0]
    with stack.open() as view:
        view.change("d/f", atime_ns=TIME_NS)
        st = view.stat("d/f")
        assert view.getxattr("d/f", "security.capability") == CAPABILITY
    for name in ("d", "d/f"):
        there, here = (lower / name).stat(), (stack.upper / name).stat()
        assert stat.filemode(here.st_mode) == stat.filemode(there.st_mode)
        assert (here.st_uid, here.st_gid) == (there.st_uid, there.st_gid)
        assert here.st_mtime_ns == TIME_NS
    assert st.st_atime_ns == TIME_NS
    for name, wanted in xattrs.items():
        assert os.getxattr(stack.upper / "d/f", name) == wanted
    for name, wanted in d_xattrs.items():
        assert os.getxattr(stack.upper / "d", name) == wanted
    # The default ACL of upper's parent must not have leaked in: nothing but what the lower has, and origin.
    assert sorted(os.listxattr(stack.upper / "d/f")) == sorted([*xattrs, "trusted.overlay.origin"])


OBJECTS: dict[str, tuple[Spec, str]] = {
    "symlink": (symlink("some/where"), "link 'some/where' origin"),
    "fifo": (node(stat.S_IFIFO | 0o640), "fifo 0:0 origin"),
    "socket": (node(stat.S_IFSOCK | 0o640), "socket 0:0 origin"),
    "char device": (node(stat.S_IFCHR | 0o640, os.makedev(1, 3)), "char 1:3 origin"),
    "block device": (node(stat.S_IFBLK | 0o640, os.makedev(7, 9)), "block 7:9 origin"),
    "empty file": (file("", mode=0o640), "file '' origin"),
    "directory": (directory({}, mode=0o750), "dir origin"),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_every_type(stack: Stack, kind: str) -> None:
    spec, line = OBJECTS[kind]
    tree: Tree = {"x": spec}
    stack.layers(tree)
    with stack.open() as view:
        before = view.stat("x")
        view.change("x", uid=5, gid=6)
        after = view.stat("x")
        assert view.ino("x") == before.st_ino
    assert disk(stack.upper) == {"x": line}
    st = (stack.upper / "x").lstat()
    assert (st.st_uid, st.st_gid, st.st_mode) == (5, 6, before.st_mode)
    assert after.st_mtime_ns == TIME_NS


def test_marks_do_not_travel(stack: Stack) -> None:
    """The union's own marks on a lower object stay there; escaped ones of a nested union come along."""
    secret = dict.fromkeys(("opaque", "redirect", "impure", "nlink", "upper", "uuid", "protattr"), "1")
    stack.layers(
        {"pad": ""},
        {
            "f": file("x", origin="junk", marked=secret),
            "n": file("x", xattrs={"trusted.overlay.overlay.opaque": b"y"}),
        },
    )
    with stack.open() as view:
        view.chmod("f", 0o600)
        view.chmod("n", 0o600)
        assert view.listxattr("n") == ["trusted.overlay.opaque"]
    assert set(marks(stack.upper / "f")) == {"origin"}
    assert marks(stack.upper / "f")["origin"] != b"junk"
    assert set(marks(stack.upper / "n")) == {"origin", "overlay.opaque"}


def test_opaque_lower_directory_is_not_opaque_in_upper(stack: Stack) -> None:
    stack.layers({"d": directory({"a": ""}, opaque="y")}, {"d": {"hidden": ""}})
    with stack.open() as view:
        view.create("d/new")
        assert view.ls("d") == ["a", "new"]
    assert disk(stack.upper) == {"d": "dir origin", "d/new": "file ''"}
    with stack.open() as view:
        assert view.ls("d") == ["a", "new"]


def test_parents_first_with_their_times(stack: Stack) -> None:
    stack.layers({"a": directory({"b": directory({"c": {"f": "f"}}, mode=0o711)}, owner=(3, 4))})
    os.utime(stack.upper, ns=(1, 2))
    with stack.open() as view:
        view.chmod("a/b/c/f", 0o600)
        for path in ("a", "a/b", "a/b/c"):
            assert view.stat(path).st_mtime_ns == TIME_NS
        assert view.stat("").st_mtime_ns == 2
    for path in ("a", "a/b", "a/b/c"):
        assert (stack.upper / path).stat().st_mtime_ns == TIME_NS
    assert stat.S_IMODE((stack.upper / "a/b").stat().st_mode) == 0o711
    assert ((stack.upper / "a").stat().st_uid, (stack.upper / "a").stat().st_gid) == (3, 4)
    assert stack.upper.stat().st_mtime_ns == 2


def test_new_name_touches_its_parent(stack: Stack) -> None:
    """Restored times are for copy-ups: a creation changes its parent's mtime."""
    stack.layers({"a": {"b": {}}})
    with stack.open() as view:
        view.create("a/b/new")
        assert view.stat("a").st_mtime_ns == TIME_NS
        assert view.stat("a/b").st_mtime_ns > TIME_NS


@pytest.mark.parametrize("name", ["middle", "end", "all", "edges", "many"])
@pytest.mark.parametrize("volatile", [False, True])
def test_holes_are_kept(stack: Stack, name: str, volatile: bool) -> None:
    size = 1 << 20
    written: dict[str, list[int]] = {
        "middle": [0, size - 4096],
        "end": [0],
        "all": [],
        "edges": [size // 2],
        "many": list(range(0, size, 65536)),
    }
    stack.layers({})
    lower = stack.lowers[0] / "f"
    with lower.open("wb") as f:
        f.truncate(size + 17)
        for at in written[name]:
            f.seek(at)
            f.write(b"d" * 4096)
    with stack.open(volatile=volatile) as view:
        view.change("f", mtime_ns=TIME_NS)
    upper = stack.upper / "f"
    assert upper.read_bytes() == lower.read_bytes()
    assert segments(upper) == segments(lower)


def segments(path: Path) -> list[tuple[int, int]]:
    """Where a file has data."""
    found: list[tuple[int, int]] = []
    with path.open("rb") as f:
        at = 0
        while True:
            try:
                start = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return found
                raise
            at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))


def test_content_of_a_larger_file(stack: Stack) -> None:
    data = os.urandom(3 * 1024 * 1024 + 123)
    stack.layers({"f": file(data)})
    with stack.open() as view:
        view.write("f", b"!", len(data) - 1)
    assert (stack.upper / "f").read_bytes() == data[:-1] + b"!"


def test_truncating_open_copies_no_data(stack: Stack) -> None:
    stack.layers({"f": file("x" * 300_000, mode=0o640, owner=(5, 6), xattrs={"user.a": b"1"})})
    with stack.open() as view:
        handle = view.union.open_file(view.ino("f"), os.O_WRONLY | os.O_TRUNC, view.caller)  # no Wait
        assert handle.write(0, b"new") == 3
        view.union.release(handle)
        assert view.read("f") == b"new"
    st = (stack.upper / "f").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o640, 5, 6)
    assert os.getxattr(stack.upper / "f", "user.a") == b"1"


@pytest.mark.parametrize("how", ["write", "chmod of a file in a directory"])
def test_full_disk_leaves_no_trace(stack: Stack, base: Path, how: str) -> None:
    with loop_fs("tmpfs", 2 << 20, directory=base) as small:
        stack.layers({"d": {"f": file(b"x" * (3 << 20)), "small": "s"}})
        stack.upper, stack.work = small / "upper", small / "work"
        stack.upper.mkdir()
        stack.work.mkdir()
        with stack.open() as view:
            for _ in range(2):
                with pytest.raises(OSError) as failure:
                    if how == "write":
                        view.write("d/f", b"y")
                    else:
                        view.chmod("d/f", 0o600)
                assert failure.value.errno == errno.ENOSPC
                assert os.listdir(stack.work / "work") == []
            assert view.read("d/f") == b"x" * (1 << 20)
            assert view.stat("d/f").st_size == 3 << 20
            view.write("d/small", b"S")
        assert disk(stack.upper) == {"d": "dir impure origin", "d/small": "file 'S' origin"}
        assert stack.work_names() == []


@pytest.mark.parametrize("upper", ["ext4", "tmpfs"])
def test_lowers_on_another_filesystem(stack: Stack, base: Path, upper: str) -> None:
    data = os.urandom(500_000)
    with loop_fs(upper, 32 << 20, directory=base) as other:
        stack.layers({"d": {"f": file(data, mode=0o4755, xattrs={"trusted.t": b"1"})}})
        stack.upper, stack.work = other / "upper", other / "work"
        stack.upper.mkdir()
        stack.work.mkdir()
        with stack.open() as view:
            number = view.ino("d/f")
            view.change("d/f", uid=0)
            assert view.ino("d/f") == number
            assert view.read("d/f") == data
        assert (stack.upper / "d/f").read_bytes() == data
        assert os.getxattr(stack.upper / "d/f", "trusted.t") == b"1"


@needs_overlayfs
def test_kernel_overlayfs_shows_what_was_copied_up(stack: Stack) -> None:
    stack.layers({"d": {name: spec for name, (spec, _) in OBJECTS.items()}})
    with stack.open() as view:
        for name in OBJECTS:
            view.change(f"d/{name}", uid=3)
        tree = view.tree()
    assert stack.kernel() == tree


def test_lower_without_xattrs_is_copied_up(stack: Stack) -> None:
    """A lower may lie on a filesystem that has no file handles or xattrs: /proc is one."""
    stack.layers({"pad": ""})
    stack.lowers = [Path("/proc/sys/kernel"), stack.lowers[0]]
    with stack.open() as view:
        view.change("ostype", mtime_ns=TIME_NS)
        assert view.stat("ostype").st_mtime_ns == TIME_NS
    assert disk(stack.upper)["ostype"].startswith("file")


def test_lower_device_of_whiteout_numbers_is_never_made(stack: Stack) -> None:
    stack.layers({"d": {"a": ""}})
    with stack.open() as view:
        with pytest.raises(PermissionError):
            view.mknod("d/w", stat.S_IFCHR | 0o600, 0)
        view.mknod("d/b", stat.S_IFBLK | 0o600, 0)
        assert view.ls("d") == ["a", "b"]
