"""Debian's docker-registry on a free port of this machine: plain, with TLS, users or tokens."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

needs_registry = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry")


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
def serving(
    root: Path, *, host: str = "127.0.0.1", port: int | None = None, **sections: Any
) -> Iterator[Running]:
    """A registry with its data below *root*; *sections* are of its configuration (`auth`, `http`)."""
    root.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    document: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(root / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"{host}:{port}"} | sections.pop("http", {}),
        **sections,
    }
    config = root / "config.yml"
    config.write_bytes(msgspec.json.encode(document))  # which is YAML
    log = root / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=output, stderr=output, env=_environment()
        )
    try:
        _wait(process, host, port, log)
        yield Running(f"{host}:{port}", root, log)
    finally:
        process.terminate()
        process.wait()


def _environment() -> Mapping[str, str]:
    """Without REGISTRY_* variables, which would be configuration."""
    return {"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    while process.poll() is None:
        try:
            socket.create_connection((host, port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    pytest.fail(f"docker-registry ended: {log.read_text()[-2000:]}")


def certificates(folder: Path, *, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """`ca`, an authority, and what it has signed: `server` for *host*, and `client`; each .crt and .key."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in {
        "ca": ["-x509", "-subj", "/CN=the tests' authority"],
        "server": [
            *("-x509", "-subj", "/CN=the tests' registry", "-addext", f"subjectAltName=IP:{host}"),
            *("-CA", "ca.crt", "-CAkey", "ca.key"),
        ],
        "client": ["-x509", "-subj", "/CN=the tests' client", "-CA", "ca.crt", "-CAkey", "ca.key"],
    }.items():
        subprocess.run(
            [
                *("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2", *arguments),
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder / "server.crt", folder / "server.key"
