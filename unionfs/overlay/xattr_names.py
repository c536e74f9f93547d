"""The names of extended attributes: which are the union's own, and how callers' are stored beside these.

Knows names only; how a layer stores `security.` ones is asked of `owners/override_stat.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

FUSE_OVERLAYFS_PREFIX = "user.fuseoverlayfs."
"""The names of fuse-overlayfs's own marks."""


class XattrNames:
    """The names where all marks are under one prefix, `trusted.overlay.` or `user.overlay.`."""

    __slots__ = ("_prefix", "_prefix_bytes")

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._prefix_bytes = prefix.encode()

    def to_stored(self, name: bytes) -> bytes:
        """A caller's xattr name as it is stored: `overlay.X` becomes `overlay.overlay.X`."""
        prefix = self._prefix_bytes
        return prefix + b"overlay." + name[len(prefix) :] if name.startswith(prefix) else name

    def to_shown(self, name: bytes) -> bytes | None:
        """A stored xattr name as callers see it; None for the union's own marks."""
        prefix = self._prefix_bytes
        if not name.startswith(prefix):
            return name
        rest = name[len(prefix) :]
        return prefix + rest[8:] if rest.startswith(b"overlay.") else None

    def check_settable(self, name: bytes) -> None:
        """Refuse a caller's xattr name that could be taken for a mark and has no other way to be stored."""

    def is_private(self, name: str) -> bool:
        """Whether a stored name is a mark of the union, which a copy-up must not carry along."""
        prefix = self._prefix
        return name.startswith(prefix) and not name.startswith("overlay.", len(prefix))

    def shows_none(self, names: list[str]) -> bool:
        """Whether of these attributes a caller sees none."""
        return not names or all(map(self.is_private, names))


class HidingXattrNames(XattrNames):
    """The same where other names are the union's as well, by their beginnings or as a whole.

    None of these is shown, copied up or set.
    """

    __slots__ = ("_hidden", "_hidden_bytes", "_prefixes", "_prefixes_bytes")

    def __init__(self, prefix: str, *, prefixes: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        super().__init__(prefix)
        self._prefixes = tuple(prefixes)
        self._prefixes_bytes = tuple(each.encode() for each in self._prefixes)
        self._hidden = frozenset(names)
        self._hidden_bytes = frozenset(name.encode() for name in self._hidden)

    def to_stored(self, name: bytes) -> bytes:
        if name in self._hidden_bytes or name.startswith(self._prefixes_bytes):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return super().to_stored(name)

    def to_shown(self, name: bytes) -> bytes | None:
        if name in self._hidden_bytes or name.startswith(self._prefixes_bytes):
            return None
        return super().to_shown(name)

    def check_settable(self, name: bytes) -> None:
        if name in self._hidden_bytes or name.startswith(self._prefixes_bytes):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def is_private(self, name: str) -> bool:
        return name in self._hidden or name.startswith(self._prefixes) or super().is_private(name)
