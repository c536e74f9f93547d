"""The owner of an upper replaces an object by a symlink while the union works on it: nothing outside changes.

Between the look at an object and the change of it an attacker has all the time that the machine gives: here
the union sees the object that was there, and the call meets the symlink.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.owners_rig import named
from tests.overlay.rig import USER, Stack, View
from tests.overlay.trees import Tree, directory, file
from tests.support.mounts import needs_root
from unionfs.linux import fileattr, syscalls
from unionfs.overlay.config import OwnersConfig
from unionfs.overlay.inode import File

pytestmark = needs_root

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
"""The value of security.capability for cap_net_bind_service+ep."""

DEEDS: dict[str, Callable[[View], object]] = {
    "chmod": lambda view: view.chmod("f", 0o6777),
    "chown": lambda view: view.change("f", uid=1000, gid=1000),
    "truncate": lambda view: view.change("f", size=2),
    "truncate to the same size": lambda view: view.change("f", size=4),
    "truncate by another user": lambda view: view.change("f", size=4, caller=USER, kill=True),
    "times": lambda view: view.change("f", atime_ns=1, mtime_ns=1),
    "touch": lambda view: view.change("f", atime_ns=1, mtime_ns=1, touch=True),
    "nothing": lambda view: view.change("f", writing=True, caller=USER),
    "open to write": lambda view: view.write("f", b"evil"),
    "O_TRUNC": lambda view: view.union.release(view.open("f", os.O_WRONLY | os.O_TRUNC)),
    "setxattr": lambda view: view.setxattr("f", "user.evil", b"evil"),
    "removexattr": lambda view: view.removexattr("f", "user.precious"),
    "acl": lambda view: view.setxattr("f", "system.posix_acl_access", named(1000, 1000)),
    "capability": lambda view: view.removexattr("f", "security.capability"),
    "flags": lambda view: view.union.set_flags(view.ino("f"), fileattr.FS_IMMUTABLE_FL, view.caller),
    "link": lambda view: view.link("f", "further"),
    "rename": lambda view: view.rename("f", "d/f"),
    "unlink": lambda view: view.unlink("f"),
}


def state(path: Path) -> tuple[object, ...]:
    st = path.stat()
    xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_mtime_ns, path.read_bytes(), xattrs


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("stored", ["filesystem", "override"])
def test_a_file_becomes_a_symlink(
    stack: Stack, deed: str, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = stack.base / "victim"
    victim.write_bytes(b"data")
    for path in (victim, stack.layers({}, upper={"f": file("data"), "d": directory()}).upper / "f"):
        path.chmod(0o4711)
        os.setxattr(path, "user.precious", b"value")
        os.setxattr(path, "security.capability", CAPABILITY)
    before = state(victim)
    owners = OwnersConfig(xattr_permissions=2 if stored == "override" else 0)
    with stack.open(owners=owners) as view:
        inode = view.file("f")
        seen = inode.lstat()
        assert stat.S_ISREG(seen.st_mode)
        os.rename(stack.upper / "f", stack.upper / "moved")
        os.symlink(victim, stack.upper / "f")
        monkeypatch.setattr(File, "lstat", lambda self: seen)
        # Whether it fails is another matter: nothing promises what a layer shows that changes meanwhile.
        with contextlib.suppress(OSError):
            DEEDS[deed](view)
        monkeypatch.undo()
    assert state(victim) == before


@pytest.mark.parametrize("layer", ["lower", "upper"])
@pytest.mark.parametrize("deed", DEEDS)
def test_a_file_becomes_a_fifo(stack: Stack, deed: str, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reads from it or writes to it: a thread that waited for that would serve nothing any more."""
    tree: Tree = {"f": file("data", mode=0o4711), "d": directory()}
    stack.layers(tree if layer == "lower" else {}, upper=tree if layer == "upper" else {})
    place = stack.lowers[0] if layer == "lower" else stack.upper
    with stack.open() as view:
        inode = view.file("f")
        seen = inode.lstat()
        os.rename(place / "f", place / "moved")
        os.mkfifo(place / "f")
        monkeypatch.setattr(File, "lstat", lambda self: seen)
        ended = threading.Event()

        def act() -> None:
            with contextlib.suppress(OSError):
                DEEDS[deed](view)
                view.read("f")
            ended.set()

        threading.Thread(target=act, daemon=True).start()
        assert ended.wait(30), "it waits for the FIFO"
        monkeypatch.undo()


@pytest.mark.parametrize("supported", [True, False], ids=["fchmodat2", "by descriptor"])
def test_chmod_of_a_symlink_is_of_nothing_else(
    tmp_path: Path, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not supported:
        monkeypatch.setattr(syscalls, "_NR_FCHMODAT2", 99999)
    victim, link, plain = (tmp_path / name for name in ("victim", "link", "plain"))
    victim.touch(mode=0o600)
    plain.touch(mode=0o600)
    link.symlink_to(victim)
    with pytest.raises(OSError):
        syscalls.chmod_no_symlink(os.fsencode(link), 0o777)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    syscalls.chmod_no_symlink(os.fsencode(plain), 0o4751)
    assert stat.S_IMODE(plain.stat().st_mode) == 0o4751
    fd = os.open(tmp_path, os.O_PATH)
    try:
        syscalls.chmod_no_symlink(b"plain", 0o640, fd)
        assert stat.S_IMODE(plain.stat().st_mode) == 0o640
        with pytest.raises(FileNotFoundError):
            syscalls.chmod_no_symlink(b"none", 0o640, fd)
    finally:
        os.close(fd)
