"""Chooses the transport of a mount, and imports that one only: each costs start-up time.

"auto" is the direct transport, which works on every kernel and with every privilege that a mount works with.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from unionfs.overlay.super import Union
from unionfs.transport.session import Session, SessionOptions

AUTO = "direct"


def resolve(name: str) -> str:
    """The transport that `transport=name` means."""
    return AUTO if name == "auto" else name


def load(name: str) -> Callable[[Union, int, SessionOptions], Session]:
    """The transport's `Session`."""
    module = importlib.import_module(f"unionfs.transport.{name}")
    new_session: Callable[[Union, int, SessionOptions], Session] = module.Session
    return new_session
