"""The interface between the daemon and a transport: the options of a session, and its methods.

Imports no FUSE library and no trio, and holds no behaviour: each transport brings its own `Session`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The mount options that a transport needs."""

    passthrough: str = "auto"
    """"auto", "on" (the mount is refused where it cannot be had) or "off"."""
    coherent: bool = False
    """Readers that opened a lower file before its copy-up see new data: no passthrough for lower files."""
    writeback: bool = True
    """Where there is no passthrough, small writes wait in the kernel's cache and are sent together."""
    max_read: int | None = None
    """The option of mount(2), which the kernel obeys; None: no limit."""
    allow_other: bool = False
    debug: bool = False


class Session(Protocol):
    """Serves one mount's requests, from a mounted /dev/fuse descriptor, which it owns, with a union.

    Its class is called with `(union, fuse_fd, options)`. The daemon calls all of this on the main thread,
    which never handles requests: locking is the session's work.
    """

    def start(self, ended: Callable[[], None]) -> None:
        """Serve requests in threads of the session's own.

        *ended* is called, by one of them, when the mount is gone or an exception has ended the session.
        """

    def raise_failure(self) -> None:
        """Raise the exception that has ended the session, if one has."""

    def counts(self) -> dict[str, int]:
        """How many requests of each opcode have been read."""

    def pending_requests(self) -> int:
        """How many requests, or tasks that requests wait for, are pending just now."""

    def open_handles(self) -> int | None:
        """How many files are open, and directories where the kernel sends OPENDIR.

        None: not known, because the kernel opens files without a request. Any number may be open then.
        """

    def flags(self) -> list[str]:
        """The flags negotiated at INIT, by name; empty before it, and where libfuse does not expose them."""

    def passthrough_problem(self) -> str | None:
        """Why there is no passthrough; None: there is. Known once a request after INIT was replied to."""

    def close(self) -> None:
        """Stop replying and close the device and all handles. The daemon unmounts."""
