"""Writing an archive: a tar of a few plain files, the same bytes for the same content. Knows no image.

GNU's form, where a header is one block however large the file: so a size can be put in when it is known.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tarfile

from unionfs.image.digest import Readable

_BLOCK = 1 << 20


class ArchiveTar:
    """Writes to an open file or pipe, from where it is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        self.is_seekable = stat.S_ISREG(os.fstat(fd).st_mode) and not appends
        """Whether `add` needs no size."""

    def add(self, name: str, source: Readable, size: int | None = None) -> None:
        """A file with all that *source* gives; *size* must be given where the output is not seekable."""
        begin = os.lseek(self._fd, 0, os.SEEK_CUR) if size is None else 0
        self._write(_header(name, size or 0))
        written = 0
        while block := source.read(_BLOCK):
            self._write(block)
            written += len(block)
        self._write(bytes(-written % tarfile.BLOCKSIZE))
        if size is None:
            os.pwrite(self._fd, _header(name, written), begin)
        elif written != size:
            raise OSError(f"{name}: {written} bytes, where {size} were announced")

    def add_bytes(self, name: str, content: bytes) -> None:
        """A small file."""
        padding = bytes(-len(content) % tarfile.BLOCKSIZE)
        self._write(_header(name, len(content)) + content + padding)

    def finish(self) -> None:
        """The end of the archive: two blocks of zeros."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[os.write(self._fd, left) :]


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)
