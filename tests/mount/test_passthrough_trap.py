"""The trap: a lower file is open, and the same file is opened for writing.

While the kernel reads a lower file by passthrough it takes no other backing file for its node; a daemon that
answers the next open with the one at hand has writes go into the lower layer (invariants 1 and 12). Each
change is made while others read, by the same process and by another; then lowers, upper and the merged file
must be right, and old readers see what they are said to see: with passthrough the file that they have opened,
in every other way the new data.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, Side, contents, errno_of, fallocate, in_child, side
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

PAGE = mmap.PAGESIZE
DATA = bytes(range(256)) * 100 + b"the end"
OTHER = b"another file's content " * 700
PUNCH = 3


def open_and(path: Path, flags: int, action: Callable[[int], object]) -> None:
    fd = os.open(path, flags)
    try:
        action(fd)
    finally:
        os.close(fd)


def map_and_write(fd: int) -> None:
    with mmap.mmap(fd, 0) as view:
        view[PAGE : PAGE + 6] = b"mapped"
        view.flush()


def copy_into(path: Path) -> None:
    source = os.open(path.parent / "other", os.O_RDONLY)
    open_and(path, os.O_WRONLY, lambda fd: os.copy_file_range(source, fd, 5000, 10, 100))
    os.close(source)


def replace(path: Path) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(OTHER)
    fresh.rename(path)


def recreate(path: Path) -> None:
    path.unlink()
    path.write_bytes(OTHER)


def move_away(path: Path) -> None:
    path.rename(path.with_name(path.name + ".old"))
    path.write_bytes(OTHER)


def write_by_link(path: Path) -> None:
    other = path.with_name(path.name + ".link")
    os.link(path, other)
    open_and(other, os.O_WRONLY, lambda fd: os.pwrite(fd, b"by the link", 5))


def chmod_and_write(path: Path) -> None:
    path.chmod(0o700)
    open_and(path, os.O_WRONLY, lambda fd: os.pwrite(fd, b"written", 3))


IN_PLACE: dict[str, Callable[[Path], object]] = {
    "write": lambda path: open_and(path, os.O_WRONLY, lambda fd: os.pwrite(fd, b"written", 3)),
    "read and write": lambda path: open_and(path, os.O_RDWR, lambda fd: os.pwrite(fd, b"written", PAGE - 3)),
    "write past the end": lambda path: open_and(path, os.O_RDWR, lambda fd: os.pwrite(fd, b"far", 100_000)),
    "append": lambda path: open_and(path, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"appended")),
    "O_TRUNC": lambda path: path.write_bytes(b"short"),
    "O_TRUNC without a write": lambda path: open_and(path, os.O_RDWR | os.O_TRUNC, os.fsync),
    "O_RDONLY and O_TRUNC": lambda path: open_and(path, os.O_RDONLY | os.O_TRUNC, lambda fd: None),
    "O_CREAT": lambda path: open_and(path, os.O_CREAT | os.O_WRONLY, lambda fd: os.write(fd, b"over")),
    "O_DIRECT": lambda path: open_and(path, os.O_WRONLY | os.O_DIRECT, write_page),
    "truncate": lambda path: os.truncate(path, 5000),
    "truncate to nothing": lambda path: os.truncate(path, 0),
    "truncate to more": lambda path: os.truncate(path, 50_000),
    "ftruncate": lambda path: open_and(path, os.O_WRONLY, lambda fd: os.ftruncate(fd, 4000)),
    "mmap": lambda path: open_and(path, os.O_RDWR, map_and_write),
    "fallocate": lambda path: open_and(path, os.O_WRONLY, lambda fd: fallocate(fd, 0, 0, 60_000)),
    "punch a hole": lambda path: open_and(path, os.O_WRONLY, lambda fd: fallocate(fd, PUNCH, 100, 9000)),
    "copy_file_range": copy_into,
    "write by a new link": write_by_link,
}
METADATA: dict[str, Callable[[Path], object]] = {
    "only open": lambda path: open_and(path, os.O_RDWR, lambda fd: None),
    "chmod": lambda path: path.chmod(0o751),
    "chown": lambda path: os.chown(path, 12, 34),
    "utime": lambda path: os.utime(path, ns=(10**18, 10**18 + 1)),
    "setxattr": lambda path: os.setxattr(path, "user.one", b"1"),
    "link": lambda path: os.link(path, path.with_name(path.name + ".link")),
    "chmod, then write": chmod_and_write,
}
REPLACING: dict[str, Callable[[Path], object]] = {
    "rename over": replace,
    "unlink and create": recreate,
    "rename away and create": move_away,
}
CHANGES = {**IN_PLACE, **METADATA, **REPLACING}


def write_page(fd: int) -> None:
    with mmap.mmap(-1, PAGE) as page:
        page[:6] = b"direct"
        os.pwritev(fd, [page], PAGE)


WHO = ("this process", "another process")
NAMES = {(change, who): f"{change} by {who}" for change in CHANGES for who in WHO}

# What who has had the file open before sees after a change in place: by read(2), and in a mapping.
SEES = dict.fromkeys(WAYS, ("new", "new")) | {
    "passthrough": ("old", "old"),
    "overlayfs": ("new", "old"),
}


class Readers:
    """Descriptors and mappings of one file, as it was before a change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self.second = os.open(path, os.O_RDONLY)
        self.private = mmap.mmap(self.fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        self.shared = mmap.mmap(self.fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        assert os.pread(self.fd, len(DATA), 0) == DATA
        assert self.shared[:] == DATA

    def check(self, by_read: bytes, by_mapping: bytes) -> None:
        size = max(len(by_read), len(DATA)) + 1
        for fd in (self.fd, self.second):
            assert os.pread(fd, size, 0) == by_read
            assert os.pread(fd, 100, PAGE - 50) == by_read[PAGE - 50 : PAGE + 50]
            os.lseek(fd, 0, os.SEEK_SET)
            assert os.read(fd, size) == by_read
        # Beyond the end of the file that is mapped there is nothing but SIGBUS.
        known = min(len(by_mapping), len(DATA))
        for view in (self.private, self.shared):
            assert view[:known] == by_mapping[:known]

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.private.close()
        self.shared.close()
        os.close(self.fd)
        os.close(self.second)


def populate(lower: Path, upper: Path) -> None:
    (lower / "other").write_bytes(OTHER)
    for name in NAMES.values():
        (lower / name).write_bytes(DATA)
        (lower / name).chmod(0o644)
        os.utime(lower / name, (10**9, 10**9))


@pytest.fixture(scope="module", params=SEES)
def union(request: pytest.FixtureRequest) -> Iterator[tuple[str, Side]]:
    if request.param == "overlayfs" and needs_overlayfs.args[0]:
        pytest.skip(str(needs_overlayfs.kwargs["reason"]))
    with side(request.param, populate) as mounted:
        before = contents(mounted.lower)
        yield request.param, mounted
        assert contents(mounted.lower) == before


def plain(mounted: Side, change: str, name: str) -> tuple[bytes, os.stat_result]:
    """What the change makes of a file on a plain filesystem."""
    directory = mounted.base / "plain"
    directory.mkdir()
    for one in (name, "other"):
        shutil.copy2(mounted.lower / one, directory / one)
    try:
        CHANGES[change](directory / name)
        return (directory / name).read_bytes(), (directory / name).stat()
    finally:
        shutil.rmtree(directory)


def run(change: str, path: Path, who: str) -> None:
    action = functools.partial(CHANGES[change], path)
    if who == "this process":
        action()
    else:
        assert in_child(action) == "ok"


def attributes(st: os.stat_result) -> tuple[int, ...]:
    return st.st_size, st.st_mode, st.st_uid, st.st_gid, st.st_nlink


def all_attributes(st: os.stat_result) -> tuple[int, ...]:
    """All but the access time, which reading changes."""
    return (*attributes(st), st.st_ino, st.st_dev, st.st_mtime_ns, st.st_ctime_ns)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_others_read(union: tuple[str, Side], change: str, who: str) -> None:
    way, mounted = union
    if way == "pyfuse3" and change in ("fallocate", "punch a hole"):
        pytest.skip("pyfuse3 has no fallocate")
    name = NAMES[change, who]
    path = mounted.merged / name
    wanted, wanted_stat = plain(mounted, change, name)
    before = path.stat()
    lower = contents(mounted.lower)[name]
    with Readers(path) as readers:
        run(change, path, who)
        after = path.stat()
        assert attributes(after) == attributes(wanted_stat)
        assert path.read_bytes() == wanted
        if change in REPLACING:
            assert after.st_ino != before.st_ino
            assert os.fstat(readers.fd).st_ino == before.st_ino
            readers.check(DATA, DATA)
        else:
            assert after.st_ino == before.st_ino
            assert all_attributes(os.fstat(readers.fd)) == all_attributes(after)
            by_read, by_mapping = (wanted if seen == "new" else DATA for seen in SEES[way])
            readers.check(by_read, by_mapping)
        if change == "utime":
            assert after.st_mtime_ns == 10**18 + 1

        # Again, now that the file lies in upper, and readers of both are there.
        with open(path, "rb", buffering=0) as late:
            assert late.read() == wanted
            open_and(path, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b", and more"))
            assert path.read_bytes() == wanted + b", and more"
            assert late.read() == b", and more"
            assert all_attributes(os.fstat(late.fileno())) == all_attributes(path.stat())
            assert path.stat().st_size == len(wanted) + 10
            assert path.stat().st_ino == after.st_ino
        if SEES[way][0] == "old" or change in REPLACING:
            assert os.pread(readers.fd, len(DATA) + 1, 0) == DATA

    assert (mounted.upper / name).read_bytes() == wanted + b", and more"
    assert path.read_bytes() == wanted + b", and more"
    assert contents(mounted.lower)[name] == lower, "the lower file was touched"


def link_descriptor(fd: int) -> None:
    path = Path(os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)"))
    with open_directory(path.parent) as directory:
        os.link(f"/proc/self/fd/{fd}", path.name + "2", dst_dir_fd=directory, follow_symlinks=True)


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


# What is asked of an old descriptor of a lower file that was copied up since, and comes as no open.
BY_DESCRIPTOR: dict[str, Callable[[int], object]] = {
    "fstat": os.fstat,
    "fchmod": lambda fd: os.fchmod(fd, 0o700),
    "fchown": lambda fd: os.fchown(fd, 1, 1),
    "futimens": lambda fd: os.utime(fd, (5, 5)),
    "fsetxattr": lambda fd: os.setxattr(fd, "user.by", b"descriptor"),
    "flistxattr": os.listxattr,
    "fsync": os.fsync,
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "linkat": link_descriptor,
    "SEEK_END": lambda fd: os.lseek(fd, 0, os.SEEK_END),
}


@pytest.mark.parametrize("way", SEES)
def test_what_old_descriptors_can_still_do(way: str) -> None:
    if way == "overlayfs" and needs_overlayfs.args[0]:
        pytest.skip(str(needs_overlayfs.kwargs["reason"]))

    def with_files(lower: Path, upper: Path) -> None:
        for name in BY_DESCRIPTOR:
            (lower / name).write_bytes(DATA)

    with side(way, with_files) as mounted:
        for name, action in BY_DESCRIPTOR.items():
            path = mounted.merged / name
            fd = os.open(path, os.O_RDONLY)
            try:
                IN_PLACE["append"](path)
                action(fd)
                assert all_attributes(os.fstat(fd)) == all_attributes(path.stat()), name
                assert path.stat().st_size == len(DATA) + 8
            finally:
                os.close(fd)
            assert (mounted.upper / name).read_bytes() == DATA + b"appended"
            assert (mounted.lower / name).read_bytes() == DATA
        assert (mounted.merged / "fchmod").stat().st_mode & 0o777 == 0o700
        assert os.getxattr(mounted.merged / "fsetxattr", "user.by") == b"descriptor"
        assert (mounted.merged / "linkat2").read_bytes() == DATA + b"appended"


def one_file(lower: Path, upper: Path) -> None:
    (lower / "file").write_bytes(DATA)


def test_opening_an_old_descriptor_again() -> None:
    """The one place where ESTALE is seen: no name leads from there to the new node.

    Who only reads is given what the old readers have; names lead to the new data all the same.
    """
    outcomes = {}
    for way in ("default", "passthrough", "coherent", "cached"):
        with side(way, one_file) as mounted, open(mounted.merged / "file", "rb") as reader:
            path, again = mounted.merged / "file", Path(f"/proc/self/fd/{reader.fileno()}")
            IN_PLACE["append"](path)
            new = DATA + b"appended"
            content = new if SEES[way][0] == "new" else DATA
            for _ in range(3):
                assert path.read_bytes() == new
                assert again.read_bytes() == content
                assert in_child(functools.partial(exactly, again, content)) == "ok"
                assert again.read_bytes() == content
            outcomes[way] = [
                errno_of(functools.partial(open_and, again, flag, os.fstat))
                for flag in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)
            ]
    assert outcomes == {
        "default": ["ok"] * 3,
        "passthrough": ["ok", "ESTALE", "ESTALE"],
        "coherent": ["ok"] * 3,
        "cached": ["ok"] * 3,
    }


def exactly(path: Path, content: bytes) -> None:
    if path.read_bytes() != content:
        raise OSError(errno.EILSEQ, "other data")
