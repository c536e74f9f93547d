"""A filesystem for layers, and the process as it was, as the union's own tests have them."""

from __future__ import annotations

from tests.overlay.conftest import _process_as_it_was, base, memory_ext4

__all__ = ["_process_as_it_was", "base", "memory_ext4"]
