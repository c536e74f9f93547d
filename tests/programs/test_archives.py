"""tar, rsync and cp: every kind of object, out of the union and into it, must come back the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs.conftest import Union
from tests.programs.trees import describe, differences, make_zoo
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [
    needs_root,
    needs_fuse,
    pytest.mark.skipif(
        not all(shutil.which(name) for name in ("tar", "rsync", "setcap", "setfacl")),
        reason="needs tar, rsync, setcap and setfacl",
    ),
]

TAR = ["tar", "--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--sparse"]


@pytest.fixture
def zoo(space: Path) -> Path:
    """A layer with one of every kind of object."""
    make_zoo(space / "lower/zoo")
    return space / "lower"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_zoo_is_seen_as_it_is(union: Union, zoo: Path) -> None:
    with union([zoo]) as merged:
        assert not differences(describe(zoo / "zoo"), describe(merged / "zoo"))


def test_tar_round_trip(union: Union, zoo: Path) -> None:
    expected = {name: entry for name, entry in describe(zoo / "zoo").items() if name != b"socket"}
    with union([zoo]) as merged:
        run(*TAR, "--exclude=zoo/socket", "-cf", "zoo.tar", "zoo", cwd=merged)  # tar knows no sockets
        run(*TAR, "--compare", "-f", "zoo.tar", cwd=merged)
        (merged / "out").mkdir()
        run(*TAR, "-xpf", "../zoo.tar", cwd=merged / "out")
        got = describe(merged / "out/zoo")
        shutil.rmtree(merged / "zoo")
        run(*TAR, "-xpf", "zoo.tar", cwd=merged)  # over whiteouts
        again = describe(merged / "zoo")
        assert (merged / "zoo/sparse").stat().st_blocks * 512 < 1 << 20, "holes became data"
    for name, entry in expected.items():
        if name in (b"",):
            continue
        assert got[name] == entry
        assert again[name] == entry
    assert got.keys() == again.keys() == expected.keys()


def test_rsync_round_trip(union: Union, zoo: Path, space: Path) -> None:
    rsync = ["rsync", "-aHAXS", "--numeric-ids", "--devices", "--specials"]
    expected = describe(zoo / "zoo")
    with union([zoo]) as merged:
        run(*rsync, "zoo/", "copy/", cwd=merged)
        assert not differences(expected, describe(merged / "copy"))
        assert run(*rsync, "-ni", "--checksum", "--delete", "zoo/", "copy/", cwd=merged) == ""
        run(*rsync, f"{merged}/copy/", f"{space}/back/", cwd=merged)
        assert not differences(expected, describe(space / "back"))

        # bring a changed tree back to what it was, over the lower objects themselves
        changes = "rm -rf twins deep; echo x >> plain; rm listed; mkdir listed; chmod 1 group"
        run("sh", "-ec", changes, cwd=merged / "zoo")
        assert differences(expected, describe(merged / "zoo"))
        run(*rsync, "--delete", "--checksum", f"{space}/back/", "zoo/", cwd=merged)
        assert not differences(expected, describe(merged / "zoo"))
    with union([zoo]) as merged:
        assert not differences(expected, describe(merged / "zoo"))
    assert not differences(expected, describe(zoo / "zoo"))


def test_cp_archive_and_move(union: Union, zoo: Path) -> None:
    expected = describe(zoo / "zoo")
    with union([zoo]) as merged:
        run("cp", "-a", "zoo", "copy", cwd=merged)
        assert not differences(expected, describe(merged / "copy"))
        run("mv", "zoo", "moved", cwd=merged)
        assert not differences(expected, describe(merged / "moved"))
        assert not os.path.lexists(merged / "zoo")
        run("rm", "-rf", "moved", cwd=merged)
        assert os.listdir(merged) == ["copy"]
    with union([zoo]) as merged:
        assert os.listdir(merged) == ["copy"]
        assert not differences(expected, describe(merged / "copy"))
