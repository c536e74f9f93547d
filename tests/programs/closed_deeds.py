"""What a process does with a small tree by descriptors that are open and by paths, and what is seen then."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

NOTE = "user.note"


DATA = b"lower data\n"


AT_EMPTY_PATH, AT_STATX_SYNC_AS_STAT, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS = 0x1000, 0, 0x2000, 0x7FF


_libc = ctypes.CDLL(None, use_errno=True)


class Held:
    """One tree, and what of it was opened while access was there."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.f = top / "g/e/f"
        self.rw = os.open(self.f, os.O_RDWR)
        self.ro = os.open(self.f, os.O_RDONLY)
        self.e = os.open(top / "g/e", os.O_RDONLY | os.O_DIRECTORY)
        self.out = os.open(top / "out", os.O_RDONLY | os.O_DIRECTORY)
        self.top_fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> list[str]:
        """What close(2) says of data that could not be stored."""
        said = []
        for fd in (self.rw, self.ro, self.e, self.out, self.top_fd):
            try:
                os.close(fd)
            except OSError as error:
                said.append(errno.errorcode[error.errno or 0])
        return said


def make_tree(top: Path) -> None:
    """A tree of a deed; of the lower, or made in the mount."""
    (top / "g/e/sub").mkdir(parents=True)
    (top / "g/e/empty").mkdir()
    (top / "out").mkdir()
    (top / "out/in").write_bytes(b"comes in\n")
    (top / "g/e/f").write_bytes(DATA)
    os.setxattr(top / "g/e/f", NOTE, b"kept")
    (top / "g/e/h").write_bytes(b"other\n")
    (top / "g/e/sub/x").write_bytes(b"x\n")
    os.symlink("target", top / "g/e/s")
    os.link(top / "g/e/h", top / "out/hard")


def _mapped(held: Held) -> bytes:
    with mmap.mmap(held.rw, len(DATA)) as mapping:
        mapping[:5] = b"MMAP!"
        mapping.flush()
        return mapping[:]


def _link_out(held: Held) -> None:
    done = _libc.linkat(-100, b"/proc/self/fd/%d" % held.ro, held.out, b"linked", 0x400)
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write_and_sync(held: Held) -> None:
    os.pwrite(held.rw, b"SYNCED", 0)
    os.fsync(held.rw)


def _copy_range(held: Held) -> int:
    source = os.open("in", os.O_RDONLY, dir_fd=held.out)
    try:
        return os.copy_file_range(source, held.rw, 8, 0, 2)
    finally:
        os.close(source)


def _open_again(flags: int) -> Callable[[Held], bytes]:
    def deed(held: Held) -> bytes:
        fd = os.open(f"/proc/self/fd/{held.rw}", flags)
        try:
            if flags & os.O_ACCMODE:
                os.pwrite(fd, b"AGAIN", 0)
            return os.pread(held.ro, 100, 0)
        finally:
            os.close(fd)

    return deed


def _flags(held: Held) -> int:
    buffer = ctypes.c_long()
    if _libc.ioctl(held.ro, ctypes.c_ulong(0x80086601), ctypes.byref(buffer)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return 0


def _create(held: Held) -> None:
    os.close(os.open("made", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640, dir_fd=held.e))


def _read_name(held: Held) -> bytes:
    fd = os.open("h", os.O_RDONLY, dir_fd=held.e)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def _write_name(held: Held) -> None:
    fd = os.open("h", os.O_WRONLY | os.O_APPEND, dir_fd=held.e)
    try:
        os.write(fd, b"more\n")
    finally:
        os.close(fd)


def _tmpfile(held: Held) -> None:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=held.e)
    try:
        os.write(fd, b"nameless\n")
        done = _libc.linkat(-100, b"/proc/self/fd/%d" % fd, held.out, b"named", 0x400)
        if done != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def _empty_and_remove(held: Held) -> None:
    """Empty `e` by the descriptor where that is allowed, and remove it."""
    for name in ("f", "h", "s", "sub/x"):
        os.unlink(name, dir_fd=held.e)
    for name in ("sub", "empty"):
        os.rmdir(name, dir_fd=held.e)
    os.rmdir("g/e", dir_fd=held.top_fd)


DEEDS: dict[str, Callable[[Held], object]] = {
    # by descriptors of the file
    "read": lambda held: os.pread(held.ro, 100, 0),
    "write": lambda held: os.pwrite(held.rw, b"WRITTEN", 0),
    "write and fsync": _write_and_sync,
    "write and read by another": lambda held: (os.pwrite(held.rw, b"NEW", 0), os.pread(held.ro, 100, 0)),
    "mmap": _mapped,
    "fsync": lambda held: os.fsync(held.rw),
    "fstat": lambda held: stat.filemode(os.fstat(held.ro).st_mode),
    "fchmod": lambda held: os.fchmod(held.rw, 0o640),
    "fchmod by reader": lambda held: os.fchmod(held.ro, 0o600),
    "fchown": lambda held: os.fchown(held.ro, os.getuid(), os.getgid()),
    "ftruncate": lambda held: os.ftruncate(held.rw, 3),
    "ftruncate longer": lambda held: os.ftruncate(held.rw, 30),
    "futimens": lambda held: os.utime(held.ro, ns=(1_000_000_001, 2_000_000_002)),
    "futimens now": lambda held: os.utime(held.ro),
    "fsetxattr": lambda held: os.setxattr(held.ro, "user.mine", b"1"),
    "fgetxattr": lambda held: os.getxattr(held.ro, NOTE),
    "flistxattr": lambda held: sorted(os.listxattr(held.ro)),
    "fremovexattr": lambda held: os.removexattr(held.ro, NOTE),
    "fallocate": lambda held: os.posix_fallocate(held.rw, 0, 20),
    "seek": lambda held: os.lseek(held.ro, 0, os.SEEK_DATA),
    "copy_file_range": _copy_range,
    "getflags": _flags,
    "open again to read": _open_again(os.O_RDONLY),
    "open again to write": _open_again(os.O_WRONLY),
    "open again to cut": _open_again(os.O_RDWR | os.O_TRUNC),
    "link by descriptor": _link_out,
    # by a descriptor of the directory
    "list": lambda held: sorted(os.listdir(held.e)),
    "fstat of directory": lambda held: stat.filemode(os.fstat(held.e).st_mode),
    "fchmod of directory": lambda held: os.fchmod(held.e, 0o700),
    "utimes of directory": lambda held: os.utime(held.e, ns=(5_000_000_000, 6_000_000_000)),
    "setxattr of directory": lambda held: os.setxattr(held.e, "user.mine", b"1"),
    "fsync of directory": lambda held: os.fsync(held.e),
    "stat": lambda held: stat.filemode(os.stat("h", dir_fd=held.e).st_mode),
    "stat of no name": lambda held: os.stat("none", dir_fd=held.e),
    "read by name": _read_name,
    "write by name": _write_name,
    "readlink": lambda held: os.readlink("s", dir_fd=held.e),
    "create": _create,
    "mkdir": lambda held: os.mkdir("made", dir_fd=held.e),
    "symlink": lambda held: os.symlink("to", "made", dir_fd=held.e),
    "tmpfile": _tmpfile,
    "unlink": lambda held: os.unlink("f", dir_fd=held.e),
    "unlink hard link": lambda held: os.unlink("h", dir_fd=held.e),
    "rmdir": lambda held: os.rmdir("empty", dir_fd=held.e),
    "chmod": lambda held: os.chmod("h", 0o600, dir_fd=held.e),
    "link in": lambda held: os.link("in", "made", src_dir_fd=held.out, dst_dir_fd=held.e),
    "link out": lambda held: os.link("f", "made", src_dir_fd=held.e, dst_dir_fd=held.out),
    "rename": lambda held: os.rename("f", "made", src_dir_fd=held.e, dst_dir_fd=held.e),
    "rename out": lambda held: os.rename("f", "made", src_dir_fd=held.e, dst_dir_fd=held.out),
    "rename out over": lambda held: os.rename("f", "in", src_dir_fd=held.e, dst_dir_fd=held.out),
    "rename in": lambda held: os.rename("in", "made", src_dir_fd=held.out, dst_dir_fd=held.e),
    "rename in over": lambda held: os.rename("in", "f", src_dir_fd=held.out, dst_dir_fd=held.e),
    "stat above": lambda held: stat.filemode(os.stat("..", dir_fd=held.e).st_mode),
    "empty and rmdir": _empty_and_remove,
    # by path from above
    "hard link's other name": lambda held: (held.top / "out/hard").write_bytes(b"by the other name\n"),
    "rename directory": lambda held: os.rename(held.top / "g", held.top / "g2"),
    "chmod back": lambda held: os.chmod(held.top / "g", 0o755),
}


FIRST_BY_DIRECTORY = "list"


def in_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return [in_json(part) for part in value] if isinstance(value, tuple | list) else value


def attempt(deed: Callable[[Held], object], held: Held) -> object:
    try:
        return in_json(deed(held))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def snapshot(top: Path) -> dict[str, list[object]]:
    """All that can be seen, once every mode was opened again; modes as they were before."""
    seen: dict[str, list[object]] = {}

    def walk(path: Path, name: str) -> None:
        st = path.lstat()
        said: list[object] = [stat.filemode(st.st_mode), st.st_nlink if not stat.S_ISDIR(st.st_mode) else 0]
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(path, 0o755 if stat.S_ISDIR(st.st_mode) else 0o644)
            said.append(sorted((each, os.getxattr(path, each).decode()) for each in os.listxattr(path)))
        if stat.S_ISREG(st.st_mode):
            said.append(path.read_bytes().decode("latin-1"))
        elif stat.S_ISLNK(st.st_mode):
            said.append(os.readlink(path))
        if st.st_mtime_ns < 10_000_000_000:
            said.append(st.st_mtime_ns)
        seen[name] = said
        if stat.S_ISDIR(st.st_mode):
            for entry in sorted(os.listdir(path)):
                walk(path / entry, f"{name}/{entry}")

    walk(top, "")
    return seen


def content(seen: dict[str, list[object]] | str) -> dict[str, list[object]] | str:
    """A snapshot without modes, which making it has changed, and link counts."""
    return seen if isinstance(seen, str) else {name: said[2:] for name, said in seen.items()}


def stale(held: Held) -> list[str]:
    """Whose attributes stat(2) has otherwise from the kernel's cache than asked anew."""
    found = []
    for what, fd in (("f", held.ro), ("e", held.e), ("top", held.top_fd), ("out", held.out)):
        cached, fresh = _statx(fd, AT_STATX_SYNC_AS_STAT), _statx(fd, AT_STATX_FORCE_SYNC)
        if cached != fresh:
            found.append(f"{what}: {cached} cached, {fresh} anew")
    return found


def _statx(fd: int, how: int) -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(256)
    if _libc.statx(fd, b"", AT_EMPTY_PATH | how, STATX_BASIC_STATS, buffer) != 0:
        raise OSError(ctypes.get_errno(), "statx")
    _, uid, gid, mode = struct.unpack_from("=IIIH", buffer.raw, 16)
    size = struct.unpack_from("=Q", buffer.raw, 40)
    times = struct.unpack_from("=qIiqIi", buffer.raw, 96)
    return (uid, gid, mode, *size, *times)
