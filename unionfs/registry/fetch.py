"""What an image consists of, piece by piece from a registry that is known to have it: to mend, to push."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager

from unionfs.image.digest import Readable
from unionfs.image.model import INDEXES, MANIFESTS, Descriptor
from unionfs.image.names import Reference
from unionfs.image.progress import SILENT, Observer
from unionfs.registry import credentials
from unionfs.registry.client import Client
from unionfs.registry.connections import Options
from unionfs.registry.download import Download
from unionfs.registry.repository import Repository


class Fetcher:
    """An `image.verify.Fetch`. Verifies nothing but documents: what is stored, `image` verifies."""

    def __init__(self, options: Options | None = None, observer: Observer = SILENT) -> None:
        self._options = options
        self._observer = observer
        self._repositories: dict[str, Repository] = {}

    def __call__(self, repository: Reference, blob: Descriptor, /) -> AbstractContextManager[Readable]:
        """Opens a manifest, a config or a layer. What it raises, reading may raise, too."""
        found = self._repositories.get(repository.name)
        if found is None:
            kept = credentials.find(repository.registry, repository.repository)
            client = Client(repository.registry, self._options, kept)
            found = self._repositories[repository.name] = Repository(client, repository.repository)
        if blob.media_type in (*MANIFESTS, *INDEXES):
            return io.BytesIO(found.document(blob.digest).content)
        return Download(found, blob, 0, self._observer)
