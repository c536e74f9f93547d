"""Requests that end too early, or lie about their length: EINVAL, and nothing has changed.

The buffer that requests are read into is used again. Before each cut request the whole of it is sent under
an unknown opcode, so that what is missing lies right behind its end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import HANDLES, NO_SUCH_OPCODE, SILENT, Kernel
from tests.transport.direct.samples import SAMPLES, UNANSWERED, WITHOUT_ARGUMENTS, Scene
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

WITH_ARGUMENTS = sorted(set(SAMPLES) - WITHOUT_ARGUMENTS)

Picture = tuple[dict[str, tuple[object, ...]], set[int], int | None]


def picture(kernel: Kernel, layers: Path) -> Picture:
    """All that a request could have changed: upper and work, what is known, what is open."""
    found: dict[str, tuple[object, ...]] = {}
    for top in ("upper", "work"):
        for path in (layers / top).rglob("*"):
            if "incompat" in path.parts:  # the mark of a volatile mount, which not even its owner may read
                continue
            st = path.lstat()
            data, xattrs = b"", {}
            if stat.S_ISREG(st.st_mode):
                data = path.read_bytes()
                xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            found[str(path)] = (st.st_mode, st.st_size, st.st_nlink, st.st_mtime_ns, data, xattrs)
    return found, kernel.table(), kernel.session.open_handles()


def refused(kernel: Kernel, opcode: Opcode, node: int, body: bytes, **more: int) -> bool:
    """Whether the request is answered EINVAL; where no answer is due, whether there is none."""
    unique = kernel.send(opcode, node, body, **more)
    if opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
        return unique not in kernel.drain()
    return kernel.wait_for(unique).error == errno.EINVAL


@pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "silent opens"])
@pytest.mark.parametrize("opcode", WITH_ARGUMENTS, ids=lambda opcode: opcode.name)
def test_a_request_that_is_cut_short(start: Start, layers: Path, opcode: Opcode, offered: InitFlag) -> None:
    kernel = start(offered=offered)
    sample = SAMPLES[opcode](Scene(kernel))
    before = picture(kernel, layers)
    taken = []
    for length in range(len(sample.body)):
        kernel.ask(NO_SUCH_OPCODE, sample.node, sample.body)
        if not refused(kernel, opcode, sample.node, sample.body[:length]):
            taken.append(length)
    assert taken == []
    assert picture(kernel, layers) == before


LIES = (-40, -1, 1, 16, 4096, 1 << 31)


@pytest.mark.parametrize("opcode", sorted(SAMPLES), ids=lambda opcode: opcode.name)
def test_a_request_of_another_length_than_it_says(start: Start, layers: Path, opcode: Opcode) -> None:
    kernel = start()
    sample = SAMPLES[opcode](Scene(kernel))
    before = picture(kernel, layers)
    size = p.BODY + len(sample.body)
    taken = []
    for lie in (*LIES, -size):
        unique = kernel.send(opcode, sample.node, sample.body, length=(size + lie) % (1 << 32))
        if sample.size == UNANSWERED:
            if unique in kernel.drain():
                taken.append(lie)
        elif kernel.wait_for(unique).error != errno.EINVAL:
            taken.append(lie)
    assert taken == []
    assert picture(kernel, layers) == before


@pytest.mark.parametrize("length", [1, 15, 16, p.BODY - 1])
def test_less_than_a_header(kernel: Kernel, length: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can be answered then."""
    kernel.send_raw(bytes(length))
    assert not kernel.drain()
    assert f"read from /dev/fuse: {length} bytes are shorter than a request header, ignored" in caplog.text
    assert kernel.lookup(b"file").size == 10


COUNTS: list[tuple[Opcode, int, str]] = [
    (Opcode.WRITE, 16, "size"),
    (Opcode.SETXATTR, 0, "size"),
    (Opcode.IOCTL, 24, "in_size"),
    (Opcode.BATCH_FORGET, 0, "count"),
]


@pytest.mark.parametrize(("opcode", "at", "field"), COUNTS, ids=[f"{row[0].name}.{row[2]}" for row in COUNTS])
def test_a_length_within_that_lies(kernel: Kernel, layers: Path, opcode: Opcode, at: int, field: str) -> None:
    """More than there is: what lies behind the request is another's."""
    sample = SAMPLES[opcode](Scene(kernel))
    before = picture(kernel, layers)
    for lie in (1, 2, 7, 1000, 1 << 20, 1 << 31, (1 << 32) - 200):
        said = int.from_bytes(sample.body[at : at + 4], "little") + lie
        body = sample.body[:at] + (said % (1 << 32)).to_bytes(4, "little") + sample.body[at + 4 :]
        kernel.ask(NO_SUCH_OPCODE, 0, body + bytes(2048))
        assert refused(kernel, opcode, sample.node, body), lie
    assert picture(kernel, layers) == before


@pytest.mark.parametrize("opcode", [Opcode.WRITE, Opcode.SETXATTR], ids=lambda opcode: opcode.name)
def test_data_that_is_longer_than_said(kernel: Kernel, layers: Path, opcode: Opcode) -> None:
    sample = SAMPLES[opcode](Scene(kernel))
    before = picture(kernel, layers)
    assert refused(kernel, opcode, sample.node, sample.body + b"x")
    assert picture(kernel, layers) == before


def test_the_rest_of_a_name_is_not_taken_from_the_request_before(kernel: Kernel, layers: Path) -> None:
    kernel.ask(NO_SUCH_OPCODE, body=p.MKDIR_IN.pack(0o755, 0) + b"abcdef\0")
    assert refused(kernel, Opcode.MKDIR, p.ROOT_ID, p.MKDIR_IN.pack(0o755, 0) + b"abc")
    assert os.listdir(layers / "upper") == []


def test_an_ioctl_s_argument_is_not_taken_from_the_request_before(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []
    monkeypatch.setattr(type(kernel.union), "set_flags", lambda _, ino, flags, who: said.append(flags))
    scene = Scene(kernel)
    set_flags = 0x40086602
    whole = p.IOCTL_IN.pack(scene.fh, 0, set_flags, 0, 4, 0) + (16).to_bytes(4, "little")
    kernel.ask(NO_SUCH_OPCODE, body=whole)
    for length in range(p.IOCTL_IN.size, len(whole)):
        assert refused(kernel, Opcode.IOCTL, scene.mine, whole[:length])
    assert said == []
    kernel.body(Opcode.IOCTL, scene.mine, whole)
    assert said == [16]
