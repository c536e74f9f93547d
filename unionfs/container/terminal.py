"""Terminals: the master of a container's pseudo-terminal, and the caller's terminal in raw mode."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

_TIOCGPTN = 0x80045430
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431


def open_master(terminals: int) -> int:
    """A new pseudo-terminal of the devpts that a descriptor is on, as large as the caller's terminal."""
    master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=terminals)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    copy_size(master)
    return master


def open_peer(master: int) -> int:
    """The terminal, by its master: as long as it is open reading the master does not fail (EIO)."""
    return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def path_of(master: int) -> str:
    """The terminal's path in the container."""
    (number,) = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, struct.pack("I", 0)))
    return f"/dev/pts/{number}"


def copy_size(master: int) -> None:
    """Give it the size of the caller's terminal, if there is one."""
    for fd in range(3):
        if os.isatty(fd):
            size = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)
            return


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Have a terminal pass every key on, Ctrl-C too; what is no terminal stays as it is."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
