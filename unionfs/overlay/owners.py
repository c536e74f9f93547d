"""Objects whose owner and mode are shown otherwise than their inodes have them.

Two things can lie between: an attribute that tells of both (`override_stat`, `override.py`), and a map of ids
or one owner for all (`uidmapping`, `squash_to_*`, `ids.py`). The attribute holds stored ids; the map comes
last. A union that has neither has none of these classes: which inodes, directories and credentials it is made
of is settled when it opens. Everything above them (decisions, transports, the kernel) sees what is shown;
everything below (copy-up, work, upper's filesystem) what is stored. Nothing else may
translate (invariant 9).
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.errors import MountError
from unionfs.overlay import acl, override
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Acting, Caller, Identity
from unionfs.overlay.ids import Ids, own_ids, show_acl, store_acl
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.keep import Keep, LenientKeep, OverrideKeep
from unionfs.overlay.layer import Layer, RealDir
from unionfs.overlay.override import Override, applied, can_bear, restat


def owners_of(config: UnionConfig, upper: Layer | None, lowers: list[Layer]) -> Owners | None:
    """How owners are shown and stored, if not as the layers' inodes have them; prepares the layers for it.

    Attributes that tell of owner and mode count only where they are expected: whoever owns a file may set
    `user.*` ones, and could make it root's and setuid in a mount of root's that knows nothing of it.
    Raises MountError where upper cannot hold what `xattr_permissions` asks for.
    """
    layers = lowers if upper is None else [upper, *lowers]
    if config.heeds_overrides:
        for layer in layers:
            layer.told_by = override.names_of(layer.root_fd)
    keep: Keep = Keep()
    if config.owners.squash_uid is not None or config.owners.squash_gid is not None:
        keep = LenientKeep()
    if upper is not None and (config.owners.xattr_permissions or upper.told_by):
        keep = _override_keep(config.owners.xattr_permissions, upper, lowers)
    owners = Owners(config, keep, upper, lowers)
    if not owners.tells and not config.owners.are_mapped:
        return None
    for layer in layers:
        layer.isolates = layer.told_by[:1] == (override.CONTAINERS,)
        owners.take(layer)
    return owners


def _override_keep(kind: int, upper: Layer, lowers: list[Layer]) -> OverrideKeep:
    """Upper keeps to the name that its root has. A new one begins with what is told of its lowers' root."""
    if upper.told_by:
        return OverrideKeep(upper.told_by[0])
    name = override.PRIVILEGED if kind == 1 else override.CONTAINERS
    upper.told_by = (name, *(other for other in override.NAMES if other != name))
    told = [
        found
        for layer in lowers
        if layer.told_by
        and (found := override.read(b"/proc/self/fd/%d" % layer.root_fd, layer.told_by)) is not None
    ]
    st = os.fstat(upper.root_fd)
    first = told[0] if told else Override.of(st, real=st.st_mode)
    try:
        os.setxattr(upper.root_fd, name, first.encode())
    except OSError as error:
        advice = "; xattr_permissions=2 needs no privilege" if kind == 1 else ""
        raise MountError(
            f"upper {upper.path} cannot hold the attribute {name} that xattr_permissions={kind} needs:"
            f" {error.strerror}{advice}"
        ) from error
    return OverrideKeep(name)


class Owners:
    """How a union shows whose its objects are, and keeps it in upper."""

    __slots__ = ("gids", "keep", "squash_gid", "squash_uid", "tells", "trust", "uids", "upper_told_by")

    def __init__(self, config: UnionConfig, keep: Keep, upper: Layer | None, lowers: list[Layer]) -> None:
        self.keep = keep
        self.upper_told_by = () if upper is None else upper.told_by
        # Whether any layer has attributes that tell of owners and modes.
        self.tells = any(layer.told_by for layer in lowers) or bool(self.upper_told_by)
        self.uids = Ids(config.owners.uid_map, "uid")
        self.gids = Ids(config.owners.gid_map, "gid")
        self.squash_uid = config.owners.squash_uid
        self.squash_gid = config.owners.squash_gid
        # Whether an attribute stays what it was when it was read.
        self.trust = config.timeout is None

    @property
    def squashes(self) -> bool:
        return self.squash_uid is not None or self.squash_gid is not None

    def take(self, layer: Layer) -> None:
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
        """An ACL as callers see it. Squashing leaves it alone: it says who has rights, not whose it is."""
        return show_acl(value, self.uids, self.gids)

    def acl_to_store(self, value: bytes) -> bytes:
        """A caller's ACL as it is stored; EINVAL for an id outside the map."""
        return store_acl(value, self.uids, self.gids)


class ShownDir(RealDir):
    """A real directory that tells of its objects what callers see."""

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
        names = self.layer.told_by
        if names and can_bear(st.st_mode):
            st = applied(st, override.read_at(self, name, names))
        return self._owners.shown(st)

    def fstat(self, fd: int) -> os.stat_result:
        st = os.fstat(fd)
        names = self.layer.told_by
        if names and can_bear(st.st_mode):
            st = applied(st, override.read(b"/proc/self/fd/%d" % fd, names))
        return self._owners.shown(st)


class _Memory:
    """What an attribute has told, and of which object: that in upper or the lower one. None: of neither."""

    __slots__ = ("of_upper", "told")

    def __init__(self) -> None:
        self.told: Override | None = None
        self.of_upper: bool | None = None


class _Shown(Inode):
    """What files and directories whose owner or mode is shown otherwise have in common."""

    __slots__ = ()

    _owners: Owners
    _memory: _Memory

    def _top_layer(self) -> Layer:
        raise NotImplementedError

    def _override(self, st: os.stat_result) -> Override | None:
        """What is told of the topmost real object, whose stat this is."""
        memory = self._memory
        on_upper = self.on_upper
        if memory.of_upper is on_upper and self._owners.trust:
            return memory.told
        names = self._owners.upper_told_by if on_upper else self._top_layer().told_by
        memory.told = override.read(self.proc_path()[0], names) if can_bear(st.st_mode) else None
        memory.of_upper = on_upper
        return memory.told

    def stored(self, st: os.stat_result) -> os.stat_result:
        return applied(st, self._override(st))

    def lstat(self) -> os.stat_result:
        return self._owners.shown(self.stored(super().lstat()))

    def owner_to_store(self, uid: int | None, gid: int | None) -> tuple[int, int]:
        return self._owners.to_store(uid, gid)

    def set_owner(self, uid: int, gid: int) -> None:
        path, follow = self.proc_path()
        st = os.stat(path, follow_symlinks=follow)
        keep = self._owners.keep
        if isinstance(keep, OverrideKeep) and can_bear(st.st_mode):
            now = self._override(st) or Override.of(st, real=st.st_mode)
            told = now.chowned(uid, gid, is_dir=self.is_dir)
            keep.write(path, told, follow=follow)
            keep.drop_capability(path)
            self._note(told)
        else:
            keep.chown(path, uid, gid, follow=follow)

    def set_mode(self, mode: int) -> None:
        path, follow = self.proc_path()
        st = os.stat(path, follow_symlinks=follow)
        keep = self._owners.keep
        if isinstance(keep, OverrideKeep) and can_bear(st.st_mode):
            told = (self._override(st) or Override.of(st, real=st.st_mode)).changed(mode=mode)
            keep.write(path, told, follow=follow)
            self._note(told)
        else:
            os.chmod(path, stat.S_IMODE(mode))

    def _note(self, told: Override) -> None:
        self._memory.told = told
        self._memory.of_upper = True

    def show_acl(self, name: bytes, value: bytes) -> bytes:
        if name == acl.ACCESS.encode() and self._owners.keep.tells and self.on_upper:
            value = acl.with_mode(value, self.lstat().st_mode)
        return self._owners.acl_shown(value)

    def acl_to_store(self, value: bytes) -> bytes:
        return self._owners.acl_to_store(value)

    def take_acl(self, value: bytes) -> None:
        if self._owners.keep.tells:
            self.set_mode(self.lstat().st_mode & ~0o777 | acl.mode_of(value))


class ShownFile(_Shown, File):
    """A file that shows its owner or mode otherwise."""

    __slots__ = ("_memory", "_owners")

    def __init__(self, ino: int, mode: int, owners: Owners) -> None:
        super().__init__(ino, mode)
        self._owners = owners
        self._memory = _Memory()

    def _top_layer(self) -> Layer:
        return self.real()[0].layer


class ShownDirectory(_Shown, Directory):
    """A directory that shows its owner or mode otherwise."""

    __slots__ = ("_memory", "_owners")

    def __init__(
        self, ino: int, mode: int, upper: RealDir | None, lowers: tuple[RealDir, ...], owners: Owners
    ) -> None:
        Directory.__init__(self, ino, mode, upper, lowers)
        self._owners = owners
        self._memory = _Memory()

    def _top_layer(self) -> Layer:
        return self.top.layer


class MappedIdentity(Identity):
    """Acts as the stored ids of those who ask."""

    __slots__ = ("_gids", "_owners", "_uids")

    def __init__(self, owners: Owners, *, privileged: bool) -> None:
        super().__init__(privileged=privileged)
        self._owners = owners
        # setfsuid(2) tells of no id that our user namespace lacks: it would make objects as ourselves.
        self._uids = own_ids("uid")
        self._gids = own_ids("gid")

    def acting_as(self, caller: Caller) -> Acting:
        """As in `Identity`. Who is outside the map makes objects that are nobody's, as with fuse-overlayfs:
        a container engine makes /etc/mtab and its like in a container whose users it is none of.

        With squashing it is ourselves who make what cannot be made so; else that is an EOVERFLOW.
        """
        owners = self._owners
        if owners.keep.tells:
            # Owner, mode and all that is inherited are told of (`OverrideKeep.adopt`).
            return super().acting_as(Caller(self.uid, self.gid, caller.pid, 0))
        uid, gid = owners.maker(caller)
        if not (self.privileged and self._uids.has(uid) and self._gids.has(gid)):
            if owners.squashes:
                uid, gid = self.uid, self.gid
            elif self.privileged:
                raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        return super().acting_as(Caller(uid, gid, caller.pid, caller.umask))
