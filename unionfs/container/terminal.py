"""Terminals: the master of a container's pseudo-terminal, and the caller's terminal in raw mode."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import tty

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


class Raw:
    """A terminal that passes every key on, Ctrl-C too, for the length of a block. Others stay as they are."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = termios.tcgetattr(fd) if os.isatty(fd) else None

    def __enter__(self) -> None:
        if self._before is not None:
            tty.setraw(self._fd)

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
