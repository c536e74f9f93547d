"""load, save, images, inspect and rmi as an ordinary user with a single id: owners are kept in attributes."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.images import directory, file, image, opaque, whiteout
from testing.images.archives import archive
from tests.support.mounts import environment, needs_root
from tests.support.users import as_user, open_home, ordinary_user
from unionfs.cli import main
from unionfs.image import blobs
from unionfs.image.layer_record import all_layers
from unionfs.image.store import Store

pytestmark = needs_root

MADE = image(
    [
        [directory("etc", 0o700, uid=5), file("etc/shadow", b"secret", 0, uid=5, gid=42), file("etc/gone")],
        [directory("etc"), whiteout("etc/gone"), opaque("etc"), file("su", b"x" * 100, 0o4755)],
    ],
    {"Cmd": ["su"]},
)


@pytest.fixture
def home() -> Iterator[tuple[Path, pwd.struct_passwd]]:
    """A directory of an ordinary user's, with archive.tar, and its owner."""
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        (home / "archive.tar").write_bytes(archive({"made:1": MADE}, "docker_compressed"))
        yield home, user


def run(user: pwd.struct_passwd, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command, by that user."""
    return subprocess.run(
        as_user(user, "unionfs", *words), env=environment(), capture_output=True, text=True, check=False
    )


def test_all_of_it(home: tuple[Path, pwd.struct_passwd], tmp_path: Path) -> None:
    place, user = home
    own = ("--store", place / "store")
    roots = ("--store", str(tmp_path / "store"))
    done = run(user, "load", *own, place / "archive.tar")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "Loaded image: made:1\n")
    store = Store(place / "store")
    assert {path.lstat().st_uid for path in store.root.rglob("*")} == {user.pw_uid}
    assert len({layer.record.form for layer in all_layers(store)}) == 1
    assert run(user, "images", *own, "--format", "{{.Repository}}:{{.Tag}}").stdout == "made:1\n"
    assert run(user, "inspect", *own, "-f", "{{.Id}}", "made:1").stdout == f"{MADE.id}\n"
    assert run(user, "save", *own, "made:1", "-o", place / "saved.tar").returncode == 0
    assert main(["load", *roots, str(place / "archive.tar")]) == 0
    assert main(["save", *roots, "made:1", "-o", str(tmp_path / "saved.tar")]) == 0
    assert (place / "saved.tar").read_bytes() == (tmp_path / "saved.tar").read_bytes()
    done = run(user, "rmi", *own, "made:1")
    assert (done.returncode, done.stderr) == (0, "")
    left = [*store.trees.iterdir(), *store.layers.iterdir(), *store.ingest.iterdir(), *blobs.all_blobs(store)]
    assert left == []


def test_a_store_that_may_not_be_written(home: tuple[Path, pwd.struct_passwd]) -> None:
    place, user = home
    done = run(user, "load", "--store", "/var/lib", place / "archive.tar")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("pyunionfs: /var/lib")
