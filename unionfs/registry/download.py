"""A blob from a registry, as one stream over as many connections as it takes.

Verifies nothing: `image` does, of all that is stored. A server that knows no ranges begins anew, and what
was there is skipped; so the stream is the same.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress

from urllib3.exceptions import HTTPError

from unionfs.errors import ImageError
from unionfs.image.model import Descriptor
from unionfs.image.progress import SILENT, Observer
from unionfs.registry.connections import Response, Unreachable, discard, plain_reason
from unionfs.registry.interrupt import Interrupt
from unionfs.registry.repository import Repository

_STEP = 64 << 10
"""Bytes after which a download has come forward: failures before them do not count any more."""
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class Download:
    """An `image.download.OpenLayer`'s stream, from *offset* on. Read by one thread, left by any.

    `_lock` guards `_response` and `_reading`; under it `_left` is set.
    """

    def __init__(
        self, repository: Repository, blob: Descriptor, offset: int = 0, observer: Observer = SILENT
    ) -> None:
        self._repository = repository
        self._blob = blob
        self._at = offset
        self._observer = observer
        self._left = threading.Event()
        self._interrupt = Interrupt()
        self._attempts = repository.client.attempts(self._pause)
        self._safe_at = offset
        self._lock = threading.Lock()
        self._response: Response | None = None
        self._reading = False

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes; b"" after the last. Raises ImageError where no try is left."""
        while self._at < self._blob.size:
            self._enter()
            try:
                if self._response is None:
                    self._open()
                assert self._response is not None
                block: bytes = self._response.read1(min(size, self._blob.size - self._at))
                if not block:
                    raise Unreachable("ended before its end", passes=True)
            except (HTTPError, Unreachable) as error:
                self._close()
                self._failed(error)
                continue
            finally:
                self._exit()
            self._at += len(block)
            if self._at >= self._safe_at + _STEP:
                self._safe_at = self._at
                self._attempts.progressed()
            if self._at >= self._blob.size:
                self._finish()
            return block
        return b""

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._left.set()
            if self._response is None:
                self._interrupt.end()
                return
            if not self._reading:
                self._response.close()
                return
            with suppress(RuntimeError, OSError):  # it has just ended by itself
                self._response.shutdown()  # the thread that reads closes it

    def _open(self) -> None:
        """The response that goes on at `_at`."""
        headers = {"Range": f"bytes={self._at}-"} if self._at else {}
        with self._interrupt.covers():
            response = self._repository.client.request(
                "GET",
                self._repository.blob_path(self._blob.digest),
                what=self._repository.about(self._blob),
                expected=(200, 206),
                scopes=self._repository.scopes,
                headers=headers,
                attempts=self._attempts,
            )
        with self._lock:
            self._response = response
            if self._left.is_set():
                # Who has left found no response to shut down, so that a read would wait for its content.
                raise self._ended()
        begin = 0
        if response.status == 206:
            found = _RANGE.match(response.headers.get("Content-Range", ""))
            begin = int(found[1]) if found is not None else -1
        if not 0 <= begin <= self._at:
            raise ImageError(f"{self._repository.about(self._blob)}: not the range that was asked for came")
        skip = self._at - begin
        while skip:
            skipped = response.read1(min(1 << 20, skip))
            if not skipped:
                raise Unreachable("ended before what is missing", passes=True)
            skip -= len(skipped)

    def _failed(self, error: Exception) -> None:
        reason = str(error) if isinstance(error, Unreachable) else plain_reason(error)
        if not self._left.is_set():
            self._observer.report(self._blob.id, "retrying", self._at, self._blob.size)
            self._attempts.failed(f"{self._repository.about(self._blob)}: the connection broke ({reason})")

    def _pause(self, seconds: float) -> None:
        if self._left.wait(seconds):
            raise self._ended()

    def _enter(self) -> None:
        with self._lock:
            if self._left.is_set():
                raise self._ended()
            self._reading = True

    def _exit(self) -> None:
        with self._lock:
            self._reading = False
            if self._left.is_set() and self._response is not None:
                self._response.close()

    def _ended(self) -> ImageError:
        return ImageError(f"{self._repository.about(self._blob)}: the download was ended")

    def _finish(self) -> None:
        """Have the connection for the next request."""
        with self._lock:
            if self._response is not None and not self._left.is_set():
                discard(self._response)
                self._response = None

    def _close(self) -> None:
        with self._lock:
            if self._response is not None:
                self._response.close()
                self._response = None
