"""Debian's docker-registry on a free port of loopback, without authentication."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from testing.bench.systems import BenchError

_CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Registry:
    """Serves until `close`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        config = directory / "config.yml"
        config.write_text(_CONFIG.format(storage=directory / "storage", port=self.port))
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=self._log, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.close()
                    raise BenchError(f"docker-registry does not serve: {directory}/log") from None
                time.sleep(0.05)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()
