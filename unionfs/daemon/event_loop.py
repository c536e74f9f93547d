"""The main thread while a mount serves: signals, status queries, the owner process, the end of the session.

The transport replies to requests in threads of its own; the main thread sleeps until one of these happens. It
needs no trio: loading that takes longer than everything else at the start of a mount, and would hold the
interpreter while the first requests wait.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from unionfs.control.status_schema import Status
from unionfs.control.status_socket import ControlSocket
from unionfs.daemon.access_times import AccessTimes
from unionfs.daemon.owner_process import OwnerProcess
from unionfs.daemon.privileges import give_up
from unionfs.daemon.readiness import SIGNALS, Outcome, Readiness
from unionfs.transport.mount import FuseMount
from unionfs.transport.session import Session

GRACE = 10.0
"""Seconds for which files that are open at SIGTERM are still served."""

_POLL_INTERVAL = 0.05
_DRAIN_TIME = 0.25
"""Seconds without an open file or a pending request after which a detached mount has ended."""

logger = logging.getLogger("unionfs.daemon.lifecycle")


class WakePipe:
    """A pipe by which other threads, and signals, wake the main one."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """Any thread."""
        os.write(self.writer, b"\0")

    def clear(self) -> None:
        while True:
            try:
                os.read(self.reader, 4096)
            except BlockingIOError:
                return

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@dataclass
class EventLoop:
    """The event loop of one mount."""

    session: Session
    mountpoint: str
    fuse: FuseMount
    foreground: bool
    owner: OwnerProcess | None = None
    access_times: AccessTimes | None = None
    wake: WakePipe = field(default_factory=WakePipe)
    _ended: bool = False
    _signals_received: list[int] = field(default_factory=list)
    _stop_at: float | None = None
    _drained_since: float = 0.0

    def start(self) -> None:
        """Have the session serve requests, by threads that can do no more than that takes."""
        give_up(may_exec_set_ids=self.fuse.by_fusermount)
        self.session.start(self._end)

    def _end(self) -> None:
        self._ended = True
        self.wake.set()

    def run(
        self,
        readiness: Readiness,
        control: ControlSocket | None,
        status: Callable[[], Status],
    ) -> None:
        """Return when the mount is gone, or is to be ended; raise the exception that ended the session."""
        outcome = readiness.announce(readiness.wait(self.fuse.device), self.session)
        if outcome is Outcome.REFUSED:
            return
        with selectors.DefaultSelector() as selector, self._signals():
            selector.register(self.wake.reader, selectors.EVENT_READ)
            if control is not None:
                selector.register(control, selectors.EVENT_READ)
            if self.owner is not None:
                selector.register(self.owner, selectors.EVENT_READ)
            if self.access_times is not None:
                selector.register(self.access_times, selectors.EVENT_READ)
            if outcome is Outcome.ABANDONED:
                self._detach()
            while not self._ended:
                for key, _ in selector.select(None if self._stop_at is None else _POLL_INTERVAL):
                    if key.fileobj is control and control is not None:
                        _send_status(control, status)
                    elif key.fileobj is self.owner and self.owner is not None:
                        # Once: it stays readable.
                        selector.unregister(self.owner)
                        logger.info("the owner process has ended: unmounting %s", self.mountpoint)
                        if self._stop_at is None:
                            self._detach()
                    elif key.fileobj is self.access_times and self.access_times is not None:
                        self.access_times.refresh()
                    else:
                        self.wake.clear()
                if self._handle_signals() or self._has_drained():
                    return
        self.session.raise_failure()
        logger.info("%s is unmounted", self.mountpoint)

    def _handle_signals(self) -> bool:
        """Handle the signals received since; whether one of them ends the mount at once."""
        while self._signals_received:
            number = self._signals_received.pop(0)
            name = signal.Signals(number).name
            if number == signal.SIGHUP and not self.foreground:
                continue
            if self._stop_at is not None:
                logger.warning("%s again: ending at once", name)
                return True
            logger.info("%s: unmounting %s", name, self.mountpoint)
            self._detach()
        return False

    def _has_drained(self) -> bool:
        """Whether a detached mount is no longer used, or its grace time is over.

        When nothing uses it any more the kernel ends the session. A process that only has its working
        directory here keeps the session alive without an open file, and is not waited for unless that cannot
        be distinguished from open files.
        """
        if self._stop_at is None:
            return False
        now = time.monotonic()
        # An open that waits for its copy-up has no handle yet.
        count = self.session.open_handles()
        # Where the kernel opens files without a request, only its end of the session says that none is open.
        if count is None or count or self.session.pending_requests():
            self._drained_since = now
        if now > self._stop_at:
            files = "files may still be" if count is None else f"{count} files are still"
            logger.warning("%s open after %g seconds: ending all the same", files, GRACE)
            return True
        return now - self._drained_since >= _DRAIN_TIME

    def _detach(self) -> None:
        """Detach the mount; files that are open are served for the grace time."""
        self.fuse.detach()
        self._drained_since = time.monotonic()
        self._stop_at = self._drained_since + GRACE

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Receive signals, which are blocked before and after."""
        before = signal.set_wakeup_fd(self.wake.writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda received, frame: self._signals_received.append(received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            # What follows writes data out, which a repeated signal must not interrupt.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            signal.set_wakeup_fd(before)


def _send_status(control: ControlSocket, status: Callable[[], Status]) -> None:
    """Send the status in a thread, because a client may be slow to read."""
    try:
        connection = control.accept()
    except OSError as error:
        # Without a free descriptor accept fails, and select would report the connection again at once.
        logger.warning("control socket: accept failed: %s", error)
        time.sleep(_POLL_INTERVAL)
        return
    if connection is not None:
        threading.Thread(target=control.send_status, args=(connection, status), daemon=True).start()
