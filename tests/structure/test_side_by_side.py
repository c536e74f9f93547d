"""Tests run side by side on one machine: none changes what the others see of it."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
MACHINE_WIDE = "/proc/sys/" + "vm/"
"""What is written there, as to have all caches dropped, counts for each test that runs at the time."""


def test_no_test_changes_what_the_machine_caches() -> None:
    """Of one mount: `tests.support.kernel_cache`."""
    assert [str(path) for path in TESTS.rglob("*.py") if MACHINE_WIDE in path.read_text()] == []
