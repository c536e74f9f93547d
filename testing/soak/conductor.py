"""A run: the unions, the clients, what disturbs them, what is measured meanwhile, and the end of it all.

Must leave nothing behind: no mount, no daemon, no client, no directory but the one with the report.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path

from testing import mounts
from testing.crash.rig import stacks
from testing.soak import figures, ground, samples
from testing.soak.clients import Client
from testing.soak.gate import Gate
from testing.soak.report import FAULT
from testing.soak.union import KINDS, SoakUnion, brief
from unionfs.control import run_directory

LEAVE_TIMEOUT = 400.0
"""How long the jobs in a union may go on once its gate is closed. Longer than any program of a job may take:
its client names one that hangs."""
SIZE = 16 << 30
"""Of the filesystem with the layers, whose image is sparse."""
KINDS_OF_TROUBLE = ("brief", "unmount", "kill")
_RENEWED = 0.25
"""How often an unmounted union gets an empty upper."""
_BATCHES_AN_HOUR = 400
"""More than the clients use up of a steady union."""
_LOOK_AROUND = 1.0
"""Seconds after which it is asked again whether the run is to end."""


@dataclass(frozen=True)
class Settings:
    """What a run is to be."""

    seconds: float
    clients: int
    interval: float
    """Between two samples."""
    pace: float
    """Between two disturbances, on the average."""
    seed: str
    fs: str
    directory: Path | None
    """Where the image of the filesystem lies; None: in the usual place for temporary files."""
    out: Path
    """Where the layers go when something is wrong with them."""
    watched: dict[str, int]
    """Other processes to be measured, by name."""


class Conductor:
    """One run. It is over after its time, by a fault, or when `asked` says so."""

    def __init__(self, settings: Settings, writer: samples.Writer, asked: Callable[[], bool]) -> None:
        self.settings = settings
        self.writer = writer
        self.asked = asked
        self.rng = random.Random(f"{settings.seed} conductor")
        self.context = multiprocessing.get_context("fork")
        self.stop = self.context.Event()
        self.started = time.monotonic()
        self.unions: list[SoakUnion] = []
        self._first = list(KINDS_OF_TROUBLE)

    def run(self) -> None:
        """The whole run. What is wrong is in the notes; an exception is a failure of the rig to begin."""
        before = figures.mounts_here()
        with _control_directory() as control:
            with mounts.loop_fs(self.settings.fs, SIZE, directory=self.settings.directory) as base:
                self._run_on(base, control)
            left = [name for name in os.listdir(control) if name.endswith(".sock")]
            if left:
                self.fault(f"sockets are left in {control}: {left}")
        if figures.mounts_here() != before:
            self.fault(f"{figures.mounts_here()} mounts are there after the run, {before} before")

    def _run_on(self, base: Path, control: Path) -> None:
        with ExitStack() as stack:
            self._make_unions(base)
            for union in self.unions:
                stack.callback(union.clear)
            # Before anything is mounted, so that no client has a descriptor of it.
            clients = self._start_clients(base)
            stack.callback(_kill, clients)
            for union in self.unions:
                self._mount(union)
                union.gate.open()
            sampler = threading.Thread(target=self._sample_all_along, args=(base, control))
            sampler.start()
            try:
                self._disturb_all_along(base)
            except Exception:
                self.fault(traceback.format_exc())
            finally:
                self.stop.set()
                sampler.join()
            self._finish(clients)

    def note(self, what: str, text: str = "") -> None:
        self.writer.note(time.monotonic() - self.started, what, text)

    def fault(self, text: str) -> None:
        """Something is wrong; what follows would be in doubt."""
        self.note(FAULT, text)
        self.stop.set()

    # The beginning and the end ------------------------------------------------------------------------------

    def _make_unions(self, base: Path) -> None:
        hours = self.settings.seconds / 3600
        made = ground.make(
            base,
            self.settings.seed,
            clients=self.settings.clients,
            batches=ground.FEW_BATCHES + round(hours * _BATCHES_AN_HOUR),
        )
        self.unions = [SoakUnion(kind, base / kind.name, made, Gate(self.context)) for kind in KINDS]

    def _start_clients(self, base: Path) -> list[ForkProcess]:
        self.started = time.monotonic()
        clients = []
        for number in range(self.settings.clients):
            seed = self.settings.seed
            client = Client(number, self.unions, base / "scratch", seed, self.writer, self.started)
            clients.append(self.context.Process(target=client.run, args=(self.stop,), daemon=True))
            clients[-1].start()
        return clients

    def _finish(self, clients: Sequence[ForkProcess]) -> None:
        """The last jobs end; then each union is unmounted and looked at."""
        deadline = time.monotonic() + LEAVE_TIMEOUT
        for client in clients:
            client.join(max(0.0, deadline - time.monotonic()))
            if client.is_alive():
                self.fault(f"client {client.pid} does not end its job:\n{stacks(client.pid or 0)}")
            elif client.exitcode != 0:
                self.fault(f"client {client.pid} ended with {client.exitcode}")
        _kill(clients)
        for union in self.unions:
            try:
                if union.daemon is not None:
                    self._look(union)
            except Exception:  # the other unions are to be looked at, too
                self.fault(f"{union.kind.name}: {traceback.format_exc()}")
        if samples.read(self.writer.path).count(FAULT):
            self._keep_layers()

    def _keep_layers(self) -> None:
        """What a fault has left, for whoever looks for its reason. The lowers are made anew from the seed."""
        for union in self.unions:
            archive = self.settings.out / f"{union.kind.name}.tar.gz"
            words = ["--xattrs", "--xattrs-include=*", "--sparse", "-czf", str(archive), "upper", "work"]
            subprocess.run(["tar", "-C", str(union.base), *words], check=True)

    # Disturbances -------------------------------------------------------------------------------------------

    def _disturb_all_along(self, base: Path) -> None:
        now = time.monotonic()
        end = now + self.settings.seconds
        following = now + self._pause()
        while now < end and not self.stop.is_set() and not self.asked():
            if now >= following:
                self._disturb(base)
                following = time.monotonic() + self._pause()
            # In pieces: a signal's handler must not touch the event that is waited for.
            self.stop.wait(max(0.0, min(end, following, now + _LOOK_AROUND) - time.monotonic()))
            now = time.monotonic()

    def _pause(self) -> float:
        return min(self.rng.expovariate(1 / self.settings.pace), 4 * self.settings.pace)

    def _disturb(self, base: Path) -> None:
        """One unmount, one kill, or one mount that lasts a moment."""
        union = self.rng.choice([union for union in self.unions if not union.kind.steady])
        # Each kind once at first, so that a short run has them all.
        what = self._first.pop() if self._first else self.rng.choices(KINDS_OF_TROUBLE, [4, 4, 2])[0]
        if what == "brief":
            brief(base / "brief", union.lowers)
            self.note("mounts that lasted a moment")
            return
        union.gate.close()
        if what == "kill":
            self._kill(union)
        self._wait_until_empty(union)
        if what == "kill":
            union.detach()
            self._mount(union)
            self._say(union.litter())
        self._look(union)
        if self.stop.is_set():
            return  # something is wrong: what the layers hold is kept as it is
        if self.rng.random() < _RENEWED:
            union.renew()
            self.note("uppers begun anew", union.kind.name)
        self._mount(union)
        union.gate.open()

    def _mount(self, union: SoakUnion) -> None:
        union.mount()
        self.note("mounts", union.kind.name)

    def _kill(self, union: SoakUnion) -> None:
        # Before the kill: a client that fails by it looks here for the reason.
        union.gate.count_kill()
        union.kill()
        self.note("daemons killed", union.kind.name)

    def _wait_until_empty(self, union: SoakUnion) -> None:
        if not union.gate.wait_until_empty(LEAVE_TIMEOUT):
            raise TimeoutError(f"clients do not leave {union.kind.name} within {LEAVE_TIMEOUT} s")

    def _look(self, union: SoakUnion) -> None:
        self._say(union.look())
        self.note("unmounted, and looked at by check and by kernel overlayfs", union.kind.name)

    def _say(self, problems: list[str]) -> None:
        for problem in problems:
            self.fault(problem)

    # Measurements -------------------------------------------------------------------------------------------

    def _sample_all_along(self, base: Path, control: Path) -> None:
        try:
            following = time.monotonic()
            while not self.stop.is_set():
                self._sample(base, control)
                following = max(following + self.settings.interval, time.monotonic())
                self.stop.wait(following - time.monotonic())
        except Exception:
            self.fault(f"the sampler: {traceback.format_exc()}")

    def _sample(self, base: Path, control: Path) -> None:
        values: dict[str, float] = {}

        def add(owner: str, found: dict[str, float]) -> None:
            values.update({f"{owner} {figure}": value for figure, value in found.items()})

        inodes = figures.inodes_by_mountpoint()
        for union in self.unions:
            daemon = union.daemon  # once: the conductor's thread may unmount it meanwhile
            if daemon is not None:
                add(union.kind.name, figures.of_process(daemon.pid))
                add(union.kind.name, figures.of_directories(union.work, daemon.log_path))
                if str(union.merged) in inodes:
                    add(union.kind.name, {"inodes": inodes[str(union.merged)]})
        for name, pid in self.settings.watched.items():
            add(name, figures.of_process(pid))
        add(figures.ALL, figures.of_all(base, control))
        add(figures.MACHINE, figures.of_machine())
        self.writer.sample(time.monotonic() - self.started, values)


def _kill(clients: Sequence[ForkProcess]) -> None:
    for client in clients:
        if client.is_alive():
            client.kill()
        client.join()


@contextmanager
def _control_directory() -> Iterator[Path]:
    """The directory of the daemons' sockets, in which there is nothing but those of this run."""
    path = run_directory.make_directory()
    assert path is not None, "there is no directory for the sockets of daemons"
    with mounts.mounted("tmpfs", Path(path), data="mode=700"):
        try:
            yield Path(path)
        finally:
            # The supervisors end some time after their last daemon.
            deadline = time.monotonic() + 60
            while list(Path(path).glob("*.supervisor")):
                assert time.monotonic() < deadline, "a supervisor has not ended"
                time.sleep(0.1)
