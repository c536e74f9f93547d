"""How an unpacked layer says what its directory cannot hold by itself: deletions, opaque directories, owners.

Three forms: root's (`trusted.overlay.*`), that of a user namespace (`user.overlay.*`), and that of an
ordinary user with one id, where owner, mode and type stand in `user.containers.override_stat` as
fuse-overlayfs and containers/storage have it. All are overlayfs's own formats (docs/format.md); a deletion is
a 0/0 device in each.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from functools import cached_property

from unionfs.errors import ImageError
from unionfs.image.layer_record import OVERRIDE_STAT, ROOT, USERNS, form_of
from unionfs.image.store import Store
from unionfs.linux import process
from unionfs.overlay.owners import override_stat
from unionfs.overlay.owners.override_stat import CONTAINERS, Override
from unionfs.overlay.xattr_names import FUSE_OVERLAYFS_PREFIX, XattrNames

FOREIGN_MARKS = (
    *(b"trusted.overlay.", b"user.overlay.", FUSE_OVERLAYFS_PREFIX.encode()),
    *(b"user.containers.override_", b"security.fuseoverlayfs."),
)
"""What some union filesystem takes for a mark of its own."""


@dataclass(frozen=True)
class LayerForm:
    """One of the forms. *userxattr*: marks are `user.overlay.*`; *overrides*: owners stand in xattrs."""

    userxattr: bool
    overrides: bool

    @classmethod
    def of_process(cls) -> LayerForm:
        """The form in which this process writes layers where there are none yet."""
        if os.geteuid() != 0:
            return cls(userxattr=True, overrides=True)
        return cls(userxattr=not process.may_use_trusted_xattrs(), overrides=False)

    @classmethod
    def of_store(cls, store: Store) -> LayerForm:
        """The form in which this process writes layers of a store: that of the layers that are there.

        Root of a user namespace can write that of the user, too, as this is nothing but attributes. Raises
        ImageError where the store has a form that this process cannot write.
        """
        form, there = cls.of_process(), form_of(store.root)
        if (form.name, there) == (USERNS, OVERRIDE_STAT):
            return cls(userxattr=True, overrides=True)
        if there not in (None, form.name):
            raise ImageError(
                f"the layers in {store.root} are unpacked in the form {there}, and this process can write the"
                f" form {form.name} only: use another --store"
            )
        return form

    @property
    def name(self) -> str:
        """As `layer.json` has it."""
        return OVERRIDE_STAT if self.overrides else USERNS if self.userxattr else ROOT

    @cached_property
    def _prefix(self) -> str:
        return "user.overlay." if self.userxattr else "trusted.overlay."

    @cached_property
    def opaque(self) -> str:
        """The name of the opaque mark."""
        return self._prefix + "opaque"

    @cached_property
    def _names(self) -> XattrNames:
        return XattrNames(self._prefix)

    def stored_name(self, name: bytes) -> bytes | None:
        """How an attribute of an image is stored; None for one that a layer must not have.

        A mark of this form is stored as overlayfs escapes it (ovl_xattr_escape_name()), so that it marks
        nothing and is shown as it was. Other marks are left out: a union that reads both would take them for
        its own.
        """
        if name.startswith(self._prefix.encode()):
            return self._names.to_stored(name)
        if name.startswith(FOREIGN_MARKS):
            return None
        if self.overrides:
            if name.startswith((b"trusted.", b"system.")):
                return None
            return override_stat.isolated(name)
        return name

    def mark_opaque(self, fd: int) -> None:
        """Have a directory hide those of its name in the layers below."""
        os.setxattr(fd, self.opaque, b"y")

    def is_opaque(self, fd: int) -> bool:
        """Whether a directory has that mark."""
        try:
            return os.getxattr(fd, self.opaque) == b"y"
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return False
            raise

    def shown(self, fd: int, st: os.stat_result) -> os.stat_result:
        """The stat of a file or directory of a layer as a union shows it."""
        return (
            override_stat.applied(st, override_stat.read(b"/proc/self/fd/%d" % fd, (CONTAINERS,)))
            if self.overrides
            else st
        )

    def begin(self, root: int) -> None:
        """Prepare a layer's root: it tells in which form the layer is, and has none of the store's ACLs."""
        for name in ("system.posix_acl_default", "system.posix_acl_access"):
            try:
                os.removexattr(root, name)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    raise
        if self.overrides:
            self.set_override(root, 0, 0, stat.S_IFDIR | 0o755)

    def set_override(self, target: int, uid: int, gid: int, mode: int, rdev: int = 0) -> None:
        """Owner, mode and type of an object that has them in its xattr."""
        kind = stat.S_IFMT(mode)
        plain = kind in (stat.S_IFREG, stat.S_IFDIR)
        override = Override(uid, gid, stat.S_IMODE(mode), 0 if plain else kind, rdev)
        os.setxattr(target, CONTAINERS, override.encode())
