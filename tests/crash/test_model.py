"""What the crash tests themselves go by: states that a kill may leave, and what is kept of a loss."""

from __future__ import annotations

import contextlib
import functools
import mmap
import multiprocessing
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing import processes
from testing.crash import load
from testing.crash.model import Model, Node, Op, pattern
from testing.crash.record import LAYERS, record, recorded
from testing.crash.rig import GONE, Rig, mismatches, observe
from tests.support.mounts import Daemon, loop_fs, needs_fuse, needs_overlayfs, overlayfs, pyunionfs
from tests.support.transports import one_transport

pytestmark = [needs_fuse, needs_overlayfs, one_transport]

PAGE = 4096
SIZE = 3 * PAGE + 1
THEN = 10**18


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    """Lower, upper, work and merged, with a file of long ago in upper."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged, upper / "p"):
        directory.mkdir(0o755)
    (upper / "p" / "file").write_bytes(pattern(1, SIZE))
    os.utime(upper / "p" / "file", ns=(THEN, THEN))
    return lower, upper, work, merged


def _waits(thread: int, functions: tuple[str, ...]) -> bool:
    """Whether a thread is in one of these functions of the kernel."""
    stack = Path(f"/proc/{thread}/stack").read_text()
    return any(function in stack for function in functions)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def test_kernel_overlayfs_sets_the_time_before_the_data_of_a_write(tmp_path: Path) -> None:
    """A write(2) whose caller is killed while its data is read leaves the new time, and no data.

    The data is a mapping of a file in a union whose daemon is stopped.
    """
    with loop_fs("ext4") as base:
        theirs = [base / name for name in ("lower", "upper", "work", "merged")]
        ours = [base / name for name in ("lower2", "upper2", "work2", "merged2")]
        for directory in (*theirs, *ours):
            directory.mkdir()
        (theirs[1] / "file").write_bytes(b"old")
        os.utime(theirs[1] / "file", ns=(THEN, THEN))
        (ours[0] / "source").write_bytes(b"new")
        file = theirs[3] / "file"
        with (
            overlayfs([theirs[0]], *theirs[1:]),
            pyunionfs([ours[0]], *ours[1:], options=["passthrough=off"]) as daemon,
            (ours[3] / "source").open("rb") as source,
            mmap.mmap(source.fileno(), 3, access=mmap.ACCESS_READ) as data,
        ):
            writer = os.fork()
            if writer == 0:
                try:
                    fd = os.open(file, os.O_WRONLY)
                    processes.stop(daemon.pid)
                    os.write(fd, data)
                finally:
                    os._exit(1)
            _until(lambda: _waits(writer, ("generic_perform_write",)))
            os.kill(writer, signal.SIGKILL)
            os.kill(daemon.pid, signal.SIGCONT)
            assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGKILL
            assert file.stat().st_mtime_ns > THEN
            assert file.read_bytes() == b"old"


@contextmanager
def _written_but_for_the_data(
    layers: tuple[Path, Path, Path, Path], op: Op, *options: str
) -> Iterator[tuple[Daemon, int]]:
    """A mount that caches writes, and a descriptor by which *op* wrote: the daemon has only the time."""
    lower, upper, work, merged = layers
    # Without xattrs the kernel does not ask for the capability of the file, of all that it asks the first.
    words = ["passthrough=off", "writeback=1", "noxattrs", *options]
    with pyunionfs([lower], upper, work, merged, options=words) as daemon:
        path = merged / "p" / "file"
        fd = os.open(path, os.O_WRONLY)
        other = os.dup(fd)  # its end is not the end of what is open, when all would be written
        # What the kernel asks at the first write(2) only is asked now.
        os.pwrite(fd, pattern(1, PAGE), 0)
        os.fsync(fd)
        os.utime(path, ns=(THEN, THEN))
        processes.stop(daemon.pid)
        try:
            # Within a page that the kernel has to read first.
            at = op[2] if op[0] == "write" else SIZE
            writer = threading.Thread(target=os.pwrite, args=(fd, pattern(7, 10), at))
            closer = threading.Thread(target=os.close, args=(other,))
            for thread in (writer, closer):
                thread.start()
                assert thread.native_id is not None
                _until(functools.partial(_waits, thread.native_id, ("folio_wait", "request_wait_answer")))
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        writer.join()
        closer.join()
        yield daemon, fd


@pytest.mark.parametrize("op", [("write", "p/file", 8192, 7, 10), ("append", "p/file", 7, 10)], ids=str)
def test_so_may_a_daemon_that_is_killed(layers: tuple[Path, Path, Path, Path], op: Op) -> None:
    """The kernel's cache sends the time of a write(2) when another descriptor is closed, its data later."""
    lower, upper, work, merged = layers
    model = Model(writes_die=True)
    model.add("p", Node("dir", 0o755))
    model.add("p/file", Node("file", 0o644, edits=(("write", 0, 1, SIZE),), size=SIZE, mtime_ns=THEN))
    with _written_but_for_the_data(layers, op) as (daemon, fd):
        daemon.kill()
        with contextlib.suppress(OSError):
            os.close(fd)
    with pyunionfs([lower], upper, work, merged):
        found = observe(merged, "p")
    assert [wrong.what for wrong in mismatches(model, found)] == ["mtime_ns"]
    assert any(not mismatches(state, found) for state in model.states(op))


@pytest.mark.parametrize("options", [(), ("fsync=0",)], ids=str)
@pytest.mark.parametrize("end", [os.close, os.fsync])
def test_what_is_lost_is_not_said_to_be_stored(
    layers: tuple[Path, Path, Path, Path], end: Callable[[int], None], options: tuple[str, ...]
) -> None:
    """A kernel that need not ask at close(2) or fsync(2) would not see that the daemon is gone."""
    with _written_but_for_the_data(layers, ("append", "p/file", 7, 10), *options) as (daemon, fd):
        daemon.kill()
        with pytest.raises(OSError) as failure:
            end(fd)
        if end is not os.close:
            with contextlib.suppress(OSError):
                os.close(fd)
    assert failure.value.errno in GONE
    assert (layers[1] / "p" / "file").stat().st_size == SIZE


def test_a_load_that_starts_after_the_kill_sees_no_other_tree(
    layers: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    lower, upper, work, merged = layers
    with pyunionfs([lower], upper, work, merged) as daemon:
        top = os.open(merged, os.O_PATH)
        daemon.kill()
        model = Model()
        model.add("p", Node("dir", 0o755))
        child = multiprocessing.get_context("fork").Process(
            target=load.run, args=(top, "p", model, "seed", tmp_path / "journal")
        )
        child.start()
        os.close(top)
        child.join()
    journal = load.read_journal(tmp_path / "journal")
    assert (child.exitcode, journal.answered) == (0, ())
    assert journal.error in GONE


def test_everything_of_a_loss_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with loop_fs("ext4", 1 << 30) as base:
        rig = Rig(base, "some seed", options=["index=on"])
        assert rig.kill_in_load() == []
        rig.models["p1"].set("p1", Node("dir", 0o755, uid=77))  # which the load does not change
        losses = rig.kill_in_load()
        assert any("p1: uid should be 77, is 0" in str(loss) for loss in losses)
        where = record(rig, losses, out)
        with pytest.raises(ZeroDivisionError) as failure, recorded(rig, out):
            1 / 0  # noqa: B018
    told = (where / "losses.txt").read_text()
    assert "seed: 'some seed'\noptions: index=on,redirect_dir=on\n" in told
    for loss in losses:
        assert str(loss) in told
    for number in ("1", "2"):
        assert "is mounted" in (where / f"daemon-{number}.txt").read_text()
        assert [
            load.read_journal(where / "journals" / number / part).error in GONE for part in rig.models
        ] == ([True] * 3)
    with tarfile.open(where / "layers.tar.gz") as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {*LAYERS}
    [second] = {*out.iterdir()} - {where}
    assert "ZeroDivisionError" in (second / "losses.txt").read_text()
    assert str(second) in "".join(failure.value.__notes__)
