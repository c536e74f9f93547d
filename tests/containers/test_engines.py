"""podman and buildah with pyunionfs as mount program: what comes of it is right, and as by fuse-overlayfs."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import programs
from tests.support.mounts import environment, needs_fuse, needs_overlayfs, needs_root
from tests.support.pages import ShellBlock
from tests.support.transports import one_transport
from tests.support.users import open_home, ordinary_user, unshared

pytestmark = [
    needs_root,
    needs_fuse,
    one_transport,
    pytest.mark.usefixtures("engines"),
]

FUSE_OVERLAYFS = shutil.which("fuse-overlayfs")
needs_fuse_overlayfs = pytest.mark.skipif(FUSE_OVERLAYFS is None, reason="no fuse-overlayfs to compare with")

DIFF = """
A /data/fifo
A /data/new dir
A /data/new dir/file
A /data/renamed
A /data/symlink
C /data
C /data/built
C /data/moved
C /data/one
C /etc
D /data/copied
D /data/kept
D /data/moved/sub
""".strip().splitlines()

COMPARED = ("listing", "diff", "again", "image")


@dataclass(frozen=True)
class Who:
    """Who runs the engine: root, or an ordinary user with many or with a single id for his containers.

    `masked`: all real modes are alike, and the true ones are in attributes (xattr_permissions=2).
    """

    uid: int
    single: bool = False
    masked: bool = False

    @property
    def options(self) -> str:
        words = ['ignore_chown_errors = "true"'] if self.single else []
        return "\n".join([*words, 'force_mask = "shared"'] if self.masked else words)

    def run(self, module: str, *arguments: str | None) -> dict[str, Any]:
        """Run a module that prints JSON, in a directory of its own; None among the programs is pyunionfs."""
        with open_home(self.uid) as home:
            ours = home / "pyunionfs"
            programs.write(ours)
            words = [str(ours) if program is None else program for program in arguments]
            start = [*unshared(), "tests.containers.start", str(self.uid), str(self.uid)]
            done = subprocess.run(
                [*start, f"tests.containers.{module}", str(home), *words],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            outcome: dict[str, Any] = json.loads(done.stdout)
            return outcome

    def clear_up(self) -> None:
        """Remove what podman's helpers leave in /tmp, whatever they are configured for."""
        if self.uid != 0:
            for name in ("containers-user", "podman-run"):
                shutil.rmtree(f"/tmp/{name}-{self.uid}", ignore_errors=True)


@pytest.fixture(params=["root", "user", "single-id", "single-id-masked"])
def who(request: pytest.FixtureRequest) -> Iterator[Who]:
    if request.param == "root":
        yield Who(0)
        return
    single = request.param.startswith("single-id")
    with ordinary_user(subordinate_ids=not single) as user:
        made = Who(user.pw_uid, single, request.param.endswith("-masked"))
        yield made
        made.clear_up()


@pytest.mark.shell_block("docs/containers.md", "podman and buildah", 2)
def test_the_life_of_an_image(who: Who, shell_block: ShellBlock) -> None:
    ours = who.run("life", None, who.options, shell_block.script)
    assert ours["filesystem"] == "fuse.pyunionfs"
    assert "pyunionfs" in ours["version"]
    # Nobody else can own anything where there is a single id: that file was not changed then.
    left_out = ["C /data/one"] * who.single + ["A /data/fifo"] * who.masked
    assert ours["diff"] == [line for line in DIFF if line not in left_out]
    assert ours["listing"][0] == "refused"
    assert ours["left"] == {"mounts": [], "processes": [], "layers": []}
    first, second, committed = ours["restarts"]
    assert first.split() == ["refused", "/data/moved:", "leaf", "sub", "/full:", "file", "of"]
    assert second.split() == ["refused", "/data/moved:", "this", "/full:"]
    assert committed.split() == ["/data/moved:", "this", "/full:"]
    by_engine, by_hand = ours["by hand"]
    assert by_engine == by_hand
    assert by_hand["data/renamed"][1:3] == ([0, 0] if who.single else [3, 4])
    top = ours["image"][-1]
    assert top["data/built"][:3] == ["0100644", 0, 0]
    if not who.single:
        assert top["data/one"][:3] == ["0100600", 7, 8]
    assert all(entry[-1] == {} for layer in ours["image"] for entry in layer.values())
    if who.masked:
        # Others' files are nobody's. fuse-overlayfs 1.10 lets real modes and the attributes into the image.
        assert by_hand["data/one"][0] == "-rw-------"
        assert by_hand["others"][1] == int(Path("/proc/sys/kernel/overflowuid").read_text())
    if who.single:
        return
    if FUSE_OVERLAYFS is None:
        pytest.skip("all well, but there is no fuse-overlayfs to compare with")
    theirs = who.run("life", FUSE_OVERLAYFS, who.options)
    assert theirs["filesystem"] == "fuse.fuse-overlayfs"
    assert {name: ours[name] for name in COMPARED} == {name: theirs[name] for name in COMPARED}


TYPES = {"pyunionfs": "fuse.pyunionfs", "fuse-overlayfs": "fuse.fuse-overlayfs", "overlayfs": "overlay"}


@pytest.mark.parametrize(
    ("user", "before", "after"),
    [
        pytest.param("root", "fuse-overlayfs", "pyunionfs", marks=needs_fuse_overlayfs),
        pytest.param("user", "fuse-overlayfs", "pyunionfs", marks=needs_fuse_overlayfs),
        pytest.param("root", "pyunionfs", "fuse-overlayfs", marks=needs_fuse_overlayfs),
        pytest.param("root", "overlayfs", "pyunionfs", marks=needs_overlayfs),
        pytest.param("user", "overlayfs", "pyunionfs", marks=needs_overlayfs),
    ],
)
def test_a_store_that_others_have_used(user: str, before: str, after: str) -> None:
    given = {"pyunionfs": None, "fuse-overlayfs": FUSE_OVERLAYFS, "overlayfs": ""}
    with contextlib.ExitStack() as stack:
        uid = 0
        if user != "root":
            uid = stack.enter_context(ordinary_user(subordinate_ids=True)).pw_uid
        who = Who(uid)
        stack.callback(who.clear_up)
        outcome = who.run("stores", given[before], given[after])
    *seen, mounted = outcome["before"]
    assert mounted.split()[2] == TYPES[before]
    for name in ("after", "again"):
        *now, mounted = outcome[name]
        assert now == seen
        assert mounted.split()[2] == TYPES[after]
    assert outcome["diff"] == [
        *("A /data/before", "A /data/moved/this", "A /data/renamed", "C /data", "C /data/built"),
        *("C /data/moved", "C /data/one", "C /etc", "C /full", "D /data/copied", "D /data/kept"),
        *("D /data/moved/leaf", "D /data/moved/sub", "D /full/file", "D /full/of"),
    ]
    # Of the layers below, the engine itself let kernel overlayfs's user.overlay.* into the image.
    assert all(entry[-1] == {} for entry in outcome["image"][-1].values())
    assert outcome["left"] == {"mounts": [], "processes": [], "layers": []}
