"""Kills the commands that change a store of images at random moments, and looks whether the store is whole.

After each kill everything in the store is read again, as `pyunionfs verify` does: nothing may be half. Then
the same command runs to its end: nothing that the killed one left may be in its way, and what it answers must
be there: an archive appears whole and is the same each time, a registry has all blobs of what was pushed. No
mount and no process stays. At the end everything is removed, and nothing may be left.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testing.crash.pushed import Pushed
from testing.images import debian_like, file, hard_link, image, write_layout
from testing.images.layout import Image
from testing.images.registries import serving
from testing.images.served import served
from unionfs.image import index, layer_record
from unionfs.image.store import Store
from unionfs.image.verify import Verification

_REPOSITORY = Path(__file__).parents[2]
_PAUSE = 0.005
"""Of the registry, for each 64 KiB; and between two looks."""
_PATIENCE = 5.0
"""Seconds for the end of processes that a killed command had started."""
_OWN = 10
"""Files that an image has where its volume is."""


@dataclass(frozen=True)
class Command:
    """A command, and what must be there (True) or gone (False) once it has ended well."""

    words: tuple[str, ...]
    names: dict[str, bool] = field(default_factory=dict)
    may_fail: bool = False
    """Whether it is refused where what it is about is not there."""
    output: Path | None = None
    """What it writes: there whole or not at all, the same each time."""
    before: Callable[[], None] = lambda: None
    """What is done before it is killed."""
    after: Callable[[], list[str]] = list
    """The problems of what it has done, once it has ended well."""


@dataclass
class StoreRig:
    """One store, and the commands that change it. `problems` has all that was not as it must be."""

    store: Path
    commands: Sequence[Command]
    chance: random.Random
    durations: dict[tuple[str, ...], float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    kills: int = 0
    """Of commands that had not ended by themselves."""
    written: dict[Path, str] = field(default_factory=dict)
    """The digest of what a command has written the first time that it ended well."""
    killed: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    """How often which command was killed, and has ended well: one that never does shows nothing."""

    def round(self) -> None:
        """Kill one command, look, and run it again."""
        command = self.chance.choice(self.commands)
        delay = self.chance.random() * self.durations.get(command.words, 1.0)
        command.before()
        process = self._start(command)
        try:
            output, _ = process.communicate(timeout=delay)
            killed = False
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            killed = process.returncode == -signal.SIGKILL
        self.kills += killed
        self.killed[command.words[0]] += killed
        what = f"{' '.join(command.words)}, {f'killed after {delay:.3f} s' if killed else 'not killed'}"
        if not killed:
            self._judge(command, process.returncode, output, what)
        self._look(what)
        begin = time.monotonic()
        process = self._start(command)
        output, _ = process.communicate()
        taken = time.monotonic() - begin
        self.durations[command.words] = (self.durations.get(command.words, taken) + taken) / 2
        self._judge(command, process.returncode, output, f"{what}, and run again")
        self._look(f"{what}, and run again")

    def finish(self) -> None:
        """Remove everything, and look that nothing is left."""
        made = sorted(path.name for path in (self.store / "containers").iterdir())
        printed = [
            self._start(Command(words)).communicate()[0]
            for words in (*(("rm", "-fv", each) for each in made), ("prune", "-af", "--volumes=all"))
        ]
        self._look("everything removed")
        left = [
            str(path)
            for folder in ("layers", "trees", "containers", "volumes", "ingest", "blobs/sha256")
            for path in (self.store / folder).iterdir()
        ]
        if left:
            self.problems.append(f"left when everything was removed: {left}; the commands printed {printed}")

    def _start(self, command: Command) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "unionfs", *command.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_REPOSITORY,
            env={**os.environ, "PYUNIONFS_STORE": str(self.store)},
        )

    def _judge(self, command: Command, status: int, output: str, what: str) -> None:
        """What an answer promises must be there."""
        # 125: `run` is refused, as by Docker.
        if "Traceback" in output or status not in ((0, 1, 125) if command.may_fail else (0,)):
            self.problems.append(f"{what}: status {status}: {output.strip()}")
        if status == 0:
            self.ended[command.words[0]] += 1
            known = {tag.familiar for each in index.images(Store(self.store)) for tag in each.tags}
            for name, is_there in command.names.items():
                if (name in known) != is_there:
                    self.problems.append(f"{what}: {name} is {'not ' if is_there else 'still '}there")
            self.problems += [f"{what}: {each}" for each in command.after()]
            if command.output is not None:
                self.written.setdefault(command.output, _digest(command.output))

    def _look(self, what: str) -> None:
        store = Store(self.store)
        with store.in_use():
            self.problems += [f"{what}: {each.what}: {each.problem}" for each in Verification(store).run()]
        known = {layer.path.parent.name for layer in layer_record.all_layers(store)}
        stray = {path.name for path in store.trees.iterdir()} - known
        if len(stray) > 3:
            self.problems.append(f"{what}: trees without a layer pile up: {stray}")
        deadline = time.monotonic() + _PATIENCE
        while True:
            store.sweep()
            odd = [path.name for path in store.ingest.iterdir() if not path.name.startswith("blob-")]
            # The processes that one was killed with are ending.
            if not odd or time.monotonic() > deadline:
                break
            time.sleep(_PAUSE)
        self._look_at_volumes(what)
        while (running := _using(self.store)) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        self.problems += [f"{what}: stays: {each}" for each in running]
        for path, first in self.written.items():
            if _digest(path) != first:
                self.problems.append(f"{what}: {path.name} is not what was written first")
        if odd:
            self.problems.append(f"{what}: what is half stays in ingest: {odd}")

    def _look_at_volumes(self, what: str) -> None:
        """Each is empty or has all that the image has there; or all of it is there, and on its way."""
        for path in (self.store / "volumes").iterdir():
            parts = [path / "_data", path / "filling"]
            found = [each.name for part in parts if part.exists() for each in part.iterdir()]
            if not (path / "volume.json").read_bytes() or sorted(found) not in (
                [],
                sorted(map(str, range(_OWN))),
            ):
                self.problems.append(f"{what}: volume {path.name} has {found}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _using(store: Path) -> list[str]:
    """The mounts and the processes, other than this one, that name the store."""
    name = os.fsencode(store)
    found = [
        f"mount: {line}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(store) in line
    ]
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words, variables = ((process / each).read_bytes() for each in ("cmdline", "environ"))
            except (OSError, ValueError):  # it has ended, or is another user's
                continue
            if name in words or name in variables:
                found.append(
                    f"process {process.name}: {words.replace(bytes(1), b' ').decode(errors='replace')}"
                )
    return found


def images() -> tuple[Image, Image]:
    """Two images with the same base, and layers that depend on those below."""
    base = debian_like(files=300, size=3_000_000)[:2]
    own = [file(f"own/{number}", os.urandom(40_000)) for number in range(_OWN)]
    name = next(each.name for each in base[0] if each.content)
    return image([*base, own], {"Cmd": ["true"], "Volumes": {"/own": {}}}), image(
        [*base, [hard_link("linked", name)]], {"Cmd": ["true"]}
    )


@contextmanager
def store_rig(base: Path, seed: int) -> Iterator[StoreRig]:
    """A rig in an empty directory, with a registry."""
    one, two = images()
    write_layout(base / "one", {"one:1": one})
    write_layout(base / "both", {"one:1": one, "two:1": two})
    upper = base / "upper"
    (upper / "deep").mkdir(parents=True)
    (upper / "deep" / "new").write_bytes(b"new" * 1000)
    archive, exported = base / "out" / "one.tar", base / "out" / "tree.tar"
    archive.parent.mkdir()
    with ExitStack() as stack:
        registry = stack.enter_context(served({"one:1": one, "two:1": two}, pause=_PAUSE))
        pulled = {name: f"{registry}/{name}" for name in ("one:1", "two:1")}
        commands = (
            Command(("load", str(base / "one")), {"one:1": True}),
            Command(("load", str(base / "both")), {"one:1": True, "two:1": True}),
            *(Command(("pull", "-q", name), {name: True}) for name in pulled.values()),
            Command(("commit", str(upper), "made:1"), {"made:1": True}),
            Command(("commit", "--base", "one:1", str(upper), "over:1"), {"over:1": True}, may_fail=True),
            Command(("tag", "one:1", "also:1"), {"also:1": True}, may_fail=True),
            Command(("create", "--name", "killed", "one:1"), may_fail=True),
            Command(("create", "--name", "killed", "-v", "named:/own", "one:1"), may_fail=True),
            Command(("create", "--name", "killed", "-v", "named:/none", "one:1"), may_fail=True),
            Command(("rm", "killed"), may_fail=True),
            Command(("rm", "-v", "killed"), may_fail=True),
            Command(("save", "-o", str(archive), "one:1"), may_fail=True, output=archive),
            Command(("export", "-o", str(exported), "one:1"), may_fail=True, output=exported),
            *_pushes(stack, base),
            *_runs(base),
            Command(("prune", "-f", "--volumes")),
            *(
                Command(("rmi", "-f", name), {name: False}, may_fail=True)
                for name in ("one:1", "two:1", "made:1", *pulled.values())
            ),
            Command(("prune", "-f")),
            Command(("prune", "-af"), {"two:1": False}),
            Command(("prune", "-f", "--blobs")),
            Command(("verify", "--repair")),
        )
        yield StoreRig(base / "store", commands, random.Random(seed))


def _pushes(stack: ExitStack, base: Path) -> Iterator[Command]:
    """Pushes to a registry that is empty before each; none where Debian's is not installed."""
    if shutil.which("docker-registry"):
        pushed = Pushed(stack.enter_context(serving(base / "registry")), "pushed", "1")
        for name in ("one:1", "over:1"):
            yield Command(
                ("push", "-q", name, pushed.name), may_fail=True, before=pushed.clear, after=pushed.problems
            )


def _runs(base: Path) -> Iterator[Command]:
    """An import, and containers of what was imported; none where no busybox is installed."""
    busybox = shutil.which("busybox")
    if busybox:
        tree = base / "tree"
        for each in ("bin", "proc", "sys", "dev", "etc", "tmp"):
            (tree / each).mkdir(parents=True)
        shutil.copy2(busybox, tree / "bin" / "busybox")
        yield Command(("import", str(tree), "runs:1"), {"runs:1": True})
        for script in ("true", "echo new > /tmp/new", "sleep 0.1"):
            yield Command(("run", "--rm", "runs:1", "/bin/busybox", "sh", "-c", script), may_fail=True)
        yield Command(("rmi", "-f", "runs:1"), {"runs:1": False}, may_fail=True)
