"""Telling whoever asked for a mount how it went: that it serves, or in one line why it does not.

It serves once a stat of the mountpoint has been answered by us.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import threading
import time

from unionfs.errors import MountError
from unionfs.linux.notify import Notifier
from unionfs.options.lists import join_lowers
from unionfs.options.mount_options import MountOptions
from unionfs.transport.session import Session

PATIENCE = 30.0
"""How long the first answer may take, in seconds."""

SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
"""What ends a mount. Blocked until there is somebody to receive them: else one left a dead mount."""

READY = b"+"
FAILED = b"-"

TOO_LATE = (
    f"a stat of it was not answered within {PATIENCE:g} seconds; `pyunionfs mount -f --debug` shows why"
)

_PAUSE = 0.05

logger = logging.getLogger("unionfs.daemon.lifecycle")


class Outcome(enum.Enum):
    """What became of the mount at its first answer."""

    SERVES = "go on"
    ABANDONED = "whoever asked for it has gone: end it"
    REFUSED = "it is not what was asked for: take it away"


class Readiness:
    """The one who waits, at the other end of the pipe `ready`; None: in the foreground, where a service
    manager may wait."""

    def __init__(self, options: MountOptions, ready: int | None, notifier: Notifier) -> None:
        self.options = options
        self.ready = ready
        self.notifier = notifier
        self.failure: MountError | None = None
        # Opened now, because the mount may cover /dev.
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def look(self, device: tuple[int, int] | None) -> str | None:
        """Stat the mountpoint, which blocks until it is answered; why it does not serve, None: it does."""
        try:
            st = os.stat(self.options.mountpoint)
        except OSError as error:
            return f"a stat of it fails: {error.strerror}; `pyunionfs mount -f --debug` shows why"
        if (os.major(st.st_dev), os.minor(st.st_dev)) != device:
            return "something else was mounted there meanwhile; choose another mountpoint, or try again"
        return None

    def wait(self, device: tuple[int, int] | None) -> str | None:
        """`look`, for a limited time and until a signal comes, with a thread that may be left behind."""
        answers: list[str | None] = []
        thread = threading.Thread(target=lambda: answers.append(self.look(device)), daemon=True)
        thread.start()
        deadline = time.monotonic() + PATIENCE
        while thread.is_alive():
            if SIGNALS & signal.sigpending():
                return "a signal came first"
            if time.monotonic() > deadline:
                return TOO_LATE
            thread.join(_PAUSE)
        return answers[0]

    def announce(self, reason: str | None, session: Session) -> Outcome:
        """Tell that the mount serves, or keep in `failure` why not, which is told at its end."""
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
        self.notifier.tell("READY=1", f"STATUS=serving {options.mountpoint}")
        return Outcome.SERVES

    def refuse(self, error: Exception) -> None:
        """Pass on the reason why the daemon ends, if somebody still waits for it."""
        if self.ready is not None:
            os.write(self.ready, FAILED + os.fsencode(str(error)))

    def _leave_terminal(self, ready: int) -> bool:
        """Cut off from the command line that started us; False when it has gone without waiting for us."""
        for fd in range(3):
            os.dup2(self._null, fd)
        try:
            os.write(ready, READY)
        except BrokenPipeError:
            logger.warning("whoever asked for the mount was killed before it was ready")
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
