"""READDIR and READDIRPLUS: room and cookies of every size, and listings that several readers share."""

from __future__ import annotations

import errno
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import HANDLES, SILENT, Kernel, Listed, list_of
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.namei import lookup
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

ROOT = p.ROOT_ID
NAMES = {b".", b"..", b"file", b"dir", b"big", b"link", b"fifo"}

BOTH = pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS], ids=lambda opcode: opcode.name)
MANNERS = pytest.mark.parametrize(
    ("offered", "timeout"),
    [(HANDLES, None), (SILENT, None), (HANDLES, 1.0)],
    ids=["handles", "stateless", "timeout"],
)


class Reader:
    """Somebody who has a directory open, by a handle or without one."""

    def __init__(self, kernel: Kernel, opcode: Opcode = Opcode.READDIR, node: int = ROOT) -> None:
        self.kernel = kernel
        self.opcode = opcode
        self.node = node
        opened = kernel.ask(Opcode.OPENDIR, node, p.OPEN_IN.pack(0, 0))
        self.fh = 0 if opened.error else p.OPEN_OUT.unpack(opened.body)[0]
        self.cookie = 0

    def read(self, size: int = 4096, cookie: int | None = None) -> list[Listed]:
        ask = self.kernel.readdir if self.opcode is Opcode.READDIR else self.kernel.readdirplus
        found = ask(self.fh, self.node, self.cookie if cookie is None else cookie, size)
        if found:
            self.cookie = found[-1].cookie
        return found

    def rest(self, size: int = 4096) -> list[bytes]:
        """The names from here to the end."""
        names: list[bytes] = []
        while found := self.read(size):
            names += [entry.name for entry in found]
        return names


def begin(start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None = None) -> Kernel:
    return start(config=replace(config, timeout=timeout), offered=offered)


@MANNERS
@BOTH
def test_a_whole_listing(
    start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None, opcode: Opcode
) -> None:
    kernel = begin(start, config, offered, timeout)
    found = Reader(kernel, opcode).read()
    assert {entry.name for entry in found} == NAMES
    assert len({entry.cookie for entry in found}) == len(found)
    kinds = {entry.name: entry.kind << 12 for entry in found}
    assert kinds[b"dir"] == kinds[b"."] == stat.S_IFDIR
    assert (kinds[b"file"], kinds[b"link"], kinds[b"fifo"]) == (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO)
    for entry in found:
        if entry.name not in (b".", b".."):
            assert kernel.lookup(entry.name).ino == entry.ino
            assert entry.node == (entry.ino if opcode is Opcode.READDIRPLUS else 0)
        else:
            assert entry.node == 0, "the kernel links no entry for a dot"


@MANNERS
@BOTH
def test_in_pieces_of_every_size(
    start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None, opcode: Opcode
) -> None:
    kernel = begin(start, config, offered, timeout)
    least = 32 if opcode is Opcode.READDIR else 160
    for size in (*range(least, least + 40), 200, 333, 4095, 65536):
        assert sorted(Reader(kernel, opcode).rest(size)) == sorted(NAMES), size


@MANNERS
@BOTH
def test_too_little_room_is_told_from_the_end(
    start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None, opcode: Opcode
) -> None:
    """An empty answer would say that the directory ends here."""
    kernel = begin(start, config, offered, timeout)
    reader = Reader(kernel, opcode)
    for size in (0, 1, 23, 31, *([151, 159] if opcode is Opcode.READDIRPLUS else [])):
        body = p.READ_IN.pack(reader.fh, 0, size, 0, 0, 0, 0)
        assert kernel.ask(opcode, ROOT, body).error == errno.EINVAL, size
    assert sorted(reader.rest()) == sorted(NAMES)
    body = p.READ_IN.pack(reader.fh, reader.cookie, 0, 0, 0, 0, 0)
    assert kernel.body(opcode, ROOT, body) == b""


@MANNERS
@BOTH
def test_more_room_than_a_request_may_have(
    start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None, opcode: Opcode
) -> None:
    kernel = begin(start, config, offered, timeout)
    for size in (1 << 20, 1 << 30, (1 << 32) - 1):
        assert {entry.name for entry in Reader(kernel, opcode).read(size)} == NAMES


@MANNERS
@BOTH
def test_cookies_past_the_end(
    start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None, opcode: Opcode
) -> None:
    kernel = begin(start, config, offered, timeout)
    reader = Reader(kernel, opcode)
    reader.rest()
    for cookie in (reader.cookie, reader.cookie + 1, 1000, 1 << 31, 1 << 32, (1 << 63) - 1):
        assert reader.read(cookie=cookie) == []
    for cookie in (-1, -(1 << 63)):
        body = p.READ_IN.pack(reader.fh, cookie, 4096, 0, 0, 0, 0)
        assert kernel.ask(opcode, ROOT, body).error == errno.EINVAL


@MANNERS
@BOTH
def test_any_cookie_can_be_gone_back_to(
    start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None, opcode: Opcode
) -> None:
    kernel = begin(start, config, offered, timeout)
    reader = Reader(kernel, opcode)
    whole = reader.read()
    for place, entry in enumerate(whole):
        found = reader.read(cookie=entry.cookie)
        assert [one.name for one in found] == [one.name for one in whole[place + 1 :]]


def fill(kernel: Kernel, count: int = 40) -> int:
    node = kernel.mkdir(b"full").node
    for number in range(count):
        kernel.made(b"name%02d" % number, node)
    return node


def numbered(*numbers: int) -> list[bytes]:
    return [b"name%02d" % number for number in numbers]


@MANNERS
@BOTH
def test_names_that_come_and_go_between_two_reads(
    start: Start, config: UnionConfig, offered: InitFlag, timeout: float | None, opcode: Opcode
) -> None:
    """What is there all the while is shown once; the rest once at most (POSIX readdir)."""
    kernel = begin(start, config, offered, timeout)
    node = fill(kernel)
    reader = Reader(kernel, opcode, node)
    first = [entry.name for entry in reader.read(1000)]
    gone = [*first[2:5], *[name for name in numbered(*range(40)) if name not in first][:5]]
    for name in gone:
        kernel.body(Opcode.UNLINK, node, name + b"\0")
    kernel.made(b"new", node)
    kernel.body(Opcode.RENAME, node, p.RENAME_IN.pack(node) + numbered(39)[0] + b"\0other\0")
    second = reader.rest(1000)
    assert not set(first) & set(second), "shown twice"
    assert set(first) | set(second) >= set(numbered(*range(39))) - set(gone) | {b".", b".."}
    assert not set(second) & set(gone)
    # From the beginning all is as it is now.
    now = set(numbered(*range(39))) - set(gone) | {b"new", b"other", b".", b".."}
    assert sorted(Reader(kernel, opcode, node).rest(1000)) == sorted(now)


@pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "stateless"])
def test_another_reader_does_not_disturb(start: Start, config: UnionConfig, offered: InitFlag) -> None:
    """Without handles both share a listing, and one begins anew while the other is in the middle."""
    kernel = begin(start, config, offered)
    node = fill(kernel)
    slow = Reader(kernel, node=node)
    first = [entry.name for entry in slow.read(1000)]
    for name in first[2:6]:
        kernel.body(Opcode.UNLINK, node, name + b"\0")
    kernel.made(b"new", node)
    fast = Reader(kernel, node=node)
    assert set(fast.rest(777)) == set(numbered(*range(40))) - set(first[2:6]) | {b".", b"..", b"new"}
    second = slow.rest(300)
    assert not set(first) & set(second)
    assert set(first) | set(second) >= set(numbered(*range(40)))


def test_a_name_keeps_its_place_as_long_as_it_is_there(start: Start, config: UnionConfig) -> None:
    kernel = begin(start, config, SILENT)
    node = fill(kernel)
    reader = Reader(kernel, node=node)
    before = {entry.name: entry.cookie for entry in reader.read()}
    for number in range(0, 40, 3):
        kernel.body(Opcode.UNLINK, node, numbered(number)[0] + b"\0")
    for number in range(10):
        kernel.made(b"new%d" % number, node)
    after = {entry.name: entry.cookie for entry in reader.read(cookie=0)}
    both = before.keys() & after.keys()
    assert len(both) == 28
    assert {name: before[name] for name in both} == {name: after[name] for name in both}
    new = {after[b"new%d" % number] for number in range(10)}
    assert min(new) > max(before.values())


def test_a_listing_does_not_grow_with_names_that_have_gone(start: Start, config: UnionConfig) -> None:
    """A spool: few files at a time, many in the course of time, and one who looks again and again."""
    kernel = begin(start, config, SILENT)
    node = kernel.mkdir(b"spool").node
    reader = Reader(kernel, node=node)
    for number in range(600):
        kernel.made(b"job%d" % number, node)
        assert [entry.name for entry in reader.read(cookie=0)] == [b".", b"..", b"job%d" % number]
        kernel.body(Opcode.UNLINK, node, b"job%d\0" % number)
    dir_ops = kernel.session._dir_ops
    assert dir_ops is not None
    kept = dir_ops._dir_streams.get(node).listing
    assert kept is not None
    assert len(kept.names) <= 1


@pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "stateless"])
def test_a_directory_that_is_removed_while_it_is_read(
    start: Start, config: UnionConfig, offered: InitFlag
) -> None:
    """As Linux has it: the open directory is empty."""
    kernel = begin(start, config, offered)
    node = fill(kernel, 5)
    reader = Reader(kernel, node=node)
    reader.read(100)
    for name in numbered(*range(5)):
        kernel.body(Opcode.UNLINK, node, name + b"\0")
    kernel.body(Opcode.RMDIR, body=b"full\0")
    assert reader.rest() == []
    body = p.READ_IN.pack(reader.fh, 0, 4096, 0, 0, 0, 0)
    answer = kernel.ask(Opcode.READDIR, node, body)
    assert answer.error in (0, errno.ENOENT)
    assert not {entry.name for entry in list_of(answer.body, 4096)} & set(numbered(*range(5)))


@pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "stateless"])
def test_a_name_whose_lookup_fails_is_listed_all_the_same(
    start: Start, config: UnionConfig, layers: Path, offered: InitFlag, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fs: Any, directory: Any, name: bytes) -> object:
        if name == b"file":
            raise OSError(errno.EIO, "broken")
        return lookup(fs, directory, name)

    monkeypatch.setattr("unionfs.overlay.super.lookup", fails)
    kernel = begin(start, config, offered)
    for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
        found = {entry.name: entry for entry in Reader(kernel, opcode).read()}
        assert found.keys() == NAMES
        assert found[b"file"].node == 0
        # A lower file's type is told without a lookup.
        assert found[b"file"].kind == (0 if opcode is Opcode.READDIRPLUS else 8)
        assert found[b"file"].ino not in {entry.ino for name, entry in found.items() if name != b"file"}
    assert kernel.ask(Opcode.LOOKUP, body=b"file\0").error == errno.EIO
