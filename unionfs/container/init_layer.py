"""The init layer: what a container has that is neither the image's nor its own, and is never committed.

The names are Docker's (moby daemon/initlayer). The files that tell of host and network are always there, and
are brought up to date at each start, while nothing is mounted; the rest only where the image has no such
name. A directory that the image has, too, gets the attributes that it has there, since the topmost counts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_parents import Found, find
from unionfs.linux.process import may_use_trusted_xattrs
from unionfs.overlay.owners import override_stat
from unionfs.overlay.owners.override_stat import Override
from unionfs.overlay.root_attributes import copy_root_attributes

HOSTS, HOSTNAME, RESOLV_CONF = "etc/hosts", "etc/hostname", "etc/resolv.conf"
_ALWAYS = (HOSTS, HOSTNAME, RESOLV_CONF)
_DIRECTORIES = ("proc", "sys", "dev", "dev/pts", "dev/shm")
_EMPTY_FILES = (".dockerenv", "dev/console")
_LINKS = {"etc/mtab": "/proc/mounts"}

_OWN_HOSTS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
"""Where the host has no /etc/hosts."""


def make(target: Path, upper: Path, lowers: Sequence[Path], hostname: str) -> None:
    """Fill the empty directory *target* for an image with these trees (topmost first).

    *upper*, empty, gets the attributes of the image's root, which are those of the merged tree.
    """
    overrides = bool(lowers) and _overrides(lowers[0])
    form = LayerForm(userxattr=not may_use_trusted_xattrs(), overrides=overrides)
    _Maker(target, lowers, form).make(hostname)
    if lowers:
        for root in (upper, target):
            copy_root_attributes(str(root), str(lowers[0]))


def refresh(target: Path, hostname: str) -> None:
    """Bring the host's names and resolver up to date; nothing may be mounted from it."""
    for name, content in _contents(hostname).items():
        path = target / name
        try:
            if path.read_bytes() == content:
                continue
            path.write_bytes(content)
        except FileNotFoundError:
            continue  # the image has no directory there


def _contents(hostname: str) -> dict[str, bytes]:
    """Network is the host's, and so are its names, as Docker has it with `--network host`."""
    hosts = _host_file("/etc/hosts") or _OWN_HOSTS
    name = hostname.encode()
    if hosts and not hosts.endswith(b"\n"):
        hosts += b"\n"
    return {
        HOSTS: hosts + b"127.0.1.1\t" + name + b"\n",
        HOSTNAME: name + b"\n",
        RESOLV_CONF: _host_file("/etc/resolv.conf"),
    }


def _host_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""


def _overrides(layer: Path) -> bool:
    fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return bool(override_stat.xattrs_of(fd))
    finally:
        os.close(fd)


class _Maker:
    """Makes names in the layer, by what the image has of them."""

    def __init__(self, target: Path, lowers: Sequence[Path], form: LayerForm) -> None:
        self._target = target
        self._lowers = lowers
        self._form = form
        self._copied: list[tuple[Path, int]] = []
        """Directories that the image has, too, and descriptors of the image's."""

    def make(self, hostname: str) -> None:
        contents = _contents(hostname)
        for name in _ALWAYS:
            self._file(name, contents[name])
        for name in _DIRECTORIES:
            if not self._exists(name):
                self._directory(name)
        for name in _EMPTY_FILES:
            if not self._exists(name):
                self._file(name, b"")
        for name, leads_to in _LINKS.items():
            if not self._exists(name) and self._parent(name):
                (self._target / name).symlink_to(leads_to)
        for path, fd in reversed(self._copied):
            copy_root_attributes(str(path), f"/proc/self/fd/{fd}")
            os.close(fd)

    def _find(self, name: str) -> Found | None:
        """What the image has there, symlinks not followed."""
        return find(self._lowers, [part.encode() for part in name.split("/")], self._form)

    def _exists(self, name: str) -> bool:
        found = self._find(name)
        if found is not None:
            os.close(found.fd)
        return found is not None

    def _parent(self, name: str) -> bool:
        """Make the directory above; whether there is one: the image may have something else there."""
        above, slash, _ = name.rpartition("/")
        return not slash or self._directory(above)

    def _directory(self, name: str) -> bool:
        path = self._target / name
        if path.exists():
            return True
        found = self._find(name)
        is_directory = found is None or stat.S_ISDIR(found.st.st_mode)
        if not is_directory or not self._parent(name):
            if found is not None:
                os.close(found.fd)
            return False
        path.mkdir(mode=0o755)
        if found is None:
            self._own(path, 0o755)
        else:
            self._copied.append((path, found.fd))
        return True

    def _file(self, name: str, content: bytes) -> None:
        if self._parent(name):
            path = self._target / name
            path.write_bytes(content)
            self._own(path, 0o644)

    def _own(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self._form.overrides:
            os.setxattr(path, override_stat.CONTAINERS, Override(0, 0, mode).encode())
