"""SETATTR: what each bit changes and what it leaves; numbers that no attribute can have change nothing."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from tests.transport.direct.kernel import Kernel
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import Opcode

BILLION = 10**9
U32 = (1 << 32) - 1


def body(
    valid: int,
    *,
    fh: int = 0,
    size: int = 0,
    atime: tuple[int, int] = (0, 0),
    mtime: tuple[int, int] = (0, 0),
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
) -> bytes:
    seconds = (atime[0], mtime[0], 0)
    parts = (atime[1], mtime[1], 0)
    return p.SETATTR_IN.pack(valid, 0, fh, size, 0, *seconds, *parts, mode, 0, uid, gid, 0)


@pytest.fixture
def node(kernel: Kernel) -> int:
    return kernel.made(b"new", data=b"0123456789").node


TIMES: list[tuple[int, int]] = [
    (0, 0),
    (1, 1),
    (1_700_000_000, 999_999_999),
    (2**31, 5),
    (-1, 500_000_000),
    (-1_000_000, 0),
]


@pytest.mark.parametrize("moment", TIMES)
def test_times(kernel: Kernel, node: int, layers: Path, moment: tuple[int, int]) -> None:
    """Seconds before 1970 are negative numbers in an unsigned field."""
    wanted = moment[0] * BILLION + moment[1]
    answer = kernel.body(Opcode.SETATTR, node, body(p.FATTR_MTIME, mtime=moment))
    st = (layers / "upper/new").stat()
    assert st.st_mtime_ns == wanted
    fields = p.ATTR_OUT.unpack(answer)
    seconds = fields[7] - (1 << 64) if fields[7] >> 63 else fields[7]
    assert seconds * BILLION + fields[10] == wanted
    kernel.body(Opcode.SETATTR, node, body(p.FATTR_ATIME, atime=moment))
    after = (layers / "upper/new").stat()
    assert (after.st_atime_ns, after.st_mtime_ns) == (wanted, wanted)


def test_now(kernel: Kernel, node: int, layers: Path) -> None:
    kernel.body(Opcode.SETATTR, node, body(p.FATTR_ATIME | p.FATTR_MTIME, atime=(5, 0), mtime=(6, 0)))
    before = time.time_ns()
    kernel.body(Opcode.SETATTR, node, body(p.FATTR_MTIME | p.FATTR_MTIME_NOW, mtime=(7, 0)))
    st = (layers / "upper/new").stat()
    assert before <= st.st_mtime_ns <= time.time_ns()
    assert st.st_atime_ns == 5 * BILLION


def test_nothing(kernel: Kernel, node: int, layers: Path) -> None:
    before = (layers / "upper/new").stat()
    assert kernel.ask(Opcode.SETATTR, node, body(0, size=3, mode=0o7777, uid=1, gid=1)).error == 0
    after = (layers / "upper/new").stat()
    assert (after.st_mode, after.st_size, after.st_uid, after.st_gid, after.st_mtime_ns) == (
        *(before.st_mode, before.st_size, before.st_uid, before.st_gid, before.st_mtime_ns),
    )


IMPOSSIBLE: list[tuple[str, bytes]] = [
    ("a negative size", body(p.FATTR_SIZE | p.FATTR_MODE, size=-1, mode=0o600)),
    ("the least size", body(p.FATTR_SIZE, size=-(1 << 63))),
    ("nobody's", body(p.FATTR_UID | p.FATTR_MTIME, uid=U32, mtime=(1, 1))),
    ("nobody's group", body(p.FATTR_GID | p.FATTR_UID, gid=U32, uid=1)),
    ("a second of nanoseconds", body(p.FATTR_MTIME | p.FATTR_MODE, mtime=(1, BILLION), mode=0o600)),
    ("UTIME_NOW", body(p.FATTR_ATIME, atime=(1, (1 << 30) - 1))),
    ("UTIME_OMIT", body(p.FATTR_ATIME, atime=(1, (1 << 30) - 2))),
    ("all nanoseconds", body(p.FATTR_ATIME, atime=(1, U32))),
    ("past the last second", body(p.FATTR_MTIME, mtime=((1 << 63) - 1, U32))),
]


@pytest.mark.parametrize(("name", "request_"), IMPOSSIBLE, ids=[row[0] for row in IMPOSSIBLE])
@pytest.mark.parametrize("path", ["new", "file"], ids=["upper", "lower"])
def test_what_no_file_can_have(
    kernel: Kernel, node: int, layers: Path, name: str, request_: bytes, path: str
) -> None:
    """Refused whole, before a copy-up."""
    before = (layers / "upper/new").stat()
    assert kernel.ask(Opcode.SETATTR, kernel.node(path), request_).error == errno.EINVAL
    assert (layers / "upper/new").stat() == before
    assert os.listdir(layers / "upper") == ["new"]


@pytest.mark.parametrize("seconds", [(1 << 63) - 1, -(1 << 63), 1 << 40])
def test_times_that_the_filesystem_has_not(kernel: Kernel, node: int, seconds: int) -> None:
    """It takes the nearest that it has."""
    assert kernel.ask(Opcode.SETATTR, node, body(p.FATTR_MTIME, mtime=(seconds, 0))).error == 0


@pytest.mark.parametrize("mode", [0, 0o600, 0o7777, 0o100755, U32])
def test_modes(kernel: Kernel, node: int, layers: Path, mode: int) -> None:
    """Of the number that the kernel sends, the permissions count."""
    if os.geteuid() != 0:
        mode &= ~stat.S_ISVTX
    kernel.body(Opcode.SETATTR, node, body(p.FATTR_MODE, mode=mode))
    assert stat.S_IMODE((layers / "upper/new").stat().st_mode) == mode & 0o7777


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: changes owners")
def test_owners(kernel: Kernel, node: int, layers: Path) -> None:
    for valid, uid, gid, expected in (
        (p.FATTR_UID, 1000, 7, (1000, 0)),
        (p.FATTR_GID, 7, 2000, (1000, 2000)),
        (p.FATTR_UID | p.FATTR_GID, 0, 0, (0, 0)),
        (p.FATTR_UID, U32 - 1, 0, (U32 - 1, 0)),
    ):
        kernel.body(Opcode.SETATTR, node, body(valid, uid=uid, gid=gid))
        st = (layers / "upper/new").stat()
        assert (st.st_uid, st.st_gid) == expected


def test_a_symlink_s_own_times(kernel: Kernel, layers: Path) -> None:
    link = kernel.node("link")
    kernel.body(Opcode.SETATTR, link, body(p.FATTR_MTIME, mtime=(5, 6)))
    assert (layers / "upper/link").lstat().st_mtime_ns == 5 * BILLION + 6
    assert not (layers / "upper/file").exists()
    assert kernel.ask(Opcode.SETATTR, link, body(p.FATTR_MODE, mode=0o600)).error == errno.EOPNOTSUPP
