"""The on-disk marks: opaque, redirect, metacopy, origin, nlink, and the names by which they are stored.

Byte for byte what Linux's fs/overlayfs reads and writes; docs/format.md describes it. Nothing here decides
when a mark is due, and nothing may add a mark that the kernel does not know (invariant 8).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from dataclasses import dataclass

from unionfs.linux import syscalls, xattr
from unionfs.linux.as_owner import attributes_as_owner
from unionfs.linux.fileattr import FS_APPEND_FL, FS_IMMUTABLE_FL
from unionfs.overlay.layer import Layer, RealDir, is_mark_file
from unionfs.overlay.owners import override_stat
from unionfs.overlay.xattr_names import FUSE_OVERLAYFS_PREFIX, HidingXattrNames, XattrNames

WHITEOUT_PREFIX = b".wh."
"""AUFS's and OCI's whiteout of NAME is a file `.wh.NAME`; it hides NAME in the layers below."""
OPAQUE_FILE = b".wh..wh..opq"

REDIRECT_MAX = 256
"""overlayfs's default limit of a redirect's length; a longer one makes rename answer EXDEV."""

_PROTATTR_MAX = 32

_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP)
_OUT_OF_REACH = (errno.EPERM, errno.EACCES)
"""For an ordinary user's daemon: a mode denies it to read the object's `user.` attributes, as its content."""

_FH_HEADER = 21
_FH_MAGIC = 0xFB
_FH_BIG_ENDIAN = 1
_FH_ANY_ENDIAN = 2
_FH_PATH_UPPER = 4
_FH_CPU_ENDIAN = _FH_BIG_ENDIAN if sys.byteorder == "big" else 0


def _read_as_owner(path: bytes, mark: str, flags: int, dirfd: int | None = None) -> bytes | None:
    """A mark of an object whose mode keeps us out; None for another user's, whose content is out of reach.

    The names of attributes need no permission, so what has no such mark costs little.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        if mark not in os.listxattr(b"/proc/self/fd/%d" % fd):
            return None
        return attributes_as_owner(fd).get(mark)
    except PermissionError:
        return None
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Origin:
    """A decoded `overlay.origin`: which filesystem, and the file handle in it."""

    uuid: bytes
    type: int
    handle: bytes


class Format:
    """The marks under one of the two prefixes: `trusted.overlay.` or `user.overlay.`.

    `opaques` are all names by which a layer may say that a directory is opaque, `whiteouts` those by which a
    file of no bytes is a whiteout; `xattrs` knows which names of attributes are the union's.

    With *foreign* the layers are those that container engines keep. Such a store may have been used by
    fuse-overlayfs, and by kernel overlayfs with the other prefix. What these say of a directory counts; none
    of their attributes is shown, copied up or set, as with fuse-overlayfs, or it would go into the images
    that are made from the tree. With *stat_xattrs* a layer has owners and modes in attributes
    (`override_stat.py`), which are the union's as well.
    """

    __slots__ = (
        "_marks_on_roots",
        "impure",
        "metacopy",
        "nlink",
        "opaque",
        "opaques",
        "origin",
        "prefix",
        "protattr",
        "redirect",
        "upper",
        "uuid",
        "whiteout",
        "whiteouts",
        "xattrs",
    )

    def __init__(self, userxattr: bool, *, foreign: bool = False, stat_xattrs: bool = False) -> None:
        prefix, other = "trusted.overlay.", "user.overlay."
        if userxattr:
            prefix, other = other, prefix
        self.prefix = prefix
        self.opaque = prefix + "opaque"
        self.opaques = frozenset((self.opaque,))
        self.redirect = prefix + "redirect"
        self.metacopy = prefix + "metacopy"
        self.origin = prefix + "origin"
        self.impure = prefix + "impure"
        self.nlink = prefix + "nlink"
        self.upper = prefix + "upper"
        self.uuid = prefix + "uuid"
        self.protattr = prefix + "protattr"
        self.whiteout = prefix + "whiteout"
        self.whiteouts = frozenset((self.whiteout,))
        if foreign:
            # An ordinary user sees no trusted.* attribute, whichever program has written it.
            self.opaques |= {other + "opaque", FUSE_OVERLAYFS_PREFIX + "opaque"}
            self.whiteouts |= {other + "whiteout"}
        # fuse-overlayfs asks a layer's root as every directory; overlayfs asks no root for its marks.
        self._marks_on_roots = foreign
        self.xattrs = XattrNames(prefix)
        if foreign or stat_xattrs:
            prefixes = (other, FUSE_OVERLAYFS_PREFIX) if foreign else ()
            names = override_stat.NAMES if stat_xattrs else ()
            self.xattrs = HidingXattrNames(prefix, prefixes=prefixes, names=names)

    # --- reading -------------------------------------------------------------------------------

    def names(self, directory: RealDir, name: bytes) -> list[str] | None:
        """The stored names of an object's attributes, marks among them; None where they cannot be listed.

        One system call when it has none.
        """
        try:
            return xattr.list_at(directory.open(), name, likely=directory.layer.idx < 0)
        except OSError as error:
            if error.errno in _ABSENT or error.errno in _OUT_OF_REACH:
                return None
            raise

    def read(self, path: bytes, name: str, *, follow: bool = False) -> bytes | None:
        """The value of one mark, None where it is not set."""
        try:
            return os.getxattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            if error.errno in _OUT_OF_REACH and self.prefix.startswith("user."):
                return _read_as_owner(path, name, os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW)
            raise

    def read_at(self, directory: RealDir, name: bytes, mark: str) -> bytes | None:
        """As `read`, of a name in a real directory."""
        try:
            return xattr.get_at(directory.open(), name, mark.encode())
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            if error.errno in _OUT_OF_REACH and self.prefix.startswith("user."):
                return _read_as_owner(name, mark, os.O_PATH | os.O_NOFOLLOW, directory.open())
            raise

    def read_redirect(self, path: bytes) -> bytes:
        """A redirect as overlayfs accepts it: absolute with no empty component, or one name.

        Raises EINVAL for anything else, and EACCES for "." and "..", which lead where no layer may.
        """
        value = os.getxattr(path, self.redirect, follow_symlinks=False).partition(b"\0")[0]
        parts = value[1:].split(b"/") if value.startswith(b"/") else [value]
        if not all(parts) or b"/" in parts[0]:
            raise OSError(errno.EINVAL, "malformed redirect")
        if b"." in parts or b".." in parts:
            raise OSError(errno.EACCES, "malformed redirect")
        return value

    def is_whiteout_file(self, directory: RealDir, name: bytes, st: os.stat_result) -> bool:
        """Whether it is a zero-size regular file with `overlay.whiteout`.

        overlayfs looks for the mark wherever it looks such a file up; `overlay.opaque` = `x` on the directory
        only says that its listings must look, too.
        """
        return (
            st.st_size == 0
            and stat.S_ISREG(st.st_mode)
            and any(self.read_at(directory, name, mark) is not None for mark in self.whiteouts)
        )

    def holds_whiteout_files(self, path: bytes, *, follow: bool = False) -> bool:
        """Whether a lower directory is marked as holding whiteout files."""
        return any(self.read(path, mark, follow=follow) == b"x" for mark in self.opaques)

    def says_opaque(self, directory: RealDir, name: bytes, marks: list[str]) -> bytes | None:
        """What the directory *name*, which has *marks*, says of itself: `y`, `x`, or None."""
        for mark in marks:
            if mark in self.opaques and (value := self.read_at(directory, name, mark)):
                return value
        return None

    def opaque_root(self, root: RealDir) -> bool:
        """Whether a layer hides all layers below it: by a file, or by a mark where roots have such."""
        if is_mark_file(root.lstat(OPAQUE_FILE)):
            return True
        if not self._marks_on_roots:
            return False
        path = b"/proc/self/fd/%d" % root.open()
        return any(self.read(path, mark, follow=True) == b"y" for mark in self.opaques)

    # --- protection ----------------------------------------------------------------------------

    def read_protattr(self, path: bytes, *, follow: bool) -> int:
        """FS_APPEND_FL and FS_IMMUTABLE_FL as `overlay.protattr` says; one that is malformed says nothing."""
        value = self.read(path, self.protattr, follow=follow)
        if not value or len(value) > _PROTATTR_MAX or value.strip(b"ai"):
            return 0
        return (FS_APPEND_FL if b"a" in value else 0) | (FS_IMMUTABLE_FL if b"i" in value else 0)

    @staticmethod
    def encode_protattr(flags: int) -> bytes:
        return (b"a" if flags & FS_APPEND_FL else b"") + (b"i" if flags & FS_IMMUTABLE_FL else b"")

    # --- origin --------------------------------------------------------------------------------

    def encode_origin(self, layer: Layer, directory: RealDir, name: bytes) -> bytes:
        """The value of `overlay.origin` for a lower object; empty where its filesystem has no handles.

        `struct ovl_fb` of fs/overlayfs/overlayfs.h: version 0, magic, length, flags, type, uuid, handle.
        """
        return self.encode_origin_at(layer, directory.open(), name)

    @staticmethod
    def encode_origin_at(layer: Layer, dirfd: int, name: bytes = b"") -> bytes:
        """The same by a descriptor; without a *name* of the object that it is open on. Any thread."""
        if layer.uuid is None:
            return b""
        try:
            kind, handle = syscalls.name_to_handle(dirfd, name)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EOVERFLOW, errno.EPERM):
                return b""
            raise
        if kind > 0xFF:
            return b""
        return bytes((0, _FH_MAGIC, _FH_HEADER + len(handle), _FH_CPU_ENDIAN, kind)) + layer.uuid + handle

    def encode_upper_at(self, layer: Layer, fd: int) -> bytes:
        """The value of `overlay.upper` for a directory of upper, by its descriptor: flagged as such."""
        handle = self.encode_origin_at(layer, fd)
        return handle and handle[:3] + bytes((handle[3] | _FH_PATH_UPPER,)) + handle[4:]

    def decode_origin(self, value: bytes) -> Origin | None:
        """The parts of an origin; None for an empty, foreign or unknown one (overlayfs ignores these too)."""
        if len(value) <= _FH_HEADER or value[0] != 0 or value[1] != _FH_MAGIC or value[2] != len(value):
            return None
        if value[3] & _FH_BIG_ENDIAN != _FH_CPU_ENDIAN and not value[3] & _FH_ANY_ENDIAN:
            return None
        return Origin(value[5:21], value[4], value[21:])
