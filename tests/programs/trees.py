"""Trees for real programs: one with every kind of object, and a description of a tree to compare copies by.

A description holds what a backup program must bring back: kind, mode, owner, size, modification time to the
nanosecond, content, link target, device number, extended attributes and which names are one file. It leaves
out what no copy can have: inode and device numbers, change times, the size of a directory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a tree, with all that must survive a copy."""

    mode: int
    owner: tuple[int, int]
    size: int
    mtime_ns: int
    device: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    twins: tuple[bytes, ...]
    """The other names of the same file."""


def describe(root: Path, *, content: bool = True) -> dict[bytes, Entry]:
    """Every name below `root` (b"" is the root itself) with its Entry."""
    top = os.fsencode(root)
    paths = [top]
    for parent, directories, files in os.walk(top, onerror=_fail):
        paths += [os.path.join(parent, name) for name in directories + files]
    stats = {path: os.lstat(path) for path in paths}
    names: dict[tuple[int, int], list[bytes]] = {}
    for path, info in stats.items():
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            names.setdefault((info.st_dev, info.st_ino), []).append(path[len(top) + 1 :])
    found = {}
    for path, info in stats.items():
        name = path[len(top) + 1 :]
        directory = stat.S_ISDIR(info.st_mode)
        found[name] = Entry(
            mode=info.st_mode,
            owner=(info.st_uid, info.st_gid),
            size=0 if directory else info.st_size,
            mtime_ns=info.st_mtime_ns,
            device=info.st_rdev,
            content=_content(path, info.st_mode) if content else "",
            xattrs=_xattrs(path),
            twins=tuple(sorted(n for n in names.get((info.st_dev, info.st_ino), []) if n != name)),
        )
    return found


def differences(expected: dict[bytes, Entry], got: dict[bytes, Entry], *, limit: int = 20) -> list[str]:
    """What differs, a line each, the first few: assert that it is empty."""
    lines = []
    for name in sorted(expected.keys() | got.keys()):
        one, two = expected.get(name), got.get(name)
        if one != two:
            lines.append(f"{name!r}: expected {one}, got {two}")
    return lines[:limit]


def _fail(error: OSError) -> None:
    raise error


def _content(path: bytes, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.fsdecode(os.readlink(path))
    if not stat.S_ISREG(mode):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in names
        if not name.startswith("trusted.overlay.")
    )


def make_zoo(root: Path) -> None:
    """One of every kind of object that Linux has, below `root`. Needs root."""
    root.mkdir(parents=True)
    (root / "empty").touch()
    (root / "plain").write_bytes(b"plain\n" * 1000)
    (root / "setuid").write_bytes(b"#!/bin/true\n")
    os.chmod(root / "setuid", 0o4755)
    (root / "capable").write_bytes(b"x" * 100)
    subprocess.run(["setcap", "cap_net_raw+ep", str(root / "capable")], check=True)
    (root / "listed").write_text("acl\n")
    subprocess.run(["setfacl", "-m", "u:12345:rw,g:54321:r", str(root / "listed")], check=True)
    (root / "inherited").mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:12345:rwx", str(root / "inherited")], check=True)
    (root / "sticky").mkdir(mode=0o755)
    os.chmod(root / "sticky", 0o1777)
    (root / "group").mkdir()
    os.chown(root / "group", 1234, 5678)
    os.chmod(root / "group", 0o2775)
    os.setxattr(root / "plain", "user.colour", b"green\0blue")
    os.setxattr(root / "group", "trusted.note", b"only root sees this")
    with (root / "sparse").open("wb") as file:
        file.write(b"head")
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"middle")
    os.symlink("plain", root / "link")
    os.symlink("/no/such/thing", root / "dangling")
    os.lchown(root / "dangling", 7, 8)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    (root / "twins").mkdir()
    (root / "twins/a").write_text("one file, three names\n")
    for name in ("twins/b", "c"):
        os.link(root / "twins/a", root / name)
    for raw in (b"new\nline", b"\xff\xfe not UTF-8", b"-rf", b" ", b"n" * 255, "häßlich 名".encode()):
        with open(os.path.join(os.fsencode(root), raw), "wb") as stream:
            stream.write(raw)
    deep = root / "/".join(["deep"] * 60)
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("here\n")
    # Old times, since rsync takes times within a second of each other for equal.
    number = 0
    for parent, directories, files in os.walk(os.fsencode(root), topdown=False):
        for path in [os.path.join(parent, name) for name in files + directories] + [parent]:
            number += 1
            seconds = (1_000_000_000 + number * 1_000) * 10**9
            os.utime(path, ns=(seconds + 1, seconds + 123_456_789), follow_symlinks=False)
