"""Fixed seeds of the oracle over filesystems and mount options, and the oracle's own tests.

`make fuzz` goes on from here with as many seeds as one likes. An oracle that finds nothing where there is
something would make all of this worthless, so it is tried on sides that are known to differ, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from testing.oracle import layers, rules
from testing.oracle.campaign import campaign
from testing.oracle.case import Case, Config, Entry, Op, Stack
from testing.oracle.sides import Kernel, PyUnionFS, Union
from testing.oracle.worker import Worker
from tests.overlay.test_copy_up import UNDEFINED, acl
from tests.support import transports
from tests.support.mounts import make_directories, needs_fuse, needs_overlayfs, scratch

OPERATIONS = 150
OPTIONS = [
    {"redirect": True},
    {"redirect": False},
    {"redirect": True, "index": True},
    {"redirect": False, "index": True},
    {"redirect": True, "metacopy": True},
    {"redirect": True, "index": True, "metacopy": True},
]
SEEDS = {"ext4": range(3), "xfs": range(10, 11), "btrfs": range(20, 21), "tmpfs": range(30, 31)}
MODES: tuple[list[str], ...] = ([], ["passthrough=off"], ["coherent"])
"""Of data. Seed by seed in turn, as is an ordinary user's acting."""
OFFSET = {"direct": 0, "pyfuse3": 100}
"""Each transport has seeds of its own: a difference is seldom the transport's."""

pytestmark = needs_overlayfs


@needs_fuse
@pytest.mark.parametrize("fs", SEEDS)
def test_same_as_kernel_overlayfs(fs: str, transport: str, tmp_path: Path) -> None:
    findings = []
    with campaign(fs, Kernel(), PyUnionFS(), ops=OPERATIONS) as field:
        for number, options in enumerate(OPTIONS):
            for seed in SEEDS[fs]:
                field.subject = PyUnionFS(MODES[(seed + number) % len(MODES)])
                config = Config(fs, **options, user=(seed + number) % 2 == 1)
                finding = field.try_seed(seed + OFFSET[transport], config)
                if finding is not None:
                    findings.append(finding)
        if findings:
            # One readable case says more than many raw ones.
            findings[0] = field.minimised(findings[0], seconds=30)
            findings[0].case.save(tmp_path / "first.case")
    reports = "\n\n".join(finding.report() for finding in findings[:3])
    assert not findings, f"{len(findings)} seeds differ (replay: {tmp_path / 'first.case'})\n{reports}"


@needs_fuse
@pytest.mark.parametrize(
    ("config", "extra"),
    [
        (Config("tmpfs", metacopy=True, data=True), []),
        (Config("tmpfs", metacopy=True, data=True, index=True), []),
        (Config("tmpfs", redirect=False), ["whiteouts=aufs"]),
        (Config("tmpfs", redirect=False, index=True), ["whiteouts=aufs"]),
    ],
    ids=["data-only layers", "data-only layers, index", "aufs", "aufs, index"],
)
def test_the_same_with(config: Config, extra: list[str], transport: str) -> None:
    with campaign("tmpfs", Kernel(), PyUnionFS(extra), ops=OPERATIONS) as field:
        for seed in range(40, 43):
            finding = field.try_seed(seed + OFFSET[transport], config)
            assert finding is None, finding.report()


@needs_fuse
@pytest.mark.usefixtures("transport")
def test_a_merged_directory_has_one_link() -> None:
    """What the oracle's rule about the links of directories leaves unseen."""
    with scratch() as base:
        lower, upper, work, merged = make_directories(base)
        for path in (lower / "pure/inner", lower / "merged/inner", upper / "merged", upper / "own/inner"):
            path.mkdir(parents=True)
        union = Union((lower,), upper, work, merged)
        for side in (Kernel(), PyUnionFS()):
            with side.mount(union, []):
                links = {path.name: path.stat().st_nlink for path in merged.iterdir()}
            assert links == {"pure": 3, "merged": 1, "own": 3}, side.name


def test_the_kernel_agrees_with_itself() -> None:
    with campaign("ext4", Kernel(), Kernel(), ops=OPERATIONS) as field:
        for number, options in enumerate(OPTIONS):
            finding = field.try_seed(1000 + number, Config("ext4", **options))
            assert finding is None, finding.report()


class _Unlike(Kernel):
    """A kernel mount that does not do as it is told."""

    def __init__(self, told: str, does: str) -> None:
        self.told = told
        self.does = does

    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        return super().mount(union, [self.does if option == self.told else option for option in options])


class _Backwards(Kernel):
    """A kernel mount that takes the data-only layers in the wrong order."""

    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        return super().mount(replace(union, data=union.data[::-1]), options)


def test_data_only_layers_matter() -> None:
    config = Config("tmpfs", metacopy=True, data=True)
    with campaign("tmpfs", Kernel(), _Backwards(), ops=40) as field:
        assert any(field.try_seed(seed, config) is not None for seed in range(10)), "no seed noticed"


@pytest.mark.parametrize(
    ("told", "does", "config"),
    [
        ("redirect_dir=on", "redirect_dir=off", Config("tmpfs")),
        ("index=on", "index=off", Config("tmpfs", index=True)),
        ("metacopy=off", "metacopy=on", Config("tmpfs")),
    ],
)
def test_a_side_that_differs_is_found_out(told: str, does: str, config: Config) -> None:
    with campaign("tmpfs", Kernel(), _Unlike(told, does), ops=OPERATIONS) as field:
        findings = [field.try_seed(seed, config) for seed in range(15)]
        found = [finding for finding in findings if finding is not None]
        assert found, "no seed noticed"
        short = field.minimised(found[0], seconds=10)
        assert len(short.case.ops) < OPERATIONS / 5
        assert field.try_case(short.case) is not None, "the minimised case does not replay"


OLD_READER = (
    Op("open", (b"/file", os.O_RDONLY, 0, 0)),
    Op("put", (b"/file", os.O_WRONLY, 0o644, 0, b"new")),
)
MISLED = {
    "read": (Op("fread", (0, 0, 10)),),
    "flock": (
        Op("flock", (0, "sh")),
        Op("open", (b"/file", os.O_RDONLY, 0, 0), actor=1),
        Op("flock", (0, "ex"), actor=1),
    ),
    "record lock of processes": (
        Op("setlk", (0, False, "read", 0, 10)),
        Op("open", (b"/file", os.O_RDWR, 0, 0), actor=1),
        Op("setlk", (0, False, "write", 5, 10), actor=1),
    ),
    "record lock of open files": (
        Op("setlk", (0, True, "read", 0, 10)),
        Op("open", (b"/file", os.O_RDWR, 0, 1)),
        Op("setlk", (1, True, "write", 5, 10)),
    ),
    "looking for a lock": (
        Op("setlk", (0, True, "read", 0, 10)),
        Op("open", (b"/file", os.O_RDWR, 0, 0), actor=1),
        Op("getlk", (0, False, "write", 5, 10), actor=1),
    ),
}


@needs_fuse
@pytest.mark.parametrize("what", MISLED)
def test_a_misled_old_reader_is_found_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With passthrough=on, of which no rule knows here; by default there is no difference."""
    monkeypatch.setenv(transports.VARIABLE, "direct")
    entries = tuple(Entry(layer, b"", "dir", 0o755) for layer in (0, -1))
    lower = Entry(0, b"file", "file", size=20, chunks=((0, 20, 1),))
    ops = (*OLD_READER, *MISLED[what])
    case = Case(1, Config("tmpfs"), (Stack(), Stack()), (*entries, lower), ops)
    misleading = PyUnionFS(["passthrough=on"])
    misleading.uses_passthrough = False
    with campaign("tmpfs", Kernel(), misleading, ops=OPERATIONS) as field:
        finding = field.try_case(case)
        assert finding is not None
        assert finding.difference.index == len(ops) - 1
        field.subject = PyUnionFS()
        finding = field.try_case(case)
        assert finding is None, finding.report()


def test_looking_at_the_tree_drops_no_lock(tmp_path: Path) -> None:
    """Which a process does that closes a directory on which it has record locks."""
    (tmp_path / "dir").mkdir()
    worker = Worker()
    try:
        worker.enter(tmp_path)
        for actor in (0, 1):
            worker.perform(Op("open", (b"/dir", os.O_RDONLY, 0, 0), actor=actor))
        worker.perform(Op("setlk", (0, False, "read", 0, 10)))
        for look in (worker.tree, worker.numbers, worker.snapshot):
            look()
        found = worker.perform(Op("getlk", (0, False, "write", 0, 10), actor=1))
        assert found[1][0] == ("read", 0, 10, "a process")
        worker.leave()
    finally:
        worker.close()


def test_a_case_survives_being_written_down(tmp_path: Path) -> None:
    case = layers.generate(7, Config("tmpfs", index=True))
    with campaign("tmpfs", Kernel(), _Unlike("index=on", "index=off"), ops=40) as field:
        for seed in range(40):
            finding = field.try_seed(seed, case.config)
            if finding is not None and any(stack.ops for stack in finding.case.stacks):
                case = finding.case
                break
    assert Op("remount") in case.ops
    case.save(tmp_path / "a.case")
    assert Case.load(tmp_path / "a.case") == case


@needs_fuse
@pytest.mark.parametrize("extra", [[], ["passthrough=off"]], ids=str)
def test_acls_that_xfs_lists_twice(extra: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In an upper on xfs, not in a lower elsewhere; where opens are silent, the file stays in the lower.

    Without its rule the oracle sees that, and only there.
    """
    named = acl((1, 6, UNDEFINED), (2, 4, 1000), (4, 4, UNDEFINED), (16, 4, UNDEFINED), (32, 4, UNDEFINED))
    entries = (
        Entry(0, b"", "dir", 0o755),
        Entry(0, b"file", "file", 0o644, size=10, xattrs=(("system.posix_acl_access", named),)),
        Entry(-1, b"", "dir", 0o755),
    )
    ops = (
        Op("put", (b"/file", os.O_WRONLY, 0o644, None, b"")),
        Op("listxattr", (b"/file", True)),
    )
    case = Case(1, Config("xfs"), (Stack(elsewhere=True), Stack()), entries, ops)
    with campaign("xfs", Kernel(), PyUnionFS(extra), ops=0) as field:
        assert field.try_case(case) is None
        monkeypatch.setattr(rules, "SGI_ACLS", set())
        assert (field.try_case(case) is not None) == (extra == ["passthrough=off"])
