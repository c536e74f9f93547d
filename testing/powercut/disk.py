"""A disk that records: a file, served through FUSE, for a loop device to lie on.

Each write arrives at once (FOPEN_DIRECT_IO: no page cache lies between), and so does each flush of the
filesystem, as FSYNC. Both go to a log in the order in which they were answered. The loop device has no FUA:
the kernel makes a flush of it. Discards, and zeroes that may be unmapped, both come as PUNCH_HOLE. Must never
reorder or merge anything, and must not wait for the filesystem that lies on it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testing import mounts
from testing.powercut.record_log import FLUSH, WRITE, ZERO, Writer, zero
from unionfs.transport.direct import protocol
from unionfs.transport.direct.protocol import Opcode

_MAX_WRITE = 1 << 20
_FLAGS = protocol.InitFlag.BIG_WRITES | protocol.InitFlag.MAX_PAGES | protocol.InitFlag.ASYNC_READ
_FOREVER = 1 << 30
_ZEROES = 0x02 | 0x10
"""FALLOC_FL_PUNCH_HOLE and FALLOC_FL_ZERO_RANGE."""
_PR_SET_PDEATHSIG = 1
_PR_SET_IO_FLUSHER = 57

_libc = ctypes.CDLL(None, use_errno=True)


class Position:
    """How much has been recorded, for every process that is forked after this was made."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def records(self) -> int:
        """Writes, flushes and the like so far. What begins now is in none of these."""
        return self._counts[0]

    @property
    def flushes(self) -> int:
        """Flushes so far. What was synced until now is on the disk after so many of them."""
        return self._counts[1]

    def note(self, kind: int) -> None:
        """One record more; called before it is answered."""
        self._counts[0] += 1
        self._counts[1] += kind == FLUSH


@contextmanager
def recorded(image: Path, where: Path, log: Path) -> Iterator[Position]:
    """Serve *image* as the file *where*, and record in *log* what is done to it until the context ends."""
    where.touch()
    position = Position()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        mounts.mount("recorded", where, "fuse", 0, f"fd={fd},rootmode=100600,user_id=0,group_id=0")
        try:
            server = multiprocessing.get_context("fork").Process(
                target=_serve, args=(fd, image, log, position, os.getpid())
            )
            server.start()
        except BaseException:
            mounts.umount(where)
            raise
    finally:
        os.close(fd)
    try:
        try:
            # The size of a root that was never asked for is 0.
            if os.stat(where).st_size != image.stat().st_size:
                raise AssertionError("the recorded disk does not show its size")
            yield position
        finally:
            mounts.umount(where)
    finally:
        server.join(mounts.STOP_TIMEOUT)
        if server.is_alive():
            server.kill()
            server.join()
    if server.exitcode != 0:
        raise AssertionError(f"the recorder ended with {server.exitcode}")


def _serve(fd: int, image: Path, log: Path, position: Position, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the end is the unmount
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Memory that is needed here must not be waited for from the filesystem above.
    _libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    if os.getppid() != parent:
        return
    disk = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    with Writer(log) as writer:
        _Server(fd, disk, writer, position).run()


class _Server:
    """Answers the requests for one file, one after the other."""

    def __init__(self, fd: int, disk: int, writer: Writer, position: Position) -> None:
        self._fd = fd
        self._disk = disk
        self._writer = writer
        self._position = position
        self._buffer = bytearray(_MAX_WRITE + protocol.PAGE_SIZE)
        self._request = memoryview(self._buffer)

    def run(self) -> None:
        """Until the file is unmounted."""
        handlers = {
            Opcode.INIT: self._init,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._getattr,  # times, which nothing here depends on
            Opcode.OPEN: lambda: protocol.OPEN_OUT.pack(0, protocol.FOPEN_DIRECT_IO, 0),
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.FSYNC: self._fsync,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.STATFS: self._statfs,
            Opcode.FLUSH: bytes,
            Opcode.RELEASE: bytes,
            Opcode.DESTROY: bytes,
        }
        while True:
            try:
                os.readv(self._fd, [self._buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):  # a request that was given up
                    continue
                raise
            _, opcode, unique, *_ = protocol.IN_HEADER.unpack_from(self._buffer)
            if opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
                continue
            code, body = errno.ENOSYS, b""
            if opcode in handlers:
                try:
                    code, body = 0, handlers[opcode]()
                except OSError as error:
                    code = error.errno or errno.EIO
            header = protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size + len(body), -code, unique)
            os.writev(self._fd, [header, body])

    def _init(self) -> bytes:
        major, _, readahead, offered = protocol.INIT_IN.unpack_from(self._buffer, protocol.BODY)
        pages = _MAX_WRITE // protocol.PAGE_SIZE
        flags = int(_FLAGS) & offered
        return protocol.INIT_OUT.pack(
            major, protocol.KERNEL_MINOR_VERSION, readahead, flags, 64, 48, _MAX_WRITE, 1, pages, 0, 0, 0, 0
        )

    def _getattr(self) -> bytes:
        st = os.fstat(self._disk)
        times = (0,) * 6
        return protocol.ATTR_OUT.pack(
            *(_FOREVER, 0, 0, protocol.ROOT_ID, st.st_size, st.st_size // 512),
            *times,
            *(0o100600, 1, 0, 0, 0, protocol.PAGE_SIZE, 0),
        )

    def _statfs(self) -> bytes:
        size = protocol.PAGE_SIZE
        return protocol.STATFS_OUT.pack(0, 0, 0, 0, 0, size, 255, size, *(0,) * 7)

    def _read(self) -> bytes:
        _, offset, size, *_ = protocol.READ_IN.unpack_from(self._buffer, protocol.BODY)
        return os.pread(self._disk, size, offset)

    def _write(self) -> bytes:
        _, offset, size, *_ = protocol.WRITE_IN.unpack_from(self._buffer, protocol.BODY)
        start = protocol.BODY + protocol.WRITE_IN.size
        data = self._request[start : start + size]
        if os.pwrite(self._disk, data, offset) != size:
            raise OSError(errno.EIO, "a short write to the image")
        self._writer.add(WRITE, offset, size, data)
        self._position.note(WRITE)
        return protocol.WRITE_OUT.pack(size, 0)

    def _fsync(self) -> bytes:
        self._writer.add(FLUSH, 0, 0)
        self._position.note(FLUSH)
        return b""

    def _fallocate(self) -> bytes:
        _, offset, size, mode, _ = protocol.FALLOCATE_IN.unpack_from(self._buffer, protocol.BODY)
        if not mode & _ZEROES:
            raise OSError(errno.EOPNOTSUPP, "only holes and zeroes are made")
        zero(self._disk, offset, size)
        self._writer.add(ZERO, offset, size)
        self._position.note(ZERO)
        return b""
