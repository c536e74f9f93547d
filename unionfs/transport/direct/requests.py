"""Reading a request's pieces: names, callers, and the extensions of a creation.

Whatever is cut short or malformed raises OSError EINVAL, before anything has been changed.
"""

from __future__ import annotations

import errno

from unionfs.overlay.cred import Caller
from unionfs.transport.direct.protocol import (
    CALLER_AT,
    EXT_GROUPS,
    EXT_HEADER,
    IN_CALLER,
    IN_HEADER,
    MAX_NR_SECCTX,
    SECCTX,
    SUPP_GROUPS,
)

Buffer = bytearray | bytes

_EXTLEN_UNIT = 8


def malformed(what: str) -> OSError:
    return OSError(errno.EINVAL, what)


def name_at(buffer: Buffer, start: int, end: int) -> bytes:
    """The name that begins at *start*; it ends in a NUL."""
    stop = buffer.find(b"\0", start, end)
    if stop <= start:
        raise malformed("a request with no name, or one without an end")
    return bytes(buffer[start:stop])


def two_names_at(buffer: Buffer, start: int, end: int) -> tuple[bytes, bytes]:
    """Two names, one behind the other."""
    first = name_at(buffer, start, end)
    return first, name_at(buffer, start + len(first) + 1, end)


def caller(buffer: Buffer, umask: int = 0) -> Caller:
    """On whose behalf the request came."""
    uid, gid, pid = IN_CALLER.unpack_from(buffer, CALLER_AT)
    return Caller(uid, gid, pid, umask)


def creator(buffer: Buffer, end: int, umask: int) -> tuple[Caller, int]:
    """Who creates, with the group and the security contexts that the kernel sends along; and where the
    extensions that hold these begin: the arguments end there."""
    uid, gid, pid = IN_CALLER.unpack_from(buffer, CALLER_AT)
    length = IN_HEADER.unpack_from(buffer)[7] * _EXTLEN_UNIT
    if not length:
        return Caller(uid, gid, pid, umask), end
    start = end - length
    if start < IN_HEADER.size:
        raise malformed("extensions longer than their request")
    group, contexts = _extensions(buffer, start, end)
    return Caller(uid, gid, pid, umask, group, contexts), start


def _extensions(buffer: Buffer, at: int, end: int) -> tuple[int | None, tuple[tuple[bytes, bytes], ...]]:
    group: int | None = None
    contexts: list[tuple[bytes, bytes]] = []
    while at < end:
        size, kind = EXT_HEADER.unpack_from(buffer, at)
        if size < EXT_HEADER.size or at + size > end:
            raise malformed("an extension of an impossible size")
        body = at + EXT_HEADER.size
        if kind <= MAX_NR_SECCTX:
            contexts += _security_contexts(buffer, body, at + size, kind)
        elif kind == EXT_GROUPS:
            (count,) = SUPP_GROUPS.unpack_from(buffer, body)
            if count:
                (group,) = SUPP_GROUPS.unpack_from(buffer, body + SUPP_GROUPS.size)
        at += (size + 7) & ~7
    return group, tuple(contexts)


def _security_contexts(buffer: Buffer, at: int, end: int, count: int) -> list[tuple[bytes, bytes]]:
    contexts = []
    for _ in range(count):
        size, _ = SECCTX.unpack_from(buffer, at)
        name = name_at(buffer, at + SECCTX.size, end)
        start = at + SECCTX.size + len(name) + 1
        if start + size > end:
            raise malformed("a security context longer than its request")
        contexts.append((name, bytes(buffer[start : start + size])))
        at += (SECCTX.size + len(name) + 1 + size + 7) & ~7
    return contexts
