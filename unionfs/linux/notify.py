"""Notifies a service manager, as sd_notify(3) describes it: datagrams to $NOTIFY_SOCKET.

A process that no service manager has started has no such socket, and sends nothing. Sending never raises: a
service manager that does not listen any more is no reason to end the service.
"""

from __future__ import annotations

import logging
import os
import socket

VARIABLE = "NOTIFY_SOCKET"

_TIMEOUT = 1.0
"""Seconds to wait for a manager whose queue is full: data is written out after `STOPPING=1`."""

logger = logging.getLogger(__name__)


class Notifier:
    """The service manager's socket, connected once: later its path may be covered by a mount."""

    def __init__(self, path: str | None) -> None:
        """`path` is the variable's value; None: there is no service manager."""
        self._socket: socket.socket | None = None
        if not path:
            return
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            # A leading @ stands for the NUL byte of an abstract socket.
            made.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            made.close()
            logger.warning(
                "%s=%s: connect failed: %s; the service manager gets no notification",
                VARIABLE,
                path,
                error.strerror,
            )
            return
        made.settimeout(_TIMEOUT)
        self._socket = made

    def send(self, *assignments: str) -> None:
        """Send assignments such as `READY=1`, together. A line end in one is sent as a space."""
        if self._socket is None:
            return
        text = "\n".join(" ".join(each.splitlines()) for each in assignments)
        try:
            self._socket.send(os.fsencode(text))
        except OSError as error:
            logger.warning("notifying the service manager of %r failed: %s", text, error.strerror or error)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
