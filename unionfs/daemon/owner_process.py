"""The process that owns a union: when it ends, for whatever reason, its union ends too.

Only the Python API makes such unions; a mount of `pyunionfs mount` has no owner process. Nothing here
unmounts: `event_loop.py` does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from unionfs.daemon.tempdir import TempDir
from unionfs.errors import MountError
from unionfs.linux import process

logger = logging.getLogger(__name__)


class OwnerProcess:
    """The process, by its pidfd, and the temporary directories that it cannot remove when it is killed."""

    __slots__ = ("_pidfd", "_temp_dirs")

    def __init__(self, pidfd: int, temp_dirs: Sequence[TempDir]) -> None:
        self._pidfd = pidfd
        self._temp_dirs = temp_dirs

    def fileno(self) -> int:
        """For a selector: readable when the process has ended."""
        return self._pidfd

    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that the daemon must keep open for it."""
        return (self._pidfd, *(temp_dir.fileno() for temp_dir in self._temp_dirs))

    def clean_up(self) -> None:
        """Remove the temporary directories if the process is gone. To be called after everything else."""
        if not process.wait_for_exit(self._pidfd, 0):
            return
        for temp_dir in self._temp_dirs:
            try:
                temp_dir.remove()
            except MountError as error:
                logger.error("%s", error)
