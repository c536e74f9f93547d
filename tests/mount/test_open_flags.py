"""The flags of open(2), beside kernel overlayfs, on every way that data takes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, Side, side
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root, umount
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

ALL = ["overlayfs", *WAYS]
Outcome = tuple[object, bytes | None, bool]
DATA = b"0123456789abcdef" * 1024
OLD = 1_000_000_000


def files(lower: Path, upper: Path) -> None:
    for name in ("lower", "lower too"):
        (lower / name).write_bytes(DATA)
        os.utime(lower / name, (OLD, OLD + 1))
    for name in ("upper", "upper too"):
        (upper / name).write_bytes(DATA)
        os.utime(upper / name, (OLD, OLD + 1))
    os.symlink("upper", upper / "link")
    (upper / "directory").mkdir()


@contextmanager
def descriptors() -> Iterator[Callable[[Path, int], int]]:
    """Opens files, which are closed at the end."""
    with ExitStack() as stack:

        def opens(path: Path, flags: int) -> int:
            fd = os.open(path, flags, 0o640)
            stack.callback(os.close, fd)
            return fd

        yield opens


# --- O_NOATIME ----------------------------------------------------------------------------------------


def read_anew(fd: int) -> None:
    """Read past the page cache of the union."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 16, 0) == DATA[:16]


def was_read(path: Path) -> bool:
    """Whether a read has set the access time since the last look."""
    changed = path.stat().st_atime != OLD
    os.utime(path, (OLD, OLD + 1))
    return changed


@needs_overlayfs
@pytest.mark.parametrize("way", ALL)
def test_noatime(way: str) -> None:
    """The access time of upper's file is what the opener has asked for; of a lower's, never changed."""
    with side(way, files) as mounted, descriptors() as opens:
        merged, upper = mounted.merged, mounted.upper / "upper"
        plain, quiet = (opens(merged / "upper", os.O_RDWR | flag) for flag in (0, os.O_NOATIME))
        for _ in range(2):
            read_anew(quiet)
            assert not was_read(upper)
            read_anew(plain)
            assert was_read(upper)
        # A reader of the lower file, after a copy-up that comes by another descriptor.
        lower = mounted.lower / "lower"
        quiet = opens(merged / "lower", os.O_RDONLY | os.O_NOATIME)
        plain = opens(merged / "lower", os.O_RDONLY)
        for fd in (quiet, plain):
            read_anew(fd)
            assert not was_read(lower)
        os.truncate(merged / "lower", len(DATA) - 1)
        copied = mounted.upper / "lower"
        os.utime(copied, (OLD, OLD + 1))
        read_anew(quiet)
        assert not was_read(copied)
        assert not was_read(lower)


@needs_overlayfs
@pytest.mark.parametrize("way", ALL)
def test_noatime_of_a_file_that_is_made(way: str) -> None:
    with side(way, files) as mounted, descriptors() as opens:
        fd = opens(mounted.merged / "new", os.O_RDWR | os.O_CREAT | os.O_NOATIME)
        os.write(fd, DATA)
        os.fsync(fd)
        new = mounted.upper / "new"
        os.utime(new, (OLD, OLD + 1))
        read_anew(fd)
        assert not was_read(new)


# --- O_SYNC and O_DSYNC ---------------------------------------------------------------------------------


@contextmanager
def crashed(where: Path, base: Path) -> Iterator[Path]:
    """The disk of a machine that has crashed at this moment: a copy of its image."""
    image, mnt = base / "crashed", base / "after"
    shutil.copyfile(where.parent / "image", image)
    mnt.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", "loop", str(image), str(mnt)], check=True)
    try:
        yield mnt
    finally:
        umount(mnt)
        mnt.rmdir()
        image.unlink()


@needs_overlayfs
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4")
@pytest.mark.parametrize("way", ALL)
def test_what_is_written_by_o_sync_outlives_a_crash(way: str, tmp_path: Path) -> None:
    with loop_fs("ext4") as where, side(way, files, directory=where) as mounted:
        os.sync()
        kinds = {"sync": os.O_SYNC, "dsync": os.O_DSYNC, "neither": 0}
        fds = {}
        for name in kinds:
            fds[name] = os.open(mounted.merged / name, os.O_RDWR | os.O_CREAT, 0o644)
            os.write(fds[name], b"old")
            os.fsync(fds[name])
            os.close(fds[name])
        fds = {name: os.open(mounted.merged / name, os.O_RDWR | flag) for name, flag in kinds.items()}
        for fd in fds.values():
            os.pwrite(fd, b"new", 0)
        inside = mounted.upper.relative_to(where)
        with crashed(where, tmp_path) as disk:
            found = {name: (disk / inside / name).read_bytes() for name in kinds}
        for fd in fds.values():
            os.close(fd)
    assert found == {"sync": b"new", "dsync": b"new", "neither": b"old"}


# --- the others -----------------------------------------------------------------------------------------


def outcome(action: Callable[[], object]) -> object:
    try:
        return action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def opened(mounted: Side, name: str, flags: int) -> Outcome:
    """What an open gives, what may be done by it, and what it has done to the file."""
    path = mounted.merged / name

    def look() -> object:
        fd = os.open(path, flags, 0o640)
        try:
            status = fcntl.fcntl(fd, fcntl.F_GETFL)
            return (
                status & (os.O_ACCMODE | os.O_APPEND | os.O_NOATIME | os.O_SYNC | os.O_NONBLOCK | os.O_PATH),
                outcome(lambda: os.write(fd, b"written")),
                outcome(lambda: os.pread(fd, 4, 0)),
                outcome(lambda: os.lseek(fd, 0, os.SEEK_CUR)),
                outcome(lambda: os.pwrite(fd, b"at 3", 3)),
                outcome(lambda: os.fstat(fd).st_size),
            )
        finally:
            os.close(fd)

    result = outcome(look)
    left = path.read_bytes() if path.is_file() else None
    return result, left, (mounted.upper / name).exists()


FLAGS = {
    "read": os.O_RDONLY,
    "write": os.O_WRONLY,
    "both": os.O_RDWR,
    "append": os.O_WRONLY | os.O_APPEND,
    "append both": os.O_RDWR | os.O_APPEND,
    "append sync": os.O_RDWR | os.O_APPEND | os.O_SYNC,
    "truncate": os.O_WRONLY | os.O_TRUNC,
    "truncate append": os.O_RDWR | os.O_TRUNC | os.O_APPEND,
    "truncate to read": os.O_RDONLY | os.O_TRUNC,
    "create": os.O_RDWR | os.O_CREAT,
    "create truncate": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "create exclusively": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "create append": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "nofollow": os.O_RDONLY | os.O_NOFOLLOW,
    "directory": os.O_RDONLY | os.O_DIRECTORY,
    "path": os.O_PATH,
    "path nofollow": os.O_PATH | os.O_NOFOLLOW,
    "nonblock": os.O_RDWR | os.O_NONBLOCK,
    "noatime": os.O_RDWR | os.O_NOATIME,
    "sync": os.O_RDWR | os.O_SYNC,
    "dsync": os.O_RDWR | os.O_DSYNC,
    "largefile": os.O_RDWR | os.O_LARGEFILE,
    "access mode 3": os.O_ACCMODE,
    "unnamed": os.O_RDWR | os.O_TMPFILE,
}
NAMES = ("lower", "upper", "link", "directory", "missing")


def seen(way: str) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}

    def many(lower: Path, upper: Path) -> None:
        for flags in FLAGS:
            for layer in (lower, upper):
                (layer / flags).mkdir()
            (lower / flags / "lower").write_bytes(DATA[:64])
            (upper / flags / "upper").write_bytes(DATA[:64])
            os.symlink("upper", upper / flags / "link")
            (upper / flags / "directory").mkdir()

    with side(way, many) as mounted:
        for flags, value in FLAGS.items():
            for name in NAMES:
                found[f"{flags}: {name}"] = opened(mounted, f"{flags}/{name}", value)
    return found


@pytest.fixture(scope="module")
def wanted() -> dict[str, Outcome]:
    return seen("overlayfs")


@needs_overlayfs
@pytest.mark.parametrize("way", WAYS)
def test_every_flag_as_overlayfs(way: str, wanted: dict[str, Outcome]) -> None:
    found = seen(way)
    different = {key: value for key, value in found.items() if value != wanted[key]}
    if way == "pyfuse3":
        # libfuse has no words for it.
        result, left, made = different.pop("unnamed: directory")
        assert (result, left, made) == ("ENOTSUP", None, True)
    assert different == {}
