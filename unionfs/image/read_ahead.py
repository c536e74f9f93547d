"""One stage of a pipeline: a thread that reads a source some blocks ahead of what reads from the stage.

hashlib, isal, zstandard, read(2) and write(2) release the interpreter lock, so stages that hash, decompress
and write run beside each other. What is ahead is bounded; a stage never drops or reorders a byte.
"""

from __future__ import annotations

import threading
from collections import deque

from unionfs.image.digest import Readable

_BLOCK = 1 << 20
_DEPTH = 8


class StoppedError(Exception):
    """The stage was stopped: what reads from it must end. Never leaves this folder."""


class ReadAhead:
    """Reads *source* ahead, at most `_BLOCK * _DEPTH` bytes. `read` is for one thread, `stop` for any.

    What the source raises is raised by `read`, after the bytes that came before it.
    """

    def __init__(self, source: Readable, name: str) -> None:
        self._source = source
        self._block = b""
        self._at = 0
        self._changed = threading.Condition()
        self._blocks: deque[bytes] = deque()  # guarded by _changed, as are the next two
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def read(self, size: int, /) -> bytes:
        if self._at == len(self._block):
            self._block = self._next()
            self._at = 0
        block = self._block[self._at : self._at + size]
        self._at += len(block)
        return block

    def _next(self) -> bytes:
        with self._changed:
            while not self._blocks:
                if self._stopped:
                    raise StoppedError
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            if not self._blocks[0]:
                return b""  # the end, which stays
            self._changed.notify_all()
            return self._blocks.popleft()

    def stop(self) -> None:
        """Discard what is ahead and let the thread end, once the read in which it may be has returned."""
        with self._changed:
            self._stopped = True
            self._blocks.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the end of the thread, after `stop` or the end of the source."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                block = self._source.read(_BLOCK)
                with self._changed:
                    while len(self._blocks) >= _DEPTH and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                    self._blocks.append(block)
                    self._changed.notify_all()
                if not block:
                    return
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
