"""Orders to the processes that start a container, through a pipe: one each, as marshal has it.

The writer keeps its end open: end of file says that it is gone.
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False  # that of typing, which takes long to load
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_LENGTH = 8


def send(fd: int, order: Mapping[str, Any]) -> None:
    """Write an order of plain data."""
    content = marshal.dumps(dict(order))
    rest = memoryview(len(content).to_bytes(_LENGTH, "little") + content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def receive(fd: int) -> Any:
    """The order; None when the writer has ended without one."""
    length = _read(fd, _LENGTH)
    content = _read(fd, int.from_bytes(length, "little"))
    return marshal.loads(content) if content else None


def _read(fd: int, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = os.read(fd, size - len(content))
        if not part:
            return b""
        content += part
    return content
