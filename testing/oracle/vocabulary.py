"""The random words that cases are made of: names, owners, modes, times, data, xattrs and ACLs.

Pools are small on purpose: the same name must turn up in several layers and in many operations, or nothing
that a union does would ever happen. Must draw only from the generator that it is given, so that a seed
means one case.
"""

from __future__ import annotations

import random
import struct

from testing.oracle.case import Chunk, Xattrs

NAMES = [
    *(b"a", b"b", b"c", b"d", b"file", b"dir", b"lib", b"x y", b".hidden", b"-dash", b"new\nline"),
    b"\xff\xfe\x80",
    "n\u00fc\u4e2d".encode(),
    b"n" * 255,
    b"quote'\"\\",
    b"com,ma:colon",
]
_NAME_WEIGHTS = [10, 10, 10, 8, 8, 8, 6, 2, 2, 1, 1, 2, 1, 1, 1, 1]

LINKED = b"linked"
"""Lower hard links live below this directory when index=off, and are only ever read.

Kernel overlayfs breaks the links of a lower file when it is copied up without an index, and says so in its
documentation; here a lower file's links stay one file. Where both are right in their own way there is
nothing to compare, so the generator keeps such files out of reach of any change.
"""

USERS = [0, 1000, 1001]
OWNERS = [0, 0, 0, 1000, 1000, 1001, 65534, 100000]
OWNING_GROUPS = [*OWNERS, 2000]
"""2000 is a supplementary group of one of the users."""
FILE_MODES = [0o644, 0o644, 0o600, 0o666, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o2644, 0o000, 0o444, 0o1644]
DIR_MODES = [0o755, 0o755, 0o755, 0o777, 0o777, 0o1777, 0o2775, 0o2777, 0o700, 0o555, 0o711]
CLOSED_FILE_MODES = [0o000, 0o000, 0o111, 0o222, 0o333, 0o200, 0o400, 0o4055]
CLOSED_DIR_MODES = [0o000, 0o000, 0o111, 0o222, 0o333, 0o444, 0o555, 0o600, 0o077]
"""What keeps the owner out of something, if he has no capability."""
SEARCHABLE_MODES = [0o111, 0o333, 0o555, 0o100, 0o300, 0o577]
UMASKS = [0o022, 0o022, 0o022, 0o077, 0o002, 0o000]

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
CAPABILITY = "security.capability"
OWN_GROUPS = [1000, 1000, 2000]
OWN_ATTRIBUTES = ["user.a", "user.b", ACCESS_ACL, DEFAULT_ACL]
"""The groups and the attributes that an ordinary user's layers have."""


def name(rng: random.Random) -> bytes:
    return rng.choices(NAMES, _NAME_WEIGHTS)[0]


def time_ns(rng: random.Random) -> int:
    """A time that an operation set: from 1971 to 2019, to the nanosecond."""
    return rng.randrange(40_000_000, 1_550_000_000) * 10**9 + rng.randrange(10**9)


def data(number: int, length: int) -> bytes:
    """The bytes of a chunk: short periods would hide a shifted copy, so the number is mixed with the
    position.
    """
    line = b"%d:" % number
    unit = b"".join(line + b"%d;" % position for position in range(min(length, 2000) // 4 + 1))
    return (unit * (length // len(unit) + 1))[:length]


def chunks(rng: random.Random) -> tuple[int, tuple[Chunk, ...]]:
    """Size and data of a file: empty, small, over several pages, or sparse."""
    style = rng.randrange(10)
    number = rng.randrange(1000)
    if style == 0:
        return 0, ()
    if style <= 5:
        length = rng.randrange(1, 200)
        return length, ((0, length, number),)
    if style <= 7:
        length = rng.randrange(3000, 40000)
        return length, ((0, length, number),)
    holes = []
    offset = 0
    for _ in range(rng.randrange(1, 4)):
        offset += rng.choice([0, 4096, 65536, 100_000, 1 << 20])
        length = rng.randrange(1, 9000)
        holes.append((offset, length, number))
        offset += length
    return offset + rng.choice([0, 0, 5000, 300_000]), tuple(holes)


def acl(rng: random.Random, *, well_formed: bool = True) -> bytes:
    """A POSIX ACL as system.posix_acl_* holds it."""
    tags = [(0x01, -1), (0x04, -1), (0x20, -1)]
    extended = [(0x02, uid) for uid in rng.sample([1000, 1001, 65534], rng.randrange(3))]
    extended += [(0x08, gid) for gid in rng.sample([1000, 2000], rng.randrange(2))]
    if extended:
        tags += [*extended, (0x10, -1)]
    if not well_formed:
        tags = tags[1:]
    tags.sort()
    entries = b"".join(struct.pack("<HHi", tag, rng.choice([7, 7, 6, 5, 4, 0]), id_) for tag, id_ in tags)
    return struct.pack("<I", 2) + entries


def capability(rng: random.Random) -> bytes:
    """A version 2 security.capability, which the kernel checks when it is set."""
    return struct.pack("<IIIII", 0x02000001, rng.choice([0x2000, 0x400, 0x1]), 0, 0, 0)


def xattr_name(rng: random.Random) -> str:
    return rng.choice(
        ["user.a", "user.a", "user.b", "user.overlay.opaque", "trusted.a", "trusted.b", "security.a"]
    )


def xattr_value(rng: random.Random) -> bytes:
    return data(rng.randrange(1000), rng.choice([0, 1, 5, 20, 200]))


def xattrs(rng: random.Random, kind: str) -> Xattrs:
    """Some attributes for a new object of this kind, only such as the kernel lets it have."""
    found: dict[str, bytes] = {}
    while rng.random() < 0.3:
        chosen = xattr_name(rng)
        if chosen.startswith("user.") and kind not in ("file", "dir"):
            continue
        found[chosen] = xattr_value(rng)
    if kind in ("file", "dir") and rng.random() < 0.12:
        found[ACCESS_ACL] = acl(rng)
    if kind == "dir" and rng.random() < 0.12:
        found[DEFAULT_ACL] = acl(rng)
    if kind == "file" and rng.random() < 0.06:
        found[CAPABILITY] = capability(rng)
    return tuple(sorted(found.items()))


def rdev(rng: random.Random, kind: str) -> tuple[int, int]:
    """A device number: /dev/null, or a number that no driver has. Opening it must do no harm to this
    machine.
    """
    return (1, 3) if kind == "chr" and rng.random() < 0.7 else (241, rng.randrange(2000))


def symlink_target(rng: random.Random) -> bytes:
    """Relative, absolute (the mount is the root for the process that follows it), dangling, or looping."""
    parts = [name(rng) for _ in range(rng.randrange(1, 4))]
    style = rng.randrange(8)
    if style <= 3:
        return b"/".join(parts[:1])
    if style == 4:
        return b"/" + b"/".join(parts)
    if style == 5:
        return b"../" + b"/".join(parts)
    return b"." if style == 6 else b"/".join(parts)
