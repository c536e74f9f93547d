"""The schema of a daemon's status reply.

It may come from another user's program: a command that prints it must be able to rely on its types, and on
nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Status = dict[str, Any]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_moment(value: object) -> bool:
    from datetime import datetime  # here, because a daemon sends it only

    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _is_number(value: object) -> bool:
    # JSON has no bounds, and Python reads NaN and infinity too.
    return isinstance(value, int | float) and 0 <= value < 1 << 63


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_count_or_none(value: object) -> bool:
    return value is None or _is_count(value)


def _is_counts(value: object) -> bool:
    return isinstance(value, dict) and all(_is_count(each) for each in value.values())


def _is_space(value: object) -> bool:
    return value is None or (_is_counts(value) and {"size", "free"} <= value.keys())  # type: ignore[attr-defined]


def _is_report(value: object) -> bool:
    """One piece of slow work, as `overlay/under_way.py` reports it."""
    return isinstance(value, dict) and all(
        key in value and fits(value[key])
        for key, fits in {
            "work": _is_text,
            "path": _is_text,
            "step": _is_text,
            "done": _is_count_or_none,
            "total": _is_count_or_none,
            "seconds": _is_number,
        }.items()
    )


def _is_reports(value: object) -> bool:
    return isinstance(value, list) and all(_is_report(each) for each in value)


_SHAPE: dict[str, Callable[[object], bool]] = {
    "mountpoint": _is_text,
    "device": _is_text,
    "lowers": _is_texts,
    "data_lowers": _is_texts,
    "upper": _is_text_or_none,
    "work": _is_text_or_none,
    "options": _is_texts,
    "transport": _is_text,
    "flags": _is_texts,
    "passthrough_problem": _is_text_or_none,
    "started": _is_moment,
    "uptime": _is_number,
    "memory": _is_count,
    "log": _is_text,
    "open_handles": _is_count,
    "silent_opens": _is_flag,
    "in_use": _is_flag,
    "requests": _is_counts,
    "union": _is_counts,
    "under_way": _is_reports,
    "upper_space": _is_space,
}

_SINCE: dict[str, Any] = {"under_way": [], "data_lowers": [], "upper_space": None, "silent_opens": False}
"""Keys that daemons of older versions, which serve on until they are unmounted, do not send."""


def validate(received: bytes) -> Status | None:
    """The reply as a status, None where it does not have the schema of one."""
    try:
        reply = json.loads(received)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict):
        return None
    reply = {**_SINCE, **reply}
    # An older daemon that does not know what is open may have anything open.
    reply.setdefault("in_use", bool(reply["silent_opens"] or reply.get("open_handles")))
    if not all(key in reply and fits(reply[key]) for key, fits in _SHAPE.items()):
        return None
    return {key: reply[key] for key in _SHAPE}
