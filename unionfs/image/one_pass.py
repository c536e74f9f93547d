"""A layer's stored form becomes a tree, read once, in threads:

    source, digest and size of the blob, blob file | decompression, DiffID | tar entries, files
    ---------- one thread ------------------------ | ---- another -------- | -- the caller ---

Gives nothing a place in the store: what is left is a tree and a blob file that match, or it raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from unionfs.errors import ImageError
from unionfs.image.compression import decompressed
from unionfs.image.digest import Digest, Readable, VerifyingReader
from unionfs.image.layer_form import LayerForm
from unionfs.image.read_ahead import ReadAhead, StoppedError
from unionfs.image.unpack import Unpacked, unpack

_BLOCK = 1 << 20


class Stages:
    """The stages that are at work for one layer, to be stopped from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[ReadAhead] = []  # guarded by _lock, as is the next
        self._stopped = False

    def start(self, source: Readable, name: str) -> ReadAhead:
        """Raises StoppedError after `stop`."""
        with self._lock:
            if self._stopped:
                raise StoppedError
            self._running.append(ReadAhead(source, name))
            return self._running[-1]

    def stop(self) -> None:
        """What reads from a stage gets StoppedError, now and later."""
        with self._lock:
            self._stopped = True
            for stage in self._running:
                stage.stop()

    def end(self, interrupt: Callable[[], None]) -> None:
        """Wait until no stage reads its source any more; *interrupt* ends a read of the first one's."""
        with self._lock:
            ending, self._running = self._running, []
        for stage in ending:
            stage.stop()
        interrupt()
        for stage in ending:
            stage.join()


def one_pass(
    source: Readable,
    interrupt: Callable[[], None],
    blob: Digest,
    diff_id: Digest,
    target: Path,
    parents: Callable[[], Sequence[Path]],
    form: LayerForm,
    limit: int,
    stages: Stages,
) -> Unpacked:
    """Unpack the blob that *source* gives, which verifies itself, into the directory *target*.

    Before ImageError is raised, the source has been read to its end, unless it failed by itself: so wrong
    bytes are reported as a wrong digest, and not as what they seem to be. With any other exception, reading
    ends where it is; *interrupt* ends a read that is under way.
    """
    what = f"layer {blob}"
    try:
        fetched = stages.start(source, "fetch")
        extracted = fetched
        try:
            if blob != diff_id:  # else it is the tar itself, and is being verified already
                tar = VerifyingReader(decompressed(fetched, what, limit), diff_id, None, f"{what}: content")
                extracted = stages.start(tar, "extract")
            unpacked = unpack(extracted, target, parents, form, what, limit)
            drain(extracted)
            return unpacked
        except ImageError:
            if extracted is not fetched:
                extracted.stop()
                extracted.join()
            drain(fetched)
            raise
    finally:
        stages.end(interrupt)


def read_all(source: Readable, interrupt: Callable[[], None], stages: Stages) -> None:
    """Read what verifies itself, and make nothing of it yet."""
    try:
        drain(stages.start(source, "fetch"))
    finally:
        stages.end(interrupt)


def drain(source: Readable) -> None:
    """Read the rest."""
    while source.read(_BLOCK):
        pass
