"""Telling a service manager how a service is, as sd_notify(3) describes it: datagrams to $NOTIFY_SOCKET.

Whoever is not started by a service manager has no such socket, and tells nobody. Telling never fails: that
nobody listens any more is no reason to end what is told of.
"""

from __future__ import annotations

import logging
import os
import socket

VARIABLE = "NOTIFY_SOCKET"

_PATIENCE = 1.0
"""Seconds for a manager whose queue is full: data is to be written out after `STOPPING=1`."""

logger = logging.getLogger(__name__)


class Notifier:
    """The way to the service manager, found once. Later the socket's path may be covered by a mount."""

    def __init__(self, path: str | None) -> None:
        """`path` as the variable has it; None: nobody wants to be told."""
        self._socket: socket.socket | None = None
        if not path:
            return
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            # A leading @ stands for the NUL byte of an abstract socket.
            made.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            made.close()
            logger.warning("%s=%s: %s; the service manager is told nothing", VARIABLE, path, error.strerror)
            return
        made.settimeout(_PATIENCE)
        self._socket = made

    def tell(self, *assignments: str) -> None:
        """Send assignments such as `READY=1`, together. A line end in one is sent as a space."""
        if self._socket is None:
            return
        text = "\n".join(" ".join(each.splitlines()) for each in assignments)
        try:
            self._socket.send(os.fsencode(text))
        except OSError as error:
            logger.warning("the service manager could not be told %r: %s", text, error.strerror or error)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
