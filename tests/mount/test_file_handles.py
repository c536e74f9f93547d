"""File handles: refused to callers that want to open by them later, as overlayfs does without nfs_export."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import partial
from pathlib import Path

import pytest

from tests.mount.data_rig import errno_of, side
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

AT_HANDLE_FID = 0x200
_libc = ctypes.CDLL(None, use_errno=True)


class FileHandle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128))


def handle(path: Path, flags: int) -> None:
    """name_to_handle_at(2)."""
    found, mount_id = FileHandle(128), ctypes.c_int()
    if (
        _libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(found), ctypes.byref(mount_id), flags)
        != 0
    ):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")


def populate(lower: Path, upper: Path) -> None:
    (lower / "directory").mkdir()
    for path in (lower / "low", upper / "up"):
        path.touch()


@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", "default", "passthrough", "cached"])
def test_handles_that_would_not_hold_are_refused(way: str) -> None:
    with side(way, populate) as mounted:
        for name in ("low", "up", "directory", "."):
            path = mounted.merged / name
            assert errno_of(partial(handle, path, 0)) == errno.errorcode[errno.EOPNOTSUPP]
            # What only tells one object from another (fanotify) is given.
            assert errno_of(partial(handle, path, AT_HANDLE_FID)) == "ok"
