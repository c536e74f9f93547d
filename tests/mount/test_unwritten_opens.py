"""Opening a lower file to write and not writing: overlayfs copies it up, and what that does to later calls.

Where the kernel opens files without asking, the copy-up waits for the first write (docs/semantics.md).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testing.oracle.operations import RENAME_EXCHANGE, renameat2
from tests.mount.data_rig import errno_of, side
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]

DEEP = Path("n" * 150, "m" * 150)
"""No redirect can lead there: it would have more than 256 bytes."""
WAYS = ["overlayfs", "default", "cached", "pyfuse3"]


def populate(lower: Path, upper: Path) -> None:
    (lower / DEEP).mkdir(parents=True)
    (lower / DEEP / "file").write_bytes(b"data")
    (lower / "to").mkdir()


@pytest.mark.parametrize("how", ["no open", "open", "write"])
@pytest.mark.parametrize("change", ["rename", "exchange", "link"])
@pytest.mark.parametrize("way", WAYS)
def test_whether_a_file_needs_a_redirect(way: str, change: str, how: str) -> None:
    with side(way, populate, ["metacopy=on", "redirect_dir=on"]) as mounted:
        source, target = mounted.merged / DEEP / "file", mounted.merged / "to" / "file"
        if how != "no open":
            fd = os.open(source, os.O_WRONLY)
            if how == "write":
                os.write(fd, b"more")
            os.close(fd)
        if change == "link":
            outcome = errno_of(lambda: os.link(source, target))
        else:
            if change == "exchange":
                source, target = target, source
                source.write_bytes(b"")
            flags = RENAME_EXCHANGE if change == "exchange" else 0
            outcome = errno_of(lambda: renameat2(bytes(source), bytes(target), flags))
        wanted = how == "write" or (how == "open" and way != "cached")
        assert outcome == ("ok" if wanted else "EXDEV")


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_removing_an_acl_that_is_not_there(way: str, opened: bool) -> None:
    """On ext4 it succeeds in upper, and on a lower it is ENODATA."""
    with loop_fs("ext4") as where, side(way, populate, directory=where) as mounted:
        path = mounted.merged / DEEP / "file"
        if opened:
            os.close(os.open(path, os.O_WRONLY))
        outcome = errno_of(lambda: os.removexattr(path, "system.posix_acl_access"))
        assert outcome == ("ok" if opened and way != "cached" else "ENODATA")
