"""The process that serves one mount, from its first check to its last sync. Transports handle requests."""

from __future__ import annotations
