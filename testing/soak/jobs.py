"""Work of a client in a union that Python does itself, and what each kind of work has in common.

Every job checks what it wrote, and keeps some of it until it is run again, across the unmounts and kills that
come in between. Must say `Fault` of whatever is not as it was answered; an `OSError` or `ProgramFailed` while
the daemon is killed is none.
"""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testing.crash import load
from testing.crash.model import Model, Op
from testing.crash.rig import mismatches, observe
from testing.soak import ground, trees
from testing.soak.ground import Ground
from testing.soak.trees import check

OPERATIONS = 60
"""Random operations of one job."""
_MOST_PATHS = 60
"""From then on a part begins anew. The sooner, the sooner the tree as a whole grows no more."""
_MOST_EDITS = 25


@dataclass(frozen=True)
class Place:
    """Where a client works."""

    merged: Path
    client: int
    ground: Ground
    scratch: Path
    """A directory of the client's own, outside of the union."""
    rng: random.Random
    next_batch: Callable[[], int]
    """A number that no other client of this union gets."""
    batches: int

    def home(self, kind: str) -> Path:
        """The client's directory in the union for one kind of job."""
        return self.merged / "home" / f"c{self.client}" / kind


class Job(ABC):
    """One kind of work of one client in one union, with what it remembers of it."""

    kind: str

    def __init__(self, place: Place) -> None:
        self.place = place
        self.home = place.home(self.kind)

    def ready(self) -> bool:
        """Whether there is anything left to do."""
        return True

    @abstractmethod
    def run(self) -> None:
        """Do it once, and check it."""

    @abstractmethod
    def recover(self) -> None:
        """The daemon was killed in the midst of it: check what was answered, and clear away the rest."""

    def _fresh_home(self) -> None:
        trees.remove(self.home)
        os.makedirs(self.home)


class RandomOperations(Job):
    """The operations of the crash tests, on a model that says what must be there."""

    kind = "random"

    def __init__(self, place: Place, model: Model) -> None:
        super().__init__(place)
        self.part = f"p{place.client}"
        self.model = model
        self._begun: Op | None = None
        self._renewing = False

    def run(self) -> None:
        os.chdir(self.place.merged)
        try:
            self._look([self.model])
            for _ in range(OPERATIONS):
                self._perform(self._draw())
            self._look([self.model])
            if len(self.model.paths) > _MOST_PATHS:
                self._renew()
        finally:
            os.chdir("/")
        # The model of a run of hours must not hold what was removed in it.
        self.model.nodes = {number: self.model.nodes[number] for number in self.model.paths.values()}

    def recover(self) -> None:
        os.chdir(self.place.merged)
        try:
            if self._renewing:
                self._renew()
                return
            self.model = self._look(list(self.model.states(self._begun)) if self._begun else [self.model])
            self._begun = None
        finally:
            os.chdir("/")

    def _draw(self) -> Op:
        for path in self.model.of_kind("file"):
            if len(self.model[path].edits) > _MOST_EDITS:
                return "rewrite", path, self.place.rng.randrange(1_000_000), 300
        return load.draw(self.place.rng, self.model, self.part)

    def _perform(self, op: Op) -> None:
        self._begun = op
        load.perform(op, sync=self.place.rng.random() < 0.1)
        self.model.apply(op)
        self._begun = None

    def _look(self, candidates: list[Model]) -> Model:
        """The one of these models that is found."""
        found = observe(self.place.merged, self.part)
        wrong = {}
        for number, candidate in enumerate(candidates):
            if not (differences := mismatches(candidate, found)):
                return candidate
            wrong[number] = differences
        lines = [
            f"  state {number}: {each.text}" for number, several in wrong.items() for each in several[:6]
        ]
        raise trees.Fault(
            f"{self.place.merged}/{self.part} is in none of {len(candidates)} states, the operation being"
            f" {self._begun}:\n" + "\n".join(lines)
        )

    def _renew(self) -> None:
        """Begin anew, with what is made through the union."""
        self._renewing = True
        self._begun = None
        trees.remove(self.place.merged / self.part)
        self.model = Model(metacopy=self.model.metacopy, writes_die=self.model.writes_die)
        for name in ("", "/dir-a", "/dir-b", "/dir-b/inner"):
            self._perform(("mkdir", f"{self.part}{name}"))
        for number in range(14):
            self._perform(("create", f"{self.part}/dir-a/{self.part}-file{number}", number, 4096))
        self._renewing = False


class Listings(Job):
    """Listings of a wide directory of lowers, and of one that is changed meanwhile."""

    kind = "listing"

    def run(self) -> None:
        wide = self.place.merged / "wide"
        expected = ground.wide_names()
        for _ in range(2):
            check(sorted(os.listdir(wide)) == expected, f"{wide} lists other names")
        with os.scandir(wide) as entries:
            check(all(entry.is_file(follow_symlinks=False) for entry in entries), f"{wide}: a wrong type")
        self._fresh_home()
        names = [f"new{number}" for number in range(120)]
        for number, name in enumerate(names):
            (self.home / name).touch()
            if number % 30 == 29:
                self._lists(names[: number + 1])
        for number, name in enumerate(list(names)):
            if number % 2:
                os.rename(self.home / name, self.home / f"{name}.moved")
                names[number] = f"{name}.moved"
            elif number % 3 == 0:
                os.unlink(self.home / name)
                names[number] = ""
        self._lists([name for name in names if name])
        found = trees.run(["find", str(self.place.merged / "tree"), "-mindepth", "1", "-printf", "%P\n"])
        check(sorted(found.splitlines()) == sorted(self.place.ground.tree), "find sees another tree")

    def _lists(self, names: list[str]) -> None:
        found = os.listdir(self.home)
        check(sorted(found) == sorted(names), f"{self.home} lists {sorted(found)}, and not {sorted(names)}")

    def recover(self) -> None:
        trees.remove(self.home)


class CopyUps(Job):
    """Uses up a batch of lower files: each is changed, checked and removed, and none is looked up before."""

    kind = "copy-up"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._batch: int | None = None
        self._answered: dict[str, bytes] = {}
        self._removing = False
        self._used_up = False

    def ready(self) -> bool:
        return not self._used_up

    def run(self) -> None:
        batch = self.place.next_batch()
        if batch >= self.place.batches:
            self._used_up = True
            return
        self._batch, self._answered, self._removing = batch, {}, False
        directory = self.place.merged / ground.batch_path(batch)
        for number in range(len(ground.BATCH)):
            self._change(directory, f"f{number}", ground.batch_file(batch, number))
        self._check()
        self._removing = True
        trees.remove(directory)
        self._batch = None

    def _change(self, directory: Path, name: str, data: bytes) -> None:
        path = directory / name
        way = self.place.rng.choice(["append", "write", "truncate", "chmod", "rename", "link", "utime"])
        if way == "append":
            with path.open("ab") as file:
                file.write(b"more")
            data += b"more"
        elif way == "write":
            with path.open("r+b") as file:
                file.write(b"first")
            data = b"first" + data[5:]
        elif way == "truncate":
            os.truncate(path, len(data) // 2)
            data = data[: len(data) // 2]
        elif way == "chmod":
            path.chmod(0o600)
        elif way == "rename":
            path.rename(directory / f"{name}.moved")
            name = f"{name}.moved"
        elif way == "link":
            os.link(path, directory / f"{name}.linked")
            self._answered[f"{name}.linked"] = data
        else:
            os.utime(path, (ground.THEN, ground.THEN))
        self._answered[name] = data

    def _check(self) -> None:
        assert self._batch is not None
        directory = self.place.merged / ground.batch_path(self._batch)
        for name, data in self._answered.items():
            check((directory / name).read_bytes() == data, f"{directory / name} is not as it was written")

    def recover(self) -> None:
        if self._batch is None:
            return
        directory = self.place.merged / ground.batch_path(self._batch)
        if not self._removing:
            self._check()
        trees.remove(directory)
        self._batch = None
