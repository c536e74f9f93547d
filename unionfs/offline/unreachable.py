"""Why a name of a union, or its data, cannot be reached: the finding for a lookup that failed.

Reads only.
"""

from __future__ import annotations

import errno
import os

from unionfs.offline.findings import Finding, Kind, Severity
from unionfs.offline.stack import Stack, real_path
from unionfs.overlay.access import reachable
from unionfs.overlay.iget import Found
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import RealDir


def unreachable(stack: Stack, directory: Directory, name: bytes, error: OSError) -> Finding:
    """Why a lookup of a name fails, and in which layer the reason is."""
    fmt = stack.fs.format
    reals = [real for real in directory.real_dirs() if real.has(name)]
    top = reals[0] if reals else next(directory.real_dirs())
    shown = real_path(top, name)
    if error.errno in (errno.EINVAL, errno.EACCES):
        for real in reals:
            finding = _bad_redirect(stack, real, name)
            if finding is not None:
                return finding
    metacopies = [real for real in reals if fmt.read_at(real, name, fmt.metacopy) is not None]
    if error.errno == errno.EPERM and not stack.config.redirect_follow and not metacopies:
        return Finding(
            Kind.REDIRECT,
            Severity.ERROR,
            shown,
            "it was renamed by a redirect, which is not followed with these options"
            f" (redirect_dir={stack.config.redirect_dir}), so lookups of it fail",
            "mount, and check, with -o redirect_dir=on",
        )
    if error.errno == errno.EPERM and stack.config.userxattr:
        return Finding(
            Kind.METACOPY,
            Severity.ERROR,
            shown,
            "it has no data of its own, and with user.overlay.* marks those of a lower are not used, so"
            " open(2) of it fails",
            f"copy the file anew from the lower, or remove {fmt.metacopy} if its own data are complete",
        )
    if error.errno == errno.EIO and metacopies:
        return Finding(
            Kind.METACOPY,
            Severity.ERROR,
            shown,
            "it has no data of its own, and no lower has them: open(2) of it fails",
            "give the lowers that it was made with, put the lower file back from a backup, or remove the file"
            if top.layer.is_upper
            else "give all lowers that belong to this one; a lower is never written",
        )
    return unreadable(top, name, error)


def _bad_redirect(stack: Stack, directory: RealDir, name: bytes) -> Finding | None:
    """The finding of an object whose redirect no lookup accepts, in whichever layer."""
    fmt = stack.fs.format
    try:
        with reachable(stack.fs, directory, name, is_dir=True):
            fmt.read_redirect(directory.proc_path(name))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            return None
    else:
        return None
    value = fmt.read_at(directory, name, fmt.redirect)
    shown = real_path(directory, name)
    return Finding(
        Kind.REDIRECT,
        Severity.ERROR,
        shown,
        f"its redirect is {value!r}: neither one name nor a path from the root without . and .., so lookups"
        " of the object fail",
        "set overlay.redirect to where the lowers have it, or remove it if they have it by the same name"
        if directory.layer.is_upper
        else "a lower is never written: repair it where it is an upper, or leave the layer out",
    )


def missing_data(stack: Stack, found: Found) -> Finding | None:
    """Whether the file that has the data of a metacopy is there and of the right size."""
    top = found.upper or found.lowers[0]
    if found.data is not None:
        assert stack.fs.data is not None
        try:
            directory, name = stack.fs.data.find(found.data)
        except OSError as error:
            return Finding(
                Kind.METACOPY,
                Severity.ERROR,
                real_path(top.directory, top.name),
                f"its data are to be at {os.fsdecode(found.data)} in a data-only layer, and are in none:"
                f" {error.strerror}",
                "give all data-only layers, or put the file back from a backup",
            )
    elif found.upper_metacopy or len(found.lowers) > 1:
        directory, name = found.lowers[-1].directory, found.lowers[-1].name
    else:
        return None
    st = directory.lstat(name)
    if st is not None and st.st_size != top.st.st_size:
        return Finding(
            Kind.METACOPY,
            Severity.ERROR,
            real_path(top.directory, top.name),
            "it has no data of its own, and the file that has them,"
            f" {os.fsdecode(real_path(directory, name))}, is of"
            f" {st.st_size} bytes instead of {top.st.st_size}: that file was changed",
            "put the lower file back as it was, or write the file anew in the mounted union",
        )
    return None


def unreadable(directory: RealDir, name: bytes, error: OSError) -> Finding:
    """The finding for what cannot be read, for any other reason."""
    mine = directory.layer.is_upper
    if error.errno in (errno.EACCES, errno.EPERM) and not mine:
        # Another user's, in a lower: an ordinary user's mount does not show it either.
        return Finding(
            Kind.UNREADABLE,
            Severity.NOTE,
            real_path(directory, name),
            f"it cannot be read by user {os.geteuid()}, so what is in it was not checked",
            "run the check as root to include it",
        )
    return Finding(
        Kind.UNREADABLE,
        Severity.ERROR,
        real_path(directory, name),
        f"it cannot be read: {error.strerror or error}",
        "make it readable, or run the check as root"
        if error.errno in (errno.EACCES, errno.EPERM)
        else "see the kernel's log for errors of the filesystem",
    )
