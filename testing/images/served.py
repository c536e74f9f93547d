"""A registry that has some images and takes none: pulls from it need no other program.

By the distribution specification, as far as a pull goes: manifests and blobs, by Range too. It can be slow,
so that a moment within a download is easy to hit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from testing.images.layout import Image, digest

_BLOCK = 64 << 10


@contextmanager
def served(images: Mapping[str, Image], *, pause: float = 0.0) -> Iterator[str]:
    """Serve images by their names (`image:1`), on loopback; yields `127.0.0.1:PORT`.

    After each 64 KiB of a blob it sleeps for *pause* seconds.
    """
    blobs = {digest(blob): blob for each in images.values() for blob in (each.config, *each.blobs)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.removeprefix("/v2/")
            name, _, wanted = path.partition("/manifests/")
            found = images.get(f"{name}:{wanted}") or next(
                (each for each in images.values() if each.digest == wanted), None
            )
            blob = blobs.get(path.rpartition("/blobs/")[2])
            if not path:
                self._send(200, b"{}", {})
            elif found is not None:
                self._send(
                    200,
                    found.manifest,
                    {"Content-Type": found.media_type, "Docker-Content-Digest": found.digest},
                )
            elif blob is not None:
                self._send_blob(blob)
            else:
                self._send(404, b'{"errors": [{"code": "NOT_FOUND", "message": "not here"}]}', {})

        do_HEAD = do_GET

        def _send_blob(self, blob: bytes) -> None:
            begin, _, _ = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            offset = int(begin or 0)
            extra = {"Content-Range": f"bytes {offset}-{len(blob) - 1}/{len(blob)}"} if begin else {}
            self._send(206 if begin else 200, blob[offset:], extra)

        def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                for at in range(0, len(content) if self.command == "GET" else 0, _BLOCK):
                    self.wfile.write(content[at : at + _BLOCK])
                    time.sleep(pause)
            except OSError:  # the client was killed
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
