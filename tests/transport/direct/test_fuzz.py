"""Thousands of requests at random: the session survives them, answers each once, and the union works on.

`make malformed` runs many more of them.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.fuzz import Fuzzer
from tests.transport.direct.kernel import EVERYTHING, HANDLES, SILENT, Kernel
from unionfs.linux import syscalls
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode
from unionfs.transport.session import SessionOptions

REQUESTS = int(os.environ.get("PYUNIONFS_MALFORMED", "4000"))
"""How many in each test."""
SEED = int(os.environ.get("PYUNIONFS_SEED", "1"))

BATCH = 8
FALLOC_FL_PUNCH_HOLE = 2
FILE_SIZE = 256 << 10
"""Nothing grows beyond: a made-up length must not fill the disk."""


@pytest.fixture(autouse=True)
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_FSIZE does not hold what is preallocated beyond a file's end (ext4_fallocate())."""
    fallocate = syscalls.fallocate

    def limited(fd: int, mode: int, offset: int, length: int) -> None:
        if length > FILE_SIZE and not mode & FALLOC_FL_PUNCH_HOLE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fallocate(fd, mode, offset, length)

    monkeypatch.setattr(syscalls, "fallocate", limited)


@pytest.fixture
def layers(layers: Path) -> Iterator[Path]:
    """The big file is small enough for an answer by a socket, and large enough for a worker's copy."""
    os.truncate(layers / "lower/big", 200 << 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, hard))
    yield layers
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for top, names, _ in os.walk(layers / "upper"):
        for path in (os.path.join(top, name) for name in names):
            if not os.path.islink(path):  # which may lead to anywhere
                os.chmod(path, 0o700)  # else an ordinary user could not remove it


def everything(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(st.st_mode) else b""
        found[str(path.relative_to(top))] = (
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_size,
            st.st_mtime_ns,
            data,
        )
    return found


def tree(kernel: Kernel, node: int = p.ROOT_ID) -> dict[bytes, tuple[int, object]]:
    """All that the union shows, by names that were looked up; by an errno what keeps an ordinary user out."""
    try:
        return _tree(kernel, node)
    except PermissionError as error:
        if os.geteuid() == 0:
            raise
        return {b"": (error.errno or 0, None)}


def _tree(kernel: Kernel, node: int) -> dict[bytes, tuple[int, object]]:
    opened = kernel.ask(Opcode.OPENDIR, node, p.OPEN_IN.pack(0, 0))
    fh = 0 if opened.error else p.OPEN_OUT.unpack(opened.body)[0]
    names, cookie = [], 0
    while listed := kernel.readdir(fh, node, cookie, 4096):
        names += [entry.name for entry in listed if entry.name not in (b".", b"..")]
        cookie = listed[-1].cookie
    if not opened.error:
        kernel.release(node, fh, Opcode.RELEASEDIR)
    found: dict[bytes, tuple[int, object]] = {}
    for name in names:
        entry = kernel.lookup(name, node)
        assert entry.node, name
        below = tree(kernel, entry.node) if stat.S_ISDIR(entry.mode) else entry.size
        found[name] = (entry.mode, below)
    return found


def run(kernel: Kernel, seed: int, count: int) -> None:
    """Send them, some at a time, and see that each is answered as often as it should be."""
    fuzzer = Fuzzer(kernel, seed)
    done = 0
    while done < count:
        batch = [fuzzer.next() for _ in range(fuzzer.random.randrange(1, BATCH))]
        for sent in batch:
            kernel.send_raw(sent.message)
        for sent in batch:
            if sent.due:
                fuzzer.learn(sent.opcode, sent.node, kernel.wait_for(sent.unique))
        done += len(batch)
        assert kernel.drain() == {}, "an answer that nobody has asked for"


MANNERS: list[tuple[str, InitFlag, float | None, bool]] = [
    ("handles", HANDLES, None, False),
    ("silent opens", SILENT, None, False),
    ("writeback", EVERYTHING, None, True),
    ("layers that change", EVERYTHING, 1.0, False),
    ("passthrough", EVERYTHING, None, False),
    ("passthrough of layers that change", EVERYTHING, 1.0, True),
]


@pytest.mark.parametrize(("name", "offered", "timeout", "metacopy"), MANNERS, ids=[row[0] for row in MANNERS])
def test_random_requests(
    start: Start,
    config: UnionConfig,
    layers: Path,
    caplog: pytest.LogCaptureFixture,
    backing: dict[int, os.stat_result],
    name: str,
    offered: InitFlag,
    timeout: float | None,
    metacopy: bool,
) -> None:
    lower, beside = everything(layers / "lower"), sorted(os.listdir(layers))
    metacopy = metacopy and not config.userxattr
    changed = replace(config, timeout=timeout, metacopy=metacopy, index=metacopy)
    options = SessionOptions(passthrough="auto" if "passthrough" in name else "off")
    kernel = start(config=changed, offered=offered, options=options)
    run(kernel, SEED, REQUESTS)
    assert "unhandled exception" not in caplog.text
    made = kernel.mkdir(b"after all").node
    kernel.made(b"file", made, b"data")
    assert kernel.node("after all/file")
    seen = tree(kernel)
    kernel.end()
    assert everything(layers / "lower") == lower
    assert sorted(os.listdir(layers)) == beside
    # Whoever mounts it next sees the same.
    shutil.rmtree(layers / "work/work/incompat")
    again = start(config=changed, offered=offered)
    assert tree(again) == seen
