"""`docker cp`: files and trees between a container's root and the host's, where the rules say that they go.

The rules are those of docker-cp(1). Each side is looked at where it is: in the container's root, or here.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import IO

from unionfs.container.inside import stream
from unionfs.container.record import Container
from unionfs.container.tar_copy import Reader, Writer
from unionfs.errors import ContainerError
from unionfs.image.digest import Readable

_TOP = "top"
"""What the tree that is copied is called in the stream."""
_BLOCK = 1 << 16
_DIRECTORY, _OTHER = b"d", b"f"


@dataclass(frozen=True, slots=True)
class Source:
    """What is copied: a path, as it was written."""

    path: str
    follow: bool = False
    """Whether a symlink is followed (-L)."""

    @property
    def contents_only(self) -> bool:
        """Whether what is in the directory is copied and not the directory: `path/.`."""
        return self.path.endswith("/.") or self.path == "."

    @property
    def name(self) -> str:
        return os.path.basename(os.path.normpath(self.path))

    def find(self, where: str) -> tuple[str, bool]:
        """Its path without `/.`, and whether it is a directory. ContainerError: it is not there."""
        path = os.path.normpath(self.path)
        follow = self.follow or self.path.endswith(("/", "/."))
        try:
            st = os.stat(path, follow_symlinks=follow)
            is_directory = stat.S_ISDIR(st.st_mode)
            if self.path.endswith(("/", "/.")) and not is_directory:
                raise NotADirectoryError
            return os.path.realpath(path) if follow else path, is_directory
        except FileNotFoundError:
            raise ContainerError(f"there is no {self.path} {where}") from None
        except NotADirectoryError:
            raise ContainerError(f"{self.path} {where} is no directory") from None


def copy_out(container: Container, source: Source, target: str, *, keep_owners: bool) -> int:
    """Copy from a container to *target* here; returns the bytes that were streamed. Raises ContainerError."""
    in_root = Source(_absolute(source.path), source.follow)
    with stream(container, "copy from", lambda out: _send(in_root, out, container.name), "out") as pipe:
        kind = pipe.read(1)
        if not kind:
            return 0  # the reason why is raised at the end of the block
        return _receive(pipe, target, in_root, kind == _DIRECTORY, keep_owners=keep_owners)


def copy_in(container: Container, source: Source, target: str, *, keep_owners: bool) -> int:
    """Copy from here into a container; returns the bytes that were streamed. Raises ContainerError."""
    where = f"in container {container.name}"
    path, is_directory = source.find("here")

    def receive(pipe: IO[bytes]) -> None:
        place = _absolute(target)
        _receive(pipe, place, source, is_directory, where, keep_owners=keep_owners)

    with stream(container, "copy into", receive, "in") as pipe:
        writer = Writer(pipe)
        writer.add(path, _TOP)
        return writer.close()


def tar_out(container: Container, source: Source, out: IO[bytes]) -> None:
    """Write what a container has at a path as a tar stream, with the container's owners."""
    in_root = Source(_absolute(source.path), source.follow)

    def send(pipe: IO[bytes]) -> None:
        path, _ = in_root.find(f"in container {container.name}")
        writer = Writer(pipe)
        writer.add(path, in_root.name or ".")
        writer.close()

    with stream(container, "copy from", send, "out") as pipe:
        while block := pipe.read(_BLOCK):
            out.write(block)
    out.flush()


def tar_in(container: Container, source: Readable, target: str) -> None:
    """Make in a directory of a container what a tar stream holds, owners as it says."""

    def receive(pipe: IO[bytes]) -> None:
        path = _absolute(target)
        if not os.path.isdir(path):
            raise ContainerError(f"{target} in container {container.name} is no directory")
        _refuse_read_only(path, f"container {container.name}")
        Reader(path, keep_owners=True, follow=True).read(pipe)

    with stream(container, "copy into", receive, "in") as pipe:
        while block := source.read(_BLOCK):
            pipe.write(block)


def _absolute(path: str) -> str:
    """A path in a container: relative to its root."""
    return path if path.startswith("/") else "/" + path


def _refuse_read_only(directory: str, container: str) -> None:
    """In a container's root. Raises ContainerError where the mount at *directory* is read-only."""
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        is_root = os.stat(directory).st_dev == os.stat("/").st_dev
        what = "its root" if is_root else f"what is mounted at {directory}"
        raise ContainerError(f"cannot copy into {container}: {what} is read-only")


def _send(source: Source, out: IO[bytes], name: str) -> None:
    path, is_directory = source.find(f"in container {name}")
    out.write(_DIRECTORY if is_directory else _OTHER)
    writer = Writer(out)
    writer.add(path, _TOP)
    writer.close()


def _receive(
    pipe: IO[bytes],
    target: str,
    source: Source,
    is_directory: bool,
    where: str = "here",
    *,
    keep_owners: bool,
) -> int:
    """Make at *target* what the stream has. *where* is "here", or names the container."""
    directory, name = _place(target, source, is_directory, where)
    if where != "here":
        _refuse_read_only(directory, where.removeprefix("in "))

    def renamed(member: str) -> str | None:
        rest = member.removeprefix(_TOP).removeprefix("/")
        if name:
            return f"{name}/{rest}" if rest else name
        return rest or None  # the directory that is there stays as it is

    return Reader(directory, keep_owners=keep_owners, follow=where != "here").read(pipe, renamed)


def _place(target: str, source: Source, is_directory: bool, where: str) -> tuple[str, str]:
    """The directory, and the name in there that is made; "": the directory's own content."""
    wants_directory = target.endswith(("/", "/."))
    real = os.path.realpath(target)
    if os.path.isdir(real):
        return real, "" if is_directory and source.contents_only else source.name
    if os.path.lexists(real):
        if is_directory:
            raise ContainerError(f"cannot copy a directory to {target} {where}, which is none")
        if wants_directory:
            raise ContainerError(f"{target} {where} is no directory")
    elif wants_directory and not is_directory:
        raise ContainerError(f"there is no directory {target} {where}")
    directory, name = os.path.split(real)
    if not os.path.isdir(directory):
        raise ContainerError(f"there is no directory {directory} {where}")
    return directory, name
