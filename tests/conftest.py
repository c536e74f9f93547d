"""What all tests share: what is mounted and how, the tiers, and a mount namespace for the whole run.

`--on overlayfs` runs the tests that only use a mount on kernel overlayfs instead of pyunionfs: a test that
fails there too has found its own fault and not the daemon's. `--on fuse-overlayfs` is there to compare.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiers
from tests.support import alone, collected, mounts, pages, transports, users

# A shell that starts the run in the background has it ignored, and so would have all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on",
        choices=("pyunionfs", "overlayfs", "fuse-overlayfs"),
        default="pyunionfs",
        help="what tests/programs mount (default: pyunionfs)",
    )
    parser.addoption(
        "--mount-options",
        default="",
        metavar="OPTIONS",
        help="what tests/programs mount it with, as in index=on,metacopy=on",
    )
    transports.add_option(parser)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    transports.parametrize(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier, before `-m` chooses."""
    for item in items:
        item.add_marker(tiers.tier_of(item))
    config.stash[collected.EVERYTHING] = collected.describe(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_fuse") is not None and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    alone.print_commands(terminalreporter, config)


@pytest.fixture(scope="session")
def suite(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[collected.Collected]:
    """Every test of the suite."""
    return collected.suite(request.config, tmp_path_factory.mktemp("collected") / "listing.json")


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    """An ordinary user, made for this test."""
    with users.ordinary_user() as made:
        yield made


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user can reach; root's, until the test gives it to one."""
    with users.open_home() as made:
        yield made


@pytest.fixture
def shell_block(request: pytest.FixtureRequest) -> pages.ShellBlock:
    """The one that this test is marked with."""
    marker = request.node.get_closest_marker("shell_block")
    return pages.shell_block(pages.Place(*marker.args))


@pytest.fixture
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What all that is mounted in this test receives its requests by."""
    name: str = request.param
    monkeypatch.setenv(transports.VARIABLE, name)
    return name


def pytest_sessionstart(session: pytest.Session) -> None:
    """Move the run into a mount namespace of its own, where the machine allows it.

    A container or service that starts while tests run would else get a copy of their mounts and hold them,
    so that a daemon lives on after its unmount, rightly, and a test fails. It also leaves no mount when the
    run is killed. The union mounts of others, copied at this moment, are let go for the same reason.
    """
    if os.geteuid() != 0:
        return
    try:
        mounts.private_mounts()
    except PermissionError:  # a container without CAP_SYS_ADMIN: nothing can be mounted there either
        return
    for path in reversed(_unions()):
        # Lazy, and only in this namespace: the owner's mount stays.
        mounts.umount(path, lazy=True)


def _unions() -> list[Path]:
    """Where pyunionfs is mounted in this namespace, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        if fields[fields.index(b"-") + 1] == b"fuse.pyunionfs":
            plain = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), fields[4])
            found.append(Path(os.fsdecode(plain)))
    return found
