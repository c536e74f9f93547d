"""What a soak run says of a union that is unmounted or killed, where something is wrong with it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from testing.soak import ground, union
from testing.soak.clients import Client, Desk
from testing.soak.gate import Gate
from testing.soak.ground import Ground
from testing.soak.jobs import Job, Place
from testing.soak.report import FAULT
from testing.soak.samples import Writer, read
from testing.soak.trees import ProgramFailed
from testing.soak.union import KINDS, Kind, SoakUnion
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root

pytestmark = [needs_root, needs_fuse, needs_overlayfs]

CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def filesystem() -> Iterator[tuple[Path, Ground]]:
    """One that holds layers, and the lowers on it; what a test writes to these, all others see."""
    with loop_fs("ext4", 1 << 30) as where:
        yield where, ground.make(where, "test", clients=1, batches=2)


@pytest.fixture
def base(filesystem: tuple[Path, Ground]) -> Iterator[Path]:
    """A directory on it for one test."""
    made = Path(tempfile.mkdtemp(dir=filesystem[0]))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def lowers(filesystem: tuple[Path, Ground]) -> Ground:
    return filesystem[1]


def made(base: Path, lowers: Ground, kind: Kind) -> SoakUnion:
    return SoakUnion(kind, base / "union", lowers, Gate(CONTEXT))


@pytest.fixture
def mounted(base: Path, lowers: Ground) -> Iterator[SoakUnion]:
    each = made(base, lowers, Kind("mounted"))
    each.mount()
    try:
        yield each
    finally:
        each.clear()


def test_nothing_is_wrong_with_a_union_that_is_used(mounted: SoakUnion) -> None:
    assert mounted.litter() == []
    (mounted.merged / "wide/name-00000").unlink()
    (mounted.merged / "new").mkdir()
    os.chmod(mounted.merged / "project", 0o700)
    assert mounted.look() == []
    assert os.listdir(mounted.merged) == []


def _whiteout_of_nothing(each: SoakUnion) -> None:
    os.mknod(each.upper / "nothing", 0o20000, os.makedev(0, 0))


def _changed_lower(each: SoakUnion) -> None:
    # What is remembered is changed: the lowers themselves are other tests', too.
    each.ground = replace(each.ground, fingerprints={key: {} for key in each.ground.fingerprints})


def _litter(each: SoakUnion) -> None:
    (each.work / "work/#left").touch()


WRONG: dict[str, tuple[Callable[[SoakUnion], None], str]] = {
    "whiteout of nothing": (_whiteout_of_nothing, "mounted: pyunionfs check ended with 1: "),
    "changed lower": (_changed_lower, "mounted: a lower layer was changed"),
    "litter": (_litter, "mounted: pyunionfs check ended with 1: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(what: str, mounted: SoakUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    do, expected = WRONG[what]
    unmount = mounted.unmount

    def spoiled() -> None:
        unmount()
        do(mounted)

    monkeypatch.setattr(mounted, "unmount", spoiled)
    assert any(problem.startswith(expected) for problem in mounted.look())


def test_a_tree_that_overlayfs_sees_otherwise_is_said(
    mounted: SoakUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmount = mounted.unmount

    def spoiled() -> None:
        unmount()
        (mounted.upper / "new").touch()

    monkeypatch.setattr(mounted, "unmount", spoiled)
    assert any("overlayfs sees another tree: b'new'" in problem for problem in mounted.look())


def test_litter_after_a_mount_is_said(mounted: SoakUnion) -> None:
    _litter(mounted)
    assert mounted.litter() == ["mounted: litter in work after a mount: ['#left']"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_after_a_kill_users_get_errors_and_the_next_mount_has_it_all(
    kind: Kind, base: Path, lowers: Ground
) -> None:
    each = made(base, lowers, kind)
    each.mount()
    try:
        (each.merged / "new").write_text("new")
        _litter(each)
        each.kill()
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.listdir(each.merged)
        each.detach()
        assert os.listdir(each.merged) == []
        each.mount()
        assert each.litter() == []
        assert (each.merged / "new").read_text() == "new"
        assert each.look() == []
        each.renew()
        each.mount()
        assert not (each.merged / "new").exists()
        assert each.gate.age().uppers == 1
    finally:
        each.clear()


def test_a_mount_that_lasts_a_moment(mounted: SoakUnion, base: Path) -> None:
    before = sorted(os.listdir(base))
    union.brief(base / "brief", mounted.lowers)
    assert sorted(os.listdir(base)) == before


class Fails(Job):
    """A job that fails as it was made to, each time."""

    kind = "fails"

    def __init__(self, place: Place, error: Exception, gate: Gate, *, killed: bool) -> None:
        super().__init__(place)
        self.error = error
        self.gate = gate
        self.killed = killed
        self.recovered = 0

    def run(self) -> None:
        if self.killed:
            self.gate.count_kill()
        raise self.error

    def recover(self) -> None:
        self.recovered += 1


EXCUSED = [OSError(errno.ENOTCONN, "gone"), ProgramFailed("tar ended with 2")]


def failing(base: Path, lowers: Ground, error: Exception, *, killed: bool) -> tuple[Client, Desk, Fails]:
    """A client whose only job in its only union fails; the union is not mounted."""
    each = made(base, lowers, Kind("failing"))
    each.gate.open()
    client = Client(0, [each], base / "scratch", "test", Writer(base / "samples", {}), 0.0)
    place = Place(each.merged, 0, each.ground, base, random.Random("test"), count().__next__, 1)
    job = Fails(place, error, each.gate, killed=killed)
    desk = client.desks[0]
    desk.jobs, desk.age = [job], each.gate.age()
    return client, desk, job


@pytest.mark.parametrize("error", EXCUSED, ids=repr)
def test_a_failure_in_a_kill_is_no_fault_and_is_recovered_from(
    error: Exception, base: Path, lowers: Ground
) -> None:
    client, desk, job = failing(base, lowers, error, killed=True)
    for recovered in range(3):
        assert client.work(desk)
        assert desk.cut == {job}
        assert job.recovered == recovered
    assert read(base / "samples").count("jobs cut short by a kill") == 3
    assert desk.union.gate.wait_until_empty(0)


@pytest.mark.parametrize("error", EXCUSED, ids=repr)
def test_a_failure_without_a_kill_is_a_fault(error: Exception, base: Path, lowers: Ground) -> None:
    client, desk, _ = failing(base, lowers, error, killed=False)
    with pytest.raises(type(error)):
        client.work(desk)
    assert desk.union.gate.wait_until_empty(0)


def test_another_errno_is_a_fault_in_a_kill_too(base: Path, lowers: Ground) -> None:
    client, desk, _ = failing(base, lowers, OSError(errno.ENOENT, "lost"), killed=True)
    with pytest.raises(FileNotFoundError):
        client.work(desk)


def test_a_fault_of_a_client_stops_the_run_and_is_in_the_report(base: Path, lowers: Ground) -> None:
    client, desk, _ = failing(base, lowers, ValueError("wrong"), killed=False)
    stop = CONTEXT.Event()
    process = CONTEXT.Process(target=client.run, args=(stop,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert stop.is_set()
    notes = [json.loads(line) for line in (base / "samples").read_text().splitlines()[1:]]
    assert [note["note"] for note in notes] == [FAULT]
    assert "ValueError: wrong" in notes[0]["text"]
    assert desk.union.gate.wait_until_empty(0)


def test_a_gate_that_is_closed_lets_no_client_in(base: Path, lowers: Ground) -> None:
    client, desk, _ = failing(base, lowers, ValueError("wrong"), killed=False)
    desk.union.gate.close()
    assert not client.work(desk)
