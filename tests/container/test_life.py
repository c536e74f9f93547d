"""Containers that are started, end, are started again and removed, by the commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.container.boxes import eventually, make_tree
from tests.mount.rig import run
from tests.support.images import plant
from tests.support.mounts import command, environment, needs_fuse, needs_root
from tests.support.transports import one_transport
from unionfs.container import record
from unionfs.container.record import Container
from unionfs.container.state import identity
from unionfs.image.lowers import is_mounted
from unionfs.image.store import Store

pytestmark = [needs_root, needs_fuse, one_transport]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    made = Store()
    plant(made, "box", [make_tree, {"etc/motd": b"image's\n"}], Cmd=["sh"])
    return made


def create(store: Store, *words: str) -> Container:
    return record.find(store, run("create", *words).stdout.strip())


def test_what_it_changes_stays_and_the_image_is_as_it_was(store: Store) -> None:
    script = "cat /etc/motd; echo mine > /etc/motd; cat /etc/hostname; id -u; echo err >&2; exit 7"
    box = create(store, "--name", "web", "box", "sh", "-c", script)
    done = run("start", "-a", "web", status=7)
    assert (done.stdout, done.stderr) == (f"image's\n{box.short}\n0\n", "err\n")
    assert run("start", "-a", "web", status=7).stdout.startswith("mine\n")
    state = box.state()
    assert (state.status, state.exit_code) == ("exited", 7)
    assert run("diff", "web").stdout == "C /etc\nC /etc/motd\n"
    assert not any(is_mounted(tree / "diff") for tree in store.trees.iterdir())
    assert os.listdir(box.merged) == []
    run("rm", "web")
    assert [*store.containers.iterdir()] == []


def test_standard_input(store: Store) -> None:
    create(store, "-i", "--name", "web", "box", "cat")
    assert run("start", "-ai", "web", input="given\n").stdout == "given\n"
    assert run("start", "-a", "web", input="given\n").stdout == ""


def test_in_the_background(store: Store) -> None:
    first = create(store, "--name", "first", "box", "sh", "-c", "echo out; sleep 60")
    second = create(store, "--name", "second", "box", "true")
    assert run("start", "first", "second").stdout == "first\nsecond\n"
    eventually(lambda: (first.path / "output.log").read_text() == "out\n")
    eventually(lambda: second.state().status == "exited")
    assert first.state().running
    assert " Up " in run("ps").stdout
    assert all(is_mounted(tree / "diff") for tree in store.trees.iterdir())
    for words, says in (
        (["start", "first"], "cannot start container first: it is running"),
        (["rm", "first"], "cannot remove container first: it is running"),
    ):
        assert says in run(*words, status=1).stderr
    pid = first.state().pid
    run("rm", "-f", "first")
    assert identity(pid) is None
    assert record.containers(store) == [second]


def test_a_program_that_cannot_be_started(store: Store) -> None:
    box = create(store, "--name", "web", "box", "/nothing")
    for words in (["-a"], []):
        done = run("start", *words, "web", status=127 if words else 1)
        assert "/nothing" in done.stderr
        state = box.state()
        assert (state.status, state.exit_code) == ("created", 127)
        assert "/nothing" in state.error
    create(store, "--name", "file", "box", "/etc/motd")
    assert "/etc/motd" in run("start", "-a", "file", status=126).stderr


def test_one_that_is_removed_at_its_end(store: Store) -> None:
    create(store, "--rm", "--name", "web", "box", "sh", "-c", "exit 3")
    run("start", "-a", "web", status=3)
    create(store, "--rm", "--name", "web", "box", "/nothing")
    run("start", "-a", "web", status=127)
    assert record.containers(store) == []


def test_of_two_starts_one_runs_it(store: Store) -> None:
    create(store, "--name", "web", "box", "sleep", "60")
    starts = [
        subprocess.Popen(command("start", "web"), stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    ]
    said = [start.communicate(timeout=60)[1] for start in starts]
    assert sorted(start.returncode for start in starts) == [0, 1]
    assert sum("cannot start container web" in text for text in said) == 1
    run("rm", "-f", "web")


def test_killing_the_command_that_waits_ends_the_container(store: Store) -> None:
    box = create(store, "--name", "web", "box", "sleep", "60")
    start = subprocess.Popen(command("start", "-a", "web"), env=environment())
    eventually(lambda: box.state().running)
    start.send_signal(signal.SIGKILL)
    start.wait()
    eventually(lambda: not box.state().running)
    assert (box.state().status, box.state().exit_code) == ("exited", None)
    assert "Exited (unknown)" in run("ps", "-a").stdout
    eventually(lambda: run("rm", "web", status=None).returncode == 0)


def test_volumes(store: Store, tmp_path: Path) -> None:
    """A directory of the host that is not there is made, as by Docker."""
    source = tmp_path / "made/deep"
    script = "echo written > /data/file; cat /proc/mounts"
    create(
        store,
        "--name",
        "web",
        "-v",
        f"{source}:/data",
        "--tmpfs",
        "/scratch:size=1m",
        "box",
        "sh",
        "-c",
        script,
    )
    assert " /scratch tmpfs " in run("start", "-a", "web").stdout
    assert (source / "file").read_text() == "written\n"
    changes = json.loads(run("diff", "--json", "web").stdout)["changes"]
    assert [each["path"] for each in changes] == ["/data", "/scratch"]
