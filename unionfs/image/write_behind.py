"""One stage of a pipeline: a thread that works on what is written to the stage, some blocks behind.

The counterpart of `read_ahead.py`, for what one reader gives to several. What is waiting is bounded; a stage
never drops or reorders a byte.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from unionfs.image.digest import Readable
from unionfs.image.read_ahead import StoppedError

_T = TypeVar("_T")
_DEPTH = 8
"""Blocks that are waiting, of a MiB at most (`tar_write`)."""


class WriteBehind(Generic[_T]):
    """Calls *work* in a thread with a source that gives what is written. `end` or `stop` must be called.

    *work* reads to the end, or raises.
    """

    def __init__(self, work: Callable[[Readable], _T], name: str) -> None:
        self._work = work
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_DEPTH)
        self._results: list[_T] = []
        self._ended = False
        self.error: BaseException | None = None
        """What *work* has raised; blocks are still taken then, so that no writer waits for ever."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, block: bytes) -> None:
        """Take a block; waits while too many are waiting."""
        if block:
            self._blocks.put(block)

    def end(self) -> _T:
        """What *work* returned, once it has all. Raises what it raised."""
        self._end(b"")
        if self.error is not None:
            raise self.error
        return self._results[0]

    def stop(self) -> None:
        """Have *work* end, which gets StoppedError for what it has not read; after `end` nothing is done."""
        self._end(None)

    def _end(self, last: bytes | None) -> None:
        if not self._ended:
            self._ended = True
            self._blocks.put(last)
            self._thread.join()

    def _run(self) -> None:
        source = _Source(self._blocks)
        try:
            self._results.append(self._work(source))
        except BaseException as error:
            self.error = error
        finally:
            source.drain()


class _Source:
    """The blocks, as a stream; b"" in the queue is its end, and None says that the rest is not wanted."""

    def __init__(self, blocks: queue.Queue[bytes | None]) -> None:
        self._blocks = blocks
        self._block = b""
        self._at = 0
        self._ended = False

    def read(self, size: int, /) -> bytes:
        if self._at == len(self._block):
            self._block, self._at = self._next(), 0
        if not self._at and len(self._block) <= size:
            self._at = len(self._block)
            return self._block
        block = self._block[self._at : self._at + size]
        self._at += len(block)
        return block

    def _next(self) -> bytes:
        block = b"" if self._ended else self._blocks.get()
        if not block:
            self._ended = True
        if block is None:
            raise StoppedError
        return block

    def drain(self) -> None:
        """Pass over what is left."""
        while not self._ended and self._blocks.get():
            pass
