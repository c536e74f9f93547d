"""Names that a request must not hold: no kernel sends them, and one with a slash would leave its layer."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import HANDLES, Kernel
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import Opcode

Head = Callable[[Kernel], tuple[Opcode, bytes, bytes]]
"""A request about a name: what stands before the name, and behind its NUL."""

CREATE = p.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0)

REQUESTS: dict[str, Head] = {
    "mkdir": lambda k: (Opcode.MKDIR, p.MKDIR_IN.pack(0o755, 0), b""),
    "mknod": lambda k: (Opcode.MKNOD, p.MKNOD_IN.pack(stat.S_IFREG | 0o644, 0, 0, 0), b""),
    "create": lambda k: (Opcode.CREATE, CREATE, b""),
    "symlink": lambda k: (Opcode.SYMLINK, b"", b"target\0"),
    "link": lambda k: (Opcode.LINK, p.LINK_IN.pack(k.node("file")), b""),
    "unlink": lambda k: (Opcode.UNLINK, b"", b""),
    "rmdir": lambda k: (Opcode.RMDIR, b"", b""),
    "rename from": lambda k: (Opcode.RENAME, p.RENAME_IN.pack(p.ROOT_ID), b"new\0"),
    "rename to": lambda k: (Opcode.RENAME, p.RENAME_IN.pack(p.ROOT_ID) + b"file\0", b""),
    "rename2 from": lambda k: (Opcode.RENAME2, p.RENAME2_IN.pack(p.ROOT_ID, 1, 0), b"new\0"),
    "rename2 to": lambda k: (Opcode.RENAME2, p.RENAME2_IN.pack(p.ROOT_ID, 2, 0) + b"file\0", b""),
}

BAD = [b".", b"..", b"/", b"dir/inner", b"../upper", b"../../x", b"dir/../file", b"/etc", b"a/", b""]


def everything(layers: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mode for path in layers.rglob("*")}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_name_that_no_entry_can_have(kernel: Kernel, layers: Path, what: str) -> None:
    opcode, head, tail = REQUESTS[what](kernel)
    before = everything(layers)
    for node in (p.ROOT_ID, kernel.node("dir")):
        for name in BAD:
            assert kernel.ask(opcode, node, head + name + b"\0" + tail).error == errno.EINVAL, name
    assert everything(layers) == before
    kernel.forget_all()
    assert kernel.table() == {p.ROOT_ID}


def test_a_name_that_nothing_is_looked_up_by(kernel: Kernel) -> None:
    for name in (b"/", b"dir/inner", b"../upper", b"", b"a/"):
        assert kernel.ask(Opcode.LOOKUP, body=name + b"\0").error == errno.EINVAL, name


def test_dots_are_looked_up_for_nfsd(kernel: Kernel) -> None:
    directory = kernel.lookup(b"dir")
    below = kernel.lookup(b"sub", directory.node)
    assert kernel.lookup(b".", directory.node).node == directory.node
    assert kernel.lookup(b"..", below.node).node == directory.node
    assert kernel.lookup(b"..", directory.node).node == p.ROOT_ID
    assert kernel.lookup(b"..").node == p.ROOT_ID
    kernel.forget_all()
    assert kernel.table() == {p.ROOT_ID}


LONG = [256, 1024, 4095, 4096, 60000]


@pytest.mark.parametrize("what", REQUESTS)
def test_a_name_that_is_too_long(kernel: Kernel, layers: Path, what: str) -> None:
    opcode, head, tail = REQUESTS[what](kernel)
    before = everything(layers)
    for length in LONG:
        answer = kernel.ask(opcode, body=head + b"n" * length + b"\0" + tail)
        assert answer.error == errno.ENAMETOOLONG, length
    assert everything(layers) == before


def test_a_lookup_of_a_name_that_is_too_long(kernel: Kernel) -> None:
    for length in LONG:
        assert kernel.ask(Opcode.LOOKUP, body=b"n" * length + b"\0").error == errno.ENAMETOOLONG, length


def test_the_longest_name(kernel: Kernel) -> None:
    name = b"n" * 255
    made = kernel.mkdir(name)
    assert kernel.lookup(name).node == made.node


TARGETS: list[tuple[bytes, int]] = [
    (b"a/b/../c", 0),
    (b"/", 0),
    (b"t" * 4095, 0),
    (b"t" * 4096, errno.ENAMETOOLONG),
    (b"", errno.EINVAL),
]


@pytest.mark.parametrize(("target", "error"), TARGETS, ids=[f"{len(t)} bytes" for t, _ in TARGETS])
def test_a_symlink_s_target_is_no_name(kernel: Kernel, target: bytes, error: int) -> None:
    answer = kernel.ask(Opcode.SYMLINK, body=b"new\0" + target + b"\0")
    assert answer.error == error
    if not error:
        entry = kernel.entry(answer.body)
        assert kernel.body(Opcode.READLINK, entry.node) == target
    else:
        assert kernel.lookup(b"new").node == 0


def test_bytes_that_are_no_text(start: Start) -> None:
    kernel = start(offered=HANDLES)
    name = bytes(code for code in range(1, 256) if code != ord("/"))
    made = kernel.made(name, data=b"x")
    assert kernel.lookup(name).node == made.node
    assert name in [entry.name for entry in kernel.readdir(kernel.opendir())]


def test_a_whiteout_s_name_cannot_be_made(kernel: Kernel) -> None:
    """Whoever mounts the layer would take it for a mark."""
    for what in ("mkdir", "mknod", "create", "symlink", "link"):
        opcode, head, tail = REQUESTS[what](kernel)
        assert kernel.ask(opcode, body=head + b".wh.x\0" + tail).error == errno.EINVAL
