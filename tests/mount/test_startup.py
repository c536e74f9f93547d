"""What a mount's start-up depends on: what is loaded until it serves. Nothing here is timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.mount.rig import run
from tests.support import transports
from tests.support.mounts import REPOSITORY, environment, needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]

SLOW_TO_LOAD = {
    "asyncio",
    "datetime",
    "difflib",
    "email",
    "glob",
    "http",
    "multiprocessing",
    "pyfuse3",
    "rich",
    "shlex",
    "shtab",
    "shutil",
    "ssl",
    "subprocess",
}

PROGRAM = """
import sys
import unionfs.daemon.readiness
def announce(self, *arguments, real=unionfs.daemon.readiness.Readiness.announce):
    with open(sys.argv[1], "w") as file:
        file.write("\\n".join(sys.modules))
    return real(self, *arguments)
unionfs.daemon.readiness.Readiness.announce = announce
from unionfs.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_nothing_is_loaded_in_vain(base: Path, transport: str) -> None:
    layers = [str(base / name) for name in ("lower", "upper", "work", "merged")]
    words = ["mount", *transports.mount_words(), *layers]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(base / "modules"), *words],
        cwd=REPOSITORY,
        env=environment(),
        check=True,
        timeout=30,
    )
    run("umount", base / "merged")
    loaded = set((base / "modules").read_text().split())
    assert ("trio" in loaded) == (transport == "pyfuse3")
    if transport == "direct":
        assert loaded & SLOW_TO_LOAD == set()


def test_fuse_overlayfs_s_form_loads_less(base: Path) -> None:
    layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,transport=direct"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(base / "modules"), "-o", layers, str(base / "merged")],
        cwd=REPOSITORY,
        env=environment(),
        check=True,
        timeout=30,
    )
    run("umount", base / "merged")
    assert set((base / "modules").read_text().split()) & {"argparse", *SLOW_TO_LOAD} == set()
