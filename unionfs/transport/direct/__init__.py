"""The transport that speaks the kernel's FUSE protocol on /dev/fuse itself."""

from __future__ import annotations

from unionfs.transport.direct.session import Session

__all__ = ["Session"]
