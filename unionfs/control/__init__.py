"""Commands for a mount that is served: status, remount, unmount. Imports no union."""

from __future__ import annotations
