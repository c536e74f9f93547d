"""Each system call of each operation of a union fails once, and then all from there on.

Every time the caller gets an errno, the tree is as before or as after, for this union and for the next one
on the same layers; nothing is left in work and no descriptor open; and the operation succeeds afterwards. The
quick tier takes some calls of a few operations, the last one every fifth call of all; `PYUNIONFS_FAULTS=all`
(`make faults`) plants every errno at every call.
"""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import pytest

from testing.faults.calls import Fault
from tests.faults.operations import BY_NAME, OPERATIONS
from tests.faults.union_rig import Run
from tests.support.mounts import needs_root

pytestmark = needs_root

CODES = (
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.EACCES, errno.EROFS),
    *(errno.ESTALE, errno.EINTR, None),
)
ALL = os.environ.get("PYUNIONFS_FAULTS") == "all"
QUICK = (
    *(
        "create over a whiteout",
        "mkdir over a whiteout",
        "unlink of one that is copied up",
        "truncate to nothing",
    ),
    *("rmdir of one with whiteouts", "metacopy: then write with links", "open with O_TRUNC", "write"),
)


@pytest.mark.parametrize("name", QUICK)
def test_some_calls_fail(base: Path, name: str) -> None:
    """Those that put something in its place, which come last, and every seventh."""
    run = Run(base, BY_NAME[name])
    first = zlib.crc32(name.encode()) % 7
    count = run.calls()
    for at in range(1, count + 1):
        if at % 7 == first or at > count - 5:
            assert run.one(Fault(at, errno.EIO))
    assert run.problems == []
    assert run.faults


@pytest.mark.parametrize("stays", [False, True], ids=["once", "all after"])
@pytest.mark.parametrize(
    "code", CODES if ALL else CODES[:1], ids=lambda code: errno.errorcode.get(code, "short")
)
@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_every_call_fails(base: Path, name: str, code: int | None, stays: bool) -> None:
    run = Run(base, BY_NAME[name])
    at = 1 if ALL else 1 + zlib.crc32(name.encode()) % 5
    while run.one(Fault(at, code, stays)):
        run.remounted(Fault(at, code, stays))
        at += 1 if ALL else 5
    assert run.problems == []
