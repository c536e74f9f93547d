"""GETXATTR and LISTXATTR for every size of room, SETXATTR with both of its structures."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import HANDLES, Kernel
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

LONG = 4000
"""What ext4 takes without further blocks."""


def set_body(name: bytes, value: bytes, flags: int = 0, *, size: int | None = None, more: int = 0) -> bytes:
    head = p.SETXATTR_IN.pack(len(value) if size is None else size, flags, more, 0)
    return head + name + b"\0" + value


def get(kernel: Kernel, node: int, name: bytes, room: int) -> tuple[int, bytes]:
    answer = kernel.ask(Opcode.GETXATTR, node, p.GETXATTR_IN.pack(room, 0) + name + b"\0")
    return answer.error, answer.body


def names(kernel: Kernel, node: int, room: int) -> tuple[int, bytes]:
    answer = kernel.ask(Opcode.LISTXATTR, node, p.GETXATTR_IN.pack(room, 0))
    return answer.error, answer.body


@pytest.fixture
def node(kernel: Kernel) -> int:
    """A file with two attributes of its own."""
    made = kernel.made(b"new").node
    kernel.body(Opcode.SETXATTR, made, set_body(b"user.long", b"v" * 100))
    kernel.body(Opcode.SETXATTR, made, set_body(b"user.none", b""))
    return made


ROOMS: list[tuple[int, int]] = [
    (1, errno.ERANGE),
    (99, errno.ERANGE),
    (100, 0),
    (101, 0),
    (65536, 0),
    ((1 << 32) - 1, 0),
]


@pytest.mark.parametrize(("room", "error"), ROOMS)
def test_room_for_a_value(kernel: Kernel, node: int, room: int, error: int) -> None:
    assert get(kernel, node, b"user.long", room) == (error, b"" if error else b"v" * 100)


def test_no_room_asks_for_the_size(kernel: Kernel, node: int) -> None:
    assert get(kernel, node, b"user.long", 0) == (0, p.GETXATTR_OUT.pack(100, 0))
    assert get(kernel, node, b"user.none", 0) == (0, p.GETXATTR_OUT.pack(0, 0))
    assert get(kernel, node, b"user.none", 1) == (0, b"")


@pytest.mark.parametrize("room", [0, 1, 100])
def test_an_attribute_that_is_not_set(kernel: Kernel, node: int, room: int) -> None:
    assert get(kernel, node, b"user.missing", room) == (errno.ENODATA, b"")


def test_room_for_names(kernel: Kernel, node: int) -> None:
    error, listed = names(kernel, node, 65536)
    assert error == 0
    assert {b"user.long", b"user.none"} <= set(listed.split(b"\0"))
    assert listed.endswith(b"\0")
    assert names(kernel, node, 0) == (0, p.GETXATTR_OUT.pack(len(listed), 0))
    assert names(kernel, node, len(listed)) == (0, listed)
    assert names(kernel, node, len(listed) - 1) == (errno.ERANGE, b"")
    assert names(kernel, node, 1) == (errno.ERANGE, b"")


FLAGS: list[tuple[bytes, int, int]] = [
    (b"user.new", 0, 0),
    (b"user.new", os.XATTR_CREATE, 0),
    (b"user.new", os.XATTR_REPLACE, errno.ENODATA),
    (b"user.long", 0, 0),
    (b"user.long", os.XATTR_CREATE, errno.EEXIST),
    (b"user.long", os.XATTR_REPLACE, 0),
    (b"user.long", 0x80000000, errno.EINVAL),
    (b"user.long", 0xFFFFFFFF, errno.EINVAL),
    (b"user." + b"n" * 300, 0, errno.ERANGE),
    (b"nonsense", 0, errno.EOPNOTSUPP),
]


@pytest.mark.parametrize(("name", "flags", "error"), FLAGS, ids=lambda value: str(value)[:20])
def test_create_and_replace(kernel: Kernel, node: int, name: bytes, flags: int, error: int) -> None:
    before = get(kernel, node, b"user.long", 200)
    assert kernel.ask(Opcode.SETXATTR, node, set_body(name, b"other", flags)).error == error
    if error:
        assert get(kernel, node, b"user.long", 200) == before
    else:
        assert get(kernel, node, name, 200) == (0, b"other")


def test_the_longer_structure(kernel: Kernel, node: int, layers: Path) -> None:
    kernel.body(Opcode.SETXATTR, node, set_body(b"user.x", b"value", more=1))
    assert os.getxattr(layers / "upper/new", "user.x") == b"value"


def test_the_shorter_structure_where_the_longer_one_is_not_agreed_on(start: Start, layers: Path) -> None:
    kernel = start(offered=HANDLES & ~InitFlag.SETXATTR_EXT)
    made = kernel.made(b"new").node
    body = p.SETXATTR_IN_COMPAT.pack(5, 0) + b"user.x\0value"
    kernel.body(Opcode.SETXATTR, made, body)
    assert os.getxattr(layers / "upper/new", "user.x") == b"value"
    for length in range(len(body)):
        assert kernel.ask(Opcode.SETXATTR, made, body[:length]).error == errno.EINVAL
    assert kernel.ask(Opcode.SETXATTR, made, set_body(b"user.x", b"value")).error == errno.EINVAL


def test_a_long_value(kernel: Kernel, node: int) -> None:
    value = bytes(number % 251 for number in range(LONG - 200))
    answer = kernel.ask(Opcode.SETXATTR, node, set_body(b"user.x", value))
    if answer.error == errno.ENOSPC:
        pytest.skip("this filesystem takes no such value")
    assert get(kernel, node, b"user.x", 65536) == (0, value)


def test_a_value_longer_than_linux_takes(kernel: Kernel, node: int) -> None:
    body = set_body(b"user.x", b"v" * 65537)
    assert kernel.ask(Opcode.SETXATTR, node, body).error in (errno.E2BIG, errno.ENOSPC, errno.ERANGE)


def test_a_value_with_zeros_in_it(kernel: Kernel, node: int) -> None:
    kernel.body(Opcode.SETXATTR, node, set_body(b"user.x", b"\0a\0b\0"))
    assert get(kernel, node, b"user.x", 10) == (0, b"\0a\0b\0")


def test_removing(kernel: Kernel, node: int, layers: Path) -> None:
    kernel.body(Opcode.REMOVEXATTR, node, b"user.long\0")
    assert get(kernel, node, b"user.long", 200) == (errno.ENODATA, b"")
    assert kernel.ask(Opcode.REMOVEXATTR, node, b"user.long\0").error == errno.ENODATA
    assert "user.long" not in os.listxattr(layers / "upper/new")


def test_the_union_s_own_marks_do_not_show(kernel: Kernel, layers: Path) -> None:
    """A rename and an index of what is merged leave marks on an upper directory."""
    directory = kernel.node("dir")
    kernel.made(b"new", directory)
    prefix = b"trusted.overlay." if os.geteuid() == 0 else b"user.overlay."
    assert any(name.encode().startswith(prefix) for name in os.listxattr(layers / "upper/dir"))
    _, listed = names(kernel, directory, 65536)
    assert prefix not in listed
    assert get(kernel, directory, prefix + b"origin", 100)[0] == errno.ENODATA
