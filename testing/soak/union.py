"""One union of a run: mounted, unmounted, its daemon killed, and looked at by all that can be asked.

Its gate must be closed, and for all but a kill empty, when anything here is called. Must leave no daemon and
no mount: whoever makes one calls `clear` at the end, whatever has happened.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from testing import mounts
from testing.crash.rig import by_passthrough, kernel_options, stacks
from testing.oracle import snapshot
from testing.soak.gate import Gate
from testing.soak.ground import Ground

END_TIMEOUT = 60.0
"""How long a daemon that was killed may take to be gone: the kernel may have data of it to write."""
_SHOWN = 8


@dataclass(frozen=True)
class Kind:
    """How a union is mounted, and whether it is disturbed."""

    name: str
    options: tuple[str, ...] = ()
    steady: bool = False
    """Mounted once, for the whole run: its daemon's figures are those that a leak would raise."""


KINDS = (
    Kind("steady", steady=True),
    Kind("steady-cached", ("passthrough=off",), steady=True),
    Kind("steady-pyfuse3", ("transport=pyfuse3",), steady=True),
    Kind("killed", ("index=on",)),
    Kind("killed-cached", ("passthrough=off", "metacopy=on")),
    Kind("killed-pyfuse3", ("transport=pyfuse3", "index=on", "metacopy=on")),
)


@dataclass
class SoakUnion:
    """A union with its directories below `base`."""

    kind: Kind
    base: Path
    ground: Ground
    gate: Gate
    daemon: mounts.Daemon | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.upper, self.work, self.merged = mounts.make_directories(self.base, "upper", "work", "merged")
        self.lowers = self.ground.stack(steady=self.kind.steady)
        # The kernel's own default depends on how it was built.
        self.options = ["redirect_dir=on", *self.kind.options]

    @property
    def batches(self) -> int:
        """How many batches of lower files there are to use up."""
        return self.ground.batches[self.kind.steady]

    @property
    def writes_die(self) -> bool:
        """Whether the daemon writes the data, and may be killed in the midst of that."""
        return not by_passthrough(self.options)

    def mount(self) -> None:
        self.daemon = self._stack.enter_context(
            mounts.pyunionfs(
                self.lowers,
                self.upper,
                self.work,
                self.merged,
                options=self.options,
                foreground=False,
                log_file=self.kind.steady,
            )
        )

    def unmount(self) -> None:
        """AssertionError where the daemon does not end well, or has logged a traceback."""
        self.daemon = None
        self._stack.close()

    def kill(self) -> None:
        """SIGKILL. The dead mount stays until `detach`: its users get errors and see no other tree."""
        assert self.daemon is not None
        pidfd = os.pidfd_open(self.daemon.pid)
        try:
            self.daemon.expect_exit = -signal.SIGKILL
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            gone, _, _ = select.select([pidfd], [], [], END_TIMEOUT)
        finally:
            os.close(pidfd)
        assert gone, f"the daemon of {self.merged} does not end after SIGKILL:\n{stacks(self.daemon.pid)}"

    def detach(self) -> None:
        """After `kill`."""
        self.unmount()

    def clear(self) -> None:
        """Whatever is mounted is gone after this."""
        if self.daemon is not None:
            self.daemon.expect_exit = -signal.SIGKILL  # nothing is asked any more of how it ends
        self.unmount()

    def renew(self) -> None:
        """Empty upper and work, so that there is something to copy up again. Not while it is mounted."""
        for directory in (self.upper, self.work):
            shutil.rmtree(directory)
            directory.mkdir()
        self.gate.count_upper()

    def litter(self) -> list[str]:
        """What is wrong with work right after a mount: all that a killed daemon has left must be gone."""
        left = sorted(os.listdir(self.work / "work"))
        return [f"{self.kind.name}: litter in work after a mount: {left[:_SHOWN]}"] if left else []

    def look(self) -> list[str]:
        """Unmount, and say what is wrong by `pyunionfs check`, by kernel overlayfs, and with the lowers."""
        ours = snapshot.take(os.fsencode(self.merged))
        self.unmount()
        problems = [complaint.text for complaint in ours.complaints]
        problems += self._check()
        problems += self._other_tree(ours)
        if not self.ground.untouched(steady=self.kind.steady):
            problems.append("a lower layer was changed")
        return [f"{self.kind.name}: {problem}" for problem in problems]

    def _check(self) -> list[str]:
        """What `pyunionfs check` finds."""
        words = ["-o", ",".join(self.options), mounts.join_layers(self.lowers)]
        done = subprocess.run(
            mounts.command("check", "--json", *words, str(self.upper), str(self.work)),
            capture_output=True,
            text=True,
            env=mounts.environment(),
            check=False,
        )
        findings = json.loads(done.stdout)["findings"] if done.stdout else []
        if done.returncode == 0 and not findings:
            return []
        said = "".join(f"\n  {each}" for each in findings[:_SHOWN]) or done.stderr
        return [f"pyunionfs check ended with {done.returncode}: {said}"]

    def _other_tree(self, ours: snapshot.Snapshot) -> list[str]:
        """Where kernel overlayfs shows another tree."""
        options = kernel_options(self.options)
        with mounts.overlayfs(self.lowers, self.upper, self.work, self.merged, options=options):
            theirs = snapshot.take(os.fsencode(self.merged))
        wrong = [
            f"kernel overlayfs sees another tree: {path} {what}: {left} here {right}"
            for path, what, left, right in snapshot.differences(theirs, ours)
        ]
        return wrong[:_SHOWN]


def brief(base: Path, lowers: Sequence[Path]) -> None:
    """Mount a union, use it and unmount it again, in directories that are gone afterwards."""
    upper, work, merged = mounts.make_directories(base, "upper", "work", "merged")
    with mounts.pyunionfs(lowers, upper, work, merged, foreground=False, log_file=False):
        (merged / "new").write_text("new")
        assert (merged / "new").read_text() == "new", "a new file is not as it was written"
        os.rename(merged / "new", merged / "moved")
        assert "moved" in os.listdir(merged), "a new name is not listed"
    assert (upper / "moved").read_text() == "new", "upper has not what was written"
    shutil.rmtree(base)
