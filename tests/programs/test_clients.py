"""Many processes at once on the same names: nothing is lost, torn or seen twice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.programs.conftest import Union
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]

CLIENTS = 8
ROUNDS = 60


def together(task: Callable[[Path, int], None], where: Path, *, clients: int = CLIENTS) -> None:
    """Run `task(where, number)` in `clients` processes; all must end well."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=task, args=(where, number)) for number in range(clients)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 120
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {clients} clients hang"
    assert [process.exitcode for process in processes] == [0] * clients


def _append(where: Path, client: int) -> None:
    for number in range(ROUNDS):
        descriptor = os.open(where / "log", os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, f"{client} {number} {'x' * (number * 7)}\n".encode())
        os.close(descriptor)


def test_appending_to_one_lower_file(union: Union, space: Path) -> None:
    lower = space / "lower"
    lower.mkdir()
    (lower / "log").write_text("first line\n")
    with union([lower]) as merged:
        together(_append, merged)
        first, *lines = (merged / "log").read_text().splitlines()
    assert first == "first line"
    wanted = [f"{who} {number} {'x' * (number * 7)}" for who in range(CLIENTS) for number in range(ROUNDS)]
    assert sorted(lines) == sorted(wanted)


def _replace(where: Path, client: int) -> None:
    for number in range(ROUNDS):
        new = where / f"tmp.{client}"
        new.write_text(f"{client} {number}\n" * 500)
        new.rename(where / "value")
        lines = set((where / "value").read_text().splitlines())
        assert len(lines) == 1, "half of one value and half of another"


def test_replacing_one_name_by_rename(union: Union, space: Path) -> None:
    lower = space / "lower"
    lower.mkdir()
    (lower / "value").write_text("lower\n")
    with union([lower]) as merged:
        together(_replace, merged)
        assert os.listdir(merged) == ["value"]
        assert len((merged / "value").read_text().splitlines()) == 500


def _exclusive(where: Path, client: int) -> None:
    """Each name is made by exactly one client, though all try; and taken away by exactly one."""
    for number in range(ROUNDS):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(where / f"lock{number}", os.O_CREAT | os.O_EXCL, 0o600))
            (where / f"won.{number}.{client}").touch()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(where / f"lower{number}")
            (where / f"lost.{number}.{client}").touch()
        with contextlib.suppress(FileExistsError):
            os.mkdir(where / f"directory{number}")
            (where / f"made.{number}.{client}").touch()


def test_exclusive_creation_and_removal(union: Union, space: Path) -> None:
    lower = space / "lower"
    lower.mkdir()
    for number in range(ROUNDS):
        (lower / f"lower{number}").touch()
    with union([lower]) as merged:
        together(_exclusive, merged)
        names = os.listdir(merged)
    for prefix in ("won.", "lost.", "made."):
        assert len([name for name in names if name.startswith(prefix)]) == ROUNDS, prefix
    assert len(names) == len(set(names)) == 5 * ROUNDS


def _copy_up(where: Path, client: int) -> None:
    """All change the same big lower file at once, each a byte of its own."""
    with (where / "big").open("r+b") as file:
        file.seek(client * 4096)
        file.write(bytes([client + 1]))


def test_simultaneous_first_writes(union: Union, space: Path) -> None:
    lower = space / "lower"
    lower.mkdir()
    block = bytes(range(256)) * 4096
    with (lower / "big").open("wb") as file:
        for _ in range(64):
            file.write(block)
    with union([lower]) as merged:
        together(_copy_up, merged)
        wanted = bytearray(block * 64)
        for client in range(CLIENTS):
            wanted[client * 4096] = client + 1
        assert (merged / "big").read_bytes() == wanted
    assert (space / "upper/big").read_bytes() == wanted
    assert (lower / "big").read_bytes() == block * 64


def _churn(where: Path, client: int) -> None:
    own = where / f"client{client}"
    for number in range(ROUNDS // 4):
        own.mkdir()
        for name in range(8):
            (own / f"f{name}").write_bytes(os.urandom(64))
        own.rename(where / f"moved{client}")
        os.symlink("f0", where / f"moved{client}/link")
        os.link(where / f"moved{client}/f0", where / f"moved{client}/f0.hard")
        assert sorted(os.listdir(where / f"moved{client}"))[:2] == ["f0", "f0.hard"]
        assert (where / f"moved{client}/link").read_bytes() == (where / f"moved{client}/f0.hard").read_bytes()
        for entry in os.scandir(where / f"moved{client}"):
            os.unlink(entry)
        os.rmdir(where / f"moved{client}")
        seen = {entry.name for entry in os.scandir(where)}
        assert {f"stays{n}" for n in range(50)} <= seen, f"round {number}: a name that stays was not listed"


def test_listing_while_others_create_and_remove(union: Union, space: Path) -> None:
    lower = space / "lower"
    lower.mkdir()
    for number in range(50):
        (lower / f"stays{number}").touch()
    with union([lower]) as merged:
        together(_churn, merged)
        assert sorted(os.listdir(merged)) == sorted(os.listdir(lower))
