"""Objects whose owner and mode are shown otherwise than their inodes have them.

Two things can lie between: an xattr that holds both (`override_stat.py`), and a map of ids or one owner for
all (`uidmapping`, `squash_to_*`, `idmap.py`). The xattr holds stored ids; the map comes last. A union that
has neither has none of these classes: of which inodes, directories and credentials it is made is decided when
it opens (`setup.py`). Everything above them (decisions, transports, the kernel) sees what is shown;
everything below (copy-up, work, upper's filesystem) what is stored. Nothing else may translate (invariant 9).
"""

from __future__ import annotations

import os

from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Caller
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import Layer, RealDir
from unionfs.overlay.owners import acl, override_stat
from unionfs.overlay.owners.idmap import Ids, show_acl, store_acl
from unionfs.overlay.owners.override_stat import Override, applied, can_bear, restat
from unionfs.overlay.owners.store import OwnerStore

_ACCESS_ACL = acl.ACCESS.encode()


class Owners:
    """How a union shows the owners of its objects, and stores them in upper."""

    __slots__ = (
        "gids",
        "layers_static",
        "squash_gid",
        "squash_uid",
        "store",
        "uids",
        "upper_stat_xattrs",
        "uses_xattrs",
    )

    def __init__(
        self, config: UnionConfig, store: OwnerStore, upper: Layer | None, lowers: list[Layer]
    ) -> None:
        self.store = store
        self.upper_stat_xattrs = () if upper is None else upper.stat_xattrs
        # Whether any layer has xattrs that hold owners and modes.
        self.uses_xattrs = any(layer.stat_xattrs for layer in lowers) or bool(self.upper_stat_xattrs)
        self.uids = Ids(config.owners.uid_map, "uid")
        self.gids = Ids(config.owners.gid_map, "gid")
        self.squash_uid = config.owners.squash_uid
        self.squash_gid = config.owners.squash_gid
        # Whether an xattr stays what it was when it was read.
        self.layers_static = config.timeout is None

    @property
    def squashes(self) -> bool:
        return self.squash_uid is not None or self.squash_gid is not None

    def show_in(self, layer: Layer) -> None:
        """Have a layer's directories show owners so."""
        layer.root = root = ShownDir(layer, None, b"", self)
        root.fd = layer.root_fd

    def new_file(self, ino: int, mode: int) -> File:
        return ShownFile(ino, mode, self)

    def new_directory(
        self, ino: int, mode: int, upper: RealDir | None, lowers: tuple[RealDir, ...]
    ) -> Directory:
        return ShownDirectory(ino, mode, upper, lowers, self)

    def shown(self, st: os.stat_result) -> os.stat_result:
        """The same with the owner that callers see."""
        uid, gid = self.squash_uid, self.squash_gid
        if uid is None:
            uid = self.uids.shown(st.st_uid)
        if gid is None:
            gid = self.gids.shown(st.st_gid)
        return restat(st, st.st_mode, uid, gid)

    def to_store(self, uid: int | None, gid: int | None) -> tuple[int, int]:
        """The owner that a chown asks for as it is stored, -1 for None; EINVAL for an id outside the map."""
        return (
            -1 if uid is None else self.uids.stored(uid),
            -1 if gid is None else self.gids.stored(gid),
        )

    def maker(self, caller: Caller) -> tuple[int, int]:
        """The owner that what *caller* makes is stored with."""
        return self.uids.stored_by(caller.uid), self.gids.stored_by(caller.gid)

    def acl_shown(self, value: bytes) -> bytes:
        """An ACL as callers see it. Squashing leaves it alone: it is about rights, not ownership."""
        return show_acl(value, self.uids, self.gids)

    def acl_to_store(self, value: bytes) -> bytes:
        """A caller's ACL as it is stored; EINVAL for an id outside the map."""
        return store_acl(value, self.uids, self.gids)


class ShownDir(RealDir):
    """A real directory whose objects have the stat that callers see."""

    __slots__ = ("_owners",)

    def __init__(self, layer: Layer, parent: RealDir | None, name: bytes, owners: Owners) -> None:
        super().__init__(layer, parent, name)
        self._owners = owners

    def child(self, name: bytes) -> RealDir:
        return ShownDir(self.layer, self, name, self._owners)

    def aside(self, fd: int) -> RealDir:
        directory = ShownDir(self.layer, None, b"", self._owners)
        directory.fd = fd
        return directory

    def lstat(self, name: bytes) -> os.stat_result | None:
        st = super().lstat(name)
        if st is None:
            return None
        names = self.layer.stat_xattrs
        if names and can_bear(st.st_mode):
            st = applied(st, override_stat.read_at(self, name, names))
        return self._owners.shown(st)

    def fstat(self, fd: int) -> os.stat_result:
        st = os.fstat(fd)
        names = self.layer.stat_xattrs
        if names and can_bear(st.st_mode):
            st = applied(st, override_stat.read(b"/proc/self/fd/%d" % fd, names))
        return self._owners.shown(st)


class _LastRead:
    """What an xattr has said, and of which object: that in upper or the lower one. None: of neither."""

    __slots__ = ("of_upper", "override")

    def __init__(self) -> None:
        self.override: Override | None = None
        self.of_upper: bool | None = None


class _Shown(Inode):
    """What files and directories whose owner or mode is shown otherwise have in common."""

    __slots__ = ()

    _owners: Owners
    _last_read: _LastRead

    def _top_layer(self) -> Layer:
        raise NotImplementedError

    def override_of(self, st: os.stat_result) -> Override | None:
        """What the xattr of the topmost real object says, whose stat this is; None where it has none."""
        last = self._last_read
        on_upper = self.on_upper
        if last.of_upper is on_upper and self._owners.layers_static:
            return last.override
        names = self._owners.upper_stat_xattrs if on_upper else self._top_layer().stat_xattrs
        last.override = override_stat.read(self.proc_path()[0], names) if can_bear(st.st_mode) else None
        last.of_upper = on_upper
        return last.override

    def remember(self, override: Override) -> None:
        """The xattr of the object in upper says this from now on."""
        self._last_read.override = override
        self._last_read.of_upper = True

    def stored(self, st: os.stat_result) -> os.stat_result:
        return applied(st, self.override_of(st))

    def lstat(self) -> os.stat_result:
        return self._owners.shown(self.stored(super().lstat()))

    def owner_to_store(self, uid: int | None, gid: int | None) -> tuple[int, int]:
        return self._owners.to_store(uid, gid)

    def set_owner(self, uid: int, gid: int) -> None:
        self._owners.store.set_owner(self, uid, gid)

    def set_mode(self, mode: int) -> None:
        self._owners.store.set_mode(self, mode)

    def show_acl(self, name: bytes, value: bytes) -> bytes:
        if name == _ACCESS_ACL and self.on_upper:
            value = self._owners.store.access_acl(self, value)
        return self._owners.acl_shown(value)

    def acl_to_store(self, value: bytes) -> bytes:
        return self._owners.acl_to_store(value)

    def access_acl_was_set(self, value: bytes) -> None:
        self._owners.store.access_acl_was_set(self, value)


class ShownFile(_Shown, File):
    """A file that shows its owner or mode otherwise."""

    __slots__ = ("_last_read", "_owners")

    def __init__(self, ino: int, mode: int, owners: Owners) -> None:
        super().__init__(ino, mode)
        self._owners = owners
        self._last_read = _LastRead()

    def _top_layer(self) -> Layer:
        return self.real()[0].layer


class ShownDirectory(_Shown, Directory):
    """A directory that shows its owner or mode otherwise."""

    __slots__ = ("_last_read", "_owners")

    def __init__(
        self, ino: int, mode: int, upper: RealDir | None, lowers: tuple[RealDir, ...], owners: Owners
    ) -> None:
        Directory.__init__(self, ino, mode, upper, lowers)
        self._owners = owners
        self._last_read = _LastRead()

    def _top_layer(self) -> Layer:
        return self.top.layer

    def complete_new(self, target: bytes | int, fd: int, caller: Caller) -> None:
        owners = self._owners
        if owners.store.needs_private_creation:
            inherits = self.stored(os.fstat(fd))
            path = b"/proc/self/fd/%d" % fd
            owners.store.complete_new(target, path, inherits, owners.maker(caller), caller.umask)
