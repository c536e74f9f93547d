"""What a union is made of: the part of the mount options that concerns the union itself.

Never reads a directory and never checks: `check.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

IdMap = tuple[tuple[int, int, int], ...]
"""Ranges of ids as (stored, shown, length), as /proc/PID/uid_map has them: what a container on these layers
calls STORED, its host calls SHOWN. Empty: every id as it is."""


@dataclass(frozen=True, slots=True)
class OwnersConfig:
    """Whose the objects of the union are said to be, where that is not simply what the layers hold.

    `uid_map` and `gid_map` translate between the ids that the union shows and those that layers hold.
    `squash_uid` and `squash_gid` are shown for every object. `xattr_permissions` says where owner and mode of
    upper's objects are kept: 0 in the inode, 1 in `security.fuseoverlayfs.override_stat`, 2 in
    `user.containers.override_stat`, as fuse-overlayfs has it; an upper that has one already keeps to it.
    """

    uid_map: IdMap = ()
    gid_map: IdMap = ()
    squash_uid: int | None = None
    squash_gid: int | None = None
    xattr_permissions: int = 0

    @property
    def are_mapped(self) -> bool:
        """Whether owners are shown otherwise than they are stored."""
        return (
            bool(self.uid_map or self.gid_map) or self.squash_uid is not None or self.squash_gid is not None
        )


@dataclass(frozen=True, slots=True)
class UnionConfig:
    """The stack and its features; the names are kernel overlayfs's mount options, and fuse-overlayfs's.

    `lowers` are absolute paths, leftmost on top, `data_lowers` the data-only layers below them. `upper` and
    `work` are both given or both None (a read-only union). `redirect_dir` is "on", "off", "follow" or
    "nofollow". `timeout` is how long, in seconds, the kernel may keep names and attributes; None: for ever,
    because every change comes through the mount.

    `any_work` takes a work directory as fuse-overlayfs does: what is none of ours in it stays and refuses
    nothing, and `volatile` neither leaves a mark there nor obeys one. With `shared_work` another mount has
    upper and work, too, and what it has in there is not touched. `foreign_marks` reads and hides the
    marks of fuse-overlayfs and those under the other of overlayfs's two prefixes, too (see `format.py`).

    `xino` is "on", "off" or "auto", `uuid` "on", "off", "null" or "auto". `whiteouts` is how a deletion is
    recorded: "overlay" (a device 0/0) or "aufs" (a file `.wh.NAME`); with "auto" that is found out before the
    union is opened (`probe.py`). `fsync=False` answers fsync(2) without
    syncing, `xattrs` and `acl` say whether there are extended attributes and ACLs, `static_nlink` that
    directories have one link, `ino32` that inode numbers fit into 32 bits.
    """

    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    data_lowers: tuple[str, ...] = ()
    redirect_dir: str = "on"
    rename_copy_bytes: int = 0
    rename_copy_files: int = 100_000
    index: bool = False
    metacopy: bool = False
    userxattr: bool = False
    volatile: bool = False
    timeout: float | None = None
    xino: str = "auto"
    uuid: str = "auto"
    fsync: bool = True
    xattrs: bool = True
    acl: bool = True
    static_nlink: bool = False
    ino32: bool = False
    whiteouts: str = "overlay"
    any_work: bool = False
    shared_work: bool = False
    foreign_marks: bool = False
    owners: OwnersConfig = field(default_factory=OwnersConfig)

    def lower_directories(self) -> Iterator[tuple[str, str]]:
        """Every layer that is never written, and what it is called."""
        for path in self.lowers:
            yield "lower", path
        for path in self.data_lowers:
            yield "data-only layer", path

    def directories(self) -> Iterator[tuple[str, str]]:
        """Every directory of the union, and what it is called."""
        yield from self.lower_directories()
        if self.upper is not None and self.work is not None:
            yield "upper", self.upper
            yield "work", self.work

    @property
    def uses_override_stat(self) -> bool:
        """Whether a layer's `override_stat` xattrs, if its root has one, say owner and mode."""
        return self.foreign_marks or self.owners.xattr_permissions > 0

    @property
    def redirect_create(self) -> bool:
        """Whether a directory rename may write a redirect; with `whiteouts=aufs` it may not (`aufs.py`)."""
        return self.redirect_dir == "on" and self.whiteouts == "overlay"

    @property
    def offline_changes(self) -> bool:
        """Whether lowers may have changed since the upper was last mounted (ovl_allow_offline_changes())."""
        return not (self.index or self.metacopy or self.redirect_create)

    @property
    def may_move_lower_dirs(self) -> bool:
        """Whether a directory of a lower may be renamed, by a redirect or by copying it (`copy_tree.py`)."""
        copies = self.rename_copy_bytes > 0 and self.rename_copy_files > 0
        # With a timeout no cache of a directory is true for long, and what it shows may not all be known.
        return self.redirect_create or (copies and self.timeout is None)

    @property
    def redirect_follow(self) -> bool:
        """Whether redirects that layers hold are followed; "off" does, as overlayfs by default."""
        return self.redirect_dir != "nofollow"
