"""`override_stat`: owner and mode of an object, kept in an attribute of a file that cannot have them itself.

fuse-overlayfs and containers/storage write such attributes in the layers of users without subordinate ids.
Here is the form of the attribute, and which of its names a layer uses; nothing here looks at a mode.
docs/format.md describes it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unionfs.linux import xattr
from unionfs.linux.overflow_id import overflow_id

if TYPE_CHECKING:
    from unionfs.overlay.layer import RealDir

PRIVILEGED = "security.fuseoverlayfs.override_stat"
CONTAINERS = "user.containers.override_stat"
FUSE_OVERLAYFS = "user.fuseoverlayfs.override_stat"

NAMES = (PRIVILEGED, CONTAINERS, FUSE_OVERLAYFS)
"""In the order in which fuse-overlayfs looks for them on a layer's root."""

_SECURITY = b"security."
_ISOLATED = b"user.containers.override_security."


def isolated(name: bytes) -> bytes:
    """How a layer whose root has CONTAINERS stores an attribute: the `security.` ones as `user.` ones.

    As fuse-overlayfs since 1.14: a user may set these, and those of the layer's own files say nothing.
    """
    return _ISOLATED + name[len(_SECURITY) :] if name.startswith(_SECURITY) else name


def unisolated(stored: bytes) -> bytes | None:
    """The name by which such an attribute is shown; None for one that is not."""
    if stored.startswith(_ISOLATED):
        return _SECURITY + stored[len(_ISOLATED) :]
    return None if stored.startswith(_SECURITY) else stored


_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES)
"""EACCES: another user's file, whose owner is then what its inode says."""

_FORM = re.compile(
    rb"(-?\d{1,10}):(-?\d{1,10}):([0-7]{1,7})(?::([a-z]+)(?:-(\d{1,9})-(\d{1,9}))?)?(?::.*)?\0?"
)
_KINDS = {b"pipe": stat.S_IFIFO, b"socket": stat.S_IFSOCK, b"block": stat.S_IFBLK, b"char": stat.S_IFCHR}
_WORDS = {kind: word.decode() for word, kind in _KINDS.items()}
_ID_LIMIT = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Override:
    """What the attribute says. `kind` is the type in st_mode of a device, a FIFO or a socket that a regular
    file stands for, `rdev` the device's number; 0: the object is what it is."""

    uid: int
    gid: int
    mode: int
    kind: int = 0
    rdev: int = 0

    @classmethod
    def of(cls, st: os.stat_result, *, real: int) -> Override:
        """What to write for an object that shall have this stat, on one whose own type is *real*."""
        kind = stat.S_IFMT(st.st_mode)
        if kind == stat.S_IFMT(real):
            return cls(st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode))
        return cls(st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode), kind, st.st_rdev)

    def changed(self, *, uid: int = -1, gid: int = -1, mode: int = -1) -> Override:
        """The same with another owner or mode; -1 leaves as it is."""
        return replace(
            self,
            uid=self.uid if uid < 0 else uid,
            gid=self.gid if gid < 0 else gid,
            mode=self.mode if mode < 0 else stat.S_IMODE(mode),
        )

    def chowned(self, uid: int, gid: int, *, is_dir: bool) -> Override:
        """The same after chown(2), which takes setuid and setgid from all but directories."""
        mode = self.mode
        if not is_dir:
            mode &= ~stat.S_ISUID
            if mode & stat.S_IXGRP:
                mode &= ~stat.S_ISGID
        return self.changed(uid=uid, gid=gid, mode=mode)

    def encode(self) -> bytes:
        """The value of the attribute."""
        text = f"{self.uid}:{self.gid}:{self.mode:o}"
        if self.kind in (stat.S_IFBLK, stat.S_IFCHR):
            text += f":{_WORDS[self.kind]}-{os.major(self.rdev)}-{os.minor(self.rdev)}"
        elif self.kind:
            text += f":{_WORDS[self.kind]}"
        return text.encode()


def decode(value: bytes) -> Override:
    """The parts of an attribute; EINVAL, as fuse-overlayfs answers, for one that makes no sense.

    Of the mode only permissions count: fuse-overlayfs writes the type, too, and not always the right one.
    """
    match = _FORM.fullmatch(value)
    if match is None:
        raise OSError(errno.EINVAL, "malformed override_stat")
    word, major, minor = match[4], match[5], match[6]
    kind = _KINDS.get(word, 0) if word else 0
    device = kind in (stat.S_IFBLK, stat.S_IFCHR)
    if device and major is None:
        raise OSError(errno.EINVAL, "malformed override_stat")
    return Override(
        _id(match[1], "uid"),
        _id(match[2], "gid"),
        stat.S_IMODE(int(match[3], 8)),
        kind,
        os.makedev(int(major), int(minor)) if device else 0,
    )


def _id(text: bytes, kind: str) -> int:
    """fuse-overlayfs 1.10 writes -1 for the user where only the group was to be changed, and so on."""
    number = int(text)
    return number if 0 <= number < _ID_LIMIT else overflow_id(kind)


def xattrs_of(root_fd: int) -> tuple[str, ...]:
    """The names to look for in a layer, its own first; none where its root has none."""
    for name in NAMES:
        try:
            os.getxattr(root_fd, name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        else:
            return (name, *(other for other in NAMES if other != name))
    return ()


def read_at(directory: RealDir, name: bytes, names: tuple[str, ...]) -> Override | None:
    """What is said of a name in a real directory, under the first of these names that is there."""
    at = directory.open()
    for attribute in names:
        try:
            value = xattr.get_at(at, name, attribute.encode())
            if value is not None:
                return decode(value)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return None


def read(path: bytes, names: tuple[str, ...]) -> Override | None:
    """The same of what a path leads to."""
    for attribute in names:
        try:
            return decode(os.getxattr(path, attribute))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return None


def can_bear(mode: int) -> bool:
    """Whether an object of this type can have such an attribute: others cannot have user.* ones."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def applied(st: os.stat_result, override: Override | None) -> os.stat_result:
    """The stat of an object with what its attribute says."""
    if override is None:
        return st
    mode = (override.kind or stat.S_IFMT(st.st_mode)) | override.mode
    return restat(st, mode, override.uid, override.gid, override.rdev if override.kind else None)


def restat(st: os.stat_result, mode: int, uid: int, gid: int, rdev: int | None = None) -> os.stat_result:
    """A stat with another mode and owner, and all the rest as it is."""
    # What a stat holds beside the ten fields of a tuple (nanoseconds, blocks ...) is in the second part.
    more: dict[str, object] = st.__reduce__()[1][1]  # type: ignore[assignment]
    if rdev is not None:
        more = {**more, "st_rdev": rdev}
    return os.stat_result((mode, *st[1:4], uid, gid, *st[6:]), more)
