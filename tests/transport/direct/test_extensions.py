"""What the kernel sends behind a creation's arguments: security contexts, and the group for setgid."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.transport.direct.kernel import NO_SUCH_OPCODE, Kernel
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import Opcode

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: acts as another user")

CREATE = p.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0)
MKDIR = p.MKDIR_IN.pack(0o755, 0)
MKNOD = p.MKNOD_IN.pack(stat.S_IFREG | 0o644, 0, 0, 0)


def extension(kind: int, body: bytes, size: int | None = None) -> bytes:
    """One extension, padded to 8 bytes; *size* lies about its size."""
    whole = p.EXT_HEADER.pack(p.EXT_HEADER.size + len(body) if size is None else size, kind) + body
    return whole + bytes(-len(whole) % 8)


def context(name: bytes, value: bytes, size: int | None = None) -> bytes:
    record = p.SECCTX.pack(len(value) if size is None else size, 0) + name + b"\0" + value
    return record + bytes(-len(record) % 8)


def contexts(*pairs: tuple[bytes, bytes]) -> bytes:
    return extension(len(pairs), b"".join(context(*pair) for pair in pairs))


def groups(*gids: int, count: int | None = None) -> bytes:
    body = p.SUPP_GROUPS.pack(len(gids) if count is None else count)
    return extension(p.EXT_GROUPS, body + b"".join(p.SUPP_GROUPS.pack(gid) for gid in gids))


def make(kernel: Kernel, opcode: Opcode, body: bytes, extensions: bytes, **who: int) -> int:
    """Send a creation with extensions in root; returns the errno."""
    assert len(extensions) % 8 == 0
    answer = kernel.ask(opcode, body=body + extensions, extlen=len(extensions) // 8, **who)
    if not answer.error:
        kernel.entry(answer.body)
    return answer.error


MAKERS: list[tuple[Opcode, bytes]] = [
    (Opcode.CREATE, CREATE),
    (Opcode.MKDIR, MKDIR),
    (Opcode.MKNOD, MKNOD),
]


@pytest.mark.parametrize(("opcode", "head"), MAKERS, ids=[opcode.name for opcode, _ in MAKERS])
def test_a_context_is_an_attribute_of_what_is_made(
    kernel: Kernel, layers: Path, opcode: Opcode, head: bytes
) -> None:
    assert make(kernel, opcode, head + b"new\0", contexts((b"user.label", b"of:a:file\0"))) == 0
    assert os.getxattr(layers / "upper/new", "user.label") == b"of:a:file\0"
    body = p.GETXATTR_IN.pack(100, 0) + b"user.label\0"
    assert kernel.body(Opcode.GETXATTR, kernel.node("new"), body) == b"of:a:file\0"


@root_only
@pytest.mark.parametrize("name", ["security.pyunionfs", "trusted.label"])
def test_a_symlink_has_its_context_too(kernel: Kernel, layers: Path, name: str) -> None:
    assert make(kernel, Opcode.SYMLINK, b"new\0target\0", contexts((name.encode(), b"label"))) == 0
    assert os.getxattr(layers / "upper/new", name, follow_symlinks=False) == b"label"
    assert os.readlink(layers / "upper/new") == "target"


def test_a_file_without_a_name_has_its_context(kernel: Kernel, layers: Path) -> None:
    body = CREATE + b"/\0" + contexts((b"user.label", b"x"))
    answer = kernel.ask(Opcode.TMPFILE, body=body, extlen=4)
    if answer.error == errno.EOPNOTSUPP:
        pytest.skip("no O_TMPFILE on this filesystem")
    entry = kernel.entry(answer.body)
    kernel.link(entry.node, b"named")
    assert os.getxattr(layers / "upper/named", "user.label") == b"x"


def test_several_contexts(kernel: Kernel, layers: Path) -> None:
    pairs = [(b"user.%d" % number, b"v" * number) for number in range(31)]
    assert make(kernel, Opcode.CREATE, CREATE + b"new\0", contexts(*pairs)) == 0
    found = {name: os.getxattr(layers / "upper/new", name) for name in os.listxattr(layers / "upper/new")}
    assert found.items() >= {name.decode(): value for name, value in pairs}.items()


def test_over_a_whiteout_too(kernel: Kernel, layers: Path) -> None:
    kernel.lookup(b"file")
    kernel.body(Opcode.UNLINK, body=b"file\0")
    assert make(kernel, Opcode.CREATE, CREATE + b"file\0", contexts((b"user.label", b"x"))) == 0
    assert os.getxattr(layers / "upper/file", "user.label") == b"x"


def test_unknown_extensions_are_passed_over(kernel: Kernel, layers: Path) -> None:
    strange = extension(33, b"12345") + contexts((b"user.label", b"x")) + extension(1 << 31, b"")
    assert make(kernel, Opcode.CREATE, CREATE + b"new\0", strange) == 0
    assert os.getxattr(layers / "upper/new", "user.label") == b"x"


def test_a_context_that_cannot_be_set_leaves_nothing(kernel: Kernel, layers: Path) -> None:
    too_long = contexts((b"user." + b"n" * 300, b"x"))
    assert make(kernel, Opcode.CREATE, CREATE + b"new\0", too_long) == errno.ERANGE
    assert os.listdir(layers / "upper") == []
    assert set(os.listdir(layers / "work/work")) <= {"incompat"}
    assert kernel.session.open_handles() == 0


# --- groups -------------------------------------------------------------------------------------------


SETGID: list[tuple[str, bytes, int]] = [
    ("no group", b"", 0o775),
    ("the directory's group", groups(4242), 0o2775),
    ("another group", groups(4243), 0o775),
    ("none of none", groups(), 0o775),
    ("with a context", groups(4242) + contexts((b"user.label", b"x")), 0o2775),
    ("behind a context", contexts((b"user.label", b"x")) + groups(4242), 0o2775),
]


@root_only
@pytest.mark.parametrize(("name", "extensions", "mode"), SETGID, ids=[row[0] for row in SETGID])
@pytest.mark.parametrize("opcode", [Opcode.CREATE, Opcode.MKNOD], ids=lambda opcode: opcode.name)
def test_the_group_decides_whether_setgid_stays(
    kernel: Kernel, layers: Path, opcode: Opcode, name: str, extensions: bytes, mode: int
) -> None:
    """A process that is not of the directory's group may not make a setgid file of that group there."""
    shared = kernel.mkdir(b"shared").node
    os.chown(layers / "upper/shared", 0, 4242)
    (layers / "upper/shared").chmod(0o2777)
    kernel.body(Opcode.SETATTR, shared, setattr_mode(0o2777))
    head = CREATE[:4] + (0o2775).to_bytes(4, "little") + CREATE[8:]
    if opcode is Opcode.MKNOD:
        head = p.MKNOD_IN.pack(stat.S_IFREG | 0o2775, 0, 0, 0)
    answer = kernel.ask(
        opcode, shared, head + b"new\0" + extensions, extlen=len(extensions) // 8, uid=1000, gid=1000, pid=0
    )
    assert answer.error == 0
    kernel.entry(answer.body)
    st = (layers / "upper/shared/new").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (mode, 1000, 4242)


def setattr_mode(mode: int) -> bytes:
    return p.SETATTR_IN.pack(p.FATTR_MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)


# --- nonsense -----------------------------------------------------------------------------------------


NAMED = b"new\0"
GOOD = contexts((b"user.label", b"x")) + groups(4242)
NONSENSE: list[tuple[str, bytes, int]] = [
    ("longer than the request", NAMED, 100),
    ("as long as it can be", NAMED, 0xFFFF),
    ("over the arguments", b"newname\0", 2),
    ("over the name", b"newname\0", 1),
    ("of size 0", NAMED + extension(1, b"", 0), 1),
    ("of size 7", NAMED + extension(1, b"", 7), 1),
    ("longer than all", NAMED + extension(1, b"", 16), 1),
    ("much longer than all", NAMED + extension(1, b"", 2**32 - 1), 1),
    ("nearly 4 GiB", NAMED + extension(99, b"", 2**32 - 8), 1),
    ("the second longer than all", NAMED + contexts((b"user.a", b"x")) + extension(99, b"", 64), 5),
    ("a context that is not there", NAMED + extension(1, b""), 1),
    ("a context without a name's end", NAMED + extension(1, p.SECCTX.pack(0, 0) + b"user.abc"), 3),
    ("a context without a name", NAMED + extension(1, p.SECCTX.pack(1, 0) + b"\0abc\0\0\0\0"), 3),
    ("a context longer than all", NAMED + extension(1, context(b"user.a", b"x", 10)), 3),
    ("a context of 4 GiB", NAMED + extension(1, context(b"user.a", b"x", 2**32 - 1)), 3),
    ("31 contexts, of which one", NAMED + extension(31, context(b"user.a", b"x")), 3),
    ("groups without a count", NAMED + extension(p.EXT_GROUPS, b""), 1),
    ("a group that is not there", NAMED + extension(p.EXT_GROUPS, p.SUPP_GROUPS.pack(1)), 2),
    ("4 billion groups", NAMED + groups(7, count=2**32 - 1), 2),
]


@pytest.mark.parametrize(("name", "tail", "extlen"), NONSENSE, ids=[row[0] for row in NONSENSE])
@pytest.mark.parametrize(("opcode", "head"), MAKERS, ids=[opcode.name for opcode, _ in MAKERS])
def test_extensions_that_make_no_sense(
    kernel: Kernel, layers: Path, opcode: Opcode, head: bytes, name: str, tail: bytes, extlen: int
) -> None:
    """Refused whole; and what is missing is not taken from the request before."""
    kernel.ask(NO_SUCH_OPCODE, body=head + tail + GOOD + GOOD)
    assert kernel.ask(opcode, body=head + tail, extlen=extlen).error == errno.EINVAL
    assert os.listdir(layers / "upper") == []


def test_extensions_of_requests_that_have_none(kernel: Kernel) -> None:
    """fuse.ko may come to send them with any request: who makes nothing has no use for them."""
    assert kernel.ask(Opcode.LOOKUP, body=b"file\0" + bytes(3) + GOOD, extlen=len(GOOD) // 8).error == 0


@pytest.mark.parametrize(("uid", "gid"), [(2**32 - 1, 0), (0, 2**32 - 1)])
def test_nobody_makes_nothing(kernel: Kernel, layers: Path, uid: int, gid: int) -> None:
    """(uid_t)-1 asks setfsuid(2) for the current one: the object would be the daemon's."""
    for opcode, head in MAKERS:
        assert kernel.ask(opcode, body=head + b"new\0", uid=uid, gid=gid).error == errno.EINVAL
    assert kernel.ask(Opcode.SYMLINK, body=b"new\0x\0", uid=uid, gid=gid).error == errno.EINVAL
    assert os.listdir(layers / "upper") == []
