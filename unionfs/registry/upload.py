"""A blob to a registry: not at all where it is there, by a mount of another repository's, whole, in chunks.

Each way ends with the registry's own check of the digest. What is sent is read anew for each try.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode, urljoin, urlsplit

from unionfs.errors import ImageError
from unionfs.image.blobs import BlobFile
from unionfs.image.model import Descriptor
from unionfs.image.progress import Observer
from unionfs.registry.client import Client
from unionfs.registry.connections import Response, Unreachable, discard
from unionfs.registry.replies import RegistryError
from unionfs.registry.repository import Repository
from unionfs.registry.retry import PASSING

CHUNK = 32 << 20
"""Bytes of a chunk. What is not larger is sent whole, which every registry can."""
_BLOCK = 1 << 20

How = Literal["exists", "mounted", "sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a blob."""

    how: How
    source: str = ""
    """The repository from which it was mounted."""


@dataclass(slots=True)
class _Session:
    """An upload under way: where the next part goes, and how much the registry has."""

    url: str
    done: int = 0


class Upload:
    """One blob to one repository. One thread's."""

    def __init__(
        self,
        repository: Repository,
        blob: Descriptor,
        opened: Callable[[], AbstractContextManager[BlobFile]],
        observer: Observer,
        chunk: int = CHUNK,
    ) -> None:
        self._repository = repository
        self._client: Client = repository.client
        self._blob = blob
        self._opened = opened
        self._observer = observer
        self._chunk = chunk
        self._what = repository.about(blob)

    def run(self, sources: Sequence[str]) -> Sent:
        """Have the blob there. *sources* are repositories of the same registry that may have it.

        Raises what *opened* raises, only if it has to be sent; ImageError where the registry refuses.
        """
        if self._repository.has_blob(self._blob):
            return Sent("exists")
        session: _Session | None = None
        for source in sources:
            try:
                session = self._begin(source)
            except RegistryError as error:
                if error.status not in (401, 403, 404):
                    raise
                continue  # the source is not for this account
            if session is None:
                return Sent("mounted", source)
        self._send(session)
        return Sent("sent")

    def _begin(self, source: str = "") -> _Session | None:
        """A new upload, or None: it was mounted from *source*.

        Tried again as if it had no effect: an upload to which nothing is sent, the registry discards.
        """
        query, scopes = "", self._repository.scopes
        if source:
            query = "?" + urlencode({"mount": self._blob.digest, "from": source})
            scopes = (*scopes, f"repository:{source}:pull")
        response = self._client.request(
            "POST",
            self._repository.upload_path() + query,
            what=self._what,
            expected=(201, 202) if source else (202,),
            scopes=scopes,
            headers={"Content-Length": "0"},
        )
        discard(response)
        if response.status == 201:
            return None
        self._chunk = max(self._chunk, _number(response.headers.get("OCI-Chunk-Min-Length")))
        return _Session(self._next(self._client.base(), response))

    def _send(self, session: _Session | None) -> None:
        attempts = self._client.attempts()
        furthest = 0
        while True:
            try:
                if session is None:
                    session = self._begin()
                    assert session is not None
                self._send_to(session)
                return
            except (Unreachable, RegistryError) as error:
                if isinstance(error, RegistryError) and error.status not in (*PASSING, 404, 416):
                    raise
                if isinstance(error, Unreachable) and not error.passes:
                    raise
                self._observer.report(self._blob.id, "retrying", 0, self._blob.size)
                attempts.failed(str(error))
            if self._repository.has_blob(self._blob):
                return  # only the answer was lost
            session = self._state(session)
            if session is not None and session.done > furthest:
                furthest = session.done
                attempts.progressed()

    def _send_to(self, session: _Session) -> None:
        while self._blob.size > self._chunk and session.done < self._blob.size:
            length = min(self._chunk, self._blob.size - session.done)
            headers = {"Content-Range": f"{session.done}-{session.done + length - 1}"}
            response = self._put("PATCH", session.url, session.done, length, (202, 204), headers)
            session.url = self._next(session.url, response)
            session.done += length
        joint = "&" if urlsplit(session.url).query else "?"
        url = session.url + joint + urlencode({"digest": self._blob.digest})
        self._put("PUT", url, session.done, self._blob.size - session.done, (201, 204), {})

    def _put(
        self, method: str, url: str, begin: int, length: int, expected: tuple[int, ...], more: dict[str, str]
    ) -> Response:
        response = self._client.request(
            method,
            url,
            what=self._what,
            expected=expected,
            scopes=self._repository.scopes,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(length), **more},
            body=lambda: self._blocks(begin, begin + length),
            again=False,
        )
        discard(response)
        return response

    def _blocks(self, begin: int, end: int) -> Iterator[bytes]:
        if begin == end:
            return
        with self._opened() as file:
            while begin < end:
                block = os.pread(file.fd, min(_BLOCK, end - begin), begin)
                if not block:
                    raise ImageError(
                        f"blob {self._blob.digest} in the store is shorter than {self._blob.size}"
                    )
                yield block
                begin += len(block)
                self._observer.report(self._blob.id, "uploading", begin, self._blob.size)

    def _state(self, session: _Session | None) -> _Session | None:
        """The same upload where it stopped, as the registry says; None: it has to begin anew."""
        if session is None or self._blob.size <= self._chunk:
            return None
        try:
            response = self._client.request(
                "GET", session.url, what=self._what, expected=(204, 202), scopes=self._repository.scopes
            )
        except RegistryError:
            return None
        discard(response)
        found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
        if found is None:
            return None
        end = int(found[1])
        done = end + 1 if end else 0  # `0-0` is written for nothing, too
        return _Session(self._next(session.url, response), done) if done <= self._blob.size else None

    def _next(self, url: str, response: Response) -> str:
        """Where an answer wants the next part."""
        target = response.headers.get("Location")
        if not target:
            raise ImageError(f"{self._what}: the registry does not say where to send it (no Location)")
        return urljoin(url, target)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
