"""A program that leaks memory, descriptors and threads, until its standard input ends."""

from __future__ import annotations

import os
import select
import sys
import threading

kept: list[bytes] = []
end = threading.Event()
while not select.select([sys.stdin], [], [], 0.1)[0]:
    kept.append(bytes(1 << 19))
    os.open(os.devnull, os.O_RDONLY)
    threading.Thread(target=end.wait, daemon=True).start()
