"""The attributes of a lower's root, for that of a new upper. Loads nothing of the union: commands use it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

_PRIVATE = ("trusted.overlay.", "user.overlay.")


def copy_root_attributes(upper: str, lower: str) -> None:
    """Give a new upper the owner, mode, xattrs and times of the lower: its root is the merged tree's.

    An ordinary user stays the owner. A lower that cannot be accessed is ignored: opening the layers reports
    it.
    """
    try:
        st = os.stat(lower)
    except OSError:
        return
    root = os.geteuid() == 0
    if root:
        # A user namespace's root cannot chown to an id that is not mapped in it (EINVAL).
        with contextlib.suppress(OSError):
            os.chown(upper, st.st_uid, st.st_gid)
    os.chmod(upper, stat.S_IMODE(st.st_mode))
    for name in _xattrs(lower):
        try:
            os.setxattr(upper, name, os.getxattr(lower, name))
        except OSError as error:
            # Upper's filesystem does not support it, this user may not set it, or it is gone meanwhile.
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA):
                raise
    if not root:
        # The daemon writes as this user, which needs access; an ACL may have denied it, too.
        os.chmod(upper, stat.S_IMODE(os.stat(upper).st_mode) | stat.S_IRWXU)
    os.utime(upper, ns=(st.st_atime_ns, st.st_mtime_ns))


def _xattrs(path: str) -> list[str]:
    try:
        return [name for name in os.listxattr(path) if not name.startswith(_PRIVATE)]
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise
