"""The same script in a container of podman and in one of `run`: what it sees of itself is the same."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container.boxes import Shop, make_tree
from tests.containers import engines
from tests.support.mounts import needs_fuse, needs_root, scratch
from tests.support.transports import one_transport
from tests.support.users import run_to_the_end, unshared

pytestmark = [needs_root, needs_fuse, one_transport]

SCRIPT = r"""
grep -e ^Cap -e ^Uid -e ^Gid /proc/self/status
umask; pwd; id -u; env | grep -e ^PATH -e ^HOME -e ^KIND | sort
ls /dev
readlink /dev/fd; readlink /dev/ptmx
for each in /proc/kcore /proc/keys /proc/timer_list /proc/acpi /sys/firmware; do
    if test -d $each; then echo $each $(ls $each | wc -l)
    elif test -e $each; then echo $each $(wc -c <$each); fi
done
for each in /proc/sys/kernel/hostname /sys/kernel/uevent_seqnum; do
    (echo x >$each) 2>/dev/null && echo writes $each
done
mknod /node c 1 3 && echo made
stat -c '%a %F' /dev/null /dev/zero /dev/tty
stat -c '%a %u %g %F' /proc /sys /dev /dev/pts /dev/shm /dev/mqueue /etc/hosts /etc/hostname
"""

MODULE = "tests.container.test_against_podman"


def test_what_a_process_sees_of_itself() -> None:
    missing = engines.missing()
    if missing is not None:
        pytest.skip(f"needs {missing}")
    with scratch() as place:
        run_to_the_end([*unshared(), "tests.containers.start", "0", "0", MODULE, str(place)])
        seen = json.loads((place / "seen.json").read_text())
    for user in ("", "ann", "1000:5", "7"):
        podman, ours = (seen[user][name].splitlines() for name in ("podman", "ours"))
        assert [line for line in difflib.ndiff(podman, ours) if line[0] != " "] == [], user


def main(place: Path) -> None:
    """In namespaces where engines work: run both, and write down what is seen."""
    shop = Shop(place / "shop", Env=["KIND=box"])
    engine = engines.Engine(_made(place / "engine"), "")
    make_tree(place / "tree")
    subprocess.run(["tar", "-C", place / "tree", "-cf", place / "tree.tar", "."], check=True)
    engine.podman("import", "-q", "-c", "ENV KIND=box", place / "tree.tar", "box:latest")
    seen: dict[str, dict[str, str]] = {}
    try:
        for user in ("", "ann", "1000:5", "7"):
            words = ["-u", user] if user else []
            seen[user] = {
                "podman": engine.podman(
                    "run", "--rm", "--network", "host", *words, "localhost/box", "sh", "-c", SCRIPT
                ),
                "ours": shop.do("run", "--rm", *words, "box", "sh", "-c", SCRIPT),
            }
    finally:
        engine.clear_away()
    (place / "seen.json").write_text(json.dumps(seen))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1]))
