"""mount(8) and umount(8) with pyunionfs installed, for tests: in namespaces, the machine keeps its own.

mount(8) looks for its helpers in /sbin only, and notes what it did in /run/mount. Here both are in memory,
and end with the script that uses them, as do all mounts and daemons. (tests/systemd has a machine of its own
with an /etc/fstab; here libmount is told of another.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.mounts import scratch

needs_mount8 = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("mount", "umount", "findmnt", "unshare")),
    reason="needs util-linux (packages mount and util-linux)",
)

# /usr/sbin becomes a directory of links to what is in it, and not an overlay: who installs something on this
# machine meanwhile must not disturb a test.
_PREPARE = """
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mkdir "$SPACE/sbin"
mount --bind /usr/sbin "$SPACE/sbin"
mount -t tmpfs -o mode=755 tmpfs /usr/sbin
ln -s "$SPACE"/sbin/* /usr/sbin/
rm -f /usr/sbin/*pyunionfs
cp -a "$SPACE"/programs/* /usr/sbin/
cd "$BASE"
set +eu
"""


@dataclass(frozen=True)
class Mount8:
    """Where scripts run: `base` has the layers, and is their working directory and $BASE."""

    base: Path

    def run(self, script: str, *, fstab: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Have a shell run this with these lines in /etc/fstab; its last command decides about the status."""
        with scratch() as space:
            os.chmod(space, 0o755)
            (space / "programs").mkdir()
            programs.install(space / "programs", space / "programs")
            (space / "fstab").write_text("".join(f"{line}\n" for line in fstab))
            namespaces = [
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation=private",
            ]
            return subprocess.run(
                ["unshare", *namespaces, "bash", "-c", _PREPARE + script],
                env={
                    **os.environ,
                    "BASE": str(self.base),
                    "SPACE": str(space),
                    "LIBMOUNT_FSTAB": str(space / "fstab"),
                    "PATH": f"{space}/programs:{os.environ['PATH']}",
                    "LC_ALL": "C",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
