"""Reports to the mounting command, or the service manager, that the mount serves, or in one line why not.

It serves once this daemon has replied to a stat of the mountpoint.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import threading
import time

from unionfs.daemon.answers import FAILED, READY
from unionfs.errors import MountError
from unionfs.linux.notify import Notifier
from unionfs.options.lists import join_lowers
from unionfs.options.mount_options import MountOptions
from unionfs.transport.session import Session

TIMEOUT = 30.0
"""Seconds that the first reply may take."""

SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
"""Signals that end a mount. Blocked until the event loop receives them: else one would leave a dead mount."""

TOO_LATE = f"a stat of it did not return within {TIMEOUT:g} seconds; `pyunionfs mount -f --debug` shows why"

_PAUSE = 0.05

logger = logging.getLogger("unionfs.daemon.lifecycle")


class Outcome(enum.Enum):
    """The state of the mount after its first reply."""

    SERVES = "serve"
    ABANDONED = "the mounting command has ended: unmount"
    REFUSED = "it is not what the options ask for: unmount"


class Readiness:
    """The command that waits at the other end of the pipe `ready`; None: in the foreground, where a service
    manager may wait."""

    def __init__(self, options: MountOptions, ready: int | None, notifier: Notifier) -> None:
        self.options = options
        self.ready = ready
        self.notifier = notifier
        self.failure: MountError | None = None
        # Opened now, because the mount may cover /dev.
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def probe(self, device: tuple[int, int] | None) -> str | None:
        """Stat the mountpoint, which blocks until the reply; why it does not serve, None: it does."""
        try:
            st = os.stat(self.options.mountpoint)
        except OSError as error:
            return f"a stat of it fails: {error.strerror}; `pyunionfs mount -f --debug` shows why"
        if (os.major(st.st_dev), os.minor(st.st_dev)) != device:
            return "something else was mounted there meanwhile; choose another mountpoint, or try again"
        return None

    def wait(self, device: tuple[int, int] | None) -> str | None:
        """`probe`, for a limited time and until a signal is pending, in a thread that may be left behind."""
        results: list[str | None] = []
        thread = threading.Thread(target=lambda: results.append(self.probe(device)), daemon=True)
        thread.start()
        deadline = time.monotonic() + TIMEOUT
        while thread.is_alive():
            if SIGNALS & signal.sigpending():
                return "interrupted by a signal"
            if time.monotonic() > deadline:
                return TOO_LATE
            thread.join(_PAUSE)
        return results[0]

    def announce(self, reason: str | None, session: Session) -> Outcome:
        """Report that the mount serves, or keep in `failure` why not, which is reported at its end."""
        options = self.options
        if (
            reason is None
            and options.session.passthrough == "on"
            and (problem := session.passthrough_problem())
        ):
            reason = f"passthrough=on: {problem}; without that option it works another way"
        if reason is not None:
            self.failure = MountError(f"cannot mount {options.mountpoint}: {reason}")
            return Outcome.REFUSED
        logger.info("%s is mounted: %s", options.mountpoint, self._layers())
        if self.ready is not None and not self._leave_terminal(self.ready):
            return Outcome.ABANDONED
        self.notifier.send("READY=1", f"STATUS=serving {options.mountpoint}")
        return Outcome.SERVES

    def report_failure(self, error: Exception) -> None:
        """Send the reason why the daemon ends to the mounting command, if that still waits."""
        if self.ready is not None:
            os.write(self.ready, FAILED + os.fsencode(str(error)))

    def _leave_terminal(self, ready: int) -> bool:
        """Detach from the mounting command's terminal; False when that has ended without waiting."""
        for fd in range(3):
            os.dup2(self._null, fd)
        try:
            os.write(ready, READY)
        except BrokenPipeError:
            logger.warning("the mounting command was killed before the mount was ready: unmounting")
            return False
        finally:
            os.close(ready)
            # Its number may be another file's from now on.
            self.ready = None
        return True

    def _layers(self) -> str:
        config = self.options.config
        lowers = f"lowers {join_lowers(config.lowers, config.data_lowers)}"
        return lowers if config.upper is None else f"upper {config.upper}, work {config.work}, {lowers}"
