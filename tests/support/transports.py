"""Which transport the mounts of a test use: every test of a mount runs over each.

The fixture `transport` (tests/conftest.py) chooses it.
"""

from __future__ import annotations

import pytest

from testing.transports import TRANSPORTS, VARIABLE, choose, chosen, mount_words

__all__ = ["TRANSPORTS", "VARIABLE", "choose", "chosen", "mount_words", "one_transport"]

one_transport = pytest.mark.one_transport
"""For tests that end before a transport has any part in them."""


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
