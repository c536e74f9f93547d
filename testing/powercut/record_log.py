"""What was recorded of a disk: writes, holes and flushes in their order, and the image of any moment of it.

A power cut leaves everything that was answered before the last flush that was answered; of what came after
it, any part. Which part, `Cut` says. Must know nothing of filesystems.
"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import BinaryIO

WRITE, ZERO, FLUSH = range(3)

SECTOR = 4096
"""What a disk writes as a whole or not at all."""

_HEADER = Struct("<QQQ")
"""kind, offset, length; the data of a write follows"""

_SHARES = (0.1, 0.5, 0.9, 1.0)
"""How much of what was not flushed is there."""

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Writer:
    """Adds to a log."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def add(self, kind: int, offset: int, length: int, data: bytes | memoryview = b"") -> None:
        """One record, of which *data* is part if it is a write."""
        header = _HEADER.pack(kind, offset, length)
        if os.writev(self._fd, [header, data]) != len(header) + len(data):
            raise OSError("the log is cut short")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


@dataclass(frozen=True)
class Record:
    """One request that the disk has answered."""

    kind: int
    offset: int
    length: int
    at: int
    """Where its data is in the log."""


def read(path: Path) -> list[Record]:
    """All that a log has."""
    found = []
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at < size:
            kind, offset, length = _HEADER.unpack(file.read(_HEADER.size))
            at += _HEADER.size
            found.append(Record(kind, offset, length, at))
            if kind == WRITE:
                at += length
                file.seek(at)
    return found


@dataclass(frozen=True)
class Cut:
    """A moment at which power is lost, and what of the last writes the disk has."""

    flushes: int
    """So many flushes were answered; all that was answered before the last of them is there."""
    end: int
    """So many records had been answered. What came after the last flush is there or not."""
    seed: str | None = None
    """By which the parts that are there are drawn; None: none of them is."""

    def __str__(self) -> str:
        how = "nothing more" if self.seed is None else f"some of what came up to record {self.end}"
        return f"{self.flushes} flushes and {how}"


class Disk:
    """A disk as it was at the beginning of a log, which goes through the log; never back."""

    def __init__(self, image: Path, log: Path) -> None:
        self.image = image
        """It becomes what all records up to the last flush make of it."""
        self._log = log
        self.records = read(log)
        self.ends = [0, *(at + 1 for at, record in enumerate(self.records) if record.kind == FLUSH)]
        """By a number of flushes, how many records there were with the last of them."""
        self._at = 0

    @property
    def flushes(self) -> int:
        """How many there are in all."""
        return len(self.ends) - 1

    def after(self, flushes: int) -> list[int]:
        """The records after so many flushes and before the next one, by number."""
        end = self.ends[flushes + 1] - 1 if flushes < self.flushes else len(self.records)
        return list(range(self.ends[flushes], end))

    def cuts(self, rng: random.Random, number: int) -> list[Cut]:
        """Moments of power loss, in their order: half of them right after a flush, half between two.

        With a *number* large enough, every moment right after a flush is there.
        """
        whole = min(number // 2, self.flushes + 1)
        found = [Cut(k, self.ends[k]) for k in rng.sample(range(self.flushes + 1), whole)]
        between = [k for k in range(self.flushes + 1) if self.after(k)]
        for count in range(number - whole if between else 0):
            k = rng.choice(between)
            found.append(Cut(k, rng.choice(self.after(k)) + 1, f"{rng.random()} {count}"))
        return sorted(found, key=lambda cut: (cut.flushes, cut.end, cut.seed or ""))

    def make(self, cut: Cut, target: Path, *, forgotten: int = 0) -> None:
        """Write the image of a moment, which must not be before that of the last call.

        *forgotten* is for a disk that lies: what came before so many flushes more may be missing, too.
        """
        base = max(0, cut.flushes - forgotten)
        with self.image.open("r+b") as image, self._log.open("rb") as log:
            if self.ends[base] < self._at:
                raise ValueError("a disk does not go back")
            for number in range(self._at, self.ends[base]):
                self._apply(image, log, number)
            self._at = self.ends[base]
        # cp makes holes of holes; most of an image is one.
        subprocess.run(["cp", "--sparse=auto", str(self.image), str(target)], check=True)
        if cut.seed is None and not forgotten:
            return
        rng = random.Random(cut.seed)
        share, torn = rng.choice(_SHARES), rng.random() < 0.5
        with target.open("r+b") as image, self._log.open("rb") as log:
            for number in range(self._at, cut.end):
                for start, end in _parts(self.records[number], torn):
                    if rng.random() < share:
                        self._apply(image, log, number, start, end)

    def _apply(
        self, image: BinaryIO, log: BinaryIO, number: int, start: int = 0, end: int | None = None
    ) -> None:
        record = self.records[number]
        end = record.length if end is None else end
        if record.kind == WRITE:
            data = os.pread(log.fileno(), end - start, record.at + start)
            os.pwrite(image.fileno(), data, record.offset + start)
        elif record.kind == ZERO:
            zero(image.fileno(), record.offset + start, end - start)


def _parts(record: Record, torn: bool) -> Iterator[tuple[int, int]]:
    """The ranges of a record that reach the disk by themselves."""
    if record.kind != WRITE or not torn:
        yield 0, record.length
        return
    start = 0
    while start < record.length:
        end = min(record.length, start + SECTOR - (record.offset + start) % SECTOR)
        yield start, end
        start = end


def zero(fd: int, offset: int, size: int) -> None:
    """Have a range of an image read as zeroes, which takes no space."""
    # FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
    if _fallocate(fd, 3, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "making a hole in an image")
