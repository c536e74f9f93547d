"""What the daemon and a transport agree on: the options of a session, and the faces of one.

Imports no FUSE library and no trio, and holds no behaviour: each transport brings its own `Session`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What the mount options ask of a transport."""

    passthrough: str = "auto"
    """"auto", "on" (the mount is refused where it cannot be had) or "off"."""
    coherent: bool = False
    """Old readers of a lower file see the new data: no passthrough for lower files."""
    writeback: bool = True
    """Where there is no passthrough, small writes wait in the kernel's cache and are sent together."""
    max_read: int | None = None
    """What mount(2) was given, and the kernel keeps to; None: no limit."""
    allow_other: bool = False
    debug: bool = False


class Session(Protocol):
    """One mount's requests, from a mounted /dev/fuse descriptor (owned from now on) to a union.

    Its class is called with `(union, fuse_fd, options)`. The daemon calls all of this on the main thread,
    which is never one that answers: locking is the session's work.
    """

    def start(self, ended: Callable[[], None]) -> None:
        """Answer requests from now on, in threads of the session's own.

        *ended* is called, by one of them, when the mount is gone or a bug has ended the serving.
        """

    def raise_failure(self) -> None:
        """Raise the bug that has ended the serving, if one has."""

    def counts(self) -> dict[str, int]:
        """How many requests of each kind have come."""

    def pending_requests(self) -> int:
        """How many slow pieces of work requests are waiting for just now."""

    def open_handles(self) -> int | None:
        """How many files are open, with the directories whose opening is asked for.

        None: not known, because the kernel opens files without asking. Any number of them may be open then.
        """

    def flags(self) -> list[str]:
        """The names of what was agreed on at INIT; empty before it, and where libfuse keeps it to itself."""

    def passthrough_problem(self) -> str | None:
        """Why there is no passthrough; None: there is. Known once a request after INIT was answered."""

    def close(self) -> None:
        """Let go of the kernel's side and of all handles. Unmounting is the daemon's."""
