"""Checks a work directory that no mount uses: temporary objects of a crash, index entries, a volatile mark.

Reads only. The rules for index entries are those of ovl_verify_index(), by which kernel overlayfs decides at
a mount with index=on which of them it keeps, removes, or refuses to go on with.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator

from unionfs.linux.as_owner import open_as_owner
from unionfs.offline.findings import Consent, Finding, Kind, Severity
from unionfs.offline.origins import Origins, OriginState
from unionfs.offline.repair_steps import (
    ChangeMarks,
    RemoveIndexEntry,
    RemoveTemporary,
    RemoveVolatile,
    is_temporary,
)
from unionfs.offline.stack import Stack
from unionfs.overlay.access import listing_fd
from unionfs.overlay.layer import RealDir, is_whiteout_device

NLINK = re.compile(rb"[LU][+-]\d+")

_LEAST_NAME = 21
"""Bytes of a file handle's header in an origin (`struct ovl_fb`); an index name has two digits for each."""
_KNOWN_FEATURES = {b"volatile"}


def examine(stack: Stack, origins: Origins) -> Iterator[Finding]:
    """Everything that is wrong in the work directory."""
    for name in _names(stack, stack.work):
        if name not in (b"work", b"index"):
            yield Finding(
                Kind.WORK,
                Severity.ERROR,
                real_path_in_work(stack, name),
                "it does not belong in a work directory: a mount is refused as long as it is there",
                "move it somewhere else, or give the work directory that belongs to this upper",
            )
    for name in (b"work", b"index"):
        st = stack.work.lstat(name)
        if st is not None and not stat.S_ISDIR(st.st_mode):
            yield Finding(
                Kind.WORK,
                Severity.ERROR,
                real_path_in_work(stack, name),
                "it is not a directory: a mount is refused as long as it is there",
                "move it somewhere else",
            )
        elif st is not None:
            real = stack.work.child(name)
            try:
                yield from _temporary(stack, real) if name == b"work" else _index(stack, origins, real)
            except PermissionError:
                yield Finding(
                    Kind.UNREADABLE,
                    Severity.WARNING,
                    real_path_in_work(stack, name),
                    f"it cannot be read by user {os.geteuid()}, so its content was not checked",
                    "run the check as root, or as the user who mounted the union",
                )


def real_path_in_work(stack: Stack, *names: bytes) -> bytes:
    assert stack.config.work is not None
    return b"/".join([os.fsencode(stack.config.work), *names])


def _names(stack: Stack, directory: RealDir) -> list[bytes]:
    fd = listing_fd(stack.fs, directory)
    try:
        return sorted(map(os.fsencode, os.listdir(fd)))
    finally:
        os.close(fd)


def _stat(stack: Stack, directory: RealDir, path: bytes) -> os.stat_result | None:
    """What lies in a directory of the kernel's, which has mode 0; None if nothing does."""
    try:
        return os.stat(path, dir_fd=directory.open(), follow_symlinks=False)
    except FileNotFoundError:
        return None
    except PermissionError:
        if stack.fs.lender is None:
            raise
    fd = open_as_owner(directory.open(), path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


# --- work/work --------------------------------------------------------------------------------------


def _temporary(stack: Stack, real: RealDir) -> Iterator[Finding]:
    for name in _names(stack, real):
        if name == b"incompat":
            yield from _incompatible(stack, real)
        elif not is_temporary(name):
            yield Finding(
                Kind.LITTER,
                Severity.WARNING,
                real_path_in_work(stack, b"work", name),
                "no union makes such an object here, and the next mount deletes all that is here",
                "move it somewhere else if you need it, else delete it",
            )
        elif not _is_shared_whiteout(stack, real, name):
            yield _litter(stack, b"work", name)


def _litter(stack: Stack, inside: bytes, name: bytes) -> Finding:
    return Finding(
        Kind.LITTER,
        Severity.WARNING,
        real_path_in_work(stack, inside, name),
        "a temporary object, left by a mount that was killed: it was not part of the union yet",
        "nothing needs to be done: the next mount removes it",
        RemoveTemporary(inside, name),
    )


def _is_shared_whiteout(stack: Stack, real: RealDir, name: bytes) -> bool:
    """Whether it is the whiteout that kernel overlayfs links the others from, and leaves at each unmount."""
    st = _stat(stack, real, name)
    return st is not None and is_whiteout_device(st)


def _incompatible(stack: Stack, real: RealDir) -> Iterator[Finding]:
    for name in _features(stack, real):
        path = real_path_in_work(stack, b"work", b"incompat", name)
        if name not in _KNOWN_FEATURES:
            yield Finding(
                Kind.WORK,
                Severity.ERROR,
                path,
                f"upper was used with the overlayfs feature {os.fsdecode(name)!r}, which this program does"
                " not know",
                "mount it with kernel overlayfs, or start with a new upper and work",
            )
        else:
            st = _stat(stack, real, b"incompat/" + name)
            yield _volatile(path, None if st is None else st.st_mtime)


def _features(stack: Stack, real: RealDir) -> list[bytes]:
    """What `incompat` in the directory *real* holds, also where both have the kernel's mode 0."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(b"incompat", flags, dir_fd=real.open())
    except PermissionError:
        if stack.fs.lender is None:
            raise
        fd = open_as_owner(real.open(), b"incompat", flags)
    try:
        return sorted(map(os.fsencode, os.listdir(fd)))
    finally:
        os.close(fd)


def _volatile(path: bytes, since: float | None) -> Finding:
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    if since is None or since < booted:
        since_boot = (
            "the machine has been started since, so data may be missing if it was not shut down in good order"
        )
    else:
        since_boot = "the machine has not been started since, so nothing is lost unless the disk was cut off"
    return Finding(
        Kind.VOLATILE,
        Severity.ERROR,
        path,
        f"a volatile mount used this upper, and nothing was synced; {since_boot}. A mount is refused",
        "check that upper is complete; if so, `--repair --accept-volatile` syncs it and removes the mark;"
        " else start with a new upper and work",
        RemoveVolatile(),
        consent=Consent.VOLATILE,
    )


# --- work/index -------------------------------------------------------------------------------------


def _index(stack: Stack, origins: Origins, real: RealDir) -> Iterator[Finding]:
    yield from _index_upper(stack, origins, real)
    for name in _names(stack, real):
        stack.fs.dirfds.trim()
        if name.startswith(b"#"):
            if not _is_shared_whiteout(stack, real, name):
                yield _litter(stack, b"index", name)
        else:
            finding = _entry(stack, origins, real, name)
            if finding is not None:
                yield finding


def _index_upper(stack: Stack, origins: Origins, real: RealDir) -> Iterator[Finding]:
    """The handles of upper's root that are kept on its index (`overlay/ties.py`)."""
    fmt = stack.fs.format
    own = b"/proc/self/fd/%d" % real.open()
    wrong = [
        mark
        for mark in (fmt.origin, fmt.upper)
        if (value := fmt.read(own, mark, follow=True))
        and fmt.decode_origin(value) is not None
        and not origins.names_object(value, stack.upper.root_fd)
    ]
    if wrong:
        yield Finding(
            Kind.INDEX,
            Severity.ERROR if stack.config.index else Severity.WARNING,
            real_path_in_work(stack, b"index"),
            "it was made for another upper: one of both was copied or replaced, and a mount with index=on is"
            " refused (ESTALE in the kernel)",
            "give the work directory that belongs to this upper; if both were copied, `--repair"
            " --accept-lowers` has the index made over",
            ChangeMarks(b"", "the note of the other upper was removed", place="index", remove=tuple(wrong)),
            consent=Consent.LOWERS,
        )


def _entry(stack: Stack, origins: Origins, real: RealDir, name: bytes) -> Finding | None:
    fmt = stack.fs.format
    st = real.lstat(name)
    if st is None:
        return None
    path = real_path_in_work(stack, b"index", name)
    handle = _handle(name)
    if handle is None:
        return Finding(
            Kind.INDEX,
            Severity.ERROR,
            path,
            "its name is no file handle, so it is no entry of an index, and kernel overlayfs refuses a mount"
            " with index=on",
            "move it somewhere else",
        )
    if is_whiteout_device(st):
        return None  # overlayfs's note (nfs_export) that the object is gone
    if stat.S_ISDIR(st.st_mode):
        return _directory_entry(stack, origins, real, name, path)
    mine = fmt.read_at(real, name, fmt.origin)
    alone = st.st_nlink < 2
    step = None if alone and stat.S_ISREG(st.st_mode) and st.st_size else RemoveIndexEntry(name)
    advice = (
        "it alone has these data: copy the file somewhere if you want them, and remove it;"
        " kernel overlayfs with index=on removes it at the next mount"
        if step is None
        else "remove it: the file's names in upper stay as they are"
    )
    if mine != handle:
        reason = "its name is another file handle than its origin: no lower file leads to it"
        return Finding(Kind.INDEX, Severity.WARNING, path, reason, advice, step)
    found = origins.resolve(handle)
    if found.state is OriginState.MALFORMED:
        reason = "its name is no file handle of a lower file"
        return Finding(Kind.INDEX, Severity.ERROR, path, reason, advice, step)
    if found.state in (OriginState.STALE, OriginState.FOREIGN):
        reason = (
            "the lower file that it was copied up from does not exist any more"
            if found.state is OriginState.STALE
            else "the lower file that it was copied up from is on a filesystem that no lower lies on"
        )
        return Finding(Kind.INDEX, Severity.WARNING, path, reason, advice, step, needs_lowers=True)
    value = fmt.read_at(real, name, fmt.nlink)
    if value is not None and not NLINK.fullmatch(value):
        return malformed_nlink(path, value)
    if alone and value is not None and found.st is not None and _links(value, st, found.st) == 0:
        return Finding(
            Kind.INDEX,
            Severity.WARNING,
            path,
            "the file has no name left in the union: a mount was killed while it removed the last one",
            "nothing needs to be done: the next mount with kernel overlayfs and index=on clears it away",
            RemoveIndexEntry(name, orphan=True),
        )
    return None


def _links(value: bytes, upper: os.stat_result, lower: os.stat_result) -> int:
    """The union's link count that `overlay.nlink` says (ovl_get_nlink())."""
    return (lower.st_nlink if value[:1] == b"L" else upper.st_nlink) + int(value[1:])


def _directory_entry(
    stack: Stack, origins: Origins, real: RealDir, name: bytes, path: bytes
) -> Finding | None:
    """Of a directory (nfs_export): it only leads to the directory in upper by a handle."""
    value = stack.fs.format.read_at(real, name, stack.fs.format.upper)
    if not value:
        reason = "the entry of a directory without overlay.upper: it leads nowhere"
        empty = not _names(stack, real.child(name))
        return Finding(
            Kind.INDEX,
            Severity.WARNING,
            path,
            reason,
            "remove it" if empty else "it holds something, which no index entry does: move that elsewhere",
            RemoveIndexEntry(name) if empty else None,
        )
    if origins.resolve_in(value, [stack.upper]).state is OriginState.STALE:
        return Finding(
            Kind.INDEX,
            Severity.WARNING,
            path,
            "the directory in upper that it leads to does not exist any more",
            "mount the union once with kernel overlayfs and nfs_export=on, which settles it, or remove it if"
            " the union is not exported by NFS",
        )
    return None


def _handle(name: bytes) -> bytes | None:
    """The origin that an index name stands for."""
    try:
        handle = bytes.fromhex(name.decode("ascii"))
    except ValueError:
        return None
    return handle if len(handle) > _LEAST_NAME and handle.hex().encode() == name.lower() else None


def malformed_nlink(path: bytes, value: bytes) -> Finding:
    return Finding(
        Kind.NLINK,
        Severity.WARNING,
        path,
        f"overlay.nlink is {value!r}, which is no link count: the count that the union shows is a guess",
        "copy the file in the mounted union and rename the copy over it, for each of its names",
    )
