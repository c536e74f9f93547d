"""How far the work on each layer is: reported by what does it, shown by the command line.

Nothing is decided by it, and it never raises.
"""

from __future__ import annotations

from typing import Literal, Protocol

from unionfs.image.digest import Digest

State = Literal["waiting", "exists", "downloading", "uploading", "retrying", "extracting", "done"]


class Observer(Protocol):
    """Is called from several threads."""

    def report(self, digest: Digest, state: State, done: int = 0, total: int | None = None) -> None:
        """A blob of that digest is in *state*; *done* of *total* bytes are read, as far as that is known."""


class _Silent:
    def report(self, digest: Digest, state: State, done: int = 0, total: int | None = None) -> None:
        pass


SILENT: Observer = _Silent()
