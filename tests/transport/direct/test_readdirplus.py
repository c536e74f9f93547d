"""Which entries of a listing are in full: by the directory's size and by what is asked about its names."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import HANDLES, PATIENCE, SILENT, Kernel, Listed
from tests.transport.direct.test_listings import Reader
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct import readdirplus
from unionfs.transport.direct.protocol import InitFlag, Opcode

FEW = 20
MANY = 200
PAGE = 1600
"""Bytes that ten entries of READDIRPLUS fit into."""

COUNTS = {"small": FEW, "large": 100, "other": 100, "huge": MANY}

MANNERS = pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "stateless"])


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readdirplus, "_FEW", FEW)
    monkeypatch.setattr(readdirplus, "_MANY", MANY)


@pytest.fixture
def config(config: UnionConfig, layers: Path) -> UnionConfig:
    """The usual one, with directories of all sizes."""
    for where, count in COUNTS.items():
        (layers / "lower" / where).mkdir()
        for number in range(count):
            (layers / "lower" / where / f"name{number:03}").touch()
    return config


class Directory:
    """One of them, as a kernel reads it."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.count = COUNTS[name]
        self.node = kernel.node(name)
        self.reader = self.open()

    def open(self) -> Reader:
        return Reader(self.kernel, Opcode.READDIRPLUS, self.node)

    def close(self) -> None:
        if self.reader.fh:
            self.kernel.release(self.node, self.reader.fh, Opcode.RELEASEDIR)

    def read(self, pages: int | None = None) -> list[Listed]:
        """The names from the beginning, or so many pages of them."""
        self.close()
        reader = self.reader = self.open()
        found: list[Listed] = []
        page = reader.read(PAGE, 0)
        while page and (pages is None or pages > 0):
            found += page
            pages = None if pages is None else pages - 1
            page = reader.read(PAGE) if pages != 0 else []
        if pages is None:
            assert len(found) == self.count + 2
        return [entry for entry in found if entry.name not in (b".", b"..")]

    def go_on(self) -> list[Listed]:
        """The rest of the names."""
        found: list[Listed] = []
        while page := self.reader.read(PAGE):
            found += page
        return found

    def ask(self, entries: list[Listed]) -> None:
        for entry in entries:
            assert self.kernel.lookup(entry.name, self.node).ino == entry.ino


def full(entries: list[Listed]) -> int:
    """How many are in full."""
    assert all(entry.node in (0, entry.ino) for entry in entries)
    return sum(entry.node > 0 for entry in entries)


@MANNERS
def test_a_small_directory_is_in_full_at_once(start: Start, config: UnionConfig, offered: InitFlag) -> None:
    directory = Directory(start(config=config, offered=offered), "small")
    assert full(directory.read()) == FEW


@MANNERS
def test_what_the_kernel_holds_it_is_not_told_again(
    start: Start, config: UnionConfig, offered: InitFlag
) -> None:
    kernel = start(config=config, offered=offered)
    directory = Directory(kernel, "small")
    held = directory.read()
    assert [entry._replace(node=0) for entry in held] == directory.read()
    kernel.forget(held[-1].node, kernel.known.pop(held[-1].node))
    assert full(directory.read()) == 1
    directory.close()
    kernel.forget_all()
    assert kernel.table() == {p.ROOT_ID}


def test_with_a_timeout_it_is_told_again(start: Start, config: UnionConfig) -> None:
    """What the kernel holds may have become old, and it cannot be known of which it has."""
    kernel = start(config=replace(config, timeout=1.0))
    directory = Directory(kernel, "small")
    assert full(directory.read()) == FEW
    assert full(directory.read()) == FEW
    directory.close()
    kernel.forget_all()
    assert kernel.table() == {p.ROOT_ID}


def test_what_only_the_union_holds_the_kernel_is_told(
    start: Start, config: UnionConfig, layers: Path
) -> None:
    """A lower file with two names that was copied up: nothing else knows any more that it is one."""
    (layers / "lower/small/name003").unlink()
    os.link(layers / "lower/small/name000", layers / "lower/small/name003")
    kernel = start(config=config, offered=SILENT)
    mode = p.SETATTR_IN.pack(p.FATTR_MODE, 0, *(0,) * 9, 0o600, *(0,) * 4)
    kernel.body(Opcode.SETATTR, kernel.node("small/name000"), mode)
    kernel.forget_all()
    assert len(kernel.table()) > 1
    assert full(Directory(kernel, "small").read()) == FEW


@MANNERS
def test_a_large_directory_is_plain_at_first(start: Start, config: UnionConfig, offered: InitFlag) -> None:
    kernel = start(config=config, offered=offered)
    directory = Directory(kernel, "large")
    before = kernel.table()
    found = directory.read()
    assert full(found) == 0
    assert kernel.table() == before
    assert {entry.kind for entry in found} == {8}
    directory.ask(found)


@MANNERS
def test_from_the_page_on_whose_names_are_looked_up(
    start: Start, config: UnionConfig, offered: InitFlag
) -> None:
    """As by ls -l: a page of names, their attributes, the next page."""
    directory = Directory(start(config=config, offered=offered), "large")
    first = directory.read(pages=1)
    assert full(first) == 0
    directory.ask(first)
    rest = directory.go_on()
    assert full(rest) == len(rest) == 100 - len(first)


@MANNERS
def test_single_names_do_not_make_it_full(start: Start, config: UnionConfig, offered: InitFlag) -> None:
    directory = Directory(start(config=config, offered=offered), "large")
    first = directory.read(pages=3)
    directory.ask(first[:6])
    assert full(directory.go_on()) == 0


@MANNERS
def test_names_of_other_directories_do_not_make_it_full(
    start: Start, config: UnionConfig, offered: InitFlag
) -> None:
    kernel = start(config=config, offered=offered)
    directory = Directory(kernel, "large")
    names = directory.read(pages=3)
    small = kernel.node("small")
    for entry in names[:20]:
        kernel.lookup(entry.name, small)
    assert full(directory.go_on()) == 0


@MANNERS
def test_read_again_it_is_full(start: Start, config: UnionConfig, offered: InitFlag) -> None:
    """As by find, which reads all names before it looks at the first."""
    kernel = start(config=config, offered=offered)
    directory = Directory(kernel, "large")
    directory.read()
    assert full(directory.read()) == 100
    assert full(directory.read()) == 0
    directory.close()
    kernel.forget_all()
    assert kernel.table() == {p.ROOT_ID}
    assert full(Directory(kernel, "large").read()) == 100


@MANNERS
def test_what_was_looked_up_after_the_listing_makes_the_next_full(
    start: Start, config: UnionConfig, offered: InitFlag
) -> None:
    """Also of more names than are ever made unasked."""
    kernel = start(config=config, offered=offered)
    directory = Directory(kernel, "huge")
    found = directory.read()
    assert full(directory.read()) == 0
    directory.ask(found)
    kernel.forget_all()
    assert full(Directory(kernel, "huge").read()) == MANY


@MANNERS
def test_looking_whether_it_is_empty_is_no_reading(
    start: Start, config: UnionConfig, offered: InitFlag
) -> None:
    directory = Directory(start(config=config, offered=offered), "large")
    for _ in range(20):
        assert full(directory.read(pages=1)) == 0
    assert full(directory.read()) == 0


@MANNERS
@pytest.mark.parametrize("later", [0.0, 3600.0], ids=["soon", "later"])
@pytest.mark.parametrize("asked", [True, False], ids=["looked up", "left alone"])
def test_the_next_directory_of_a_walk(
    start: Start,
    config: UnionConfig,
    monkeypatch: pytest.MonkeyPatch,
    offered: InitFlag,
    later: float,
    asked: bool,
) -> None:
    kernel = start(config=config, offered=offered)
    directory = Directory(kernel, "large")
    found = directory.read()
    if asked:
        directory.ask(found)
    now = time.monotonic() + later
    monkeypatch.setattr("unionfs.transport.direct.readdirplus.time.monotonic", lambda: now)
    assert full(Directory(kernel, "other").read()) == (100 if asked and not later else 0)


@MANNERS
def test_the_kernel_keeps_no_plain_listing(start: Start, config: UnionConfig, offered: InitFlag) -> None:
    """Else nobody here would hear of the next reader, and its names would be looked up one by one."""
    kernel = start(config=config, offered=offered)
    directory = Directory(kernel, "large")
    directory.read(pages=2)
    kernel.drain()
    assert kernel.notices == []
    directory.go_on()
    if offered is SILENT:
        deadline = time.monotonic() + PATIENCE
        while not kernel.notices and time.monotonic() < deadline:
            kernel.drain()
        notice = kernel.notices.pop()
        assert (notice.unique, notice.error) == (0, p.NOTIFY_INVAL_INODE)
        assert p.INVAL_INODE_OUT.unpack(notice.body) == (directory.node, 0, 0)
    # What is in full may be kept.
    assert full(directory.read()) == 100
    Directory(kernel, "small").read()
    kernel.session._server.readers.shutdown()
    kernel.drain()
    assert kernel.notices == []


def test_many_directories_are_kept_in_mind_but_not_all() -> None:
    policy = readdirplus.ReaddirplusPolicy()
    for ino in range(1000):
        usage = policy.before_read(ino, 100, 0)
        assert usage is not None
    assert len(policy.usage) == 256
    assert min(policy.usage) == 1000 - 256
    assert policy.before_read(5000, FEW, 0) is None
    assert policy.before_read(999, FEW, 0) is None, "it has become a small one"
    assert 999 not in policy.usage
