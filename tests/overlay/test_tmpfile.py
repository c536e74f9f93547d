"""O_TMPFILE: files without a name, and giving them one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.overlay.rig import ROOT, USER, Stack, View
from tests.overlay.test_copy_up import DEFAULT
from tests.overlay.trees import disk
from tests.support.mounts import needs_overlayfs, overlayfs
from unionfs.overlay.attr import Changes, link_count
from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.inode import File
from unionfs.overlay.wait import complete


@contextmanager
def tmpfile(
    view: View, path: str, mode: int = 0o600, flags: int = os.O_RDWR, who: Caller = ROOT
) -> Iterator[tuple[File, OpenFile]]:
    inode, st, handle = view.union.tmpfile(view.ino(path), mode, flags, who)
    view.known[inode.ino] += 1
    assert isinstance(inode, File)
    try:
        assert st == view.union.getattr(inode.ino)[1]
        yield inode, handle
    finally:
        view.union.release(handle)


def link(view: View, inode: File, path: str) -> None:
    complete(view.union.link, inode.ino, *view.at(path))
    view.known[inode.ino] += 1


@needs_overlayfs
@pytest.mark.parametrize("name", ["new", "whiteout"])
def test_linking_it_into_place(stack: Stack, base: Path, name: str) -> None:
    """Also over a whiteout; upper then holds what kernel overlayfs leaves in it."""
    stack.layers({"d": {"whiteout": "lower", "pad": ""}})
    with stack.open() as view:
        view.unlink("d/whiteout")
        with tmpfile(view, "d") as (inode, handle):
            handle.write(0, b"data")
            link(view, inode, f"d/{name}")
            assert view.ino(f"d/{name}") == inode.ino
            assert view.nlink(f"d/{name}") == 1
            assert view.read(f"d/{name}") == b"data"
            handle.write(4, b"!")
        assert inode.fd < 0, "it is served by its name from now on"
        assert view.ls("d") == sorted(["pad", name])
        view.forget_all()
        assert view.read(f"d/{name}") == b"data!"
    ours = disk(stack.upper)
    twin = Stack(_made(base / "twin"))
    with overlayfs(stack.lowers, twin.upper, twin.work, twin.merged, options=["volatile"]) as merged:
        (merged / "d/whiteout").unlink()
        where = os.open(merged / "d", os.O_PATH)
        fd = os.open(merged / "d", os.O_RDWR | os.O_TMPFILE, 0o600)
        try:
            os.write(fd, b"data!")
            # Without a dir_fd Python makes it a link(2), which does not follow.
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=where)
        finally:
            os.close(fd)
            os.close(where)
    assert ours == disk(twin.upper)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_without_a_name(stack: Stack) -> None:
    """All that can be done to a file can be done to one without a name, and is there when it gets one."""
    stack.layers({"d": {}})
    with stack.open() as view:
        with tmpfile(view, "d") as (inode, handle):
            ino = inode.ino
            handle.write(0, b"some data")
            assert View.read_handle(handle) == b"some data"
            assert link_count(*view.union.getattr(ino)) == 0
            assert view.ls("d") == []
            complete(view.union.setattr, ino, Changes(mode=0o640, size=4), ROOT, handle)
            complete(view.union.setxattr, ino, b"user.x", b"x", 0, ROOT)
            assert view.union.getxattr(ino, b"user.x") == b"x"
            again = view.union.open_file(ino, os.O_RDONLY, ROOT)
            assert View.read_handle(again) == b"some"
            view.union.release(again)
            assert view.union.statx(ino).btime is not None
            view.union.allocate(handle, 0, 0, 8192, ROOT)
        # Closed, but the kernel still knows it: by /proc/PID/fd it may yet be linked.
        link(view, inode, "d/f")
        link(view, inode, "d/g")
        assert view.nlink("d/f") == 2
        assert stat.S_IMODE(view.stat("d/f").st_mode) == 0o640
        assert view.stat("d/g").st_size == 8192
        assert view.getxattr("d/g", "user.x") == b"x"
        view.unlink("d/f")
        assert view.read("d/g")[:4] == b"some"


def test_one_that_never_gets_a_name(stack: Stack) -> None:
    stack.layers({})
    with stack.open() as view:
        before = os.statvfs(stack.upper).f_ffree
        with tmpfile(view, "") as (inode, handle):
            handle.write(0, b"data")
            assert os.statvfs(stack.upper).f_ffree < before
        view.forget_all()
        assert view.union.fs.table.get(inode.ino) is None
        assert os.statvfs(stack.upper).f_ffree == before
    assert disk(stack.upper) == {}


def test_exclusive_ones_are_never_linked(stack: Stack) -> None:
    """open(2): O_EXCL with O_TMPFILE."""
    stack.layers({})
    with stack.open() as view, tmpfile(view, "", flags=os.O_RDWR | os.O_EXCL) as (inode, _):
        with pytest.raises(FileNotFoundError):
            link(view, inode, "f")
        assert view.ls() == []


@pytest.mark.parametrize("name", ["there", "lower"])
def test_linking_over_a_name_that_is_there(stack: Stack, name: str) -> None:
    stack.layers({"lower": "lower"})
    with stack.open() as view, tmpfile(view, "") as (inode, _):
        view.create("there")
        with pytest.raises(FileExistsError):
            link(view, inode, name)


@pytest.mark.parametrize("access", [os.O_WRONLY, os.O_RDWR])
def test_access(stack: Stack, access: int) -> None:
    stack.layers({})
    with stack.open() as view, tmpfile(view, "", flags=access, mode=0) as (_, handle):
        handle.write(0, b"data")
        if access == os.O_RDWR:
            assert View.read_handle(handle) == b"data"
        else:
            with pytest.raises(OSError) as failure:
                handle.read(0, 4)
            assert failure.value.errno == errno.EBADF


def test_owner_and_what_it_inherits(stack: Stack) -> None:
    stack.layers({"plain": {}, "group": {}, "acl": {}})
    os.chown(stack.lowers[0] / "group", 0, 77)
    os.chmod(stack.lowers[0] / "group", 0o2777)
    os.setxattr(stack.lowers[0] / "acl", "system.posix_acl_default", DEFAULT)
    with stack.open() as view:
        for path in ("plain", "group", "acl"):
            # The twin of each, made with a name, has the same.
            view.create(f"{path}/twin", mode=0o666, caller=USER)
            with tmpfile(view, path, 0o666, who=USER) as (inode, _):
                link(view, inode, f"{path}/f")
            ours, twin = view.stat(f"{path}/f"), view.stat(f"{path}/twin")
            assert (ours.st_mode, ours.st_uid, ours.st_gid) == (twin.st_mode, twin.st_uid, twin.st_gid)
            assert view.listxattr(f"{path}/f") == view.listxattr(f"{path}/twin")
        assert view.stat("plain/f").st_mode & 0o777 == 0o644
        assert view.stat("group/f").st_gid == 77
        assert view.listxattr("acl/f") == ["system.posix_acl_access"]


def test_read_only(stack: Stack) -> None:
    stack.layers({"d": {}}, {})
    with stack.open(writable=False) as view:
        with pytest.raises(OSError) as failure:
            view.union.tmpfile(view.ino("d"), 0o600, os.O_RDWR, ROOT)
        assert failure.value.errno == errno.EROFS


def test_a_directory_is_wanted(stack: Stack) -> None:
    stack.layers({"f": ""})
    with stack.open() as view, pytest.raises(NotADirectoryError):
        view.union.tmpfile(view.ino("f"), 0o600, os.O_RDWR, ROOT)
