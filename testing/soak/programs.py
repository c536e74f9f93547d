"""Work of a client by real programs: tar, rm, a compiler, Python's, git, and sqlite in several processes.

What a program has answered by ending well is checked, also after the daemon was killed; what was cut short is
cleared away and begun anew. A machine that lacks a program has fewer kinds of work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from testing.mounts import REPOSITORY
from testing.soak import ground, trees
from testing.soak.jobs import Job, Place
from testing.soak.trees import ProgramFailed, check

TOTAL = sum(range(ground.UNITS)) * 3
MODULES_TOTAL = sum(range(ground.MODULES)) * 3
_ROWS = 40
_MOST_ROWS = 400
_MOST_COMMITS = 12


class Archives(Job):
    """Packs a lower tree and unpacks it again; what was unpacked stays until the next time."""

    kind = "tar"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._unpacked = False

    def run(self) -> None:
        self._check()
        self._unpacked = False
        self._fresh_home()
        archive = self.place.scratch / "packed.tar"
        trees.run(["tar", "-C", str(self.place.merged / "tree"), "-cf", str(archive), "."])
        trees.run(["tar", "-C", str(self.home), "-xf", str(archive)])
        self._unpacked = True
        self._check()

    def _check(self) -> None:
        if self._unpacked:
            trees.check_tree(self.home, self.place.ground.tree, "what tar unpacked")

    def recover(self) -> None:
        self._check()
        if not self._unpacked:
            trees.remove(self.home)


class Replacements(Job):
    """Removes a tree that came from the lowers, and puts the same back."""

    kind = "rm -rf"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._tree = place.merged / "own" / f"c{place.client}"
        self._whole = True

    def run(self) -> None:
        trees.check_tree(self._tree, self.place.ground.tree, "a tree that was put back")
        self._whole = False
        self._replace()

    def _replace(self) -> None:
        trees.remove(self._tree)
        check(self._tree.name not in os.listdir(self._tree.parent), f"{self._tree} is listed after rm -rf")
        self._tree.mkdir()
        trees.run(["tar", "-C", str(self._tree), "-xf", str(self.place.ground.archive)])
        self._whole = True
        trees.check_tree(self._tree, self.place.ground.tree, "a tree that was put back")

    def recover(self) -> None:
        if self._whole:
            trees.check_tree(self._tree, self.place.ground.tree, "a tree that was put back")
        else:
            self._replace()


class Builds(Job):
    """Compiles C and Python and runs what comes out, which stays until the next time."""

    kind = "build"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._built = False

    def run(self) -> None:
        self._check()
        self._built = False
        self._fresh_home()
        trees.run(["cp", "-a", f"{self.place.merged}/project/.", str(self.home)])
        if trees.has("cc"):
            units = [*(f"unit{n}" for n in range(ground.UNITS)), "main"]
            for unit in units:
                trees.run(["cc", "-O0", "-pipe", "-c", f"src/{unit}.c", "-o", f"src/{unit}.o"], self.home)
            trees.run(["cc", "-o", "program", *(f"src/{unit}.o" for unit in units)], self.home)
        trees.run([sys.executable, "-m", "compileall", "-q", "package"], self.home)
        compiled = len(os.listdir(self.home / "package/__pycache__"))
        check(compiled == ground.MODULES + 1, f"{compiled} modules were compiled")
        self._built = True
        self._check()

    def _check(self) -> None:
        if not self._built:
            return
        if trees.has("cc"):
            said = trees.run([str(self.home / "program")])
            check(said == str(TOTAL), f"the program says {said!r} and not {TOTAL}")
        said = trees.run([sys.executable, "-B", "-c", "import package; print(package.TOTAL)"], self.home)
        check(said == f"{MODULES_TOTAL}\n", f"the package says {said!r} and not {MODULES_TOTAL}")

    def recover(self) -> None:
        self._check()
        if not self._built:
            trees.remove(self.home)


class Git(Job):
    """Clones a lower repository, commits to it, and packs it now and then."""

    kind = "git"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._commits: int | None = None
        """Commits that were answered; None: there is no clone."""

    def _git(self, *words: str) -> str:
        return trees.run(["git", "-c", "gc.auto=0", *words], self.home, ground.GIT)

    def run(self) -> None:
        if self._commits is None:
            self._fresh_home()
            trees.run(
                ["git", "clone", "-q", str(self.place.merged / "repository"), str(self.home)],
                None,
                ground.GIT,
            )
            self._commits = ground.COMMITS
        self._check([self._commits])
        for _ in range(2):
            number = self._commits
            (self.home / "changing").write_text(f"{number}\n" * 200)
            (self.home / f"dir1/new{number}").write_text(f"{number}\n")
            if number > ground.COMMITS:
                self._git("mv", "-f", f"dir1/new{number - 1}", "dir2/moved")
            self._git("add", "-A")
            self._git("commit", "-qm", f"commit {number}")
            self._commits = number + 1
        self._check([self._commits])
        if self._commits % 6 == 0:
            self._git("gc", "-q")
            self._git("fsck", "--full", "--strict")
        if self._commits >= _MOST_COMMITS:
            self._commits = None
            trees.remove(self.home)

    def _check(self, possible: list[int]) -> None:
        found = int(self._git("rev-list", "--count", "HEAD"))
        check(found in possible, f"{self.home} has {found} commits, and not {possible}")
        status = self._git("status", "--porcelain")
        check(status == "", f"{self.home}: git status says\n{status}")
        self._commits = found

    def recover(self) -> None:
        if self._commits is None:
            trees.remove(self.home)
            return
        # git cannot remove its locks when all calls fail.
        for lock in (self.home / ".git").rglob("*.lock"):
            lock.unlink()
        self._git("fsck", "--full")
        self._git("reset", "-q", "--hard")
        self._git("clean", "-fdq")
        self._check([self._commits, self._commits + 1])


class Database(Job):
    """A database in WAL mode: one process writes, two read, and no reader sees half a transaction."""

    kind = "sqlite"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._rows: int | None = None
        """Rows whose transaction was answered; None: there is no database, or one that is being emptied."""

    def run(self) -> None:
        if self._rows is None:
            self._fresh_home()
            self._database("make")
            self._rows = 0
        before = self._rows
        target = before + _ROWS
        readers = [self._start("read", str(target)) for _ in range(2)]
        try:
            writer = self._start("write", str(_ROWS))
            readers.append(writer)
            assert writer.stdout is not None
            for line in writer.stdout:
                if line.startswith("committed "):
                    self._rows = before + int(line.split()[1])
            # The writer first: where it fails the readers have nothing to wait for, and may not notice that,
            # since what they read is in the kernel's cache.
            for process in readers[::-1]:
                self._end(process)
        finally:
            for process in readers:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                process.communicate()
        check(self._rows == target, f"{self._rows} rows were answered, and not {target}")
        if target >= _MOST_ROWS:
            self._rows = None
            trees.remove(self.home)

    def _database(self, command: str) -> str:
        words = [sys.executable, "-m", "testing.soak.database", command, str(self.home / "data.db")]
        return trees.run(words, Path("/"), {"PYTHONPATH": str(REPOSITORY)})

    def _start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "testing.soak.database", words[0], str(self.home / "data.db"), *words[1:]],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _end(self, process: subprocess.Popen[str]) -> None:
        try:
            text, _ = process.communicate(timeout=trees.PROGRAM_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise trees.Fault(f"{process.args!r} does not end") from None
        # 3 is no failure of a call but what a reader saw.
        check(process.returncode != 3, f"a reader of {self.home} saw half a transaction: {text}")
        if process.returncode != 0:
            raise ProgramFailed(f"{process.args!r} ended with {process.returncode}: {text[-2000:]}")

    def recover(self) -> None:
        if self._rows is None:
            return
        rows = int(self._database("check"))
        check(rows in (self._rows, self._rows + 1), f"{self.home}: {rows} rows, {self._rows} were answered")
        self._rows = rows


def kinds() -> list[type[Job]]:
    """Those of this module that this machine can do."""
    return [Archives, Replacements, Builds, *([Git] if trees.has("git") else []), Database]
