"""What this process has open below a path, which is the usual reason why a program cannot unmount its
union."""

from __future__ import annotations

import os

from unionfs.control.unmount import BusyError, format_processes

_MOST = 3
_DIRECTORY = "its working directory"


def busy_message(busy: BusyError) -> str:
    """The message for a program: what uses the mount, and what to do: "... open (descriptor 7); close it"."""
    place = busy.mountpoint
    mine = of_this_process(place)
    others = [user for user in busy.users if user[0] != os.getpid()]
    if not mine:
        reason = f"in use by {format_processes(others)}" if others else busy.reason
        return f"{place} is busy: {reason}; end that"
    only_open = not any(phrase.startswith(_DIRECTORY) for phrase in mine)
    text = f"{place} is busy: this process has {', '.join(mine)}"
    if others:
        return f"{text}, and it is in use by {format_processes(others)}; end all that"
    if len(mine) > 1:
        return f"{text}; {'close them' if only_open else 'leave and close them'}"
    return f"{text}; {'close it' if only_open else 'leave it'}"


def of_this_process(path: str) -> list[str]:
    """Phrases like "/merged/file open (descriptor 7)"; empty if this process does not use it."""
    found = []
    if _leads_below("/proc/self/cwd", path):
        found.append(f"{_DIRECTORY} in {path}")
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
