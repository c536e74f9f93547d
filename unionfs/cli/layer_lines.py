"""A line for each layer that is pulled or pushed, as Docker prints them.

On a terminal, layers under way have a bar each below the lines of those that are finished; elsewhere a layer
has its one line when it is finished.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType

from unionfs.cli.terminal import LiveRows, Row
from unionfs.cli.text import printable
from unionfs.image.digest import Digest
from unionfs.image.progress import State

_UNDER_WAY: Mapping[State, str] = {
    "downloading": "Downloading",
    "uploading": "Pushing",
    "extracting": "Extracting",
    "retrying": "Retrying",
}
_ENDS: Mapping[State, str] = {"exists": "Already exists", "done": "Pull complete"}


class LayerLines(AbstractContextManager["LayerLines"]):
    """An `image.progress.Observer` that prints. `_lock` guards what it knows.

    *labels* are what layers are called instead of their blob's digest, *words* what states are called instead
    of a pull's. With *quiet* nothing is printed
    but remarks, which go to standard error at the end.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        labels: Mapping[str, str] | None = None,
        words: Mapping[State, str] | None = None,
    ) -> None:
        self._quiet = quiet
        self._words = {**_UNDER_WAY, **_ENDS, **(words or {})}
        self._labels = labels if labels is not None else {}
        self._lock = threading.Lock()
        self._under_way: dict[str, Row] = {}
        self._finished: set[str] = set()
        self._remarks: list[str] = []
        self._rows = LiveRows(self._current, plain=quiet)

    def begin(self) -> None:
        """Of another image, layers have lines of their own."""
        with self._lock:
            self._finished.clear()

    def report(self, digest: Digest, state: State, done: int = 0, total: int | None = None) -> None:
        with self._lock:
            # Another thread may be late with what it has read.
            if state in _UNDER_WAY and digest not in self._finished:
                self._under_way[digest] = Row(f"{self.label(digest)}: {self._words[state]}", done, total)
        if state in _ENDS:
            self.finish(digest, self._words[state])

    def remark(self, digest: Digest, text: str) -> None:
        with self._lock:
            self._remarks.append(f"pyunionfs: {self.label(digest)}: {printable(text)}")

    def finish(self, digest: Digest, text: str) -> None:
        """Print what has become of a layer, once."""
        with self._lock:
            self._under_way.pop(digest, None)
            if digest in self._finished:
                return
            self._finished.add(digest)
        self.print(f"{self.label(digest)}: {text}")

    def print(self, text: str) -> None:
        """A line above the layers that are under way."""
        if not self._quiet:
            self._rows.print(printable(text))

    def label(self, digest: Digest) -> str:
        return self._labels.get(digest, digest.short)

    def _current(self) -> list[Row]:
        with self._lock:
            return list(self._under_way.values())

    def __enter__(self) -> LayerLines:
        self._rows.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.stop()
        with self._lock:
            for each in self._remarks:
                print(each, file=sys.stderr)
