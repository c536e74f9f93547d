"""The whole way with a real system, where engines work: `python -m tests.container.round_trip PLACE TREE`.

Push, pull, change, commit, push; then podman, whose store is empty, pulls and runs that. Asserts every step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from testing.images.trees import Node, tree
from tests.containers.engines import Engine
from tests.programs.debian import INSTALLED_LATER
from tests.support.interop import assert_same
from tests.support.mounts import command, environment
from tests.support.registries import serving

CHANGE = f"""
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
options="-qq -y --no-download --no-install-recommends"
apt-get install $options {" ".join(INSTALLED_LATER)} >/log 2>&1 || {{ cat /log; exit 1; }}
rm -r /usr/share/doc/apt
mv /usr/share/doc/dpkg /usr/share/doc/moved
chmod 4750 /bin/mount
ln /etc/hosts.allow /etc/linked || ln /etc/debian_version /etc/linked
"""
LOOK = "git --version; less --version | head -1; dpkg -l | md5sum; cat /etc/linked; ls /usr/share/doc/moved"


def main(place: Path, base: Path) -> None:
    with serving(place / "registry") as registry:
        plain, changed = f"{registry.name}/debian:plain", f"{registry.name}/debian:changed"
        first, second = place / "first", place / "second"
        ours(first, "import", "-c", 'CMD ["bash"]', base, plain)
        ours(first, "push", "-q", plain)
        ours(second, "pull", "-q", plain)
        ours(second, "run", "--name", "work", plain, "sh", "-c", CHANGE)
        ours(second, "commit", "-m", "with git", "work", changed)
        pushed = ours(second, "push", changed)
        assert pushed.count("Layer already exists") == 1, pushed
        seen = ours(second, "run", "--rm", changed, "sh", "-c", LOOK)
        assert seen.startswith("git version ")
        shown = shown_by_ours(second, changed, place / "merged")
        (place / "engine").mkdir()
        engine = Engine(place / "engine", "")
        try:
            engine.podman("pull", "-q", "--tls-verify=false", changed)
            mounted = Path(engine.podman("image", "mount", changed).strip())
            assert_same(shown, tree(mounted))
            assert len(shown) > 5000
            engine.podman("image", "umount", changed)
            assert engine.podman("run", "--rm", "--network", "host", changed, "sh", "-c", LOOK) == seen
        finally:
            engine.clear_away()


def ours(store: Path, *words: str | Path) -> str:
    done = subprocess.run(
        command(*map(str, words)),
        env={**environment(), "PYUNIONFS_STORE": str(store)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def shown_by_ours(store: Path, name: str, merged: Path) -> dict[bytes, Node]:
    merged.mkdir()
    ours(store, "mount", "--image", name, merged)
    try:
        return tree(merged)
    finally:
        ours(store, "umount", merged)


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
