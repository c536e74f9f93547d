"""Directories of thousands of names, listed on a real mount: what is shown, from where, and what it costs."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.mount.rig import eventually, statuses
from tests.support.mounts import needs_overlayfs, needs_root, overlayfs, pyunionfs, scratch

pytestmark = needs_root

MANY = 1300
"""More than a listing tells all about unasked."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


_libc.opendir.restype = ctypes.c_void_p
_libc.readdir64.argtypes = _libc.telldir.argtypes = (ctypes.c_void_p,)
_libc.rewinddir.argtypes = _libc.closedir.argtypes = (ctypes.c_void_p,)
_libc.readdir64.restype = ctypes.POINTER(_Dirent)
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)


class Stream:
    """opendir(3) and what belongs to it."""

    def __init__(self, path: Path) -> None:
        self.stream = _libc.opendir(os.fsencode(path))
        assert self.stream, os.strerror(ctypes.get_errno())

    def next(self) -> str | None:
        """The next name; None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir64(self.stream)
        assert entry or not ctypes.get_errno(), os.strerror(ctypes.get_errno())
        return os.fsdecode(entry.contents.d_name) if entry else None

    def names(self, most: int | None = None) -> list[str]:
        """The next names but for the dots, to the end or so many."""
        found: list[str] = []
        while (most is None or len(found) < most) and (name := self.next()) is not None:
            if name not in (".", ".."):
                found.append(name)
        return found

    def tell(self) -> int:
        place: int = _libc.telldir(self.stream)
        return place

    def seek(self, place: int) -> None:
        _libc.seekdir(self.stream, place)

    def rewind(self) -> None:
        _libc.rewinddir(self.stream)

    def close(self) -> None:
        _libc.closedir(self.stream)


@contextmanager
def stream(path: Path) -> Iterator[Stream]:
    opened = Stream(path)
    try:
        yield opened
    finally:
        opened.close()


def fill(directory: Path, numbers: range) -> None:
    """Mostly files, some of everything else."""
    directory.mkdir(exist_ok=True)
    for number in numbers:
        path = directory / f"name{number:05}"
        if number % 100 == 7:
            path.mkdir()
        elif number % 100 == 8:
            path.symlink_to("name00000")
        elif number % 100 == 9:
            os.mkfifo(path)
        else:
            path.touch()


@pytest.fixture(scope="module")
def layers() -> Iterator[list[Path]]:
    """Two lowers, made once: no test can change them."""
    with scratch() as where:
        above, below = where / "above", where / "below"
        for path in (above, below):
            path.mkdir()
        fill(below / "pure", range(MANY))
        fill(below / "merged", range(MANY // 2, MANY))
        fill(above / "merged", range(MANY // 4, MANY * 3 // 4))
        yield [above, below]


@pytest.fixture
def lowers(base: Path, layers: list[Path]) -> list[Path]:
    """With an upper as a tool would have filled it: without marks but for whiteouts."""
    fill(base / "upper" / "merged", range(MANY // 3))
    fill(base / "upper" / "own", range(MANY))
    for number in range(MANY - 50, MANY):
        os.mknod(base / "upper" / "merged" / f"name{number:05}", stat.S_IFCHR)
    return layers


def look(merged: Path) -> dict[str, dict[str, str]]:
    """Of all names their types; the numbers must be those that stat(2) says."""
    found: dict[str, dict[str, str]] = {}
    for directory in ("pure", "merged", "own"):
        names = found[directory] = {}
        with os.scandir(merged / directory) as listing:
            entries = [
                (entry.name, entry.inode(), _kind(entry)) for entry in listing
            ]  # all of them before anything is looked up
        for name, number, kind in entries:
            assert name not in names, "twice"
            names[name] = kind
            st = os.lstat(merged / directory / name)
            assert (number, kind) == (st.st_ino, stat.filemode(st.st_mode)[0]), name
    return found


def _kind(entry: os.DirEntry[str]) -> str:
    """By d_type alone."""
    if entry.is_symlink():
        return "l"
    if entry.is_dir():
        return "d"
    return "-" if entry.is_file() else "p"


@needs_overlayfs
@pytest.mark.parametrize("options", [[], ["timeout=0"]], ids=["cached", "timeout"])
def test_names_numbers_and_types(base: Path, lowers: list[Path], options: list[str]) -> None:
    upper, work, merged = base / "upper", base / "work", base / "merged"
    with pyunionfs(lowers, upper, work, merged, options=options) as daemon:
        first = look(daemon.merged)
        assert {name: len(names) for name, names in first.items()} == {
            "pure": MANY,
            "merged": MANY - 50,
            "own": MANY,
        }
        for _ in range(2):
            assert look(daemon.merged) == first
        for path in ("pure/name00100", "merged/name00600", "merged/name01000"):
            (merged / path).chmod(0o600)
        (merged / "pure/name00200").rename(merged / "own/from below")
        (merged / "own/name00300").rename(merged / "merged/name00300")
        changed = look(daemon.merged)
        numbers = {path: os.lstat(merged / path).st_ino for path in ("pure/name00100", "own/from below")}
    with pyunionfs(lowers, upper, work, merged, options=options) as daemon:
        assert look(daemon.merged) == changed
        assert {path: os.lstat(merged / path).st_ino for path in numbers} == numbers
    (base / "kernel").mkdir()
    with overlayfs(lowers, upper, base / "kernel", merged, options=["volatile"]):
        assert look(merged) == changed


@pytest.mark.parametrize("where", ["pure", "merged", "own"])
def test_seekdir_while_names_come_and_go(base: Path, lowers: list[Path], where: str) -> None:
    with pyunionfs(lowers, base / "upper", base / "work", base / "merged") as daemon:
        directory = daemon.merged / where
        with stream(directory) as reader:
            places: list[int] = []
            names: list[str] = []
            while (name := reader.next()) is not None:
                names.append(name)
                places.append(reader.tell())
            assert len(set(places)) == len(places)
            files = [name for name in names if name.startswith("name") and (directory / name).is_file()]
            gone = set(files[::7])
            for number, name in enumerate(sorted(gone)):
                if number % 2:
                    (directory / name).unlink()
                else:
                    (directory / name).rename(directory / f"renamed{number}")
                (directory / f"new{number}").touch()
            (directory / files[1]).chmod(0o600)
            stays = [name for name in names if name not in gone]
            for place in (0, 1, 2, len(names) // 2, len(names) - 2):
                reader.seek(places[place])
                expected = [name for name in names[place + 1 :] if name not in gone]
                found = reader.names()
                assert len(found) == len(set(found))
                old = set(names)
                assert [name for name in found if name in old and name not in gone] == [
                    name for name in expected if name not in (".", "..")
                ]
            reader.rewind()
            now = reader.names()
            assert sorted(now) == sorted(os.listdir(directory))
            assert set(now) >= set(stays) - {".", ".."}
            assert not set(now) & gone
            # A place from before the rewind is still that name's.
            reader.seek(places[len(names) // 2])
            expected = [name for name in names[len(names) // 2 + 1 :] if name not in gone]
            assert [name for name in reader.names() if name in set(names)] == expected


@pytest.mark.parametrize("where", ["pure", "merged", "own"])
def test_many_readers_while_names_come_and_go(base: Path, lowers: list[Path], where: str) -> None:
    problems: list[str] = []
    with pyunionfs(lowers, base / "upper", base / "work", base / "merged") as daemon:
        directory = daemon.merged / where
        stays = set(os.listdir(directory))
        over = threading.Event()

        def reads(step: int) -> None:
            while not over.is_set():
                with stream(directory) as reader:
                    found: list[str] = []
                    while some := reader.names(step):
                        found += some
                        if step < 500:
                            os.lstat(
                                directory / next(name for name in some if name in stays or name == some[0])
                            )
                    if len(found) != len(set(found)):
                        problems.append("a name is shown twice")
                    if missed := stays - set(found):
                        problems.append(f"{len(missed)} names are missed")

        def guarded(step: int) -> None:
            try:
                reads(step)
            except FileNotFoundError:
                guarded(step)  # a name that came and went
            except BaseException as error:
                problems.append(repr(error))

        readers = [threading.Thread(target=guarded, args=(step,)) for step in (97, 700, 10_000)]
        for reader in readers:
            reader.start()
        try:
            for turn in range(150):
                (directory / f"comes{turn}").touch()
                if turn % 3 == 0:
                    (directory / f"comes{turn}").rename(directory / f"goes{turn}")
                    (directory / f"goes{turn}").unlink()
        finally:
            over.set()
            for reader in readers:
                reader.join()
        assert problems == []
        assert set(os.listdir(directory)) == stays | {f"comes{turn}" for turn in range(150) if turn % 3}


REMOVERS: dict[str, Callable[[Path], object]] = {
    "rm": lambda path: subprocess.run(["rm", "-rf", path], check=True),
    "find": lambda path: subprocess.run(["find", path, "-delete"], check=True),
    "shutil": shutil.rmtree,
}


@pytest.mark.parametrize("remover", REMOVERS)
def test_everything_is_removed(base: Path, lowers: list[Path], remover: str) -> None:
    with pyunionfs(lowers, base / "upper", base / "work", base / "merged") as daemon:
        for where in ("pure", "merged", "own"):
            REMOVERS[remover](daemon.merged / where)
        assert os.listdir(daemon.merged) == []


def test_what_a_listing_asks_for(base: Path, lowers: list[Path], transport: str) -> None:
    """Names alone cost no lookups; read again, their attributes do not either, and then nothing does.

    Somebody else may make the kernel forget what it was told, so one good try of several is enough.
    """
    merged = base / "merged"

    def asked(act: Callable[[], object]) -> tuple[int, int]:
        """How many requests it costs: lookups and listings."""
        before = statuses(merged)[0]["requests"]
        act()
        after = statuses(merged)[0]["requests"]
        lookups, listings = (after.get(name, 0) - before.get(name, 0) for name in ("LOOKUP", "READDIRPLUS"))
        return lookups, listings

    def attributes() -> None:
        for name in os.listdir(merged / "pure"):
            os.lstat(merged / "pure" / name)

    def good() -> bool:
        with pyunionfs(lowers, base / "upper", base / "work", merged):
            os.lstat(merged / "pure")
            names = asked(lambda: os.listdir(merged / "pure"))
            stats = asked(attributes)
            again = asked(attributes)
        if transport == "pyfuse3":
            return names[0] < 10 and stats[0] < 100
        assert names[0] < 10, "a name that nobody asks about is looked up"
        assert stats[1] > 0, "the kernel has kept a listing of plain entries"
        return stats[0] < MANY / 10 and again[0] < MANY / 10 and again[1] == 0

    tries = count()
    assert eventually(lambda: good() or next(tries) > 5)
    assert next(tries) <= 5
