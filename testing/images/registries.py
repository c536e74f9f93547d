"""Debian's docker-registry on a free port of this machine: plain, with TLS, users or tokens."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

_PATIENCE = 60.0
_ADDRESS = re.compile(r'msg="listening on [^"]*:(\d+)')


@dataclass(frozen=True, slots=True)
class Running:
    """A registry that serves."""

    name: str
    """HOST:PORT."""
    root: Path
    log: Path

    @property
    def requests(self) -> list[str]:
        """`METHOD path` of all requests, in the order of their replies."""
        found = []
        for line in self.log.read_text().splitlines():
            begin = line.find('"')
            if " - - [" in line and begin >= 0:
                found.append(" ".join(line[begin + 1 :].split(" ")[:2]))
        return found


@contextmanager
def serving(root: Path, *, host: str = "127.0.0.1", **sections: Any) -> Iterator[Running]:
    """A registry with its data below *root*; *sections* are of its configuration (`auth`, `http`).

    Raises RuntimeError, with the end of its log, where it does not serve.
    """
    root.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(root / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"{host}:0"} | sections.pop("http", {}),
        **sections,
    }
    config = root / "config.yml"
    config.write_bytes(msgspec.json.encode(document))  # which is YAML
    log = root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=output, stderr=output, env=_environment()
        )
    try:
        yield Running(f"{host}:{_port(process, log)}", root, log)
    finally:
        process.terminate()
        process.wait()


def _environment() -> Mapping[str, str]:
    """Without REGISTRY_* variables, which would be configuration."""
    return {"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"}


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the kernel has given it, once it listens. One that was free before could be taken."""
    deadline = time.monotonic() + _PATIENCE
    while (found := _ADDRESS.search(log.read_text())) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"docker-registry does not serve: {log.read_text()[-2000:]}")
        time.sleep(0.02)
    return int(found[1])
