"""Transports without a mount."""

from __future__ import annotations
