"""One mount's session through libfuse and pyfuse3, under trio in a thread of its own.

Starts and ends it; the handlers are in `operations.py`.
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

_MAX_TASKS = 100_000
"""Requests that may wait at once: each keeps one of pyfuse3's tasks, and with none left the mount hangs."""


def _is_disconnect(error: BaseException) -> bool:
    return isinstance(error, ExceptionGroup) or (
        isinstance(error, OSError) and error.errno == errno.ECONNABORTED
    )


class Session:
    """One mount's session. pyfuse3 keeps it in globals: one at a time in a process."""

    def __init__(self, union: Union, fuse_fd: int, options: SessionOptions) -> None:
        """*fuse_fd* is a mounted /dev/fuse descriptor, which the session owns."""
        self._operations = Operations(union)
        self._union = union
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._cancel = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        # Not max_read: the kernel has it from mount(2), and libfuse would need it from pyfuse3 a second time.
        pyfuse3.init(self._operations, f"/dev/fd/{fuse_fd}", {"default_permissions"})

    def start(self, ended: Callable[[], None]) -> None:
        """Serve requests under trio in a thread of its own; *ended* is called when it ends."""
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
        """Raise the exception that has ended the thread, if one has."""
        if self._failure is not None:
            raise self._failure

    def flags(self) -> list[str]:
        """Empty: libfuse does not expose what it negotiated at INIT."""
        return []

    def passthrough_problem(self) -> str | None:
        return "pyfuse3 cannot ask the kernel for it: use transport=direct"

    async def _serve(self) -> None:
        """Serve requests until the kernel ends the session, or `close` does."""
        self._token = trio.lowlevel.current_trio_token()
        with self._cancel:
            await self._serve_requests()

    async def _serve_requests(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._operations.run_background_jobs)
            try:
                await pyfuse3.main(max_tasks=_MAX_TASKS)
            except* OSError as failures:
                # An unmount while a request is read raises this; pyfuse3 handles ENODEV itself.
                if failures.subgroup(lambda error: not _is_disconnect(error)) is not None:
                    raise
            nursery.cancel_scope.cancel()

    def counts(self) -> dict[str, int]:
        """How many requests of each opcode have been read."""
        return dict(self._operations.counts)

    def pending_requests(self) -> int:
        """How many tasks requests wait for just now."""
        return len(self._operations.pending_tasks)

    def open_handles(self) -> int:
        """How many files and directories are open."""
        return len(self._operations.files) + len(self._operations.dirs)

    def close(self) -> None:
        """Stop replying and close the device and all handles. The daemon unmounts."""
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
