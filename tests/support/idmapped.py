"""Idmapped mounts for tests: a directory seen at another place with the ids of a user namespace.

Makes no mount but the one asked for, which is gone when its context ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import umount

_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_IDMAP = 0x100000
_CLONE_NEWUSER = 0x10000000

SHIFT = 100_000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


@contextmanager
def _user_namespace() -> Iterator[int]:
    """A descriptor of a namespace in which ids from 1000 on are others outside."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = _libc.unshare(_CLONE_NEWUSER)
        os.write(writer, b"ok" if status == 0 else b"")
        os.close(writer)
        while status == 0:
            signal.pause()
        os._exit(1)
    try:
        os.close(writer)
        with open(reader, "rb", buffering=0) as pipe:
            assert pipe.read(2) == b"ok", "unshare(CLONE_NEWUSER) failed"
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{kind}").write_text(f"0 0 1000\n1000 {1000 + SHIFT} 60000\n")
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    try:
        yield namespace
    finally:
        os.close(namespace)


@contextmanager
def idmapped(source: Path, target: Path) -> Iterator[Path]:
    """Mount *source* at *target*, where ids from 1000 on are shown by SHIFT higher, those below as they are.

    OSError as mount_setattr(2) has it. Root keeps its id: overlayfs makes its work directory as the mounter.
    """
    with _user_namespace() as namespace:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
        tree = _checked(_libc.syscall(_NR_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags), "open_tree")
        try:
            attr = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
            done = _libc.syscall(_NR_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attr, len(attr))
            _checked(done, "mount_setattr")
            place = (_AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
            _checked(_libc.syscall(_NR_MOVE_MOUNT, tree, b"", *place), "move_mount")
        finally:
            os.close(tree)
    try:
        yield target
    finally:
        umount(target)
