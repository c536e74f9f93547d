"""The impure mark of a directory in upper: taken off by a listing, once nothing in it has come from below.

Where the mark is, each entry must be looked up for its number. Overlayfs looks at a directory, too, that does
not merge, when it is listed, and removes the mark (ovl_cache_get_impure()). Nothing here may remove it while
an object with an origin may be in the directory.
"""

from __future__ import annotations

import errno
import os

from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File


def may_be_pure(fs: OverlayFs, directory: Directory) -> bool:
    """Whether a listing should look: marked, in upper alone, and no child that is known came from below."""
    if (
        not directory.impure
        or directory.upper is None
        or directory.lowers
        or fs.work is None
        or not fs.layers_static
    ):
        return False
    return not any(
        child.from_lower if isinstance(child, File) else isinstance(child, Directory) and child.lowers
        for child in directory.children.values()
    )


def is_pure(fs: OverlayFs, fd: int, names: list[bytes]) -> bool:
    """Whether no entry of a real directory has an origin or leads to something below; any thread."""
    prefix = b"/proc/self/fd/%d/" % fd
    from_below = {fs.format.origin, fs.format.redirect}
    for name in names:
        try:
            if not from_below.isdisjoint(os.listxattr(prefix + name, follow_symlinks=False)):
                return False
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # no attributes on that kind of object
                return False
    return True


def unmark(fs: OverlayFs, directory: Directory) -> None:
    """Remove the mark. Best effort, as in overlayfs: it costs lookups, and nothing is wrong with it."""
    try:
        os.removexattr(directory.proc_path()[0], fs.format.impure)
    except OSError as error:
        if error.errno != errno.ENODATA:
            return
    directory.impure = False
    fs.attrs_to_invalidate.append(directory.ino)
