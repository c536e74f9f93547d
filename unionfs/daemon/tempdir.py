"""The temporary directory of a union: upper, work and mountpoint, as far as the caller has given no others.

Made and removed by the process that mounts the union; when that is killed, removed by the daemon. Never
removes anything but these three, never what is mounted in there, and never a directory that only has the same
path.
"""

from __future__ import annotations

import contextlib
import os
import stat

from unionfs.errors import MountError
from unionfs.linux.mount import mount_table
from unionfs.overlay.work import remove_tree

PREFIX = "pyunionfs-"

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LAYERS = ("upper", "work")
_MOUNTPOINT = "merged"


class TempDir:
    """One such directory, by a descriptor: it is the same one whatever is mounted over its path."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str) -> None:
        """Open the directory that `make` made, in this process or in another."""
        self.path = path
        self._fd = os.open(path, _OPEN_DIR)

    @classmethod
    def make(cls, place: str, prefix: str = PREFIX) -> TempDir:
        """A new one in the directory `place`, which only this user may enter."""
        # Here, because the daemon that holds one does not need it, and it is slow to load.
        import tempfile

        try:
            return cls(os.path.realpath(tempfile.mkdtemp(prefix=prefix, dir=place)))
        except OSError as error:
            raise MountError(
                f"cannot make a temporary directory in {place}: {error.strerror}; name another place by"
                " tmpdir=... or by the environment variable TMPDIR"
            ) from error

    def fileno(self) -> int:
        return self._fd

    def add(self, name: str) -> str:
        """Make one of the three directories in it, and return its path."""
        assert name in (*_LAYERS, _MOUNTPOINT)
        # Whatever the umask: the root of the merged tree shows this mode.
        os.mkdir(name, 0o700, dir_fd=self._fd)
        os.chmod(name, 0o755, dir_fd=self._fd)
        return os.path.join(self.path, name)

    def remove(self) -> None:
        """Remove it with the layers that are in it. MountError: that failed, and the rest is as it was.

        May be called again.
        """
        if self._fd < 0:
            return
        # Where it is by now: it may have been renamed, and what is mounted in it goes with it.
        here = os.readlink(f"/proc/self/fd/{self._fd}")
        inside = [entry.path for entry in mount_table() if entry.path.startswith(here + "/")]
        if inside and self._leads_here(here):
            raise MountError(
                f"the temporary directory {here} stays, because {inside[-1]} is mounted in it: unmount"
                " that, then remove the directory"
            )
        try:
            for name in _LAYERS:
                remove_tree(self._fd, os.fsencode(name))
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(_MOUNTPOINT, dir_fd=self._fd)
            if self._leads_here(self.path):
                os.rmdir(self.path)
        except (OSError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "directories are nested too deeply"
            raise MountError(
                f"cannot remove the temporary directory {self.path}: {reason}: remove it by hand"
            ) from error
        self.close()

    def _leads_here(self, path: str) -> bool:
        """Whether a path resolves to it, and not to what is mounted over it or has replaced it."""
        try:
            return os.path.samestat(os.lstat(path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the descriptor, without removing anything."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def supports_whiteouts(directory: str) -> bool:
    """Whether a whiteout can be made there. It cannot on overlayfs, a container's own root directory."""
    fd = os.open(directory, _OPEN_DIR)
    try:
        os.mknod("whiteout", stat.S_IFCHR, os.makedev(0, 0), dir_fd=fd)
        os.unlink("whiteout", dir_fd=fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
