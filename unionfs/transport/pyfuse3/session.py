"""One mount's conversation with the kernel through libfuse and pyfuse3, under trio in a thread of its own.

Starts and ends it; what a request means is `operations.py`'s.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable

import pyfuse3
import trio

from unionfs.overlay.super import Union
from unionfs.transport.pyfuse3.operations import Operations
from unionfs.transport.session import SessionOptions

_MOST_TASKS = 100_000
"""Requests that may wait at once: each keeps one of pyfuse3's tasks, and with none left the mount stands."""


def _is_end(error: BaseException) -> bool:
    return isinstance(error, ExceptionGroup) or (
        isinstance(error, OSError) and error.errno == errno.ECONNABORTED
    )


class Session:
    """One mount's conversation with the kernel. pyfuse3 keeps it in globals: one at a time in a process."""

    def __init__(self, union: Union, fuse_fd: int, options: SessionOptions) -> None:
        """Take over *fuse_fd*, a /dev/fuse descriptor that is mounted already."""
        self._operations = Operations(union)
        self._union = union
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._cancel = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        # Not max_read: the kernel knows it from mount(2), and libfuse would want it of pyfuse3 a second time.
        pyfuse3.init(self._operations, f"/dev/fd/{fuse_fd}", {"default_permissions"})

    def start(self, ended: Callable[[], None]) -> None:
        """Answer requests from now on, under trio in a thread of its own; *ended* is called at its end."""
        self._thread = threading.Thread(target=self._run, args=(ended,), name="requests", daemon=True)
        self._thread.start()

    def _run(self, ended: Callable[[], None]) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self._failure = error
        finally:
            ended()

    def raise_failure(self) -> None:
        """Raise what has ended the serving, other than the end of the mount."""
        if self._failure is not None:
            raise self._failure

    def flags(self) -> list[str]:
        """Nothing: what was agreed on at INIT libfuse keeps to itself."""
        return []

    def passthrough_problem(self) -> str | None:
        return "pyfuse3 cannot ask the kernel for it: use transport=direct"

    async def _serve(self) -> None:
        """Answer requests until the kernel ends the session, or `close` does."""
        self._token = trio.lowlevel.current_trio_token()
        with self._cancel:
            await self._answer_all()

    async def _answer_all(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._operations.do_chores)
            try:
                await pyfuse3.main(max_tasks=_MOST_TASKS)
            except* OSError as failures:
                # An unmount that comes while a request is read ends it so; ENODEV pyfuse3 knows itself.
                if failures.subgroup(lambda error: not _is_end(error)) is not None:
                    raise
            nursery.cancel_scope.cancel()

    def counts(self) -> dict[str, int]:
        """How many requests of each kind have come."""
        return dict(self._operations.counts)

    def pending_requests(self) -> int:
        """How many slow pieces of work requests are waiting for just now."""
        return len(self._operations.waiters)

    def open_handles(self) -> int:
        """How many files and directories are open."""
        return len(self._operations.files) + len(self._operations.dirs)

    def close(self) -> None:
        """Let go of the kernel's side and of all handles. Unmounting is the daemon's."""
        if self._thread is not None and self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._cancel.cancel)
            self._thread.join()
        pyfuse3.close(unmount=False)
        operations = self._operations
        for file in operations.files.values():
            self._union.release(file)
        for directory in operations.dirs.values():
            self._union.release_dir(directory)
        operations.files.clear()
        operations.dirs.clear()
