"""Changes of random unions against a brute-force comparison of what is mounted with its lowers."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.offline import brute, random_unions
from tests.oracle.case import Config
from tests.oracle.worker import Worker
from tests.support.mounts import needs_overlayfs, overlayfs, scratch
from unionfs.offline.change import Change
from unionfs.offline.changes import changes

pytestmark = needs_overlayfs

SEEDS = 150
OPERATIONS = 40

ON_OFF = {True: "on", False: "off"}
OPTIONS = {
    "plain": (Config("tmpfs", redirect=False), ["redirect_dir=off"]),
    "redirect": (Config("tmpfs", redirect=True), ["redirect_dir=on"]),
    "index": (Config("tmpfs", redirect=True, index=True), ["redirect_dir=on", "index=on"]),
    "metacopy": (Config("tmpfs", redirect=True, metacopy=True), ["redirect_dir=on", "metacopy=on"]),
    "all": (
        Config("tmpfs", redirect=True, index=True, metacopy=True),
        ["redirect_dir=on", "index=on", "metacopy=on"],
    ),
    "userxattr": (Config("tmpfs", redirect=False), ["userxattr"]),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with scratch(Path("/dev/shm")) as where:
        yield where


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize("name", OPTIONS)
def test_random_unions(ground: Path, worker: Worker, name: str) -> None:
    config, options = OPTIONS[name]
    for seed in range(SEEDS):
        base = ground / f"{name}-{seed}"
        base.mkdir()
        try:
            _check(random_unions.make(base, seed, config, options, worker, ops=OPERATIONS), options, seed)
        finally:
            shutil.rmtree(base)


def _check(stack: random_unions.Stack, options: list[str], seed: int) -> None:
    with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged, options=options):
        union = brute.take(stack.merged)
    # overlayfs wants two lowers at least.
    with overlayfs([*stack.lowers, stack.empty], None, None, stack.merged, options=options):
        below = brute.take(stack.merged)
    found = list(changes(str(stack.upper), list(map(str, stack.lowers)), userxattr="userxattr" in options))
    listed = {}
    for change in found:
        assert isinstance(change, Change), f"seed {seed}: {change}"
        assert change.path not in listed, f"seed {seed}: {change.path!r} is listed twice"
        listed[change.path] = change
    others = frozenset(_other_names(union, below, listed)) if "index=on" in options else frozenset()
    expected = brute.changes(union, below, but=others)
    assert {path: change.kind for path, change in listed.items()} == expected, f"seed {seed}"
    for path, change in listed.items():
        if change.kind == "C":
            _check_differs(change, brute.differences(union[path], below[path]), seed)
        # A lower file in a directory that has moved may show what was written to another of its names.
        if change.type == "file" and change.kind != "D" and (change.disk or "index=on" not in options):
            assert change.size == union[path]["size"]
        mine = [other for other in others if union[other]["number"] == union.get(path, {}).get("number")]
        assert len(mine) <= change.unlisted_links, f"seed {seed}: {path!r} and {mine}"


def _other_names(union: brute.Tree, below: brute.Tree, listed: dict[bytes, Change]) -> Iterator[bytes]:
    """The names that only lowers have of files that have changed under another name (an index)."""
    changed = {union[path]["number"] for path, change in listed.items() if change.kind != "D"}
    for path, node in union.items():
        linked = node["type"] == stat.S_IFREG and node["number"] in changed
        if linked and path not in listed and path in below and brute.differences(node, below[path]):
            yield path


def _check_differs(change: Change, differs: set[str], seed: int) -> None:
    """What is said to differ does; all of it is named, but for data, which is looked at only if nothing is."""
    assert change.differs is not None
    said = set(change.differs)
    assert said <= differs, f"seed {seed}: {change.path!r}"
    assert differs - said <= {"data"}, f"seed {seed}: {change.path!r}"
    assert said or change.type == "directory"
