"""What this very process has open below a path: mostly the reason why a program cannot unmount its union."""

from __future__ import annotations

import os

_MOST = 3


def of_this_process(path: str) -> list[str]:
    """Phrases like "/merged/file open (descriptor 7)"; empty when it is somebody else who uses it."""
    found = []
    if _leads_below("/proc/self/cwd", path):
        found.append("its working directory there")
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        target = _leads_below(f"/proc/self/fd/{fd}", path)
        if target is not None:
            found.append(f"{target} open (descriptor {fd})")
    return [*found[:_MOST], "more"] if len(found) > _MOST else found


def _leads_below(link: str, path: str) -> str | None:
    try:
        target = os.readlink(link)
    except FileNotFoundError:  # the descriptor by which the list was read
        return None
    return target if target == path or target.startswith(path.rstrip("/") + "/") else None
