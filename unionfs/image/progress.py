"""How far the work on each layer is, and remarks on it: from what does it to the command line.

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

    def remark(self, digest: Digest, text: str) -> None:
        """Something about the layer of that blob that a user should know, and that is no error."""


class _Silent:
    def report(self, digest: Digest, state: State, done: int = 0, total: int | None = None) -> None:
        pass

    def remark(self, digest: Digest, text: str) -> None:
        pass


SILENT: Observer = _Silent()
