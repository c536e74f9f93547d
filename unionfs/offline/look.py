"""The layers of a union opened to be looked at, through the union's own rules for what a name stands for.

Nothing is written, locked or cleared away: a union that is mounted somewhere can be looked at. No inode is
made; `find` says which real objects a name stands for, in the union and in its lowers alone.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from dataclasses import replace

from unionfs.overlay.config import OwnersConfig, UnionConfig
from unionfs.overlay.cred import Identity
from unionfs.overlay.data_only import DataLayers
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.iget import Found, Hit, lower_dirs
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import DirFds, Layer, RealDir, open_lowers, open_upper_to_look
from unionfs.overlay.namei import resolve
from unionfs.overlay.owners import Owners, owners_of

_DIR_FDS_MOST = 4096

_HEED_OVERRIDES = OwnersConfig(xattr_permissions=2)

Place = tuple[int, int, int]
"""A real object: the layer's index, st_dev and st_ino."""


class Look:
    """Upper and lowers, open for as long as `opened` lasts.

    `union` is the root as the union shows it, `below` as the lowers alone would.
    """

    __slots__ = ("below", "fs", "union", "upper")

    def __init__(self, fs: OverlayFs, upper: Layer) -> None:
        self.fs = fs
        self.upper = upper
        self.union = fs.root
        self.below = Directory(0, fs.root.mode, None, fs.root.lowers)

    def find(self, directory: Directory | None, name: bytes) -> Found | None:
        """The real objects of a name in a directory of either view, None where there is no such name.

        Raises OSError as a lookup in the mounted union would: EIO for a metacopy without data, say.
        """
        self.fs.dirfds.trim()
        return None if directory is None else resolve(self.fs, directory, name)


@contextlib.contextmanager
def opened(
    upper: str, lowers: Sequence[str], data_lowers: Sequence[str] = (), *, userxattr: bool
) -> Iterator[Look]:
    """Open the layers (absolute paths, lowers top first). Raises MountError where one cannot be opened."""
    config = UnionConfig(
        tuple(lowers),
        upper=upper,
        data_lowers=tuple(data_lowers),
        # Whatever the mount follows: the objects are there.
        redirect_dir="follow",
        userxattr=userxattr,
        volatile=True,
        # Ask the layers for each name. An index would have to list all that is beside it.
        timeout=0.0,
    )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    dirfds = DirFds(min(_DIR_FDS_MOST, soft // 4))
    with contextlib.ExitStack() as cleanup:
        layers = open_lowers(config.lowers, dirfds)
        for layer in layers:
            cleanup.callback(layer.close)
        data = open_lowers(config.data_lowers, dirfds, len(layers))
        for layer in data:
            cleanup.callback(layer.close)
        top = open_upper_to_look(upper, dirfds)
        cleanup.callback(top.close)
        # As if privileged: who is not would lend himself permissions by chmod(2), which is no looking.
        identity = Identity(privileged=True)
        owners = owners_told(config, [top, *layers])
        fs = OverlayFs(
            config, top, None, layers, dirfds, identity, DataLayers(data) if data else None, owners
        )
        cleanup.callback(dirfds.close_all)
        yield Look(fs, top)


def owners_told(config: UnionConfig, layers: list[Layer]) -> Owners | None:
    """Have the layers show owners and modes as their `override_stat` attributes tell, where they have any.

    The layers of users who own no ids but their own do. None: none has.
    """
    # As lowers all of them, for a new upper of a mount would be given the attribute.
    return owners_of(replace(config, owners=_HEED_OVERRIDES), None, layers)


def top(found: Found) -> Hit:
    """The real object whose attributes are shown."""
    return found.upper if found.upper is not None else found.lowers[0]


def root_hit(real: RealDir) -> Hit:
    """A layer's root as a real object with a name."""
    st = real.lstat(b".")
    assert st is not None
    return Hit(real, b".", st)


def places(hits: Sequence[Hit]) -> tuple[Place, ...]:
    """Which real objects these are."""
    return tuple((hit.directory.layer.index, hit.st.st_dev, hit.st.st_ino) for hit in hits)


def directory_of(found: Found) -> Directory:
    """A directory that was found, to look names up in it."""
    real = found.upper
    upper = None if real is None else real.directory.child(real.name)
    return Directory(0, top(found).st.st_mode, upper, tuple(lower_dirs(found)))
