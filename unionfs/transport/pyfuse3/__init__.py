"""The transport over libfuse and pyfuse3: a thin translation that has no union rule."""

from __future__ import annotations

from unionfs.transport.pyfuse3.session import Session

__all__ = ["Session"]
