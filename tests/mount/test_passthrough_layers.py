"""Passthrough: nothing stays open, and layers on every kind of filesystem, overlays among them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.mount.data_rig import Side, in_child, side
from tests.mount.rig import eventually
from tests.support.kernel_cache import forget_unused
from tests.support.mounts import (
    command,
    environment,
    loop_fs,
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    pyunionfs,
    scratch,
)
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

DATA = b"of a lower " * 3000


def one_file(lower: Path, upper: Path) -> None:
    (lower / "file").write_bytes(DATA)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"appended")


def problem(mounted: Side) -> str | None:
    """What `status` says about passthrough."""
    done = subprocess.run(
        command("status", "--json", str(mounted.merged)), capture_output=True, env=environment(), check=True
    )
    answer = json.loads(done.stdout)
    entry = answer[0] if isinstance(answer, list) else answer
    found: str | None = entry["passthrough_problem"]
    return found


# --- what is left open --------------------------------------------------------------------------------


def open_files() -> int:
    """How many files the whole machine has open, those that only the kernel holds among them."""
    return int(Path("/proc/sys/fs/file-nr").read_text().split()[0])


def test_backing_files_of_upper_are_let_go_of() -> None:
    """5,000 files in turn on a filesystem that has room for 100 of them."""
    with loop_fs("tmpfs", 8 << 20) as where, side("passthrough", one_file, directory=where) as mounted:
        for turn in range(5000):
            path = mounted.merged / "one"
            path.write_bytes(bytes(65536))
            with path.open("rb") as reader:
                path.unlink()
                assert len(reader.read()) == 65536, turn
        left = os.statvfs(mounted.upper)
        assert (left.f_blocks - left.f_bfree) * left.f_bsize < 1 << 20


def fewer_open_files_than(most: int) -> bool:
    """Whether the machine soon has: other tests may open thousands for a moment."""
    deadline = time.monotonic() + 20
    while open_files() >= most:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_opening_and_closing_leaves_nothing_open() -> None:
    def with_files(lower: Path, upper: Path) -> None:
        for number in range(6000):
            (lower / str(number)).touch()
        (upper / "upper").write_bytes(DATA)

    with side("passthrough", with_files) as mounted:
        before, descriptors = open_files(), mounted.descriptors()
        for _ in range(5000):
            os.close(os.open(mounted.merged / "upper", os.O_RDWR))
            os.close(os.open(mounted.merged / "0", os.O_RDONLY))
        assert fewer_open_files_than(before + 2000)
        for number in range(6000):
            os.close(os.open(mounted.merged / str(number), os.O_RDONLY))
        # The count is the whole machine's: what else runs may open some hundred; a leak here is of thousands.
        # Some of lowers are kept for the next open, as long as the kernel knows the node.
        assert fewer_open_files_than(before + 4096 + 1000)
        assert mounted.descriptors() < descriptors + 10
        held = [os.open(mounted.merged / str(number), os.O_RDONLY) for number in range(3000)]
        for fd in held:
            os.close(fd)
        forget_unused(mounted.merged)
        assert fewer_open_files_than(before + 2000)
        assert eventually(lambda: mounted.descriptors() < descriptors + 10)


def test_more_files_at_once_than_a_process_may_have_open() -> None:
    def with_files(lower: Path, upper: Path) -> None:
        for number in range(3000):
            (upper if number % 30 else lower).joinpath(str(number)).write_bytes(b"%d" % number)

    with side("passthrough", with_files) as mounted:
        fds = [os.open(mounted.merged / str(number), os.O_RDWR) for number in range(3000)]
        for number, fd in enumerate(fds):
            assert os.pwrite(fd, b"!", 0) == 1
            assert os.pread(fd, 10, 0) == b"!" + (b"%d" % number)[1:]
        for fd in fds:
            os.close(fd)


# --- layers of other kinds ----------------------------------------------------------------------------


def check_the_trap(lower: Path, upper: Path, merged: Path) -> None:
    """In short what test_passthrough_trap.py has at length."""
    path = merged / "file"
    with path.open("rb") as reader:
        assert reader.read(11) == DATA[:11]
        assert in_child(partial(append, path)) == "ok"
        with path.open("r+b") as writer:
            os.pwrite(writer.fileno(), b"OVER", 0)
        assert path.read_bytes() == b"OVER" + DATA[4:] + b"appended"
        assert reader.read() == DATA[11:]
    os.truncate(path, 7)
    assert path.read_bytes() == (upper / "file").read_bytes() == b"OVER" + DATA[4:7]
    assert (lower / "file").read_bytes() == DATA


@pytest.mark.parametrize("upper_on", ["ext4", "tmpfs", "xfs", "btrfs"])
@pytest.mark.parametrize("lower_on", ["ext4", "tmpfs", "xfs", "btrfs"])
def test_layers_on_other_filesystems(lower_on: str, upper_on: str) -> None:
    with ExitStack() as stack, scratch() as base:
        below, above = stack.enter_context(loop_fs(lower_on)), stack.enter_context(loop_fs(upper_on))
        for path in (below / "lower", above / "upper", above / "work", base / "merged"):
            path.mkdir()
        one_file(below / "lower", above / "upper")
        layers = ([below / "lower"], above / "upper", above / "work", base / "merged")
        with pyunionfs(*layers, options=["transport=direct", "passthrough=on"]) as daemon:
            check_the_trap(below / "lower", above / "upper", daemon.merged)


@contextmanager
def stacked(base: Path, depth: int) -> Iterator[Path]:
    """A directory with `file` on that many overlays, one on top of the other."""
    path = base / "0"
    path.mkdir()
    one_file(path, path)
    with ExitStack() as stack:
        for level in range(1, depth + 1):
            above = base / str(level)
            for directory in (above, base / f"{level}.upper", base / f"{level}.work"):
                directory.mkdir()
            layers = ([path], base / f"{level}.upper", base / f"{level}.work", above)
            stack.enter_context(overlayfs(*layers))
            path = above
        yield path


@needs_overlayfs
@pytest.mark.parametrize(("depth", "refused"), [(1, None), (2, os.strerror(errno.ELOOP))])
def test_a_lower_on_an_overlay(depth: int, refused: str | None) -> None:
    """A filesystem may stand on one that stands on one that stands on none, and no higher."""
    with scratch() as base, stacked(base, depth) as lower:
        for name in ("upper", "work", "merged"):
            (base / name).mkdir()
        options = ["transport=direct", "passthrough=on"]
        with pyunionfs([lower], base / "upper", base / "work", base / "merged", options=options):
            mounted = Side(base, None)
            path = mounted.merged / "file"
            with path.open("rb") as reader:
                assert reader.read(11) == DATA[:11]
                append(path)
                # Where the lower cannot be passed through, old readers are the cache's.
                assert reader.read() == DATA[11:] + (b"appended" if refused else b"")
            assert path.read_bytes() == (base / "upper" / "file").read_bytes() == DATA + b"appended"
            assert (lower / "file").read_bytes() == DATA
            said = problem(mounted)
            assert said is None if refused is None else refused in str(said)
