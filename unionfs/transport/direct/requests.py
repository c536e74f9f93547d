"""Parses the pieces of a request: names, callers, and the extensions of a creation.

A truncated or malformed request raises OSError EINVAL, before anything has been changed.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Any

from unionfs.overlay.cred import Caller
from unionfs.transport.direct.buffer import Buffer
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

_EXTLEN_UNIT = 8
INVALID_ID = 0xFFFFFFFF
"""(uid_t)-1, which the kernel sends for an id that its namespace cannot express."""


def malformed(what: str) -> OSError:
    return OSError(errno.EINVAL, what)


def string_at(buffer: Buffer, start: int, end: int) -> bytes:
    """The string that begins at *start*, not an empty one; it ends in a NUL."""
    stop = buffer.find(b"\0", start, end)
    if stop <= start:
        raise malformed("empty or unterminated string")
    return bytes(buffer[start:stop])


def name_at(buffer: Buffer, start: int, end: int) -> bytes:
    """The name of a directory entry that begins at *start*. A slash in it would lead out of its layer."""
    name = string_at(buffer, start, end)
    if b"/" in name or name == b"." or name == b"..":
        raise malformed("name is ., .. or has a slash")
    return name


def two_names_at(buffer: Buffer, start: int, end: int) -> tuple[bytes, bytes]:
    """Two names, one behind the other."""
    first = name_at(buffer, start, end)
    return first, name_at(buffer, start + len(first) + 1, end)


def caller(buffer: Buffer, umask: int = 0) -> Caller:
    """The credentials of the calling process."""
    uid, gid, pid = IN_CALLER.unpack_from(buffer, CALLER_AT)
    return Caller(uid, gid, pid, umask)


def creator(buffer: Buffer, start: int, end: int, umask: int) -> tuple[Caller, int]:
    """The credentials for a creation, with the group and the security contexts that the kernel sends in
    extensions; and where these begin: the arguments, which begin at *start*, end there."""
    uid, gid, pid = IN_CALLER.unpack_from(buffer, CALLER_AT)
    if uid == INVALID_ID or gid == INVALID_ID:
        raise malformed("creation with an invalid uid or gid")
    length = IN_HEADER.unpack_from(buffer)[7] * _EXTLEN_UNIT
    if not length:
        return Caller(uid, gid, pid, umask & 0o777), end
    stop = end - length
    if stop < start:
        raise malformed("extensions are longer than the request")
    group, contexts = _extensions(buffer, stop, end)
    return Caller(uid, gid, pid, umask & 0o777, group, contexts), stop


def _extensions(buffer: Buffer, at: int, end: int) -> tuple[int | None, tuple[tuple[bytes, bytes], ...]]:
    group: int | None = None
    contexts: list[tuple[bytes, bytes]] = []
    while at < end:
        size, kind = _unpack(EXT_HEADER, buffer, at, end)
        stop = at + size
        if size < EXT_HEADER.size or stop > end:
            raise malformed("extension of an impossible size")
        body = at + EXT_HEADER.size
        if kind <= MAX_NR_SECCTX:
            contexts += _security_contexts(buffer, body, stop, kind)
        elif kind == EXT_GROUPS:
            (count,) = _unpack(SUPP_GROUPS, buffer, body, stop)
            if stop - body < SUPP_GROUPS.size * (1 + count):
                raise malformed("extension has fewer groups than its count")
            if count:
                (group,) = _unpack(SUPP_GROUPS, buffer, body + SUPP_GROUPS.size, stop)
        at += (size + 7) & ~7
    return group, tuple(contexts)


def _security_contexts(buffer: Buffer, at: int, end: int, count: int) -> list[tuple[bytes, bytes]]:
    contexts = []
    for _ in range(count):
        size, _ = _unpack(SECCTX, buffer, at, end)
        name = string_at(buffer, at + SECCTX.size, end)
        start = at + SECCTX.size + len(name) + 1
        if start + size > end:
            raise malformed("security context is longer than the request")
        contexts.append((name, bytes(buffer[start : start + size])))
        at += (SECCTX.size + len(name) + 1 + size + 7) & ~7
    return contexts


def _unpack(layout: Struct, buffer: Buffer, at: int, end: int) -> tuple[Any, ...]:
    """Unpack what must end by *end*: behind it the buffer holds bytes of an earlier request."""
    if at + layout.size > end:
        raise malformed("extension is truncated")
    return layout.unpack_from(buffer, at)
