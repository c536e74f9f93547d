"""Open listings of random unions that change at random: what must hold of names, numbers and cookies.

The layers are the oracle's. Listings are read plain, which must say what lookups do, with as little known
beforehand as a kernel under memory pressure knows.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Callable

import pytest

from testing.oracle import layers
from testing.oracle.case import Config
from tests.overlay.rig import Stack, View
from unionfs.linux.syscalls import RENAME_EXCHANGE
from unionfs.overlay.listing import DirHandle
from unionfs.overlay.wait import complete

SEEDS = range(8)
TURNS = 40
DOTS = (b".", b"..")


class Reader:
    """Somebody who has read a directory once and goes on from where he likes."""

    def __init__(self, view: View, ino: int) -> None:
        self.view = view
        self.ino = ino
        self.handle: DirHandle = view.union.open_dir(ino)
        self.stayed = self.read(0)
        self.listed = set(self.stayed)
        self.highest = max((cookie for _, _, cookie in self.stayed.values()), default=2)

    def read(self, cookie: int) -> dict[bytes, tuple[int, int, int]]:
        """Name to number, type and cookie, from a cookie on, as the listing says it now."""
        found: dict[bytes, tuple[int, int, int]] = {}
        last = cookie
        for name, number, kind, after in complete(self.view.union.read_dir_plain, self.handle, cookie):
            assert after > last, "a reader would turn in circles"
            last = after
            assert name not in found
            found[name] = number, kind, after
        return {name: entry for name, entry in found.items() if name not in DOTS}

    def check(self, rewind: bool) -> None:
        view = self.view
        found = self.read(0 if rewind else 2)
        for name, (number, kind, _) in found.items():
            entry = complete(view.union.lookup, self.ino, name)
            assert entry is not None, f"{name!r} has gone"
            view.known[entry[0].ino] += 1
            assert (number, kind) == (entry[0].ino, stat.S_IFMT(entry[1].st_mode) >> 12), name
        fresh = view.union.open_dir(self.ino)
        now = {name for name, _, _ in complete(view.union.read_dir, fresh, 0)} - set(DOTS)
        view.union.release_dir(fresh)
        self.stayed = {name: entry for name, entry in self.stayed.items() if name in now}
        for name, (_, _, cookie) in self.stayed.items():
            assert found[name][2] == cookie, f"{name!r} has moved"
        if rewind:
            assert set(found) == now
            # One that has gone and come back since the last rewind may be where it was.
            assert all(found[name][2] > self.highest for name in now - self.listed), "an old place"
            self.stayed = found
            self.listed = now
            self.highest = max([self.highest, *(cookie for _, _, cookie in found.values())])

    def close(self) -> None:
        self.view.union.release_dir(self.handle)


class Changer:
    """Does something to a union."""

    def __init__(self, view: View, rng: random.Random) -> None:
        self.view = view
        self.rng = rng
        self.made = 0

    def paths(self, path: str = "") -> list[str]:
        """Everything that there is, by a walk that forgets what it has seen."""
        found = []
        for name in self.view.ls(path):
            below = f"{path}/{name}" if path else name
            found.append(below)
            entry = self.view.find(below)
            if entry is not None and entry[0].is_dir:
                found += self.paths(below)
        return found

    def directories(self) -> list[str]:
        every = [path for path in self.paths() if self.view.inode(path).is_dir]
        self.view.forget_all()
        return ["", *every]

    def new(self) -> str:
        self.made += 1
        where = self.rng.choice(self.directories())
        name = f"new{self.made}"
        return f"{where}/{name}" if where else name

    def change(self) -> None:
        view, rng = self.view, self.rng
        paths = self.paths()
        view.forget_all()
        one, other = (rng.choice(paths), rng.choice(paths)) if paths else ("", "")
        acts: list[Callable[[], object]] = [
            lambda: view.chmod(one, 0o600 | rng.randrange(8)),
            lambda: view.unlink(one),
            lambda: view.rmdir(one),
            lambda: view.rename(one, self.new()),
            lambda: view.rename(one, f"{os.path.dirname(one)}/again".lstrip("/")),
            lambda: view.rename(one, other),
            lambda: view.rename(one, other, RENAME_EXCHANGE),
            lambda: view.link(one, self.new()),
            lambda: view.create(self.new(), b"data"),
            lambda: view.create(one, b"data"),
            lambda: view.mkdir(self.new()),
            lambda: view.mkdir(one),
            lambda: view.symlink("target", self.new()),
            lambda: view.mknod(self.new(), stat.S_IFIFO | 0o600),
        ]
        # Whatever it is: refused as it stands (a directory that is not empty, a redirect that may not be).
        with contextlib.suppress(OSError, AssertionError):
            rng.choice(acts)()


@pytest.mark.parametrize("seed", SEEDS)
def test_listings_of_random_unions(either: Stack, seed: int) -> None:
    rng = random.Random(seed)
    options = {"index": rng.random() < 0.5, "metacopy": rng.random() < 0.3}
    case = layers.generate(seed, Config("here", index=options["index"]))
    for number in reversed(range(case.lowers)):
        where = either.base / f"lower{number}"
        where.mkdir()
        layers.build([entry for entry in case.entries if entry.layer == number], where)
        either.lowers.append(where)
    for _ in range(2):
        with either.open(**options) as view:
            changer = Changer(view, rng)
            readers: list[Reader] = []
            try:
                for _ in range(TURNS):
                    if len(readers) < 3:
                        ino = view.ino(rng.choice(changer.directories()))
                        view.union.open_dir(ino)  # keeps it, whatever becomes of it
                        view.forget_all()
                        readers.append(Reader(view, ino))
                    changer.change()
                    if rng.random() < 0.8:
                        view.forget_all()
                    reader = rng.choice(readers)
                    reader.check(rewind=rng.random() < 0.3)
                    if rng.random() < 0.05:
                        readers.remove(reader)
                        reader.close()
            finally:
                for reader in readers:
                    reader.close()
