"""What clients do, on a plain directory: it does no harm to itself, and what is spoiled is found out."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.crash import load
from testing.crash.model import Op
from testing.soak import ground, programs, trees
from testing.soak.jobs import CopyUps, Job, Listings, Place, RandomOperations
from testing.soak.trees import Fault, ProgramFailed


def _random(place: Place) -> Job:
    return RandomOperations(place, place.ground.models[place.client].copy())


KINDS: dict[str, Callable[[Place], Job]] = {
    **{kind.kind: kind for kind in programs.kinds()},
    "listing": Listings,
    "copy-up": CopyUps,
    "random": _random,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_done_again_and_again(kind: str, place: Place) -> None:
    job = KINDS[kind](place)
    for _ in range(2):
        job.run()
        job.recover()
    assert job.ready()


def _spoil_database(place: Place) -> None:
    connection = sqlite3.connect(place.home("sqlite") / "data.db", isolation_level=None)
    connection.execute("DELETE FROM t WHERE id = 1")
    connection.close()


def _spoil_repository(place: Place) -> None:
    subprocess.run(["git", "-C", place.home("git"), "reset", "-q", "--hard", "HEAD~1"], check=True)


def _first_file(root: Path) -> Path:
    return min(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"spoiled")


def _spoil_program(place: Place) -> None:
    (place.home("build") / "package/__init__.py").write_text("TOTAL = 1\n")


SPOILS: dict[str, Callable[[Place], object]] = {
    "tar": lambda place: _append(_first_file(place.home("tar"))),
    "rm -rf": lambda place: os.chmod(_first_file(place.merged / "own/c1"), 0o611),
    "build": _spoil_program,
    "git": _spoil_repository,
    "sqlite": _spoil_database,
    "listing": lambda place: os.rename(place.merged / "wide/name-00001", place.merged / "wide/other"),
    "copy-up": lambda place: _append(place.merged / ground.batch_path(1) / "f0"),
    "random": lambda place: _append(_first_file(place.merged / "p1")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_spoiled_is_found(kind: str, place: Place) -> None:
    job = KINDS[kind](place)
    job.run()
    SPOILS[kind](place)
    with pytest.raises(Fault):
        job.run()


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"listing", "copy-up"}))
def test_what_is_spoiled_is_found_after_a_kill(kind: str, place: Place) -> None:
    job = KINDS[kind](place)
    job.run()
    SPOILS[kind](place)
    with pytest.raises((Fault, ProgramFailed)):
        job.recover()


@pytest.mark.parametrize("done", [True, False])
def test_an_operation_without_an_answer_is_done_or_not_done(
    done: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _random(place)
    job.run()
    performed = load.perform
    calls = 0

    def cut_short(op: Op, *, sync: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls < 5 or done:
            performed(op, sync=sync)
        if calls == 5:
            raise OSError(errno.ENOTCONN, "killed")

    with monkeypatch.context() as patch:
        patch.setattr(load, "perform", cut_short)
        with pytest.raises(OSError, match="killed"):
            job.run()
    assert calls == 5
    job.recover()
    job.run()


def test_an_answered_operation_that_is_lost_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _random(place)
    job.run()
    calls = 0

    def loses(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise OSError(errno.ENOTCONN, "killed")

    with monkeypatch.context() as patch:
        patch.setattr(load, "perform", loses)
        with pytest.raises(OSError, match="killed"):
            job.run()
    with pytest.raises(Fault, match="is in none of"):
        job.recover()


def test_a_part_begins_anew_before_it_is_too_large(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testing.soak.jobs._MOST_PATHS", 5)
    job = RandomOperations(place, place.ground.models[1].copy())
    for _ in range(3):
        job.run()
    assert len(job.model.nodes) == len(set(job.model.paths.values())) == 18


def test_batches_are_used_up_once(place: Place) -> None:
    job = CopyUps(place)
    for _ in range(place.batches):
        job.run()
    assert job.ready()
    assert [name for _, _, names in os.walk(place.merged / "pool") for name in names] == []
    job.run()
    assert not job.ready()


def test_a_program_that_does_not_end_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "PROGRAM_TIMEOUT", 0.2)
    with pytest.raises(Fault, match="sleep 100 does not end"):
        trees.run(["sleep", "100"])


def test_differences_of_trees_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    known = trees.manifest(tmp_path)
    trees.check_tree(tmp_path, known, "a tree")
    (tmp_path / "file").write_text("2")
    (tmp_path / "new").mkdir()
    with pytest.raises(Fault, match=r"(?s)a tree.*file: expected .*new: expected None"):
        trees.check_tree(tmp_path, known, "a tree")
