"""Passthrough: programs that run, links, metacopies, inodes that are forgotten, holes.

What old readers see of a change is in test_passthrough_trap.py.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from tests.mount.data_rig import contents, data_segments, errno_of, fallocate, in_child, side
from tests.support.kernel_cache import forget_unused
from tests.support.mounts import (
    needs_fuse,
    needs_overlayfs,
    needs_root,
)
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

DATA = b"of a lower " * 3000
BOTH = ("overlayfs", "passthrough")


def one_file(lower: Path, upper: Path) -> None:
    (lower / "file").write_bytes(DATA)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"appended")


# --- programs -----------------------------------------------------------------------------------------


def with_program(lower: Path, upper: Path) -> None:
    for directory, name in ((lower, "lower program"), (upper, "upper program")):
        shutil.copy("/bin/sleep", directory / name)


def running(path: Path) -> subprocess.Popen[bytes]:
    program = subprocess.Popen([path, "60"])
    while os.readlink(f"/proc/{program.pid}/exe") != str(path):
        time.sleep(0.01)
    return program


@needs_overlayfs
@pytest.mark.parametrize("name", ["lower program", "upper program"])
def test_a_program_that_runs_is_not_written(name: str) -> None:
    outcomes = {}
    for way in (*BOTH, "default", "coherent", "cached"):
        with side(way, with_program) as mounted:
            path = mounted.merged / name
            content = path.read_bytes()
            program = running(path)
            try:
                outcomes[way] = [
                    errno_of(partial(append, path)),
                    errno_of(partial(os.truncate, path, 5)),
                    errno_of(partial(path.chmod, 0o700)),
                    errno_of(partial(append, path)),
                    errno_of(partial(os.link, path, path.with_name("link"))),
                    errno_of(path.unlink),
                ]
                path.write_bytes(b"#!/bin/sh\nexit 3\n")
                path.chmod(0o755)
                assert subprocess.run([path], check=False).returncode == 3
                assert program.poll() is None
                assert Path(f"/proc/{program.pid}/exe").read_bytes() == content
            finally:
                program.kill()
                program.wait()
    wanted = ["ETXTBSY", "ETXTBSY", "ok", "ETXTBSY", "ok", "ok"]
    assert outcomes == dict.fromkeys(outcomes, wanted)


def test_what_is_open_for_writing_does_not_run() -> None:
    with side("passthrough", with_program) as mounted:
        for name in ("lower program", "upper program"):
            path = mounted.merged / name
            with path.open("r+b"):
                assert errno_of(partial(os.execv, path, ["sleep", "0"])) == "ETXTBSY"
            assert subprocess.run([path, "0"], check=True).returncode == 0


def test_a_program_runs_from_old_and_new_at_once() -> None:
    """One script that is read while another process rewrites it, and is run by both names of its file."""

    def with_script(lower: Path, upper: Path) -> None:
        (lower / "script").write_text("#!/bin/sh\necho old\n")
        (lower / "script").chmod(0o755)
        os.link(lower / "script", lower / "link")

    with side("passthrough", with_script, ["index=on"]) as mounted:
        path = mounted.merged / "script"
        with path.open("rb") as reader, (mounted.merged / "link").open("rb") as other:
            path.write_text("#!/bin/sh\necho new\n")
            for name in (path, mounted.merged / "link"):
                assert subprocess.run([name], capture_output=True, check=True).stdout == b"new\n"
            assert reader.read() == other.read() == b"#!/bin/sh\necho old\n"


# --- links, metacopies, forgetting --------------------------------------------------------------------

OPTIONS: tuple[list[str], ...] = (
    [],
    ["index=on"],
    ["metacopy=on"],
    ["index=on", "metacopy=on"],
    ["timeout=1"],
    ["volatile"],
)


def with_links(lower: Path, upper: Path) -> None:
    (lower / "one").write_bytes(DATA)
    for name in ("two", "three"):
        os.link(lower / "one", lower / name)


@pytest.mark.parametrize("options", [one for one in OPTIONS if one != ["timeout=1"]], ids="+".join)
def test_hard_links_of_a_lower_file_are_one_file(options: list[str]) -> None:
    with side("passthrough", with_links, options) as mounted:
        before = contents(mounted.lower)
        one, two, three = (mounted.merged / name for name in ("one", "two", "three"))
        with one.open("rb") as reader, two.open("rb") as other:
            number = os.fstat(reader.fileno()).st_ino
            append(two)
            wanted = DATA + b"appended"
            for path in (one, two, three):
                assert path.read_bytes() == wanted
                assert path.stat().st_ino == number
                assert path.stat().st_nlink == 3
            os.truncate(three, 100)
            assert [path.read_bytes() for path in (one, two, three)] == [DATA[:100]] * 3
            assert reader.read() == other.read() == DATA
            one.unlink()
            assert two.stat().st_nlink == os.fstat(reader.fileno()).st_nlink == 2
        assert contents(mounted.lower) == before


@pytest.mark.parametrize("options", OPTIONS, ids="+".join)
def test_attributes_are_right_on_the_old_and_the_new_node(options: list[str]) -> None:
    with side("passthrough", one_file, options) as mounted:
        path = mounted.merged / "file"
        number = path.stat().st_ino
        before = contents(mounted.lower)
        with path.open("rb") as old:
            path.chmod(0o640)  # a metacopy, with metacopy=on
            assert os.fstat(old.fileno()).st_mode & 0o777 == 0o640
            with path.open("rb") as same:
                assert same.read() == DATA
            append(path)
            with path.open("rb") as new:
                descriptors = (old.fileno(), new.fileno())
                for step in range(8):
                    # By turns through the old node, the new one, and the name.
                    target = (*descriptors, path)[step % 3]
                    os.chmod(target, 0o600 + step)
                    os.utime(target, ns=(10**18, 10**18 + step))
                    os.setxattr(target, "user.step", b"%d" % step)
                    for where in (*descriptors, path):
                        st = os.stat(where)
                        assert (st.st_mode & 0o777, st.st_mtime_ns) == (0o600 + step, 10**18 + step)
                        assert st.st_size == len(DATA) + 8
                        assert st.st_ino == number
                        assert os.getxattr(where, "user.step") == b"%d" % step
                assert os.pread(old.fileno(), 1 << 20, 0) == DATA
                assert os.pread(new.fileno(), 1 << 20, 0) == DATA + b"appended"
        assert contents(mounted.lower) == before


@pytest.mark.parametrize("options", OPTIONS, ids="+".join)
def test_nodes_that_are_forgotten_by_and_by(options: list[str]) -> None:
    with side("passthrough", one_file, options) as mounted:
        path = mounted.merged / "file"
        number = path.stat().st_ino
        content = DATA
        readers = []
        for round_ in range(4):
            readers.append((os.open(path, os.O_RDONLY), content if round_ else DATA))
            forget_unused(mounted.merged)
            append(path)
            content += b"appended"
            forget_unused(mounted.merged)
            assert path.read_bytes() == content
            assert path.stat().st_ino == number
            forget_unused(mounted.merged)
        first, seen = readers[0]
        assert os.pread(first, 1 << 20, 0) == seen == DATA
        assert os.fstat(first).st_size == len(content)
        for fd, _ in readers:
            os.close(fd)
            forget_unused(mounted.merged)
            append(path)
            content += b"appended"
            assert path.read_bytes() == content
            assert path.stat().st_ino == number
        path.unlink()
        assert not path.exists()
        assert (mounted.lower / "file").read_bytes() == DATA


def test_other_names_of_an_old_node_lead_to_the_new_data() -> None:
    """Also right after the same thread has opened an old descriptor again, which no name helps."""
    with side("passthrough", with_links) as mounted:
        one, two, three = (mounted.merged / name for name in ("one", "two", "three"))
        with one.open("rb") as reader, two.open("rb"), three.open("rb"):
            again = Path(f"/proc/self/fd/{reader.fileno()}")
            append(one)
            wanted = DATA + b"appended"
            assert again.read_bytes() == DATA
            assert two.read_bytes() == wanted
            assert again.read_bytes() == DATA
            assert three.read_bytes() == wanted
            assert again.read_bytes() == DATA
            assert [path.read_bytes() for path in (one, two, three)] == [wanted] * 3


def test_a_name_that_was_looked_up_anew_is_not_taken_for_no_name() -> None:
    """This thread opens one name of an old node, which the kernel looks up, and then another."""
    with side("passthrough", with_links) as mounted:
        one, two, three = (mounted.merged / name for name in ("one", "two", "three"))
        with one.open("rb"), two.open("rb"), three.open("rb"):
            assert in_child(partial(append, three)) == "ok"
            assert one.read_bytes() == DATA + b"appended"
            assert two.read_bytes() == DATA + b"appended"


def copy_by_holes(fd: int, target: Path) -> bytes:
    """What cp(1) makes of a file: its data by copy_file_range, and holes where it has some."""
    size = os.fstat(fd).st_size
    out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for start, end in data_segments(fd):
        at = start
        while at < end:
            copied = os.copy_file_range(fd, out, end - at, at, at)
            assert copied
            at += copied
    os.ftruncate(out, size)
    found = os.pread(out, size, 0)
    os.close(out)
    return found


@pytest.mark.parametrize("way", ["passthrough", "default", "coherent"])
def test_holes_and_data_of_an_old_reader_are_of_one_file(way: str) -> None:
    size = (1 << 20) - 4096  # by default no reader of so small a file is served by passthrough

    def with_hole(lower: Path, upper: Path) -> None:
        with (lower / "file").open("wb") as file:
            file.truncate(size)
            os.pwrite(file.fileno(), DATA, 500_000)

    with side(way, with_hole) as mounted:
        path = mounted.merged / "file"
        old = (mounted.lower / "file").read_bytes()
        with path.open("rb") as first, path.open("rb") as second:
            descriptors = (first.fileno(), second.fileno())
            for fd in descriptors[:1]:
                assert copy_by_holes(fd, mounted.merged / "copy") == old
            with path.open("r+b") as writer:
                os.pwrite(writer.fileno(), b"in the hole", 100_000)
                fallocate(writer.fileno(), 3, 500_000, 200_000)
            new = path.read_bytes()
            assert new != old
            for fd in descriptors:
                assert os.pread(fd, size, 0) == (old if way == "passthrough" else new)
                assert copy_by_holes(fd, mounted.merged / "copy") == (old if way == "passthrough" else new)
                os.fsync(fd)
        assert (mounted.upper / "file").read_bytes() == new
        assert (mounted.lower / "file").read_bytes() == old


@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", "passthrough", "default", "coherent", "cached"])
@pytest.mark.parametrize("layer", ["lower", "upper", "new"])
def test_times_change_by_a_mapping_that_outlives_its_descriptor(way: str, layer: str) -> None:
    def with_file(lower: Path, upper: Path) -> None:
        if layer != "new":
            path = (lower if layer == "lower" else upper) / "file"
            path.write_bytes(DATA)

    with side(way, with_file) as mounted:
        path = mounted.merged / "file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, len(DATA))
        with mmap.mmap(fd, 0) as view:
            os.close(fd)
            for turn in range(3):
                os.utime(path, (10**9, 10**9))
                assert path.stat().st_mtime == 10**9
                view[:4] = b"%4d" % turn
                view.flush()
                assert path.stat().st_mtime > 10**9 + 1
                # ls(1) asks for no access time.
                shown = subprocess.run(["stat", "-c", "%Y", path], capture_output=True, check=True).stdout
                assert int(shown) > 10**9 + 1
        assert (mounted.upper / "file").read_bytes()[:4] == b"   2"


@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", "passthrough", "default"])
@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_times_that_the_kernel_knew_before_the_mapping(way: str, layer: str) -> None:
    def with_file(lower: Path, upper: Path) -> None:
        path = (lower if layer == "lower" else upper) / "file"
        path.write_bytes(DATA)
        os.utime(path, (10**9, 10**9))

    with side(way, with_file) as mounted:
        path = mounted.merged / "file"
        shown = partial(subprocess.run, ["stat", "-c", "%Y", path], capture_output=True, check=True)
        assert int(shown().stdout) == 10**9
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[:3] = b"now"
            view.flush()
            assert int(shown().stdout) > 10**9


def take_lock(path: Path, kind: str, how: int, mode: str) -> IO[bytes]:
    file = path.open(mode)
    try:
        if kind == "flock":
            fcntl.flock(file, how | fcntl.LOCK_NB)
        else:
            fcntl.lockf(file, how | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


@needs_overlayfs
@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_of_an_old_reader(kind: str) -> None:
    """With passthrough=on an old reader has a node of its own, and so have its locks (docs/semantics.md)."""
    outcomes = {}
    for way in ("overlayfs", "default", "passthrough", "coherent", "cached"):
        with side(way, one_file) as mounted:
            path = mounted.merged / "file"
            lock_to_write = partial(take_lock, path, kind, fcntl.LOCK_EX, "r+b")
            with take_lock(path, kind, fcntl.LOCK_SH, "rb"):
                outcomes[way] = in_child(lock_to_write)
                # Readers of the new file and writers meet each other in every way.
                with take_lock(path, kind, fcntl.LOCK_SH, "rb"):
                    assert in_child(lock_to_write) == "EAGAIN"
            assert in_child(lock_to_write) == "ok"
    assert outcomes == dict.fromkeys(outcomes, "EAGAIN") | {"passthrough": "ok"}


def test_a_reader_that_is_killed() -> None:
    with side("passthrough", one_file) as mounted:
        path = mounted.merged / "file"
        readers = [subprocess.Popen(["tail", "-f", path], stdout=subprocess.PIPE) for _ in range(3)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.read(5)
        append(path)
        for reader in readers:
            reader.send_signal(signal.SIGKILL)
            reader.communicate()
        append(path)
        assert path.read_bytes() == DATA + b"appended" * 2
        assert (mounted.upper / "file").read_bytes() == DATA + b"appended" * 2
        assert (mounted.lower / "file").read_bytes() == DATA
