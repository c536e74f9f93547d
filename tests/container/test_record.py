"""Containers as they are recorded: whole or not there, one a name, running only while their process is."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.images import plant
from tests.support.mounts import REPOSITORY, environment
from unionfs.container import record
from unionfs.container.process import Wishes
from unionfs.container.record import Container
from unionfs.container.state import Run, State, identity, now
from unionfs.errors import ContainerError, NotFoundError
from unionfs.image.store import Store

WISHES = Wishes(command=["sh"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    layers = [{"etc/passwd": b"root", "bin/sh": b"#!"}, {"etc/hosts": b"image's"}]
    plant(made, "debian:12", layers, Env=["PATH=/bin"], Cmd=["bash"])
    return made


def create(store: Store, name: str | None = None) -> Container:
    return record.create(store, "debian:12", WISHES, name=name)


def test_what_a_container_is(store: Store) -> None:
    made = create(store, "web")
    assert (record.find(store, made.id), made.name, len(made.id)) == (made, "web", 64)
    document = json.loads((made.path / "container.json").read_bytes())
    assert [*document["layers"]] == [layer.chain for layer in made.layers()]
    assert document["process"] == {"args": ["sh"], "env": ["PATH=/bin"], "hostname": made.id[:12]}
    names = ["container.json", "diff", f"{made.id}-init", "init", "merged", "work"]
    assert sorted(os.listdir(made.path)) == sorted(names)
    assert str(made.lowers()[0]).endswith("-init/diff")
    assert len(made.lowers()) == 3
    assert made.state() == State("created")


def test_one_is_found_by_id_name_and_the_beginning_of_the_id(store: Store) -> None:
    first, second = create(store), create(store, "web")
    assert first.name
    assert "_" in first.name
    for text, found in ((first.id, first), (first.id[:12], first), (first.name, first), ("web", second)):
        assert record.find(store, text) == found
    assert record.containers(store) == [first, second]
    named = create(store, first.id[:12])  # a name goes before the beginning of an id
    assert record.find(store, first.id[:12]) == named
    for text in ("", "no", "../x", "f" * 64):
        with pytest.raises(ContainerError, match="there is no container"):
            record.find(store, text)
    for _ in range(17):
        create(store)
    begin = next(
        each.id[0]
        for each in record.containers(store)
        if sum(other.id[0] == each.id[0] for other in record.containers(store)) > 1
    )
    with pytest.raises(ContainerError, match="give more of it"):
        record.find(store, begin)


@pytest.mark.parametrize("name", ["", "a", "-a", "a b", "../x", "a/b", "ä1"])
def test_names_that_are_none(store: Store, name: str) -> None:
    with pytest.raises(ContainerError, match="not a name of a container"):
        create(store, name)
    assert record.containers(store) == []


def test_of_several_with_one_name_one_is_made(store: Store) -> None:
    results: list[str] = []
    refused: list[str] = []

    def make() -> None:
        try:
            results.append(create(store, "web").id)
        except ContainerError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.id for each in record.containers(store)] == results
    assert (len(results), len(refused)) == (1, 7)
    assert all("the name web is taken" in text for text in refused)
    assert [*store.ingest.iterdir()] == []


def test_what_cannot_be_made_leaves_nothing(store: Store) -> None:
    plant(store, "silent", [{"a": b""}])
    for image, wishes, error, says in (
        ("nothing", WISHES, NotFoundError, "there is no image"),
        ("silent", Wishes(), ContainerError, "image silent has no command"),
    ):
        with pytest.raises(error, match=says):
            record.create(store, image, wishes)
    assert record.containers(store) == []
    assert [*store.ingest.iterdir()] == []


def test_running_is_a_process_that_lives(store: Store) -> None:
    made = create(store)
    process = subprocess.Popen(["sleep", "60"])
    born = identity(process.pid)
    assert born is not None
    made.note(Run(process.pid, born, now()))
    state = made.state()
    assert (state.running, state.pid) == (True, process.pid)
    with pytest.raises(ContainerError, match="it is running"):
        record.remove(made)
    process.kill()
    process.wait()
    assert (made.state().status, made.state().exit_code) == ("exited", None)
    # Another process with that pid is not it.
    made.note(Run(os.getpid(), born, now()))
    assert not made.state().running
    made.note(Run(process.pid, born, now(), now(), 7))
    assert (made.state().status, made.state().exit_code) == ("exited", 7)
    record.remove(made)
    assert record.containers(store) == []
    with pytest.raises(ContainerError, match="there is no container"):
        record.remove(made)


def test_one_command_at_a_time_has_a_container(store: Store) -> None:
    made = create(store, "web")
    with made.lock("start"), pytest.raises(ContainerError, match="cannot remove container web: another"):
        record.remove(made)
    record.remove(made)


KILLED = """
import sys
from pathlib import Path
from unionfs.container import record
from unionfs.container.process import Wishes
from unionfs.image.store import Store
store = Store(Path(sys.argv[1]))
print(flush=True)
while True:
    made = record.create(store, "debian:12", Wishes(command=["sh"]), name="web")
    record.remove(made)
"""


def test_killed_at_any_moment_there_is_no_half_container(store: Store) -> None:
    """What is left is a whole container, or nothing; and what was half is swept."""
    chance = random.Random(11)
    found = []
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, store.root],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env=environment(),
        )
        assert child.stdout is not None
        with child.stdout:
            child.stdout.readline()
            time.sleep(chance.random() * 0.1)
            child.send_signal(signal.SIGKILL)
            child.wait()
        whole = record.containers(store)
        assert sorted(os.listdir(store.containers)) == [each.id for each in whole]
        for each in whole:
            assert len(each.lowers()) == 3
            assert (each.init / ".dockerenv").exists()
            record.remove(each)
        found.append(len(whole))
        store.sweep()
        assert [*store.ingest.iterdir()] == []
    assert set(found) <= {0, 1}


def test_a_state_that_a_crash_of_the_machine_has_emptied_is_none(store: Store) -> None:
    made = create(store)
    (made.path / "state.json").touch()
    assert made.state().status == "created"
