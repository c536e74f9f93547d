"""A directory that is copied is the same: data and holes, owners, modes, times, attributes, hard links."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

from testing.images.trees import differences, tree
from tests.support.mounts import REPOSITORY, needs_root, scratch

pytestmark = needs_root

SCRIPT = """
import os, sys
from unionfs.container.tree_copy import copy_directory
flags = os.O_RDONLY | os.O_DIRECTORY
fds = [os.open(path, flags) for path in sys.argv[1:3]]
copy_directory(*fds, keep_owners=sys.argv[3] == "keep")
"""
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""CAP_NET_BIND_SERVICE, permitted and effective (revision 2)."""
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, who)
    for tag, perm, who in (
        (1, 6, 2**32 - 1),
        (2, 4, 7),
        (4, 4, 2**32 - 1),
        (16, 6, 2**32 - 1),
        (32, 0, 2**32 - 1),
    )
)
"""user::rw-, user:7:r--, group::r--, mask::rw-, other::---"""


def copied(source: Path, target: Path, *, keep_owners: bool = True) -> None:
    target.mkdir()
    subprocess.run(
        [sys.executable, "-c", SCRIPT, source, target, "keep" if keep_owners else "own"],
        cwd=REPOSITORY,
        check=True,
    )


def make(top: Path) -> None:
    (top / "sub/empty").mkdir(parents=True)
    (top / "file").write_text("content")
    os.setxattr(top / "file", "user.mark", b"\xff\0")
    os.setxattr(top / "file", "trusted.mark", b"root's")
    os.chown(top / "file", 12, 34)
    (top / "file").chmod(0o640)
    (top / "capable").write_text("x")
    os.chown(top / "capable", 5, 6)
    os.setxattr(top / "capable", "security.capability", CAPABILITY)
    (top / "set-id").write_text("x")
    os.chown(top / "set-id", 12, 34)
    (top / "set-id").chmod(0o6751)
    (top / "shared").write_text("x")
    os.setxattr(top / "shared", "system.posix_acl_access", ACL)
    os.setxattr(top / "sub", "system.posix_acl_default", ACL)
    os.link(top / "file", top / "sub/hard")
    (top / "sub/link").symlink_to("../file")
    os.setxattr(top / "sub/link", "trusted.mark", b"a link's", follow_symlinks=False)
    os.link(top / "sub/link", top / "sub/link2", follow_symlinks=False)
    os.chown(top / "sub/link", 7, 8, follow_symlinks=False)
    os.mkfifo(top / "sub/fifo", 0o622)
    os.mknod(top / "sub/node", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(top / "sub/socket", stat.S_IFSOCK | 0o755)
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    with (top / "sparse").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    os.chown(top, 1000, 1001)
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.utime(path, ns=(10**18 + number, 10**18 + 1000 + number), follow_symlinks=False)
    (top / "sub").chmod(0o2711)
    os.utime(top, ns=(1, 2))
    top.chmod(0o1770)


def test_everything_is_kept() -> None:
    with scratch() as place:
        source, target = place / "source", place / "target"
        source.mkdir()
        make(source)
        expected = tree(source)
        for path in source.rglob("*"):  # reading has changed them
            os.utime(path, ns=(10**18 + 1, path.lstat().st_mtime_ns), follow_symlinks=False)
        copied(source, target)
        found = [path.lstat() for path in target.rglob("*")]
        assert {st.st_atime_ns for st in found if not stat.S_ISDIR(st.st_mode)} == {10**18 + 1}
        assert differences(expected, tree(target)) == []
        assert (target / "sparse").stat().st_blocks < 100
        assert stat.S_ISSOCK((target / "sub/socket").stat().st_mode)
        assert (target / "sub/node").stat().st_rdev == os.makedev(1, 3)
        assert os.getxattr(target / "sub/link", "trusted.mark", follow_symlinks=False) == b"a link's"


def test_with_one_owner_only(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "file").write_text("x")
    os.chown(source / "file", 12, 34)
    (source / "file").chmod(0o4751)
    copied(source, target, keep_owners=False)
    st = (target / "file").stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (0, 0, 0o4751)


def test_deeper_than_a_path_can_be(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    name, depth = "d" * 200, 30
    fd = os.open(source, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    os.close(fd)
    copied(source, target)
    fd = os.open(target, os.O_RDONLY)
    for _ in range(depth):
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert os.listdir(fd) == ["file"]
    os.close(fd)
