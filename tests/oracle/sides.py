"""The filesystems that the oracle can put on either side: kernel overlayfs, pyunionfs, fuse-overlayfs.

A side mounts and unmounts, and can be cut off when it hangs. Must know nothing of what is compared.
"""

from __future__ import annotations

import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support import mounts


@dataclass(frozen=True)
class Union:
    """The directories of one union, lowers topmost first, as every mount command wants them."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path
    merged: Path


class SideError(Exception):
    """The side did not mount or did not end as it should; the message has its log."""


class Side(ABC):
    """One way of mounting a union."""

    name: str

    @abstractmethod
    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        """Mount until the context ends. Raises SideError when something is wrong with the mount itself."""

    def cut_off(self) -> None:  # noqa: B027  (a side without a process of its own has nothing to cut)
        """Make all who wait for this side's mount go on, with errors.

        What does not serve from a process cannot.
        """


class Kernel(Side):
    """Kernel overlayfs."""

    name = "kernel"

    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        return mounts.overlayfs(union.lowers, union.upper, union.work, union.merged, options=options)


class PyUnionFS(Side):
    """pyunionfs from this checkout."""

    name = "pyunionfs"

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self.extra = list(extra)
        self._daemon: mounts.Daemon | None = None

    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        return _PyUnionFSMount(self, union, [*options, *self.extra])

    def cut_off(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()


class _PyUnionFSMount(AbstractContextManager[object]):
    def __init__(self, side: PyUnionFS, union: Union, options: list[str]) -> None:
        self._side = side
        self._stack = ExitStack()
        self._mount = mounts.pyunionfs(union.lowers, union.upper, union.work, union.merged, options=options)

    def __enter__(self) -> object:
        try:
            self._side._daemon = self._stack.enter_context(self._mount)
        except AssertionError as error:
            raise SideError(str(error)) from None
        return self._side._daemon

    def __exit__(self, *_: object) -> None:
        self._side._daemon = None
        try:
            self._stack.close()
        except AssertionError as error:
            raise SideError(str(error)) from None


class FuseOverlayfs(Side):
    """fuse-overlayfs, to see that the oracle finds differences where there are some."""

    name = "fuse-overlayfs"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        stack = ExitStack()
        data = f"lowerdir={mounts.join_layers(union.lowers)},upperdir={union.upper},workdir={union.work}"
        self._process = subprocess.Popen(
            ["fuse-overlayfs", "-f", "-o", f"{data},allow_other", str(union.merged)]
        )
        stack.callback(self._end, union.merged)
        deadline = time.monotonic() + mounts.START_TIMEOUT
        while not mounts.mount_types(union.merged):
            if self._process.poll() is not None or time.monotonic() > deadline:
                stack.close()
                raise SideError("fuse-overlayfs did not mount")
            time.sleep(0.005)
        os.stat(union.merged)
        return stack

    def _end(self, merged: Path) -> None:
        if mounts.mount_types(merged):
            mounts.umount(merged, lazy=True)
        if self._process is not None:
            self._process.wait(mounts.STOP_TIMEOUT)
            self._process = None

    def cut_off(self) -> None:
        if self._process is not None:
            self._process.kill()


def by_name(name: str) -> Side:
    """The side of this name."""
    sides: dict[str, type[Side]] = {side.name: side for side in (Kernel, PyUnionFS, FuseOverlayfs)}
    return sides[name]()
