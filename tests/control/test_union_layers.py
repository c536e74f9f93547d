"""The files in which daemons tell which layers their unions have, and what is made of other files there."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from unionfs.control import run_directory, status_socket, union_layers
from unionfs.control.union_layers import Union, UnionLayers

LAYERS = UnionLayers("/merged\udcff", "/upper\n", "/work", ("/lower:1", "/data"))
DEVICE = "0:77"
STEM = "4711-abcd"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "sockets"
    directory.mkdir(0o700)
    monkeypatch.setattr(run_directory, "directories", lambda: [str(directory)])
    monkeypatch.setattr("glob.glob", lambda pattern: [])
    return directory


def found() -> list[Union]:
    return union_layers.query_layers({DEVICE}, 1.0)


def tell(place: Path, layers: UnionLayers = LAYERS) -> int:
    (place / f"{STEM}@{DEVICE}.sock").touch()
    directory = os.open(place, os.O_RDONLY)
    try:
        return union_layers.write(directory, STEM, layers)
    finally:
        os.close(directory)


def test_what_a_daemon_has_told_is_read(place: Path) -> None:
    fd = tell(place)
    assert found() == [Union(4711, DEVICE, LAYERS)]
    assert union_layers.query_layers({"0:78"}, 1.0) == []
    assert (place / f"{STEM}.layers").stat().st_mode & 0o777 == 0o600
    os.close(fd)


def test_a_dead_daemon_has_no_union(place: Path) -> None:
    os.close(tell(place))
    assert found() == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "1", "null", "[1, 2, 3, 4]", '["a", "b", "c", "d"]', '["a", null, null, [1]]', "[[[["),
        json.dumps(["m", 1, None, []]),
        "[" * 100000,
    ],
)
def test_what_is_no_daemons_file_is_no_union(place: Path, text: str) -> None:
    fd = tell(place)
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode(), 0)
    assert found() == []
    os.close(fd)


def test_no_file_is_followed_or_waited_for(place: Path, tmp_path: Path) -> None:
    os.close(tell(place))
    name = place / f"{STEM}.layers"
    name.rename(tmp_path / "elsewhere")
    name.symlink_to(tmp_path / "elsewhere")
    assert found() == []
    name.unlink()
    os.mkfifo(name)
    assert found() == []


def test_more_than_the_limit_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = tell(place)
    monkeypatch.setattr(union_layers, "_MAX_BYTES", 10)
    assert found() == []
    os.close(fd)


def test_an_older_daemon_is_asked(place: Path) -> None:
    from tests.control.test_status_socket import STATUS

    control = status_socket.ControlSocket(str(place), STEM)
    control.set_device((0, 77))

    def reply() -> None:
        connection = None
        while connection is None:
            connection = control.accept()
        control.send_status(connection, lambda: STATUS)

    thread = threading.Thread(target=reply)
    thread.start()
    unions = found()
    thread.join()
    lowers = (*STATUS["lowers"], *STATUS["data_lowers"])
    wanted = UnionLayers(STATUS["mountpoint"], STATUS["upper"], STATUS["work"], lowers)
    assert [(each.pid, each.layers) for each in unions] == [(os.getpid(), wanted)]
    control.close()


def test_the_file_goes_with_the_socket(place: Path) -> None:
    control = status_socket.ControlSocket(str(place), STEM)
    fd = union_layers.write(control.directory(), STEM, LAYERS)
    control.close()
    os.close(fd)
    assert list(place.iterdir()) == []
