"""A mount over the daemon's own code: what it has not loaded before the mount it never finds again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.rig import eventually, gone, statuses
from tests.support.mounts import REPOSITORY, command, environment, mount_types, needs_fuse, needs_root, umount

pytestmark = [needs_root, needs_fuse]


@contextmanager
def mounted_over_its_code(base: Path, *options: str) -> Iterator[Path]:
    """Run from a copy of the package, which the mount hides; the log must be without a failed import."""
    site, log = base / "site", base / "log"
    shutil.copytree(REPOSITORY / "unionfs", site / "unionfs", ignore=shutil.ignore_patterns("__pycache__"))
    words = [
        "mount",
        "--log-file",
        str(log),
        *options,
        *(str(base / name) for name in ("lower", "upper", "work")),
    ]
    env = {**environment(), "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    subprocess.run(command(*words, str(site)), cwd=base, env=env, check=True, timeout=30)
    try:
        assert mount_types(site) == ["fuse.pyunionfs"]
        assert not (site / "unionfs").exists()
        (status,) = statuses(site)
        yield site
    finally:
        umount(site)
    assert eventually(lambda: gone(status["pid"]))
    assert "is unmounted" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("options", [(), ("-o", "passthrough=off"), ("-o", "auto_unmount")])
def test_everything_goes_on(base: Path, options: tuple[str, ...]) -> None:
    (base / "lower" / "dir").mkdir()
    (base / "lower" / "dir" / "big").write_bytes(os.urandom(3 << 20))
    with mounted_over_its_code(base, *options) as merged:
        assert sorted(os.listdir(merged)) == ["dir", "file"]
        with (merged / "dir" / "big").open("r+b") as file:
            file.write(b"changed")
            file.flush()
            os.fsync(file.fileno())
        (merged / "dir").rename(merged / "moved")
        (merged / "file").unlink()
        (merged / "new").symlink_to("moved")
        os.setxattr(merged / "moved", "user.note", b"1")
        shutil.rmtree(merged / "moved")
        assert os.listdir(merged) == ["new"]
        done = subprocess.run(
            command("status", str(merged)), env=environment(), capture_output=True, text=True, check=True
        )
        assert "union" in done.stdout
