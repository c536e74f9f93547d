"""The kernel's FUSE protocol on /dev/fuse, spoken by this package itself."""

from __future__ import annotations

from unionfs.transport.direct.session import Session

__all__ = ["Session"]
