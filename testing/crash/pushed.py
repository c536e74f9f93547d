"""What a registry has of an image that was pushed to it, asked by plain HTTP: nothing of unionfs is used."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import msgspec

from testing.images.registries import Running

_TYPES = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Pushed:
    """One tag of one repository of a registry on loopback."""

    registry: Running
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """What `push` is to call it."""
        return f"{self.registry.name}/{self.repository}:{self.tag}"

    def clear(self) -> None:
        """Empty the registry, so that the next push has everything to send."""
        shutil.rmtree(self.registry.root / "data", ignore_errors=True)

    def problems(self) -> list[str]:
        """What is missing or is not what its digest says, a line each."""
        status, content = self._get(f"manifests/{self.tag}")
        if status != 200:
            return [f"{self.name}: no manifest: {status} {content[:200]!r}"]
        manifest: dict[str, Any] = msgspec.json.decode(content)
        found = []
        for blob in (manifest["config"], *manifest["layers"]):
            status, content = self._get(f"blobs/{blob['digest']}")
            if status != 200 or f"sha256:{hashlib.sha256(content).hexdigest()}" != blob["digest"]:
                found.append(f"{self.name}: blob {blob['digest']}: {status}, {len(content)} bytes")
        return found

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection(self.registry.name, timeout=20)
        try:
            connection.request("GET", f"/v2/{self.repository}/{path}", headers={"Accept": _TYPES})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()
