"""The harness itself: which calls it sees, and that none of the product escapes it."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from testing.faults.calls import CALLS, Fault, planted, wrapped
from tests.support.mounts import REPOSITORY
from unionfs.linux import syscalls

_EARLY = re.compile(r"^\s*from (?:os|fcntl) import (.*)$", re.MULTILINE)


def test_no_module_binds_a_call_early() -> None:
    """`from os import open` would keep the true one."""
    early = []
    for path in sorted((REPOSITORY / "unionfs").rglob("*.py")):
        for names in _EARLY.findall(path.read_text()):
            early += [f"{path}: {name}" for name in re.findall(r"\w+", names) if name in CALLS]
    assert early == []


def test_the_one_call_fails_and_no_other(tmp_path: Path) -> None:
    with planted(Fault(2, errno.EDQUOT)) as fault:
        os.mkdir(tmp_path / "a")
        with pytest.raises(OSError) as caught:
            os.mkdir(tmp_path / "b")
        os.mkdir(tmp_path / "c")
    assert (caught.value.errno, fault.reached) == (errno.EDQUOT, "mkdir")
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]


def test_all_fail_from_there_on(tmp_path: Path) -> None:
    with planted(Fault(2, errno.ENOSPC, stays=True)):
        os.mkdir(tmp_path / "a")
        for _ in range(2):
            with pytest.raises(OSError):
                os.mkdir(tmp_path / "b")
    assert os.listdir(tmp_path) == ["a"]


def test_functions_of_libc(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    with planted(Fault(1, errno.EINTR)), pytest.raises(InterruptedError):
        syscalls.renameat2(fd, b"a", fd, b"b", 0)
    syscalls.renameat2(fd, b"a", fd, b"b", 0)
    os.close(fd)
    assert os.listdir(tmp_path) == ["b"]


def test_half_of_what_was_asked_for(tmp_path: Path) -> None:
    with planted(Fault(1, None, stays=True)):
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        done = [os.pwrite(fd, b"12345678", 0), os.pread(fd, 8, 0), os.preadv(fd, [bytearray(4)], 0)]
        os.close(fd)
    assert done == [4, b"1234", 2]


def test_everything_is_put_back() -> None:
    before = wrapped()
    with planted(Fault(1)):
        assert wrapped() != before
    assert wrapped() == before
