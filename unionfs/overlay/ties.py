"""Which lower an upper belongs to, and which upper an index: by handles that are kept on both.

With `index=on`, as fs/overlayfs has it (ovl_get_indexdir(), ovl_verify_set_fh()): `overlay.origin` on upper's
root is the handle of the top lower's root, `overlay.upper` on `work/index` that of upper's root. The first
mount writes them, a later one with other directories is refused, for an index leads by handles to objects of
these. Must not change anything before all is verified.
"""

from __future__ import annotations

import os

from unionfs.errors import MountError
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.format import Format
from unionfs.overlay.fs import leave_uuids_out
from unionfs.overlay.layer import Layer
from unionfs.overlay.work import Work

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_work(config: UnionConfig, upper: Layer, lowers: list[Layer], data: list[Layer], top: int) -> Work:
    """Take over the work directory *top* (a descriptor), which becomes the `Work`'s, also where this fails.

    MountError for what `Work` refuses, and for an upper or an index that belongs to other directories.
    """
    if not config.index:
        return Work(top, config)
    try:
        if config.uuid == "off":
            leave_uuids_out([upper, *lowers, *data])
        fmt = Format(config.userxattr)
        lower_handle = fmt.encode_origin_at(lowers[0], lowers[0].root_fd)
        upper_handle = fmt.encode_upper_at(upper, upper.root_fd)
        # Without handles of all layers overlayfs does without the index, and asks for nothing.
        others = (fmt.encode_origin_at(each, each.root_fd) for each in lowers[1:])
        known = bool(lower_handle and upper_handle) and all(others)
        if known:
            _verify(config, fmt, upper, top, lower_handle, upper_handle)
    except BaseException:
        os.close(top)
        raise
    work = Work(top, config)
    if known:
        try:
            _store(fmt, upper.root_fd, fmt.origin, lower_handle)
            _store(fmt, work.index_fd, fmt.upper, upper_handle)
        except BaseException:
            work.close()
            raise
    return work


def _verify(
    config: UnionConfig, fmt: Format, upper: Layer, top: int, lower_handle: bytes, upper_handle: bytes
) -> None:
    repair = (
        "`pyunionfs check -o index=on --repair --accept-lowers` (with these directories) forgets the old one;"
        " or mount with index=off"
    )
    if _is_other(fmt, upper.root_fd, fmt.origin, lower_handle):
        raise MountError(
            f"upper {config.upper} was made with index=on over another top lower than {config.lowers[0]}:"
            f" give the lowers that belong to it, in their order; if they have changed for good, {repair}"
        )
    try:
        index = os.open(b"index", _OPEN_DIR, dir_fd=top)
    except OSError:
        return  # there is none, or what `Work` refuses
    try:
        # Older kernels kept it as the origin.
        if any(_is_other(fmt, index, mark, upper_handle) for mark in (fmt.origin, fmt.upper)):
            raise MountError(
                f"work {config.work} holds the index of another upper than {config.upper}: give the work"
                f" directory that belongs to this upper; if upper and work were copied or restored, {repair}"
            )
    finally:
        os.close(index)


def _is_other(fmt: Format, fd: int, mark: str, handle: bytes) -> bool:
    value = fmt.read(b"/proc/self/fd/%d" % fd, mark, follow=True)
    # One that nothing can be read from counts as none, and is written anew (ovl_get_fh()).
    return value is not None and value != handle and fmt.decode_origin(value) is not None


def _store(fmt: Format, fd: int, mark: str, handle: bytes) -> None:
    path = b"/proc/self/fd/%d" % fd
    if fmt.read(path, mark, follow=True) != handle:
        os.setxattr(path, mark, handle)
