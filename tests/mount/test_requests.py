"""What only the direct transport carries, on a real mount: each act gives what kernel overlayfs gives."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.data_rig import data_segments
from tests.support.mounts import needs_overlayfs, overlayfs, pyunionfs
from tests.support.transports import one_transport
from tests.support.users import become
from unionfs.linux import fileattr
from unionfs.linux.syscalls import fallocate

pytestmark = one_transport  # each names its own

DATA = os.urandom(65536)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def set_flags(path: Path, flags: int) -> None:
    mask = fileattr.FS_APPEND_FL | fileattr.FS_IMMUTABLE_FL | fileattr.FS_SYNC_FL
    with opened(path, os.O_RDONLY) as fd:
        fileattr.set_flags(fd, fileattr.get_flags(fd) & ~mask | flags)


def get_flags(path: Path) -> int:
    with opened(path, os.O_RDONLY) as fd:
        return fileattr.get_flags(fd)


# --- acts: what they return must be the same on both -----------------------------------------------


def flags(merged: Path) -> object:
    before = get_flags(merged / "file"), get_flags(merged / "dir")
    set_flags(merged / "file", fileattr.FS_IMMUTABLE_FL)
    set_flags(merged / "dir", fileattr.FS_APPEND_FL | fileattr.FS_SYNC_FL)
    after = get_flags(merged / "file"), get_flags(merged / "dir")
    failed = []
    acts: list[Callable[[], None]] = [
        lambda: os.unlink(merged / "file"),
        lambda: os.chmod(merged / "file", 0o600),
        lambda: os.utime(merged / "file"),
        lambda: os.unlink(merged / "dir/in"),
        lambda: os.utime(merged / "dir"),
        lambda: os.utime(merged / "dir", ns=(1, 1)),
        lambda: os.mkdir(merged / "dir/new"),
        lambda: os.rmdir(merged / "dir/new"),
    ]
    for act in acts:
        try:
            act()
            failed.append(0)
        except OSError as error:
            failed.append(error.errno or -1)
    for name in ("file", "dir"):
        set_flags(merged / name, 0)
    os.unlink(merged / "file")
    os.unlink(merged / "dir/in")
    return before, after, failed


def append_only(merged: Path) -> object:
    set_flags(merged / "file", fileattr.FS_APPEND_FL)
    with opened(merged / "file", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"more")
    os.utime(merged / "file")
    set_flags(merged / "file", 0)
    return (merged / "file").read_bytes()


def nameless(merged: Path) -> object:
    with opened(merged / "dir", os.O_PATH) as where, opened(merged / "dir", os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, b"data")
        counts = [os.fstat(fd).st_nlink]
        os.unlink(merged / "dir/in")
        os.link(f"/proc/self/fd/{fd}", "in", dst_dir_fd=where)  # over the whiteout
        counts.append(os.fstat(fd).st_nlink)
        os.write(fd, b" and more")
    return counts, (merged / "dir/in").read_bytes(), sorted(os.listdir(merged / "dir"))


def exclusive(merged: Path) -> object:
    with (
        opened(merged, os.O_PATH) as where,
        opened(merged, os.O_TMPFILE | os.O_EXCL | os.O_RDWR) as fd,
        pytest.raises(OSError) as failure,
    ):
        os.link(f"/proc/self/fd/{fd}", "new", dst_dir_fd=where)
    return failure.value.errno


def space(mode: int, offset: int, length: int) -> Callable[[Path], object]:
    def act(merged: Path) -> object:
        with opened(merged / "file", os.O_RDWR) as fd:
            os.pwrite(fd, b"new", 5)
            fallocate(fd, mode, offset, length)
            os.fsync(fd)
            return os.fstat(fd).st_size, os.fstat(fd).st_blocks, os.pread(fd, 1 << 20, 0)

    return act


def copies(merged: Path) -> object:
    with opened(merged / "file", os.O_RDONLY) as source, opened(merged / "dir/in", os.O_RDWR) as target:
        os.pwrite(target, b"first", 0)
        done = os.copy_file_range(source, target, 60000, 100, 3)
        os.pwrite(target, b"last", 60000)
        return done, os.pread(target, 1 << 20, 0)


def written_data_is_no_hole(merged: Path) -> object:
    """A tool that copies a file that somebody is writing must find what is in it."""
    with opened(merged / "new", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, DATA)
        os.pwrite(fd, b"end", 200_000)
        found = bytearray(os.fstat(fd).st_size)
        for at, end in data_segments(fd):
            found[at:end] = os.pread(fd, end - at, at)
        return bytes(found) == DATA.ljust(200_000, b"\0") + b"end"


def set_ids(mode: int, *, later: bool = False) -> Callable[[Path], object]:
    """An ordinary user writes to a set-id file while somebody reads it; or to one that became so *later*."""

    def act(merged: Path) -> object:
        path = merged / "file"
        path.chmod(0o777 if later else mode)
        # By a relative name: the directories above are not for this user.
        program = ["sh", "-c", "exec >>file; read go; printf more"]
        user = {"user": 1000, "group": 1000, "extra_groups": []}
        with (
            opened(path, os.O_RDONLY) as reader,
            subprocess.Popen(program, cwd=merged, stdin=subprocess.PIPE, **user) as writer,  # type: ignore[call-overload]
        ):
            while os.readlink(f"/proc/{writer.pid}/fd/1") != str(path):
                assert writer.poll() is None
                time.sleep(0.01)
            if later:
                path.chmod(mode)
            writer.communicate(b"\n")
            assert writer.returncode == 0
            return oct(os.fstat(reader).st_mode), oct(path.stat().st_mode), path.stat().st_size

    return act


def set_ids_beside_a_capability(merged: Path) -> object:
    """A write removes the capability, for which the kernel asks; root's leaves the set-ids."""
    path = merged / "file"
    path.chmod(0o6755)
    os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1, 0, 0, 0))
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"new")
    return oct(path.stat().st_mode), os.listxattr(path), path.read_bytes()[:4]


def chown_that_leaves_both_ids(merged: Path) -> object:
    """Takes set-ids away, but not at a stranger's wish."""
    path = merged / "file"
    answers = []
    for owner in (0, 1000):
        os.chown(path, owner, -1)
        path.chmod(0o6755)
        with opened(merged, os.O_PATH) as where:
            answers.append((_chown_as_user(where), oct(path.stat().st_mode)))
    return answers


def _chown_as_user(where: int) -> int:
    """By a fork: Python itself may lie where an ordinary user does not get."""
    child = os.fork()
    if child == 0:
        try:
            become(1000)
            os.chown("file", -1, -1, dir_fd=where)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def birth(merged: Path) -> object:
    """Of the upper object, after a copy-up."""
    (merged / "file").chmod(0o600)
    with opened(merged / "file", os.O_RDONLY) as fd, opened(merged.parent / "upper/file", os.O_RDONLY) as up:
        btime = fileattr.statx(fd).btime
        return btime is not None and btime == fileattr.statx(up).btime


ACTS: dict[str, Callable[[Path], object]] = {
    "flags": flags,
    "append-only": append_only,
    "O_TMPFILE": nameless,
    "O_TMPFILE with O_EXCL": exclusive,
    "fallocate": space(0, 0, 100_000),
    "fallocate, size kept": space(KEEP_SIZE, 0, 100_000),
    "punch": space(KEEP_SIZE | PUNCH_HOLE, 4096, 8192),
    "punch, unaligned": space(KEEP_SIZE | PUNCH_HOLE, 3, 30_000),
    "zero": space(ZERO_RANGE, 0, 16384),
    "copy_file_range": copies,
    "SEEK_DATA": written_data_is_no_hole,
    "set-ids": set_ids(0o6777),
    "setgid without group execute": set_ids(0o2767),
    "set-ids, later": set_ids(0o6777, later=True),
    "chown that leaves both ids": chown_that_leaves_both_ids,
    "set-ids beside a capability": set_ids_beside_a_capability,
    "birth": birth,
}


@needs_overlayfs
@pytest.mark.parametrize("passthrough", ["auto", "off", "off,writeback=0"])
@pytest.mark.parametrize("act", ACTS)
def test_as_on_overlayfs(base: Path, act: str, passthrough: str) -> None:
    (base / "lower/file").write_bytes(DATA)
    (base / "lower/dir").mkdir()
    (base / "lower/dir/in").write_bytes(b"in")
    answers = []
    for name in ("theirs", "ours"):
        where = base / name
        for part in ("upper", "work", "merged"):
            (where / part).mkdir(parents=True)
            where.chmod(0o755)
        layers = [base / "lower"], where / "upper", where / "work", where / "merged"
        if name == "theirs":
            with overlayfs(*layers, options=["volatile"]) as merged:
                answers.append(ACTS[act](merged))
        else:
            options = ["transport=direct", f"passthrough={passthrough}"]
            with pyunionfs(*layers, options=options):
                answers.append(ACTS[act](where / "merged"))
        mode = stat.S_IMODE((base / "lower/file").stat().st_mode)
        assert ((base / "lower/file").read_bytes(), oct(mode)) == (DATA, "0o644"), "a lower is never written"
    assert answers[1] == answers[0]
