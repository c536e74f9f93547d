"""What all tests share: the choice of what is mounted.

`--on overlayfs` runs the tests that only use a mount on kernel overlayfs instead of pyunionfs: a test that
fails there too has found its own fault and not the daemon's. `--on fuse-overlayfs` is there to compare.
"""

from __future__ import annotations

import pytest


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
