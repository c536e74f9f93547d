"""What a daemon answers, through a pipe, to the process that waits for its mount."""

from __future__ import annotations

READY = b"+"
"""It serves."""
FAILED = b"-"
"""It does not, and a message follows."""
