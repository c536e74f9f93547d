"""Helpers that several test packages share: mounts and scratch filesystems. Holds no test of its own."""

from __future__ import annotations
