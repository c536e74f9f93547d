"""Processes that a test or a script has started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def stop(pid: int) -> None:
    """SIGSTOP; when this returns no thread of the process runs any more.

    kill(2) returns before: until then a daemon may have replied to a request. TimeoutError after 20 seconds.
    """
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    deadline = time.monotonic() + 20
    while not all("State:\tT" in (each / "status").read_text() for each in threads.iterdir()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not stop")
        time.sleep(0.001)
