"""The processes that start a container: the union's daemon, and the launcher, which this one waits for.

`Runner` forks both before it is known what is to run, since loading Python code takes longer than all else:
`union_daemon.py`, and `launch.py` by way of `sealed.py`. So this module imports little itself.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from unionfs.container import pipes, sealed, union_daemon
from unionfs.daemon.answers import READY
from unionfs.errors import ContainerError
from unionfs.linux import namespaces

if TYPE_CHECKING:
    from unionfs.container.orders import Join, Serve, Start

_KEPT = frozenset(
    (
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG),
        # The caller's job control.
        *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS),
    )
)
PASSED_ON = frozenset(signal.valid_signals()) - _KEPT
"""Signals that a running container's process gets when this one does."""

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
PATIENCE = 2.0
"""Seconds that a start may take longer when a signal has asked for the end."""
_PAUSE = 0.1

GO = b"\0"
"""Follows the order, once the container's root is mounted; then come signals by their numbers."""
FAILED = 125
"""Docker's exit status for what failed before the program was reached."""


class StartError(ContainerError):
    """The process was not started. *status* is Docker's: 127 no such program, 126 no program, 125 else."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class Runner:
    """The two processes, and what is left of them at the end of the block: nothing."""

    def __init__(self) -> None:
        self._ready, ready = os.pipe()
        entered, report_entered = os.pipe()
        serve, self._serve = os.pipe()
        self._daemon = os.fork()
        if self._daemon == 0:
            union_daemon.main(serve, report_entered, ready)
        for fd in (ready, report_entered, serve):
            os.close(fd)
        self._launcher = Launcher(lambda: self._enter(entered))
        os.close(entered)

    def _enter(self, entered: int) -> None:
        """In the process that becomes the launcher: enter the daemon's namespaces once they are there."""
        os.close(self._serve)
        if not os.read(entered, 1):
            os._exit(FAILED)  # the daemon says why
        flags = namespaces.CLONE_NEWNS | (0 if os.geteuid() == 0 else namespaces.CLONE_NEWUSER)
        namespaces.setns(os.pidfd_open(self._daemon), flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._launcher.end()
        if self._daemon:
            self._end_daemon()

    def run(self, union: Serve | None, start: Start, started: Callable[[int], None]) -> int:
        """Mount the union if there is one, start the process, and return its exit status (`run.run_in`).

        The union is unmounted in the end, whatever that is.
        """
        try:
            self._launcher.order(start)
            if union is not None:
                self._mount(union)
            self._launcher.start(started)
            status = self._launcher.wait()
        finally:
            self._launcher.end()
            clean = self._end_daemon() == 0
        if union is not None and not clean:
            raise ContainerError(
                "the daemon of the container's union has failed, as its log says: recent changes may not"
                " be on disk"
            )
        return status

    def _mount(self, union: Serve) -> None:
        with suppress(BrokenPipeError):  # it has failed, and reports that
            pipes.send(self._serve, union)
        with open(self._ready, "rb") as pipe:
            answer = pipe.read()
        if answer != READY:
            raise StartError(os.fsdecode(answer[1:]) or "the daemon of the container's union was killed")

    def _end_daemon(self) -> int:
        """Have all data written and the union unmounted; the daemon's exit status."""
        daemon, self._daemon = self._daemon, 0
        os.close(self._serve)
        os.kill(daemon, signal.SIGTERM)
        _, status = os.waitpid(daemon, 0)
        return os.waitstatus_to_exitcode(status)


class Launcher:
    """The process that starts one in a container, and waits for it (`launch.py`)."""

    def __init__(self, enter: Callable[[], None]) -> None:
        """*enter* is called in the forked process and takes it to a mount namespace of its own."""
        orders, self._orders = os.pipe()
        self._report, report = os.pipe()
        self._unblocked: set[int] | None = None
        self._pid = os.fork()
        if self._pid == 0:
            self._become(enter, orders, report)
        os.close(orders)
        os.close(report)

    def _become(self, enter: Callable[[], None], orders: int, report: int) -> NoReturn:
        try:
            os.close(self._orders)
            enter()
            sealed.exec_launcher(orders, report, PASSED_ON)
        except OSError as error:
            os.write(report, os.fsencode(f"failed {FAILED} cannot start the launcher: {error.strerror}\n"))
        finally:
            os._exit(FAILED)

    def order(self, order: Start | Join) -> None:
        """Say what to start, so that it is prepared."""
        with suppress(BrokenPipeError):  # it has failed, and reports that
            pipes.send(self._orders, order)

    def start(self, started: Callable[[int], None]) -> None:
        """Have it start, and return when the program has been reached. Raises StartError."""
        # From here on signals are for the program; those that come before it is there wait in `wait`.
        self._unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
        with suppress(BrokenPipeError):
            os.write(self._orders, GO)
        pid = 0
        failure: StartError | None = None
        for line in self._read_report().splitlines():
            word, _, rest = line.partition(" ")
            if word == "pid":
                pid = int(rest)
            else:
                status, _, message = rest.partition(" ")
                failure = StartError(message, int(status))
        if failure is None and not pid:
            failure = StartError("the launcher of the container has ended without a word")
        if failure is not None:
            raise failure
        started(pid)

    def _read_report(self) -> str:
        """All of the report, which ends when the program is reached or nothing is left that could do it.

        Raises SystemExit where that takes long and a signal asks for the end.
        """
        content = b""
        patience = PATIENCE
        while True:
            if select.select([self._report], [], [], _PAUSE)[0]:
                part = os.read(self._report, 4096)
                if not part:
                    return content.decode(errors="surrogateescape")
                content += part
            elif ending := _ENDING & signal.sigpending():
                patience -= _PAUSE
                if patience < 0:
                    raise SystemExit(128 + min(ending))

    def wait(self) -> int:
        """Pass signals on until the process has ended; its exit status."""
        while not self._has_ended():
            number = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD}).si_signo
            if number != signal.SIGCHLD:
                with suppress(BrokenPipeError):  # it is ending this moment
                    os.write(self._orders, bytes((number,)))
        return self._status

    def _has_ended(self) -> bool:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._pid = 0
            self._status = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def end(self) -> None:
        """End the process if it runs."""
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0
        if self._unblocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._unblocked)
            self._unblocked = None
