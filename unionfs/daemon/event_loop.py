"""What goes on beside the requests while a mount serves: signals, questions, the caller's end, the end.

The transport answers in threads of its own; this is the main thread, which sleeps until one of these
happens. It needs no trio: loading that takes longer than everything else at the start of a mount, and would
hold the interpreter while the first requests wait.
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
from unionfs.daemon.readiness import SIGNALS, Outcome, Readiness
from unionfs.transport.mount import FuseMount
from unionfs.transport.session import Session

GRACE = 10.0
"""How long files that are open at SIGTERM may be used on, in seconds."""

_LOOK_AGAIN = 0.05
_QUIET = 0.25

logger = logging.getLogger("unionfs.daemon.lifecycle")


class Wake:
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
class Serving:
    """One mount while it serves."""

    session: Session
    mountpoint: str
    fuse: FuseMount
    foreground: bool
    owner: OwnerProcess | None = None
    access_times: AccessTimes | None = None
    wake: Wake = field(default_factory=Wake)
    _ended: bool = False
    _received: list[int] = field(default_factory=list)
    _stop_at: float | None = None
    _quiet_since: float = 0.0

    def start(self) -> None:
        """Have requests answered from now on."""
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
        """Return when the mount is gone, or is to be given up; raise the bug that has ended the serving."""
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
                self._free_mountpoint()
            while not self._ended:
                for key, _ in selector.select(None if self._stop_at is None else _LOOK_AGAIN):
                    if key.fileobj is control and control is not None:
                        _answer(control, status)
                    elif key.fileobj is self.owner and self.owner is not None:
                        # Once: it stays readable.
                        selector.unregister(self.owner)
                        logger.info("whoever asked for it has ended: unmounting %s", self.mountpoint)
                        if self._stop_at is None:
                            self._free_mountpoint()
                    elif key.fileobj is self.access_times and self.access_times is not None:
                        self.access_times.follow()
                    else:
                        self.wake.clear()
                if self._heed_signals() or self._is_over():
                    return
        self.session.raise_failure()
        logger.info("%s is unmounted", self.mountpoint)

    def _heed_signals(self) -> bool:
        """Do what the signals say that have come since; whether one says to end at once."""
        while self._received:
            number = self._received.pop(0)
            name = signal.Signals(number).name
            if number == signal.SIGHUP and not self.foreground:
                continue
            if self._stop_at is not None:
                logger.warning("%s again: ending at once", name)
                return True
            logger.info("%s: unmounting %s", name, self.mountpoint)
            self._free_mountpoint()
        return False

    def _is_over(self) -> bool:
        """Whether nobody uses any more what was taken out of the tree, or the time for that is over.

        When nothing is inside any more the kernel ends the session. A process that only has its working
        directory here keeps the session alive without an open file, and is not waited for unless that cannot
        be told from one which has files open.
        """
        if self._stop_at is None:
            return False
        now = time.monotonic()
        # An open that waits for its copy-up is no handle yet.
        count = self.session.open_handles()
        # Where the kernel opens files without asking, it alone knows, and its end of the session tells.
        if count is None or count or self.session.pending_requests():
            self._quiet_since = now
        if now > self._stop_at:
            files = "files may still be" if count is None else f"{count} files are still"
            logger.warning("%s open after %g seconds", files, GRACE)
            return True
        return now - self._quiet_since >= _QUIET

    def _free_mountpoint(self) -> None:
        """Take the mount out of the tree now; files that are open may be used on for a while."""
        self.fuse.detach()
        self._quiet_since = time.monotonic()
        self._stop_at = self._quiet_since + GRACE

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have signals noted that were blocked until now."""
        before = signal.set_wakeup_fd(self.wake.writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda received, frame: self._received.append(received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            # What follows writes data out, which a repeated signal must not cut off.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            signal.set_wakeup_fd(before)


def _answer(control: ControlSocket, status: Callable[[], Status]) -> None:
    """Answer a question in a thread, for whoever asks may be slow to listen."""
    try:
        connection = control.accept()
    except OSError as error:
        # Without a free descriptor it cannot be let in, and selecting would report it at once again.
        logger.warning("a question cannot be let in: %s", error)
        time.sleep(_LOOK_AGAIN)
        return
    if connection is not None:
        threading.Thread(target=control.answer, args=(connection, status), daemon=True).start()
