"""An HTTP server of a test: on a port that the kernel chooses, in a thread of its own, and silent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BLOCK = 16 << 10
_TLS_HANDSHAKE = 0x16


class Server(ThreadingHTTPServer):
    """Serves `name`, a HOST:PORT, within `serving`."""

    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.port: int = self.server_address[1]
        self.name = f"127.0.0.1:{self.port}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class BreakingServer(Server):
    """One whose connections are to break, and which is silent about that."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    """Hangs up on a client that begins with TLS, as it does where it cannot know what the server has."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        first = self.rfile.peek(1)[:1]  # type: ignore[attr-defined]
        if first and first[0] == _TLS_HANDSHAKE:
            self.close_connection = True
            return
        super().handle_one_request()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def body(self) -> Iterator[bytes]:
        """The blocks of the request's body, as they come; fewer bytes than announced if the client leaves."""
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            block = self.rfile.read1(min(_BLOCK, left))
            if not block:
                return
            left -= len(block)
            yield block

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send a whole reply; its length is known by *body*, which a HEAD does not get."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
