"""`pyunionfs check` and mounts: a mounted union is refused, and what a killed daemon leaves is mended."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.crash.record import kill_in_load
from testing.crash.rig import Loss, Rig, copy_up_under_way
from tests.mount.rig import eventually, run
from tests.offline.checking import check, repair
from tests.support.mounts import loop_fs, make_directories, needs_overlayfs, overlayfs, pyunionfs, scratch
from unionfs.overlay.config import UnionConfig

pytestmark = needs_overlayfs

SIZE = 128 << 20


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Path]:
    with scratch(tmp_path) as base:
        make_directories(base)
        (base / "lower/f").write_text("f")
        yield base


def command(base: Path, *words: str, status: int) -> str:
    """What a check of these layers says."""
    done = run("check", *words, base / "lower", base / "upper", base / "work", status=status)
    return done.stdout + done.stderr


def test_a_mounted_union_is_refused(layers: Path, transport: str) -> None:
    lower, upper, work, merged = (layers / name for name in ("lower", "upper", "work", "merged"))
    os.mknod(upper / "nothing", 0o20000, 0)
    with pyunionfs([lower], upper, work, merged):
        for words in ([], ["--repair"]):
            assert "is in use by the mount on " in command(layers, *words, status=1)
    assert (upper / "nothing").exists()
    with overlayfs([lower], upper, work, merged):
        for words in ([], ["--repair"]):
            assert f"in use by kernel overlayfs mounted at {merged}" in command(layers, *words, status=1)
    assert (upper / "nothing").exists()
    assert "repaired: the whiteout was removed" in command(layers, "--repair", status=0)
    assert not (upper / "nothing").exists()


@pytest.mark.one_transport
def test_after_a_volatile_mount(layers: Path, transport: str) -> None:
    lower, upper, work, merged = (layers / name for name in ("lower", "upper", "work", "merged"))
    with pyunionfs([lower], upper, work, merged, options=["volatile"]):
        (merged / "new").write_text("new")
    assert "was used by a volatile mount" in run("mount", lower, upper, work, merged, status=1).stderr
    said = json.loads(command(layers, "--json", "--repair", status=1))
    (finding,) = said["findings"]
    assert (finding["kind"], finding["repairable"], finding["mended"]) == ("volatile", True, None)
    assert "--accept-volatile" in finding["not_mended"]
    assert "has not been started since" in finding["reason"]
    command(layers, "--repair", "--accept-volatile", status=0)
    with pyunionfs([lower], upper, work, merged):
        assert (merged / "new").read_text() == "new"


@pytest.mark.one_transport
def test_what_a_copy_up_leaves_that_was_cut_off(layers: Path, transport: str) -> None:
    lower, upper, work, merged = (layers / name for name in ("lower", "upper", "work", "merged"))
    with (lower / "big").open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
    with pyunionfs([lower], upper, work, merged) as daemon:
        caller = subprocess.Popen(["truncate", "--size=-1", str(merged / "big")], stderr=subprocess.DEVNULL)
        assert eventually(lambda: copy_up_under_way(work)), "no copy-up began"
        daemon.kill()
        assert caller.wait(15) != 0
    found = json.loads(command(layers, "--json", status=1))["findings"]
    assert {(each["kind"], os.path.dirname(each["path"])) for each in found} == {("litter", f"{work}/work")}
    assert "repaired: it was removed" in command(layers, "--repair", status=0)
    assert os.listdir(work / "work") == []
    assert "no findings" in command(layers, status=0)


class Checked(Rig):
    """The rig of the crash tests, which has each crash checked and mended before it mounts again."""

    def look(self) -> list[Loss]:
        options: dict[str, Any] = {name: f"{name}=on" in self.options for name in ("index", "metacopy")}
        config = UnionConfig(tuple(map(str, self.lowers)), str(self.upper), str(self.work), **options)
        outcomes = repair(config)
        # A whiteout over nothing is what overlayfs's order of steps leaves there, too.
        strange = [
            each.finding for each in outcomes if each.finding.kind not in ("litter", "whiteout", "index")
        ]
        left = [each for each in outcomes if each.done is None]
        again = check(config)
        losses = [Loss("a finding that no crash explains", str(each)) for each in strange]
        losses += [Loss("a finding that was not mended", str(each)) for each in left]
        losses += [Loss("a finding after the repair", str(each)) for each in again]
        return losses + super().look()


@pytest.mark.one_transport
def test_what_a_killed_daemon_leaves_is_mended_and_nothing_lost(transport: str, tmp_path: Path) -> None:
    with loop_fs("ext4", 1 << 30, directory=_memory()) as base:
        rig = Checked(base, "checked", options=["index=on", "metacopy=on"])
        for _ in range(3):
            lost = kill_in_load(rig, tmp_path)
            assert not lost, lost
        assert rig.operations > 50, "the load did nothing"


def _memory() -> Path | None:
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else None
