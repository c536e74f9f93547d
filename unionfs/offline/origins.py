"""Resolves `overlay.origin`: to an object of a lower, to another object, or to none any more.

The rules are those of ovl_decode_real_fh() and ovl_check_origin_fh(). Opening a handle needs
CAP_DAC_READ_SEARCH: without it only its format and its filesystem are checked.
Reads only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from unionfs.linux import syscalls
from unionfs.offline.stack import Stack
from unionfs.overlay.format import Origin
from unionfs.overlay.layer import Layer, RealDir

_MAGIC = 0xFB
_NO_UUID = bytes(16)
_GONE = (errno.ESTALE, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT)


class OriginState(Enum):
    """The state of the object that an origin names."""

    EMPTY = auto()
    """It names none: copied up from a filesystem without handles."""
    MALFORMED = auto()
    OTHER_FORMAT = auto()
    """Of another version, or of a machine of the other byte order; overlayfs ignores it."""
    FOREIGN = auto()
    """On a filesystem that no layer lies on; overlayfs ignores it."""
    STALE = auto()
    LIVE = auto()
    UNKNOWN = auto()
    """overlayfs does not resolve it: the filesystem has no unique UUID."""
    UNOPENED = auto()
    """On a lower's filesystem, without the privilege to open handles."""


@dataclass(frozen=True, slots=True)
class OriginTarget:
    """What an origin resolves to; `st` and `inside` (whether it lies in one of the lowers) of a live one.

    `inside` is known of directories only: other objects have no `..`.
    """

    state: OriginState
    st: os.stat_result | None = None
    inside: bool | None = None


class Origins:
    """Looks origins up in the lowers of one stack."""

    __slots__ = ("_can_open", "_format", "_lowers", "_roots", "_upper_device")

    def __init__(self, stack: Stack) -> None:
        self._format = stack.fs.format
        self._lowers = stack.fs.lowers
        self._can_open = stack.fs.identity.privileged
        self._upper_device = os.fstat(stack.upper.root_fd).st_dev
        self._roots = {_identity(os.fstat(layer.root_fd)) for layer in self._lowers}

    def resolve(self, value: bytes) -> OriginTarget:
        """What an origin resolves to."""
        return self.resolve_in(value, self._lowers)

    def resolve_in(self, value: bytes, layers: Sequence[Layer]) -> OriginTarget:
        """The same among other layers' filesystems."""
        if not value:
            return OriginTarget(OriginState.EMPTY)
        origin = self._format.decode_origin(value)
        if origin is None:
            other = len(value) > 3 and value[1] == _MAGIC and value[2] == len(value) > 21
            return OriginTarget(OriginState.OTHER_FORMAT if other else OriginState.MALFORMED)
        if any(layer.uuid is None for layer in layers):
            return OriginTarget(OriginState.UNKNOWN)
        places = [layer for layer in layers if layer.uuid == origin.uuid]
        if origin.uuid == _NO_UUID:
            # So does overlayfs with uuid=null; and of filesystems without one it trusts upper's own alone.
            places = [layer for layer in places if os.fstat(layer.root_fd).st_dev == self._upper_device]
            if not places:
                return OriginTarget(OriginState.UNKNOWN)
        if not places:
            return OriginTarget(OriginState.FOREIGN)
        for layer in places:
            fd = self._open(layer, origin)
            if fd is not None:
                try:
                    return self._seen(fd)
                finally:
                    os.close(fd)
        return OriginTarget(OriginState.STALE if self._can_open else OriginState.UNOPENED)

    def _open(self, layer: Layer, origin: Origin) -> int | None:
        if not self._can_open:
            return None
        # Through a descriptor of the whole mount: with the private one of the layer's own tree a directory
        # outside of it could not be distinguished from a deleted one.
        try:
            with _LayerMount(layer) as mount_fd:
                return syscalls.open_by_handle(mount_fd, origin.type, origin.handle, os.O_PATH)
        except OSError as error:
            if error.errno == errno.EPERM:
                self._can_open = False
            elif error.errno not in _GONE:
                raise
        return None

    def _seen(self, fd: int) -> OriginTarget:
        st = os.fstat(fd)
        if not st.st_nlink:
            return OriginTarget(OriginState.STALE)  # deleted, and still open somewhere
        return OriginTarget(OriginState.LIVE, st, self._is_inside(fd) if stat.S_ISDIR(st.st_mode) else None)

    def _is_inside(self, fd: int) -> bool:
        """Whether a directory lies in one of the lowers: by its parents, up to the top."""
        here = os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            last = None
            while True:
                own = _identity(os.fstat(here))
                if own in self._roots:
                    return True
                if own == last:
                    return False
                last = own
                above = os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = above
        finally:
            os.close(here)

    def names_object(self, value: bytes, fd: int) -> bool:
        """Whether an origin names the object of *fd*; True where that cannot be decided."""
        origin = self._format.decode_origin(value)
        uuid = syscalls.fs_uuid(fd)
        if origin is None or uuid is None:
            return origin is not None
        try:
            kind, handle = syscalls.name_to_handle(fd, b"")
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EOVERFLOW, errno.EPERM):
                return True
            raise
        return (origin.type, origin.handle) == (kind, handle) and origin.uuid in (uuid, _NO_UUID)

    def encode(self, directory: RealDir, name: bytes) -> bytes:
        """The origin of a lower object."""
        return self._format.encode_origin(directory.layer, directory, name)


class _LayerMount:
    """A descriptor of a layer's root on the mount that the system has, not on the private one."""

    __slots__ = ("_fd", "_layer")

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._fd = -1

    def __enter__(self) -> int:
        self._fd = os.open(self._layer.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


def _identity(st: os.stat_result) -> tuple[int, int]:
    return st.st_dev, st.st_ino
