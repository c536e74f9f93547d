"""Changes of random unions against a brute-force comparison of what is mounted with its lowers."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.offline import brute, random_unions
from tests.support.mounts import needs_overlayfs, overlayfs
from unionfs.offline.change import Change
from unionfs.offline.changes import changes

pytestmark = needs_overlayfs

SEEDS = 50


@pytest.fixture(scope="module")
def maker() -> Iterator[random_unions.Maker]:
    with random_unions.maker() as made:
        yield made


@pytest.mark.parametrize("name", random_unions.OPTIONS)
def test_random_unions(maker: random_unions.Maker, name: str) -> None:
    _, options = random_unions.OPTIONS[name]
    told = Counter[bool]()
    for seed in range(SEEDS):
        with maker.union(name, seed) as stack:
            union, below, listed = _check(stack, options, seed)
            told += _check_marks(stack, union, below, listed, seed)
    # What upper's marks tell is mostly the same, but for what is in directories that have moved.
    assert told[True] > 3 * told[False], told


def _check(
    stack: random_unions.Stack, options: list[str], seed: int
) -> tuple[brute.Tree, brute.Tree, dict[bytes, Change]]:
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
    return union, below, listed


def _other_names(union: brute.Tree, below: brute.Tree, listed: dict[bytes, Change]) -> Iterator[bytes]:
    """The names that only lowers have of files that have changed under another name (an index).

    Upper holds nothing at them, and need not even hold the other name any more.
    """
    for path, node in union.items():
        before = below.get(path)
        if path in listed or before is None or node["type"] == stat.S_IFDIR:
            continue
        if before["links"] > 1 and brute.differences(node, before):
            yield path


def _check_differs(change: Change, differs: set[str], seed: int) -> None:
    """What is said to differ does. All of it is named, data only if nothing else is."""
    assert change.differs is not None
    said = set(change.differs)
    assert said <= differs, f"seed {seed}: {change.path!r}"
    assert differs - said <= {"data"}, f"seed {seed}: {change.path!r}"
    assert said or change.type == "directory"


def _check_marks(
    stack: random_unions.Stack,
    union: brute.Tree,
    below: brute.Tree,
    exact: dict[bytes, Change],
    seed: int,
) -> Counter[bool]:
    """What upper alone tells may differ from the truth only as docs/offline.md says."""
    away = [lower.rename(lower.with_suffix(".away")) for lower in stack.lowers]
    told = {}
    for change in changes(str(stack.upper)):
        assert isinstance(change, Change), f"seed {seed}: {change}"
        assert change.path not in told, f"seed {seed}: {change.path!r} is listed twice"
        told[change.path] = change
    for moved, lower in zip(away, stack.lowers, strict=True):
        moved.rename(lower)
    for path, change in told.items():
        true = exact[path].kind if path in exact else None
        what = f"seed {seed}: {path!r} is {true}, told {change}"
        if change.kind == "D":
            assert true == "D" or (path not in union and path not in below), what
        elif change.kind == "A":
            # Made where a lower has the name; or copied up with no mark of it, for it has several names, or
            # is of a kind that bears no user.* attribute.
            assert true in ("A", "C") or (path in union and path in below), what
        elif true == "A":
            # Renamed in its directory: overlayfs leaves no mark of that, where there is no redirect.
            assert change.type != "directory", what
        else:
            # Copied up, and perhaps as it was.
            assert true == "C" or (path in union and path in below), what
    for path in exact.keys() - told.keys() - {b"/"}:
        # Seen through a directory that has moved, or hidden by one that is new.
        above = path
        while above and (above not in told or told[above].kind != "A"):
            above = above.rpartition(b"/")[0]
        assert above, f"seed {seed}: {exact[path]} is not told"
    return Counter(path in told and told[path].kind == change.kind for path, change in exact.items())
