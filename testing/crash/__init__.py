"""Crash tests: the daemon is killed in the middle of a load, and nothing that it answered may be lost.

`model` says what a tree must hold after which operations; `load` performs random ones through the mount and
keeps a journal outside of it; `rig` mounts, kills, mounts again and holds what it finds against the
journals.
"""

from __future__ import annotations
