"""Wraps the union's operations as pyfuse3 handlers: counts requests, runs slow work, converts exceptions.

Only `FUSEError` may leave a handler: anything else ends pyfuse3's main loop and the mount with it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3

from unionfs.overlay.wait import Owner, Task, Wait
from unionfs.transport.failure import errno_for_caller

log = logging.getLogger(__name__)


class Server(Protocol):
    """What a handler needs of its object."""

    counts: dict[str, int]
    debug: bool

    async def run_task(self, task: Task, opcode: str) -> None:
        """Run slow work; the operation is called again after it."""

    async def give_up(self, owner: Owner, task: Task) -> None:
        """The operation is not called again after *task*: undo what it has begun."""

    def after_operation(self) -> None:
        """Called after each operation that has done its work, before its reply."""


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Server)

Method = Callable[Concatenate[S, P], T]
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def op(opcode: str) -> Callable[[Method[S, P, T]], Handler[S, P, T]]:
    """Make a handler of an operation that does not wait: call it, and again after each task it raises."""

    def decorate(operation: Method[S, P, T]) -> Handler[S, P, T]:
        @wraps(operation)
        async def handler(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            self.counts[opcode] = self.counts.get(opcode, 0) + 1
            if self.debug:
                _log_request(opcode, args)
            while True:
                try:
                    result = operation(self, *args, **kwargs)
                    self.after_operation()
                    return result
                except Wait as wait:
                    task, owner = wait.task, wait.owner
                except Exception as error:
                    raise to_fuse_error(error, opcode) from None
                try:
                    await self.run_task(task, opcode)
                except BaseException:
                    if owner is not None:
                        await self.give_up(owner, task)
                    raise

        return handler

    return decorate


def slow_op(opcode: str) -> Callable[[Handler[S, P, T]], Handler[S, P, T]]:
    """Make a handler of an operation that is a coroutine itself."""

    def decorate(operation: Handler[S, P, T]) -> Handler[S, P, T]:
        @wraps(operation)
        async def handler(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            self.counts[opcode] = self.counts.get(opcode, 0) + 1
            if self.debug:
                _log_request(opcode, args)
            try:
                return await operation(self, *args, **kwargs)
            except Exception as error:
                raise to_fuse_error(error, opcode) from None

        return handler

    return decorate


def _log_request(opcode: str, args: tuple[object, ...]) -> None:
    """Log numbers and names of a request, and of data only the size."""
    shown = []
    for arg in args:
        if isinstance(arg, bytes):
            shown.append(repr(arg) if len(arg) <= 255 else f"{len(arg)} bytes")
        elif isinstance(arg, int):
            shown.append(str(arg))
        elif isinstance(arg, pyfuse3.RequestContext):
            shown.append(f"pid {arg.pid} uid {arg.uid} gid {arg.gid}")
    log.debug("%s(%s)", opcode, ", ".join(shown))


def to_fuse_error(error: BaseException, opcode: str) -> pyfuse3.FUSEError:
    """The errno to reply with: that of an OSError, and EIO for any other exception, which is logged."""
    if isinstance(error, pyfuse3.FUSEError):
        return error
    if isinstance(error, OSError) and error.errno:
        return pyfuse3.FUSEError(errno_for_caller(error.errno))
    log.error("%s: unhandled exception, replied EIO", opcode, exc_info=error)
    return pyfuse3.FUSEError(errno.EIO)
