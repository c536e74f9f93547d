"""In which tier each test is: `check`, `mounts` or `rest`, one marker each, and no test in two.

`make check` runs the tests that mount no union, `make test` those and the ones that mount, `make test-all`
the rest: what is named here, by measured duration or because it needs what few machines have. A test that is
new goes where its fixtures and marks put it; only what takes long must be named.
"""

from __future__ import annotations

import re
from functools import cache

import pytest

TIERS = ("check", "mounts", "rest")

ENGINES = "needs container engines"
SYSTEMD = "boots a systemd"
DEBIAN = "needs a Debian tree, which the first run makes"
LONG = "takes many seconds"
RANDOM = "one random run more, of a kind that a quicker tier has too"
TRANSPORT = "the same over the second transport, which has no part in what is tested"

REST: dict[str, str] = {
    "tests/containers/test_docs.py::test_the_command_for_podman": ENGINES,
    "tests/containers/test_engines.py": ENGINES,
    "tests/containers/test_mapped.py": ENGINES,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs[*-btrfs]": RANDOM,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs[*-ext4]": RANDOM,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs[*-xfs]": RANDOM,
    "tests/oracle/test_own.py::test_same_as_kernel_overlayfs[*-ext4]": RANDOM,
    "tests/oracle/test_own.py::test_same_as_kernel_overlayfs[*-xfs]": RANDOM,
    "tests/programs/test_debian.py": DEBIAN,
    "tests/programs/test_large.py": LONG,
    "tests/systemd/test_units.py": SYSTEMD,
}
"""A file, a test, or some of its parameters, `*` for any; and why."""

REST_OVER_PYFUSE3: dict[str, str] = {
    "tests/crash/test_crash.py": TRANSPORT,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs": RANDOM,
    "tests/oracle/test_oracle.py::test_the_same_with": RANDOM,
    "tests/oracle/test_own.py": TRANSPORT,
}
"""The same, of tests that run over `direct` in a quicker tier: here is what they do over `pyfuse3`."""


def tier_of(item: pytest.Item) -> str:
    """The one tier of a test."""
    node = item.nodeid
    if any(_begins(node, name) for name in REST):
        return "rest"
    if over(item) == "pyfuse3" and any(_begins(node, name) for name in REST_OVER_PYFUSE3):
        return "rest"
    mounts = over(item) is not None or item.get_closest_marker("needs_fuse") is not None
    return "mounts" if mounts else "check"


def over(item: pytest.Item) -> str | None:
    """The transport of a test that mounts; None: it chooses none."""
    callspec = getattr(item, "callspec", None)
    name: str | None = None if callspec is None else callspec.params.get("transport")
    return name


def named() -> list[str]:
    """All beginnings of node ids in the tables."""
    return [*REST, *REST_OVER_PYFUSE3]


def matches(item: pytest.Item) -> list[str]:
    """Those with which this test's begins."""
    return [name for name in named() if _begins(item.nodeid, name)]


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, name.split("*"))) + r"($|[/:[\]-])")


def _begins(node: str, name: str) -> bool:
    return _pattern(name).match(node) is not None
