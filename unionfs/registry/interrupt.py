"""Ending, from another thread, a request that waits for its response.

urllib3 can shut down a response's connection, but nothing is known of a request before its response has
come, and a registry may let it wait for the whole timeout. Ends nothing else: a connection that has gone back
to its pool is forgotten.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class Interrupt:
    """For the requests of one thread at a time. `_lock` guards `_waits_on` and `_ended`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits_on: socket.socket | None = None
        self._ended = False

    def end(self) -> None:
        """End the request that is under way, and all that follow: they fail as by a broken connection."""
        with self._lock:
            self._ended = True
            _shut_down(self._waits_on)

    @contextmanager
    def covers(self) -> Iterator[None]:
        """The requests that this thread sends meanwhile can be ended."""
        before = _current.set(self)
        try:
            yield
        finally:
            _current.reset(before)
            with self._lock:
                self._waits_on = None

    def waits_on(self, connection: socket.socket) -> None:
        with self._lock:
            self._waits_on = connection
            if self._ended:
                _shut_down(connection)


_current: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)


def _shut_down(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):  # it has just ended by itself
            connection.shutdown(socket.SHUT_RDWR)


class _Waiting(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        interrupt = _current.get()
        if interrupt is not None and self.sock is not None:
            interrupt.waits_on(self.sock)
        return super().getresponse()


class _WaitingByTls(_Waiting, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Waiting


class _PoolByTls(HTTPSConnectionPool):
    ConnectionCls = _WaitingByTls


POOLS = {"http": _Pool, "https": _PoolByTls}
"""A `PoolManager.pool_classes_by_scheme`, whose connections know of `Interrupt`."""
