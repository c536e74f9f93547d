"""Waiting for a container's process: signals to it, its terminal's data both ways, its exit status.

In the launcher. Signals come as bytes from the command, whose process is the one that users and service
managers know; end of file there means that it is gone, and ends the container's process.
"""

from __future__ import annotations

import errno
import os
import select

from unionfs.container import terminal
from unionfs.container.init import exit_status
from unionfs.linux import signals

_CHUNK = 4096
"""A pipe that poll(2) says can be written takes so much without blocking (POSIX, PIPE_BUF)."""
_MOST_PENDING = 1 << 16


def wait(pid: int, orders: int, master: int, *, interactive: bool) -> int:
    """Return the exit status of a child, 128 and the signal's number where one ended it."""
    pidfd = os.pidfd_open(pid)
    if master < 0:
        while not _signals(orders, pidfd, pid, -1):
            pass
    elif interactive:
        with terminal.Raw(0):
            _Copying(pid, pidfd, orders, master, 0).run()
    else:
        _Copying(pid, pidfd, orders, master, -1).run()
    _, status = os.waitpid(pid, 0)
    return exit_status(status)


def _signals(orders: int, pidfd: int, pid: int, master: int) -> bool:
    """Wait for signals and pass them on; True when the process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(orders, select.POLLIN)
    ready = [fd for fd, _ in poll.poll()]
    if pidfd in ready:
        return True
    return not pass_on(orders, pid, master)


def pass_on(orders: int, pid: int, master: int) -> bool:
    """Pass on the signals that have come. False: the command is gone, and the process was killed."""
    numbers = os.read(orders, 256)
    for number in numbers or (signals.SIGKILL,):
        if number == signals.SIGWINCH and master >= 0:
            terminal.copy_size(master)
        else:
            os.kill(pid, number)
    return bool(numbers)


class _Copying:
    """The caller's terminal and the container's, each the other's input."""

    def __init__(self, pid: int, pidfd: int, orders: int, master: int, source: int) -> None:
        """*source* is what is read for the container; below 0: nothing."""
        self.pid = pid
        self.pidfd = pidfd
        self.orders = orders
        self.master = master
        self.peer = terminal.open_peer(master)
        self.source = source
        self.typed = b""
        self.shown = b""
        self.ended = False
        os.set_blocking(master, False)

    def run(self) -> None:
        """Return when the process has ended and all that it wrote is shown."""
        while True:
            events = self._poll()
            if events.get(self.pidfd):
                # Others may still have the terminal, where it has joined a container.
                self.ended = True
                os.close(self.peer)
            if events.get(self.orders) and not pass_on(self.orders, self.pid, self.master):
                self.orders = -1
            if events.get(1):
                self._show()
            if events.get(self.master) and not self._transfer(events[self.master]):
                self.master = -1
            if events.get(self.source):
                self._read_source()
            if self.ended and not self.shown and (self.master < 0 or not events.get(self.master)):
                return

    def _poll(self) -> dict[int, int]:
        poll = select.poll()
        if not self.ended:
            poll.register(self.pidfd, select.POLLIN)
        if self.orders >= 0:
            poll.register(self.orders, select.POLLIN)
        if self.master >= 0:
            wanted = select.POLLIN if len(self.shown) < _MOST_PENDING else 0
            poll.register(self.master, wanted | (select.POLLOUT if self.typed else 0))
        if self.source >= 0 and len(self.typed) < _MOST_PENDING:
            poll.register(self.source, select.POLLIN)
        if self.shown:
            poll.register(1, select.POLLOUT)
        return dict(poll.poll(0 if self.ended and not self.shown else None))

    def _show(self) -> None:
        try:
            self.shown = self.shown[os.write(1, self.shown[:_CHUNK]) :]
        except BrokenPipeError:
            self.shown = b""

    def _transfer(self, events: int) -> bool:
        """Write to the master and read from it. False: no process has the terminal any more."""
        try:
            if events & select.POLLOUT and self.typed:
                self.typed = self.typed[os.write(self.master, self.typed) :]
            if events & (select.POLLIN | select.POLLHUP):
                self.shown += os.read(self.master, _CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return True

    def _read_source(self) -> None:
        content = os.read(self.source, _CHUNK)
        if not content:
            self.source = -1
        self.typed += content
