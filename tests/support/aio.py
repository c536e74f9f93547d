"""Asynchronous writes as databases and virtual machines submit them: io_submit(2) and its family."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from types import TracebackType

import pytest

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""io_setup, io_destroy, io_getevents, io_submit."""

needs_aio = pytest.mark.skipif(platform.machine() not in _NUMBERS, reason="numbers of io_submit(2) not known")

_IOCB_CMD_PWRITE = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Iocb(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("reqprio", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("obj", ctypes.c_uint64),
        ("res", ctypes.c_int64),
        ("res2", ctypes.c_int64),
    )


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Writer:
    """One write at a time, submitted and then waited for."""

    def __init__(self) -> None:
        setup, self._destroy, self._getevents, self._submit = _NUMBERS[platform.machine()]
        self._context = ctypes.c_ulong(0)
        _call(setup, 1, ctypes.byref(self._context))

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _call(self._destroy, self._context)

    def write(self, fd: int, data: mmap.mmap, offset: int) -> None:
        """Submit all of *data* and wait until it is written."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        iocb = _Iocb(opcode=_IOCB_CMD_PWRITE, fd=fd, buf=address, nbytes=len(data), offset=offset)
        _call(self._submit, self._context, 1, (ctypes.c_void_p * 1)(ctypes.addressof(iocb)))
        event = _Event()
        _call(self._getevents, self._context, 1, 1, ctypes.byref(event), None)
        if event.res < 0:
            raise OSError(-event.res, os.strerror(-event.res))
        if event.res != len(data):
            raise OSError(errno.EIO, f"{event.res} bytes of {len(data)} were written")
