"""The lowers that the unions of a run share, and what they hold: made once, from a seed.

Must never be written to after it was made; that it was not is looked at as long as the run goes on.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from testing.crash import parts
from testing.crash.model import Model, pattern
from testing.oracle import snapshot
from testing.soak import trees

TREE_FILES = 180
WIDE = 800
UNITS = 5
MODULES = 12
BATCH = (300, 300, 2_000, 4_096, 4_096, 10_000, 70_000, 260_000)
"""The sizes of the files of a batch, which one job uses up."""
FEW_BATCHES = 40
"""For a union that is unmounted now and then: it gets an empty upper from time to time."""
BIG = 1 << 20
THEN = 1_600_000_000
"""Sources are older than what is built of them, and tar keeps whole seconds."""

GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}
COMMITS = 4


@dataclass(frozen=True)
class Ground:
    """What the lowers hold."""

    lowers: tuple[Path, Path]
    """Those that all unions have, topmost first."""
    pools: dict[bool, Path]
    """The lowermost one, with batches of files to use up: many for unions that are steady."""
    batches: dict[bool, int]
    """How many are in each."""
    tree: trees.Manifest
    """What `tree` shows, and `own/cN` of each client N."""
    archive: Path
    """The same as a tar, outside of all layers."""
    models: tuple[Model, ...]
    """Of each client's part `pN`."""
    fingerprints: dict[Path, dict[bytes, object]]

    def stack(self, *, steady: bool) -> list[Path]:
        """The lowers of a union, topmost first."""
        return [*self.lowers, self.pools[steady]]

    def untouched(self, *, steady: bool) -> bool:
        """Whether the lowers of a union are as they were made."""
        return all(_fingerprint(each) == self.fingerprints[each] for each in self.stack(steady=steady))


def make(base: Path, seed: str, *, clients: int, batches: int) -> Ground:
    """Make the lowers in *base*, for so many clients, with so many batches for each steady union."""
    rng = random.Random(f"{seed} ground")
    lowers = base / "lower-top", base / "lower-bottom"
    for lower in lowers:
        lower.mkdir()
    pristine = base / "pristine"
    _make_tree(pristine, rng)
    known = trees.manifest(pristine)
    archive = base / "tree.tar"
    trees.run(["tar", "-C", str(pristine), "-cf", str(archive), "."])
    for place in ("tree", *(f"own/c{client}" for client in range(clients))):
        _spread(pristine, lowers, place)
    shutil.rmtree(pristine)
    top, bottom = lowers
    _make_wide(top / "wide", bottom / "wide")
    _make_project(bottom / "project")
    if trees.has("git"):
        _make_repository(bottom / "repository")
    models = []
    for client in range(clients):
        model = Model()
        parts.build(rng, lowers, f"p{client}", model, big=BIG)
        models.append(model)
    pools = {steady: base / f"lower-pool-{'steady' if steady else 'killed'}" for steady in (True, False)}
    counts = {True: batches, False: FEW_BATCHES}
    for steady, pool in pools.items():
        for batch in range(counts[steady]):
            _make_batch(pool / batch_path(batch), batch)
    fingerprints = {each: _fingerprint(each) for each in (*lowers, *pools.values())}
    return Ground(lowers, pools, counts, known, archive, tuple(models), fingerprints)


def _fingerprint(lower: Path) -> dict[bytes, object]:
    return snapshot.layer_fingerprint(os.fsencode(lower))


def batch_path(batch: int) -> str:
    """Where the files of a batch are, in the union."""
    return f"pool/{batch // 100:03}/{batch:06}"


def batch_file(batch: int, number: int) -> bytes:
    """What file *number* of a batch holds."""
    return pattern(batch * 100 + number, BATCH[number])


def _make_batch(where: Path, batch: int) -> None:
    where.mkdir(parents=True)
    for number in range(len(BATCH)):
        (where / f"f{number}").write_bytes(batch_file(batch, number))


def _make_tree(root: Path, rng: random.Random) -> None:
    root.mkdir()
    directories = [root]
    for number in range(14):
        directories.append(rng.choice(directories) / f"dir{number}")
        directories[-1].mkdir(mode=0o755)
    for number in range(TREE_FILES):
        path = rng.choice(directories) / f"file{number}"
        path.write_bytes(rng.randbytes(rng.choice([0, 10, 700, 4_096, 9_000, 40_000])))
        path.chmod(rng.choice([0o644, 0o600, 0o755]))
    for number in range(8):
        (rng.choice(directories) / f"link{number}").symlink_to(f"to/{number}")
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (THEN, THEN + rng.randrange(1_000_000)))


def _spread(pristine: Path, lowers: tuple[Path, Path], place: str) -> None:
    """Lay the tree at a place of the union: each file in one of the lowers, directories in both."""
    for lower in lowers:
        (lower / place).parent.mkdir(exist_ok=True)
        shutil.copytree(pristine, lower / place, symlinks=True)
    for number, path in enumerate(sorted(pristine.rglob("*"))):
        if not stat.S_ISDIR(path.lstat().st_mode):
            (lowers[number % 2] / place / path.relative_to(pristine)).unlink()
    for directory in [path for path in pristine.rglob("*") if path.is_dir() and not path.is_symlink()]:
        for lower in lowers:
            shutil.copystat(directory, lower / place / directory.relative_to(pristine))


def wide_names() -> list[str]:
    """The names in `wide`."""
    return [f"name-{number:05}" for number in range(WIDE)]


def _make_wide(*directories: Path) -> None:
    for each in directories:
        each.mkdir()
    for number, name in enumerate(wide_names()):
        (directories[number % len(directories)] / name).touch()


def _make_project(where: Path) -> None:
    """A C program and a Python package, each of which prints the sum of its parts."""
    (where / "src").mkdir(parents=True)
    (where / "package").mkdir()
    declarations = "".join(f"int unit{n}(void);\n" for n in range(UNITS))
    (where / "src/common.h").write_text(f"#define SCALE 3\n{declarations}")
    for n in range(UNITS):
        text = f'#include "common.h"\nint unit{n}(void) {{ return {n} * SCALE; }}\n'
        (where / f"src/unit{n}.c").write_text(text)
    calls = " + ".join(f"unit{n}()" for n in range(UNITS))
    main = (
        f'int printf(const char *, ...);\n#include "common.h"\nint main(void) {{ printf("%d", {calls}); }}\n'
    )
    (where / "src/main.c").write_text(main)
    for n in range(MODULES):
        (where / f"package/module{n}.py").write_text(f"def value():\n    return {n} * 3\n")
    names = ", ".join(f"module{n}" for n in range(MODULES))
    (where / "package/__init__.py").write_text(
        f"from . import {names}\nTOTAL = sum(each.value() for each in ({names}))\n"
    )
    for path in where.rglob("*"):
        os.utime(path, (THEN, THEN))


def _make_repository(where: Path) -> None:
    where.mkdir()
    trees.run(["git", "init", "-q", "-b", "main", "."], where, GIT)
    for commit in range(COMMITS):
        for number in range(20):
            path = where / f"dir{number % 4}/file{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"commit {commit} line {number}\n" * (number + 1))
        trees.run(["git", "add", "."], where, GIT)
        trees.run(["git", "commit", "-qm", f"commit {commit}"], where, GIT)
        if commit == 1:
            trees.run(["git", "gc", "-q"], where, GIT)
