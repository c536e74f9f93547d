"""Operations on a small tree, and whether what the kernel has cached of its objects is what the daemon says.

`python -m tests.mount.stale HOME OPTIONS` does all of it as the user who runs it. What differs breaks
invariant 11.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.mount.data_rig import fallocate
from tests.support.mounts import make_directories, pyunionfs

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_STATX_FORCE_SYNC = 0x2000
STATX_BASIC = 0x7FF
FS_IOC_SETFLAGS = 0x40086602
DATA = b"of a lower " * 100

_libc = ctypes.CDLL(None, use_errno=True)
_FIELDS = ("mode", "nlink", "uid", "gid", "size", "blocks", "ino", "mtime", "ctime")
Fields = tuple[object, ...]


def asked_anew(path: Path | str, fd: int = AT_FDCWD) -> Fields:
    """What the daemon says of an object: statx(2) with AT_STATX_FORCE_SYNC."""
    buffer = ctypes.create_string_buffer(256)
    flags = AT_STATX_FORCE_SYNC | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
    if _libc.statx(fd, os.fsencode(path), flags, STATX_BASIC, buffer) != 0:
        raise OSError(ctypes.get_errno(), "statx", str(path))
    raw = buffer.raw

    def number(at: int, size: int) -> int:
        return int.from_bytes(raw[at : at + size], "little")

    def time(at: int) -> int:
        return int.from_bytes(raw[at : at + 8], "little", signed=True) * 10**9 + number(at + 8, 4)

    return (
        *(number(28, 2), number(16, 4), number(20, 4), number(24, 4), number(40, 8), number(48, 8)),
        *(number(32, 8), time(112), time(96)),
    )


def as_cached(st: os.stat_result) -> Fields:
    """The same of what stat(2) has given."""
    return (
        *(st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_blocks),
        *(st.st_ino, st.st_mtime_ns, st.st_ctime_ns),
    )


def difference(cached: Fields, anew: Fields) -> str:
    """The fields that differ; empty where none does."""
    return ", ".join(
        f"{name}: {old} cached, {new} asked anew"
        for name, old, new in zip(_FIELDS, cached, anew, strict=True)
        if old != new
    )


# --- the tree -----------------------------------------------------------------------------------------


def populate(lower: Path, upper: Path) -> None:
    """One operation's tree: objects of lower, of upper, and merged ones."""
    for directory in (lower / "p/q", lower / "lowdir/sub", lower / "empty", upper / "p", upper / "updir"):
        directory.mkdir(parents=True)
    for file in ("low", "other", "two", "p/q/deep", "lowdir/file", "lowdir/sub/file", "p/low"):
        (lower / file).write_bytes(DATA)
    os.link(lower / "two", lower / "two.link")
    os.symlink("low", lower / "symlink")
    os.mkfifo(lower / "fifo")
    for file in ("up", "updir/file", "p/up", "three", "updir/four"):
        (upper / file).write_bytes(DATA)
    os.link(upper / "three", upper / "three.link")
    for top in (lower, upper):
        for path in sorted(top.rglob("*"), reverse=True):
            os.utime(path, (10**9, 10**9), follow_symlinks=False)


def opened(path: Path, flags: int, *actions: Callable[[int], object]) -> None:
    fd = os.open(path, flags, 0o644)
    try:
        for action in actions:
            action(fd)
    finally:
        os.close(fd)


def tmpfile(top: Path, directory: str) -> None:
    def link(fd: int) -> None:
        # Python says AT_SYMLINK_FOLLOW only with a directory descriptor.
        at = os.open(top / directory, os.O_PATH)
        os.link(f"/proc/self/fd/{fd}", "named", dst_dir_fd=at, follow_symlinks=True)
        os.close(at)

    opened(top / directory, os.O_TMPFILE | os.O_RDWR, lambda fd: os.write(fd, b"x"), link)


def mapped(fd: int) -> None:
    with mmap.mmap(fd, 0) as view:
        view[:3] = b"map"
        view.flush()


def exchange(one: Path, other: Path) -> None:
    flags = 2
    if _libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def copy_range(source: Path, target: Path) -> None:
    with source.open("rb") as one, target.open("r+b") as other:
        os.copy_file_range(one.fileno(), other.fileno(), 50)


def unlinked_while_open(path: Path) -> None:
    actions: list[Callable[[int], object]] = [
        lambda fd: path.unlink(),
        lambda fd: os.write(fd, b"x"),
        lambda fd: os.fchmod(fd, 0o600),
    ]
    opened(path, os.O_RDWR, *actions)


Operation = Callable[[Path], object]


def in_turn(*steps: Operation) -> Operation:
    def all_of_them(path: Path) -> None:
        for step in steps:
            step(path)

    return all_of_them


OPERATIONS: Mapping[str, Operation] = {
    "nothing": lambda d: None,
    "create": lambda d: (d / "lowdir/new").touch(),
    "create deep": lambda d: (d / "p/q/new").touch(),
    "create in upper": lambda d: (d / "updir/new").touch(),
    "create deeper": lambda d: (d / "lowdir/sub/new").touch(),
    "mkdir": lambda d: (d / "lowdir/sub/new").mkdir(),
    "mkdir over a whiteout": in_turn(lambda d: (d / "empty").rmdir(), lambda d: (d / "empty").mkdir()),
    "create over a whiteout": in_turn(lambda d: (d / "low").unlink(), lambda d: (d / "low").touch()),
    "symlink": lambda d: os.symlink("x", d / "lowdir/sub/new"),
    "mkfifo": lambda d: os.mkfifo(d / "lowdir/sub/new"),
    "link": lambda d: os.link(d / "low", d / "lowdir/new"),
    "link deep": lambda d: os.link(d / "p/q/deep", d / "p/new"),
    "link one of two": lambda d: os.link(d / "two", d / "two.more"),
    "link in upper": lambda d: os.link(d / "three", d / "updir/new"),
    "link a symlink": lambda d: os.link(d / "symlink", d / "symlink.more", follow_symlinks=False),
    "unlink": lambda d: (d / "p/q/deep").unlink(),
    "unlink one of two": lambda d: (d / "two").unlink(),
    "unlink one of three": lambda d: (d / "three").unlink(),
    "unlink in upper": lambda d: (d / "updir/file").unlink(),
    "unlink while open": lambda d: unlinked_while_open(d / "low"),
    "unlink one of two while open": lambda d: unlinked_while_open(d / "two"),
    "rmdir": lambda d: (d / "empty").rmdir(),
    "rmdir of what was emptied": in_turn(lambda d: (d / "p/q/deep").unlink(), lambda d: (d / "p/q").rmdir()),
    "rename": lambda d: (d / "lowdir/file").rename(d / "p/q/new"),
    "rename in upper": lambda d: (d / "up").rename(d / "updir/new"),
    "rename one of two": lambda d: (d / "two").rename(d / "p/new"),
    "rename over": lambda d: (d / "low").rename(d / "p/q/deep"),
    "rename over one of two": lambda d: (d / "up").rename(d / "two"),
    "rename over one of three": lambda d: (d / "low").rename(d / "three"),
    "rename a directory of upper": lambda d: (d / "updir").rename(d / "p/q/new"),
    "rename over an empty directory": lambda d: (d / "updir").rename(d / "empty"),
    "exchange": lambda d: exchange(d / "low", d / "p/q/deep"),
    "exchange with upper": lambda d: exchange(d / "up", d / "lowdir/sub/file"),
    "open to read and write": lambda d: opened(d / "p/q/deep", os.O_RDWR),
    "open to write": lambda d: opened(d / "p/q/deep", os.O_WRONLY),
    "open to read": lambda d: opened(d / "p/q/deep", os.O_RDONLY, lambda fd: os.read(fd, 10)),
    "open upper to read and write": lambda d: opened(d / "up", os.O_RDWR),
    "open with O_TRUNC": lambda d: opened(d / "p/q/deep", os.O_WRONLY | os.O_TRUNC),
    "write": lambda d: opened(d / "p/q/deep", os.O_WRONLY, lambda fd: os.write(fd, b"x")),
    "append": lambda d: opened(d / "low", os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"x" * 5000)),
    "write to upper": lambda d: opened(d / "up", os.O_WRONLY, lambda fd: os.write(fd, b"x" * 5000)),
    "write by a mapping": lambda d: opened(d / "low", os.O_RDWR, mapped),
    "write and sync": lambda d: opened(d / "low", os.O_RDWR, lambda fd: os.write(fd, b"x"), os.fsync),
    "truncate": lambda d: os.truncate(d / "p/q/deep", 5),
    "truncate to nothing": lambda d: os.truncate(d / "low", 0),
    "ftruncate": lambda d: opened(d / "low", os.O_RDWR, lambda fd: os.ftruncate(fd, 9999)),
    "fallocate": lambda d: opened(d / "low", os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 20000)),
    "punch a hole": lambda d: opened(d / "up", os.O_RDWR, lambda fd: fallocate(fd, 3, 0, 500)),
    "copy_file_range": lambda d: copy_range(d / "up", d / "p/q/deep"),
    "chmod": lambda d: (d / "p/q/deep").chmod(0o600),
    "chmod a directory": lambda d: (d / "lowdir/sub").chmod(0o700),
    "chmod upper": lambda d: (d / "up").chmod(0o600),
    "chmod one of two": lambda d: (d / "two").chmod(0o600),
    "chown": lambda d: os.chown(d / "p/q/deep", os.getuid(), os.getgid()),
    "chown a symlink": lambda d: os.lchown(d / "symlink", os.getuid(), os.getgid()),
    "utime": lambda d: os.utime(d / "p/q/deep", (5, 5)),
    "utime now": lambda d: os.utime(d / "lowdir"),
    "utime of a symlink": lambda d: os.utime(d / "symlink", (5, 5), follow_symlinks=False),
    "setxattr": lambda d: os.setxattr(d / "p/q/deep", "user.x", b"1"),
    "setxattr on a directory": lambda d: os.setxattr(d / "lowdir/sub", "user.x", b"1"),
    "removexattr": in_turn(
        lambda d: os.setxattr(d / "up", "user.x", b"1"), lambda d: os.removexattr(d / "up", "user.x")
    ),
    "list": lambda d: (os.listdir(d / "p/q"), os.listdir(d / "lowdir"), os.listdir(d)),
    "read a symlink": lambda d: os.readlink(d / "symlink"),
    "O_TMPFILE and link": lambda d: tmpfile(d, "lowdir/sub"),
}


LACKED_BY_PYFUSE3 = frozenset(("fallocate", "punch a hole", "O_TMPFILE and link"))

# --- the comparison -----------------------------------------------------------------------------------


def objects(top: Path) -> Iterator[Path]:
    """Every name of the tree, by names that the kernel is asked for: a listing would renew what it has."""
    yield top.parent
    yield top
    yield from sorted(top.rglob("*"))


@contextmanager
def watched(top: Path) -> Iterator[Callable[[], list[str]]]:
    """Have the kernel cache the attributes of a tree and hold some of it open; gives what is stale by now."""
    paths = list(objects(top))
    held: dict[str, int] = {}
    with ExitStack() as stack:
        for path in paths:
            st = path.lstat()
            if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
                held[str(path)] = fd = os.open(path, os.O_RDONLY)
                stack.callback(os.close, fd)
                os.fstat(fd)

        def stale() -> list[str]:
            named = {"new", "named", "two.more", "symlink.more"}
            new = [path.parent / name for path in paths if path.is_dir() for name in named]
            found = []
            for path in [*paths, *new]:
                with suppress(FileNotFoundError, NotADirectoryError):
                    told = difference(as_cached(path.lstat()), asked_anew(path))
                    if told:
                        found.append(f"{path.relative_to(top.parent)}: {told}")
            for name, fd in held.items():
                told = difference(as_cached(os.fstat(fd)), asked_anew("", fd))
                if told:
                    found.append(f"{Path(name).relative_to(top.parent)}, open: {told}")
            return found

        yield stale


def stale_after(merged: Path, operation: str) -> list[str]:
    """What is stale after an operation on its tree in a union."""
    top = merged / operation
    with watched(top) as stale:
        found = [f"before: {each}" for each in stale()]
        OPERATIONS[operation](top)
        return found + stale()


def all_stale(merged: Path, *, lacks: frozenset[str] = frozenset()) -> list[str]:
    """What is stale after any operation, each on its tree."""
    return [
        f"{operation}: {told}"
        for operation in OPERATIONS
        if operation not in lacks
        for told in stale_after(merged, operation)
    ]


def populate_all(lower: Path, upper: Path) -> None:
    """A tree for each operation."""
    for operation in OPERATIONS:
        populate(lower / operation, upper / operation)


def main(home: Path, options: str) -> None:
    make_directories(home)
    populate_all(home / "lower", home / "upper")
    layers = ([home / "lower"], home / "upper", home / "work", home / "merged")
    lacks = LACKED_BY_PYFUSE3 if "pyfuse3" in options else frozenset()
    with pyunionfs(*layers, options=options.split(",")) as daemon:
        found = all_stale(daemon.merged, lacks=lacks)
    print("\n".join([*found, "stale" if found else "all done"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
