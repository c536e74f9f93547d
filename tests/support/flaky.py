"""A proxy before a registry that fails as it is wanted to, and logs what passes."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.http_server import BreakingServer, Handler

_BLOCK = 16 << 10


@dataclass(slots=True)
class Seen:
    """One request. The sizes are those of bodies, and stand when it is over."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    received: int = 0
    sent: int = 0
    status: int = 0


@dataclass(frozen=True, slots=True)
class Act:
    """What is done to a request instead of passing it on as it is."""

    status: int | None = None
    """Answered by the proxy itself, with *headers* and *body*."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_reply: int | None = None
    """The connection breaks after so many bytes of the reply's body."""
    cut_request: int | None = None
    """Both connections break after so many bytes of the request's body."""
    lose_reply: bool = False
    """The registry gets all of the request, the client no reply."""
    without: str | None = None
    """A header of the request that is not passed on."""
    change: Callable[[bytes], bytes] | None = None
    """Makes other bytes, no more and no less, of each block of the reply's body."""


Match = Callable[[Seen], bool]


class Flaky:
    """Serves `name`, a HOST:PORT. `_lock` guards the wishes; `seen` grows by whole entries."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.seen: list[Seen] = []
        self._wishes: list[tuple[Match, Act, list[int]]] = []
        self._lock = threading.Lock()
        self.server = _Server(_Handler)
        self.server.flaky = self
        self.port = self.server.port
        self.name = self.server.name

    def wish(self, match: Match, act: Act, times: int = 1_000_000) -> None:
        """Do this to so many of the requests that match."""
        with self._lock:
            self._wishes.append((match, act, [times]))

    def act_for(self, seen: Seen) -> Act:
        with self._lock:
            self.seen.append(seen)
            for match, act, left in self._wishes:
                if left[0] > 0 and match(seen):
                    left[0] -= 1
                    return act
        return Act()

    def of(self, method: str, part: str) -> list[Seen]:
        """The requests of a method whose path has *part*."""
        return [each for each in self.seen if each.method == method and part in each.path]


@contextmanager
def flaky(upstream: str) -> Iterator[Flaky]:
    """A proxy before *upstream*, a HOST:PORT."""
    made = Flaky(upstream)
    with made.server.serving():
        yield made


class _Server(BreakingServer):
    flaky: Flaky


class _Handler(Handler):
    server: _Server

    def _handle(self) -> None:
        seen = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        act = self.server.flaky.act_for(seen)
        if act.status is not None:
            self._answer(seen, act)
            return
        upstream = http.client.HTTPConnection(self.server.flaky.upstream)
        try:
            if self._pass_request(seen, act, upstream):
                self._pass_reply(seen, act, upstream)
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _answer(self, seen: Seen, act: Act) -> None:
        for block in self.body():
            seen.received += len(block)
        assert act.status is not None
        seen.status = act.status
        self.reply(act.status, act.headers, act.body)

    def _pass_request(self, seen: Seen, act: Act, upstream: http.client.HTTPConnection) -> bool:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", act.without):
                upstream.putheader(name, value)
        upstream.endheaders()
        for block in self.body():
            if act.cut_request is not None and seen.received + len(block) > act.cut_request:
                upstream.send(block[: act.cut_request - seen.received])
                seen.received = act.cut_request
                self._break()
                return False
            seen.received += len(block)
            upstream.send(block)
        return True

    def _pass_reply(self, seen: Seen, act: Act, upstream: http.client.HTTPConnection) -> None:
        reply = upstream.getresponse()
        seen.status = reply.status
        if act.lose_reply:
            reply.read()
            self._break()
            return
        self.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if self.command != "HEAD" and reply.getheader("Content-Length") is None and reply.status != 204:
            self.send_header("Connection", "close")
        self.end_headers()
        while block := reply.read(_BLOCK):
            if act.cut_reply is not None and seen.sent + len(block) > act.cut_reply:
                self.wfile.write(block[: act.cut_reply - seen.sent])
                seen.sent = act.cut_reply
                self._break()
                return
            self.wfile.write(block if act.change is None else act.change(block))
            seen.sent += len(block)

    def _break(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
