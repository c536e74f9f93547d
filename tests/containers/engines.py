"""podman and buildah with all that they keep in one directory, and a mount program of ours or another's.

No network, no registry, no systemd; what the machine's own configuration says counts for nothing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("podman", "buildah", "crun", "conmon", "newuidmap", "busybox")

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{root}/store"
rootless_storage_path = "{root}/store"
runroot = "{root}/run"
[storage.options.overlay]
{options}
"""

_CONTAINERS = """\
[containers]
netns = "{network}"
seccomp_profile = "unconfined"
cgroups = "disabled"
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
tmp_dir = "{root}/tmp"
[network]
network_config_dir = "{root}/network"
"""


def missing() -> str | None:
    """The first program that the tests need and this machine has not; None: all are here."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return next((name for name in PROGRAMS if shutil.which(name, path=path) is None), None)


def count_ids() -> int:
    """How many user ids this user's containers can have."""
    if os.geteuid() == 0:
        return 1 << 32
    name = pwd.getpwuid(os.getuid()).pw_name
    entries = [line.split(":") for line in Path("/etc/subuid").read_text().splitlines()]
    return 1 + sum(int(count) for owner, _, count in entries if owner == name)


class Engine:
    """One store, with what is run on it. Every command must succeed."""

    def __init__(self, root: Path, program: str, options: str = "") -> None:
        self.root = root
        self.options = options
        self.runtime = root / "xdg"
        self.runtime.mkdir(mode=0o700)
        for name in ("tmp", "network", "files"):
            (root / name).mkdir()
        self.use(program)
        # Root has no bridge without plugins; a user's own network namespace needs more programs.
        network = "none" if os.geteuid() == 0 else "host"
        (root / "containers.conf").write_text(_CONTAINERS.format(root=root, network=network))

    def use(self, program: str) -> None:
        """Have this mount program from now on; an empty name: kernel overlayfs."""
        lines = [self.options, f'mount_program = "{program}"' if program else ""]
        text = _STORAGE.format(root=self.root, options="\n".join(lines))
        (self.root / "storage.conf").write_text(text)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
            "HOME": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "CONTAINERS_STORAGE_CONF": str(self.root / "storage.conf"),
            "CONTAINERS_CONF": str(self.root / "containers.conf"),
            "LC_ALL": "C.UTF-8",
        }

    def run(self, *words: str | Path, status: int = 0) -> str:
        """Run a command there and return what it prints."""
        done = subprocess.run(
            list(map(str, words)),
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        said = f"{done.stderr}\n{done.stdout}"
        assert done.returncode == status, f"{words} ended with {done.returncode}: {said}"
        return done.stdout

    def podman(self, *words: str | Path, status: int = 0) -> str:
        return self.run("podman", *words, status=status)

    def buildah(self, *words: str | Path) -> str:
        return self.run("buildah", *words)

    def remove(self) -> None:
        """Remove the store itself: what a user's containers made belongs to ids of his user namespace."""
        if os.geteuid() != 0:
            words = ["podman", "unshare", "rm", "-rf", f"{self.root}/store", f"{self.root}/run"]
            quiet = subprocess.DEVNULL
            # The place of the store is busy: only what is in it can be removed.
            subprocess.run(
                words, env=self.environment(), cwd=self.root, check=False, stdout=quiet, stderr=quiet
            )

    def clear_away(self) -> None:
        """Remove all that is in the store, with the engine's own commands."""
        self.podman("rm", "--all", "--force")
        self.podman("rmi", "--all", "--force")
