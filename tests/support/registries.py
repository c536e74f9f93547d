"""Debian's docker-registry for tests (`testing/images/registries.py`), and certificates for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from testing.images.registries import Running, serving

__all__ = ["Running", "certificates", "needs_registry", "serving"]

needs_registry = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry")


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
