"""The process that a union was made for: when it ends, however it ends, its union ends too.

Only the Python API makes such unions; what `pyunionfs mount` mounts is nobody's. Nothing here unmounts:
`serving.py` does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from unionfs.errors import MountError
from unionfs.linux import process
from unionfs.scratch import Scratch

logger = logging.getLogger(__name__)


class Caller:
    """The process, by its pidfd, and the temporary directories that it cannot remove when it is killed."""

    __slots__ = ("_pidfd", "_scratches")

    def __init__(self, pidfd: int, scratches: Sequence[Scratch]) -> None:
        self._pidfd = pidfd
        self._scratches = scratches

    def fileno(self) -> int:
        """For a selector: readable when the process has ended."""
        return self._pidfd

    def descriptors(self) -> tuple[int, ...]:
        """What the daemon must hold for it."""
        return (self._pidfd, *(scratch.fileno() for scratch in self._scratches))

    def clear_up(self) -> None:
        """Remove what the process would have removed, if it is gone. To be called after everything else."""
        if not process.wait_for_exit(self._pidfd, 0):
            return
        for scratch in self._scratches:
            try:
                scratch.remove()
            except MountError as error:
                logger.error("%s", error)
