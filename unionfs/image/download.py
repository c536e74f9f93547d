"""A blob on its way into the store, which a later command can go on with where it stopped."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol

from unionfs.errors import ImageError
from unionfs.image.digest import Readable
from unionfs.image.model import Descriptor
from unionfs.image.progress import Observer
from unionfs.image.read_ahead import StoppedError


class OpenLayer(Protocol):
    """Opens the stored form of a layer, from *offset* on, wherever it comes from.

    The offset is above 0 where an earlier attempt has left that many bytes, which are hashed again: the
    source continues there (a Range request, a seek), or reads and discards so much. Called and read in a
    thread of its own, for several layers at once; leaving it ends a read that is under way in another thread.

    What it raises (ImageError, OSError) ends the unpacking, and what came until then is kept for the next
    attempt. So where a connection ends too early, `read` opens another or raises; b"" says that the blob has
    ended, and one that is too short is discarded.
    """

    def __call__(self, layer: Descriptor, offset: int, /) -> AbstractContextManager[Readable]: ...


class BrokenDownloadError(Exception):
    """The source failed, for the reason that is the cause. What has come of the blob is kept."""


class Download:
    """What an earlier attempt has left in the file *part*, then the source from there on.

    What the source gives is written to *part* as it passes; without *part* nothing is kept. Verifies nothing.
    """

    def __init__(
        self, blob: Descriptor, open_layer: OpenLayer, part: Path | None, observer: Observer
    ) -> None:
        self._blob = blob
        self._open_layer = open_layer
        self._observer = observer
        self._lock = threading.Lock()
        self._closing = ExitStack()  # guarded by _lock, as is the next
        self._interrupted = False
        self._source: Readable | None = None
        self._part = part
        self._fd = -1
        self._done = 0
        self.resumed = 0
        """Bytes that were there already."""
        if part is not None:
            self._fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                self.resumed = os.fstat(self._fd).st_size
                if self.resumed > blob.size:
                    os.ftruncate(self._fd, 0)
                    self.resumed = 0
            except BaseException:
                os.close(self._fd)
                raise

    def read(self, size: int, /) -> bytes:
        if self._done < self.resumed:
            block = os.read(self._fd, min(size, self.resumed - self._done))
        elif self._done == self._blob.size == self.resumed:
            return b""  # killed between the last byte and the renaming
        else:
            block = self._fetch(size)
        self._done += len(block)
        self._observer.report(self._blob.id, "downloading", self._done, self._blob.size)
        return block

    def _fetch(self, size: int) -> bytes:
        try:
            block = self._opened().read(size)
        except (ImageError, OSError) as error:
            raise BrokenDownloadError from error
        left = memoryview(block if self._fd >= 0 else b"")
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._part)) from None
        return block

    def _opened(self) -> Readable:
        if self._source is None:
            opening = self._open_layer(self._blob, self._done)
            with self._lock:
                if self._interrupted:
                    raise StoppedError
                self._source = self._closing.enter_context(opening)
        return self._source

    def interrupt(self) -> None:
        """End a read of the source that is under way in another thread, and begin none."""
        with self._lock:
            self._interrupted = True
            self._closing.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *error: object) -> None:
        """No thread may read any more."""
        self._closing.close()
        if self._fd >= 0:
            os.close(self._fd)
