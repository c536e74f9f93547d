"""Which transport the mounts of a test use: every test of a mount runs over each.

The choice travels in the environment, because tests start programs that mount. The fixture `transport`
(tests/conftest.py) sets it; without it a mount takes what `transport=auto` means.
"""

from __future__ import annotations

import os

import pytest

TRANSPORTS = ("direct", "pyfuse3")

VARIABLE = "PYUNIONFS_TEST_TRANSPORT"

one_transport = pytest.mark.one_transport
"""For tests that end before a transport has any part in them."""


def chosen() -> str:
    """The transport of this test."""
    return os.environ.get(VARIABLE, "auto")


def mount_words() -> list[str]:
    """What `pyunionfs mount` is told first of all; a later `-o transport=` counts more."""
    return ["-o", f"transport={chosen()}"] if VARIABLE in os.environ else []


def choose(name: str) -> None:
    """Have everything that this program mounts from now on use it; "auto": the default."""
    os.environ[VARIABLE] = name


def add_option(parser: pytest.Parser) -> None:
    parser.addoption(
        "--transport",
        choices=(*TRANSPORTS, "both"),
        default="both",
        help="what mounts receive their requests by (default: both, each test twice)",
    )


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `transport` over each one that was asked for."""
    if "transport" not in metafunc.fixturenames:
        return
    given: str = metafunc.config.getoption("--transport")
    wanted = list(TRANSPORTS) if given == "both" else [given]
    once = metafunc.definition.get_closest_marker("one_transport") is not None
    if once or metafunc.config.getoption("--on") != "pyunionfs":
        del wanted[1:]
    metafunc.parametrize("transport", wanted, indirect=True)
