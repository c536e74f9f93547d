"""Maps of ids by themselves: what an id becomes on its way out and in, in numbers and in ACLs."""

from __future__ import annotations

import errno
import random

import pytest

from tests.overlay.owners_rig import MAP, NOBODY, named
from unionfs.overlay.config import IdMap
from unionfs.overlay.owners.idmap import Ids, show_acl, store_acl


def test_without_a_map_ids_are_as_they_are() -> None:
    ids = Ids((), "uid")
    assert [ids.shown(number) for number in (0, 5, 1 << 31, (1 << 32) - 2)] == [0, 5, 1 << 31, (1 << 32) - 2]
    # None at all: an id in an ACL that our user namespace does not know. fuse.ko would refuse the whole ACL.
    assert ids.shown(0xFFFFFFFF) == NOBODY
    assert ids.stored(77) == ids.stored_by(77) == 77


@pytest.mark.parametrize(
    ("stored", "shown"),
    [(0, 1000), (1, 100000), (99, 100098), (100, NOBODY), (1000, NOBODY), (NOBODY, NOBODY)],
)
def test_shown(stored: int, shown: int) -> None:
    assert Ids(MAP, "uid").shown(stored) == shown


@pytest.mark.parametrize("shown", [0, 999, 1001, 99999, 100099, NOBODY, 4294967294])
def test_what_the_map_lacks_cannot_be_stored(shown: int) -> None:
    with pytest.raises(OSError) as caught:
        Ids(MAP, "uid").stored(shown)
    assert caught.value.errno == errno.EINVAL
    assert Ids(MAP, "uid").stored_by(shown) == NOBODY


def random_map(choose: random.Random) -> IdMap:
    """Some ranges that do not overlap on either side."""
    sides = []
    lengths = [choose.randint(1, 1000) for _ in range(choose.randint(1, 6))]
    for _ in range(2):
        order = list(range(len(lengths)))
        choose.shuffle(order)
        starts = [0] * len(lengths)
        at = 0
        for each in order:
            at += choose.choice([0, choose.randint(1, 100000)])
            starts[each] = at
            at += lengths[each]
        sides.append(starts)
    return tuple(zip(*sides, lengths, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_there_and_back(seed: int) -> None:
    """Every id of the map comes back as it was, no two meet, and an id outside of it never gets in."""
    ranges = random_map(random.Random(seed))
    ids = Ids(ranges, "uid")
    seen = set()
    for stored, shown, length in ranges:
        for offset in {0, length // 2, length - 1}:
            assert ids.shown(stored + offset) == shown + offset
            assert ids.stored(shown + offset) == stored + offset
            seen.add(shown + offset)
        for outside in (shown - 1, shown + length):
            if not any(first <= outside < first + count for _, first, count in ranges):
                with pytest.raises(OSError):
                    ids.stored(outside)
    value = named(*random.Random(seed).choices(sorted(seen), k=2))
    assert show_acl(store_acl(value, ids, ids), ids, ids) == value


@pytest.mark.parametrize("value", [b"", b"\2\0\0\0", b"\2\0\0\0\1\0", named(1, 2)[:-3]])
def test_a_broken_acl_stays_as_it_is(value: bytes) -> None:
    ids = Ids(((0, 0, 100),), "uid")
    assert store_acl(value, ids, ids) == value
