"""Single modules of the core where a table says it best: formats, data copies, layers."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import build, file, marks
from tests.support.mounts import loop_fs, needs_overlayfs, overlayfs
from unionfs.overlay import copy_data as module
from unionfs.overlay.copy_data import copy_data
from unionfs.overlay.dir_cache import HIDDEN, PRESENT
from unionfs.overlay.format import Format
from unionfs.overlay.layer import DirFds, Layer, RealDir
from unionfs.overlay.readdir import Scan, build_cache

# --- format ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "stored"),
    [
        (b"trusted.overlay.opaque", b"trusted.overlay.overlay.opaque"),
        (b"trusted.overlay.overlay.opaque", b"trusted.overlay.overlay.overlay.opaque"),
        (b"trusted.overlay.", b"trusted.overlay.overlay."),
        (b"trusted.overlay", b"trusted.overlay"),
        (b"trusted.overlayx", b"trusted.overlayx"),
        (b"user.overlay.opaque", b"user.overlay.opaque"),
        (b"user.x", b"user.x"),
    ],
)
def test_escape(caller: bytes, stored: bytes) -> None:
    fmt = Format(userxattr=False)
    assert fmt.xattrs.to_stored(caller) == stored
    assert fmt.xattrs.to_shown(stored) == caller
    assert not fmt.xattrs.is_private(stored.decode())


@pytest.mark.parametrize("name", ["opaque", "redirect", "origin", "metacopy", "anything", "overlayx"])
@pytest.mark.parametrize("userxattr", [False, True])
def test_private_names(name: str, userxattr: bool) -> None:
    fmt = Format(userxattr)
    mine, other = ("user.", "trusted.") if userxattr else ("trusted.", "user.")
    assert fmt.xattrs.to_shown(f"{mine}overlay.{name}".encode()) is None
    assert fmt.xattrs.is_private(f"{mine}overlay.{name}")
    assert fmt.xattrs.to_shown(f"{other}overlay.{name}".encode()) == f"{other}overlay.{name}".encode()
    assert not fmt.xattrs.is_private(f"{other}overlay.{name}")


def memory(base: Path) -> Path:
    """Where a filesystem's image does not wait for a disk."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 1 << 30 else base


def layer(path: Path) -> Layer:
    return Layer(0, str(path), os.open(path, os.O_RDONLY | os.O_DIRECTORY), DirFds(100))


@needs_overlayfs
@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "btrfs", "xfs"])
def test_origin_is_the_kernels(stack: Stack, base: Path, kind: str) -> None:
    """The bytes that overlayfs writes for the same lower object (invariant 8), wherever there are handles."""
    if shutil.which(f"mkfs.{kind}") is None and kind != "tmpfs":
        pytest.skip(f"needs mkfs.{kind}")
    with loop_fs(kind, directory=memory(base)) as lower_fs:
        lower = lower_fs / "lower"
        build(lower, {"f": "f", "d": {"x": "x"}})
        stack.lowers.append(lower)
        with overlayfs([lower], stack.upper, stack.work, stack.merged) as merged:
            os.chmod(merged / "f", 0o600)
            os.chmod(merged / "d", 0o700)
        theirs = {name: marks(stack.upper / name)["origin"] for name in ("f", "d")}
        fmt = Format(userxattr=False)
        top = layer(lower)
        ours = {name: fmt.encode_origin(top, top.root, name.encode()) for name in ("f", "d")}
        assert ours == theirs
        for value in ours.values():
            if value:
                decoded = fmt.decode_origin(value)
                assert decoded is not None
                assert decoded.uuid == top.uuid
        os.close(top.root_fd)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0",
        b"\0\xfb\x15\0\x01" + b"u" * 16,  # no handle
        b"\x01\xfb\x1d\0\x01" + b"u" * 16 + b"h" * 8,  # another version
        b"\0\xfa\x1d\0\x01" + b"u" * 16 + b"h" * 8,  # another magic
        b"\0\xfb\x1e\0\x01" + b"u" * 16 + b"h" * 8,  # a length that lies
        b"\0\xfb\x1d\x01\x01" + b"u" * 16 + b"h" * 8,  # of a big-endian machine
    ],
)
def test_origin_that_is_none(value: bytes) -> None:
    assert Format(userxattr=False).decode_origin(value) is None


def _scan(entries: list[tuple[bytes, int]]) -> Scan:
    found = Scan()
    for name, there in entries:
        (found.names if there else found.marks).append(name)
    return found


# --- readdir ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upper", "lowers", "names"),
    [
        (None, [[(b"a", PRESENT)]], [b"a"]),
        ([(b"a", PRESENT)], [[(b"a", PRESENT)]], [b"a"]),
        ([(b"a", HIDDEN)], [[(b"a", PRESENT), (b"b", PRESENT)]], [b"b"]),
        ([], [[(b"a", HIDDEN)], [(b"a", PRESENT)]], []),
        ([], [[(b"a", PRESENT)], [(b"a", HIDDEN)], [(b"a", PRESENT)]], [b"a"]),
        ([(b"a", PRESENT)], [[(b"a", HIDDEN)]], [b"a"]),
        (None, [[(b"a", HIDDEN), (b"a", PRESENT)], [(b"a", PRESENT)]], [b"a"]),
        (None, [[(b"a", PRESENT), (b"a", HIDDEN)], [(b"a", PRESENT)]], [b"a"]),
        ([(b"a", HIDDEN), (b"a", PRESENT)], [[(b"a", PRESENT)]], [b"a"]),
        (None, [], []),
    ],
)
def test_cache_names(
    upper: list[tuple[bytes, int]] | None, lowers: list[list[tuple[bytes, int]]], names: list[bytes]
) -> None:
    assert (
        sorted(
            build_cache(None if upper is None else _scan(upper), [_scan(lower) for lower in lowers]).names()
        )
        == names
    )


# --- copying data ----------------------------------------------------------------------------------

WAYS = ["as the filesystem can", "no reflink", "no copy_file_range", "no SEEK_DATA", "short writes"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_copy_data(base: Path, monkeypatch: pytest.MonkeyPatch, way: str, size: int) -> None:
    data = bytearray(os.urandom(size))
    if size > 1 << 20:
        data[8192 : 1 << 20] = bytes((1 << 20) - 8192)
    source = base / "source"
    with source.open("wb") as f:
        f.write(data[:8192])
        f.seek(min(size, 1 << 20))
        f.write(data[1 << 20 :]) if size > 1 << 20 else f.write(b"")
        f.truncate(size)
        if size <= 1 << 20:
            f.seek(0)
            f.write(data)
    make_it_hard(monkeypatch, way)
    with source.open("rb") as f, (base / "target").open("w+b") as g:
        copy_data(f.fileno(), g.fileno(), size)
    assert (base / "target").read_bytes() == bytes(data)


def make_it_hard(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "cannot")

    if way == WAYS[0]:
        return
    monkeypatch.setattr(fcntl, "ioctl", cannot)
    if way in WAYS[2:]:
        monkeypatch.setattr(os, "copy_file_range", cannot)
    if way == "no SEEK_DATA":
        true_lseek = os.lseek

        def lseek(fd: int, at: int, whence: int) -> int:
            if whence in (os.SEEK_DATA, os.SEEK_HOLE):
                raise OSError(errno.EINVAL, "cannot")
            return true_lseek(fd, at, whence)

        monkeypatch.setattr(os, "lseek", lseek)
    if way == "short writes":
        true_pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: true_pwrite(fd, bytes(data)[:1000], at))
        monkeypatch.setattr(module, "_BUFFER", 65536)


def test_copy_of_a_source_that_is_shorter(base: Path) -> None:
    build(base, {"source": "abc", "target": ""})
    with (base / "source").open("rb") as f, (base / "target").open("r+b") as g:
        copy_data(f.fileno(), g.fileno(), 10)
    assert (base / "target").read_bytes() == b"abc" + bytes(7)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["ioctl", "copy_file_range"])
def test_true_errors_are_not_taken_for_cannot(
    base: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    build(base, {"source": "abc", "target": ""})

    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "cannot")

    monkeypatch.setattr(fcntl, "ioctl", fails if call == "ioctl" else cannot)
    monkeypatch.setattr(os, "copy_file_range", fails)
    with (
        (base / "source").open("rb") as f,
        (base / "target").open("r+b") as g,
        pytest.raises(OSError) as failure,
    ):
        copy_data(f.fileno(), g.fileno(), 3)
    assert failure.value.errno == code


def test_reflink_where_the_filesystem_has_it(stack: Stack) -> None:
    """On btrfs a copy-up of 64 MiB shares its data: the filesystem grows by next to nothing."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs mkfs.btrfs")
    with loop_fs("btrfs", 256 << 20, directory=memory(stack.base)) as where:
        build(where / "lower", {"f": file(os.urandom(64 << 20))})
        stack.lowers.append(where / "lower")
        stack.upper, stack.work = where / "upper", where / "work"
        stack.upper.mkdir()
        stack.work.mkdir()
        os.sync()
        before = os.statvfs(where)
        with stack.open() as view:
            view.change("f", mtime_ns=1)
            view.union.syncfs()
        after = os.statvfs(where)
        assert (before.f_bfree - after.f_bfree) * before.f_frsize < 16 << 20
        assert (stack.upper / "f").stat().st_size == 64 << 20


# --- layers ----------------------------------------------------------------------------------------


def test_directories_are_opened_and_trimmed(base: Path) -> None:
    """Between operations only (invariant 7)."""
    build(base, {f"d{i}": {"sub": {}} for i in range(20)})
    fds = DirFds(8)
    top = Layer(0, str(base), os.open(base, os.O_RDONLY | os.O_DIRECTORY), fds)
    dirs = [top.root.child(f"d{i}".encode()) for i in range(20)]
    for directory in dirs:
        assert directory.has(b"sub")
        assert not directory.has(b"none")
        assert not directory.has(b"n" * 300)
    assert len(fds) == 20, "within an operation no descriptor goes away"
    fds.trim()
    assert len(fds) <= 16
    while len(fds) > 8:
        fds.trim()
    assert all(directory.has(b"sub") for directory in dirs)
    fds.close_all()
    assert len(fds) == 0
    assert all(directory.fd == -1 for directory in dirs)
    top.close()


def test_pinned_directory_outlives_its_name(base: Path) -> None:
    build(base, {"d": {"sub": {}}})
    fds = DirFds(8)
    top = Layer(0, str(base), os.open(base, os.O_RDONLY | os.O_DIRECTORY), fds)
    d: RealDir = top.root.child(b"d")
    d.pin()
    os.rename(base / "d", base / "elsewhere")
    fds.close_all()
    assert d.has(b"sub")
    d.unpin()
    with pytest.raises(FileNotFoundError):
        d.open()
    top.close()


@pytest.mark.parametrize("name", [b"link", b"file"])
def test_nothing_but_directories_is_opened(base: Path, name: bytes) -> None:
    build(base, {"file": "f", "real": {"x": ""}})
    (base / "link").symlink_to(base / "real")
    top = Layer(0, str(base), os.open(base, os.O_RDONLY | os.O_DIRECTORY), DirFds(8))
    with pytest.raises(OSError) as failure:
        top.root.child(name).open()
    assert failure.value.errno in (errno.ENOTDIR, errno.ELOOP)
    top.close()
