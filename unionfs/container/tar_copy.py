"""Trees as tar streams, for `cp`: written from a tree and read into one, by plain system calls.

What is called in a container's root (`inside.py`) must not look up users or groups: that would run the
container's libraries. So members are made here, and not by tarfile's `gettarinfo`.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable
from typing import IO

from unionfs.errors import ContainerError

_XATTR = "SCHILY.xattr."
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_BLOCK = 1 << 20
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Writer:
    """Writes trees to a stream that nothing is sought in."""

    def __init__(self, out: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT)
        self._names: dict[tuple[int, int], str] = {}
        """Files with several names, by device and number, and the name under which one was written."""

    def add(self, path: str, name: str, *, follow: bool = False) -> None:
        """Add a tree as *name*; with *follow* what a symlink at *path* leads to."""
        path = os.path.realpath(path) if follow else path
        st = os.lstat(path)
        member = self._member(path, name, st)
        if member is None:
            return
        if not member.isreg():
            self._tar.addfile(member)
        else:
            # It may be another object by now, and opening a FIFO would wait.
            with open(os.open(path, _OPEN_FILE), "rb") as file:
                self._tar.addfile(member, file)
        if member.isdir():
            for each in sorted(os.listdir(path)):
                self.add(os.path.join(path, each), f"{name}/{each}")

    def close(self) -> int:
        """Write the end of the stream; how long it is."""
        self._tar.close()
        return self._tar.offset

    def _member(self, path: str, name: str, st: os.stat_result) -> tarfile.TarInfo | None:
        """The header; None for a socket, which only the process that listens there can make."""
        member = tarfile.TarInfo(name)
        member.mode = stat.S_IMODE(st.st_mode)
        member.uid, member.gid = st.st_uid, st.st_gid
        member.mtime = st.st_mtime_ns // 10**9
        member.pax_headers = {"mtime": f"{member.mtime}.{st.st_mtime_ns % 10**9:09d}"}
        kind = stat.S_IFMT(st.st_mode)
        if kind == stat.S_IFSOCK:
            return None
        if kind != stat.S_IFDIR and st.st_nlink > 1:
            first = self._names.setdefault((st.st_dev, st.st_ino), name)
            if first != name:
                member.type, member.linkname = tarfile.LNKTYPE, first
                return member
        member.type = _TYPES[kind]
        if kind == stat.S_IFREG:
            member.size = st.st_size
        elif kind == stat.S_IFLNK:
            member.linkname = os.readlink(path)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            member.devmajor, member.devminor = os.major(st.st_rdev), os.minor(st.st_rdev)
        if kind != stat.S_IFLNK:
            for each in os.listxattr(path):
                if each.startswith(_KEPT_XATTRS):
                    value = os.getxattr(path, each).decode("utf-8", "surrogateescape")
                    member.pax_headers[_XATTR + each] = value
        return member


_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


class Reader:
    """Makes in a directory what a stream holds.

    Names are walked one component at a time. With *follow* a symlink on the way is followed, as in a
    container's root, which nothing leads out of; without, it is an error.
    """

    def __init__(self, root: str, *, keep_owners: bool, follow: bool) -> None:
        self._root = os.open(root, _OPEN_DIR)
        self._keep_owners = keep_owners
        self._walk = _OPEN_DIR if follow else _OPEN_DIR | os.O_NOFOLLOW
        self._times: list[tuple[str, tarfile.TarInfo]] = []

    def read(self, source: IO[bytes], renamed: Callable[[str], str | None] = lambda name: name) -> int:
        """Make every member, and return the length of the stream.

        *renamed* says under which name: "" for the directory itself, None for not at all. ContainerError: a
        name leads elsewhere, or something else is in the way.
        """
        try:
            with tarfile.open(fileobj=source, mode="r|") as tar:
                for member in tar:
                    name = renamed(_clean(member.name))
                    if name is not None:
                        self._make(tar, member, name, renamed)
                # The writer must not fail because what follows the last member is not read.
                while source.read(_BLOCK):
                    pass
                return tar.offset
        except tarfile.TarError as error:
            raise ContainerError(f"the tar stream is malformed: {error}") from error
        finally:
            self._set_times()
            os.close(self._root)

    def _make(
        self,
        tar: tarfile.TarFile,
        member: tarfile.TarInfo,
        name: str,
        renamed: Callable[[str], str | None],
    ) -> None:
        directory = self._open(os.path.dirname(name))
        try:
            last = os.path.basename(name) or "."
            there = self._make_room(directory, last, member, name)
            if member.isdir():
                if not there:
                    os.mkdir(last, 0o700, dir_fd=directory)
                self._set(os.open(last, _OPEN_DIR | os.O_NOFOLLOW, dir_fd=directory), member)
                self._times.append((name, member))
            elif member.islnk():
                self._link(directory, last, renamed(_clean(member.linkname)), member)
            elif member.isreg():
                source = tar.extractfile(member)
                assert source is not None
                with open(os.open(last, _NEW_FILE, 0o600, dir_fd=directory), "wb") as file:
                    while block := source.read(_BLOCK):
                        file.write(block)
                    file.flush()
                    self._set(os.dup(file.fileno()), member)
            else:
                _special(member, directory, last)
                if self._keep_owners:
                    os.chown(last, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
                os.utime(last, ns=_ns(member), dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    def _link(self, directory: int, last: str, first: str | None, member: tarfile.TarInfo) -> None:
        if first is None:
            raise ContainerError(f"{member.name}: a hard link to {member.linkname}, which is not copied")
        above = self._open(os.path.dirname(first))
        try:
            os.link(
                os.path.basename(first), last, src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False
            )
        finally:
            os.close(above)

    def _set(self, fd: int, member: tarfile.TarInfo) -> None:
        """Owner, mode, attributes and times, in the order in which none takes another away; closes *fd*."""
        try:
            if self._keep_owners:
                os.chown(fd, member.uid, member.gid)
            os.chmod(fd, member.mode)
            for key, value in member.pax_headers.items():
                if key.startswith(_XATTR):
                    _set_xattr(fd, key[len(_XATTR) :], value.encode("utf-8", "surrogateescape"))
            os.utime(fd, ns=_ns(member))
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        """A directory below the root; those that are missing are made, as tar does."""
        fd = os.open(".", _OPEN_DIR, dir_fd=self._root)
        for part in filter(None, path.split("/")):
            above = fd
            try:
                try:
                    fd = os.open(part, self._walk, dir_fd=above)
                except FileNotFoundError:
                    os.mkdir(part, 0o755, dir_fd=above)
                    fd = os.open(part, self._walk, dir_fd=above)
                except OSError as error:
                    if error.errno in (errno.ENOTDIR, errno.ELOOP):
                        raise ContainerError(f"{path}: {part} is no directory") from None
                    raise
            finally:
                os.close(above)
        return fd

    def _make_room(self, directory: int, last: str, member: tarfile.TarInfo, name: str) -> bool:
        """Whether the directory is there. Docker replaces a file by a file, and never a directory by one."""
        try:
            st = os.stat(last, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        is_directory = stat.S_ISDIR(st.st_mode)
        if is_directory != member.isdir():
            there, new = ("a directory", "what is none") if is_directory else ("what is no directory", "one")
            raise ContainerError(f"{name}: cannot overwrite {there} by {new}")
        if not is_directory:
            os.unlink(last, dir_fd=directory)
        return is_directory

    def _set_times(self) -> None:
        """Of directories, which what was made in them has changed."""
        for name, member in reversed(self._times):
            fd = self._open(name)
            try:
                os.utime(fd, ns=_ns(member))
            finally:
                os.close(fd)


def _clean(name: str) -> str:
    """Without `.` and what comes before a first slash. ContainerError where it leads upwards."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ContainerError(f"the name {name!r} in the tar stream leads upwards")
    return "/".join(parts)


def _special(member: tarfile.TarInfo, directory: int, last: str) -> None:
    """A symlink, FIFO or device, with its mode at once: these are not opened."""
    umask = os.umask(0)
    try:
        if member.issym():
            os.symlink(member.linkname, last, dir_fd=directory)
        elif member.isfifo():
            os.mkfifo(last, member.mode, dir_fd=directory)
        elif member.isdev():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            device = os.makedev(member.devmajor, member.devminor)
            os.mknod(last, kind | member.mode, device, dir_fd=directory)
        else:
            raise ContainerError(f"{member.name}: a member of the unknown type {member.type!r}")
    finally:
        os.umask(umask)


def _set_xattr(fd: int, name: str, value: bytes) -> None:
    """Where this filesystem and this user may have it: it keeps no file from being copied."""
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise


def _ns(member: tarfile.TarInfo) -> tuple[int, int]:
    """The time of its data, for both times; a PAX header has all digits of it."""
    whole, _, fraction = member.pax_headers.get("mtime", "").partition(".")
    if whole.lstrip("-").isdigit() and fraction.isdigit() and not whole.startswith("-"):
        ns = int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))
    else:
        ns = int(member.mtime * 1e9)
    return ns, ns
