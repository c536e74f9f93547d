"""Uploads: whole, in chunks, and what is done where a connection breaks.

docker-registry 2.8 forgets an upload whose chunk came in part; registries that keep to the specification say
how much they have. Hence the second one, which is the test's and does nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from testing.images import digest, file, image
from tests.registry.conftest import QUICK
from tests.support.flaky import Act, Flaky, Seen, flaky
from tests.support.http_server import BreakingServer, Handler
from tests.support.registries import needs_registry
from tests.support.stores import put
from unionfs.errors import ImageError
from unionfs.image import blobs, find, names
from unionfs.image.digest import Digest
from unionfs.image.store import Store
from unionfs.registry.push import Pushed, push
from unionfs.registry.replies import RegistryError

LARGE = image([[file("large", os.urandom(1 << 20) * 3)]], {"Cmd": ["x"]}, compression="none")
LAYER = digest(LARGE.blobs[0])
SIZE = len(LARGE.blobs[0])
CHUNK = 1 << 20
UPLOADS = "/v2/x/blobs/uploads"


def pushed(store: Store, name: str, chunk: int = CHUNK) -> Pushed:
    put(store, LARGE, name)
    return push(store, find.resolve(store, name), names.parse(name), QUICK, chunk=chunk)


def ranges(proxy: Flaky) -> list[tuple[str | None, int]]:
    return [(each.headers.get("content-range"), each.received) for each in proxy.of("PATCH", "/uploads/")]


IN_CHUNKS = [
    ("0-1048575", CHUNK),
    ("1048576-2097151", CHUNK),
    ("2097152-3145727", CHUNK),
    (f"3145728-{SIZE - 1}", SIZE - 3 * CHUNK),
]


@needs_registry
def test_a_large_blob_is_sent_in_chunks(store: Store, proxy: Flaky) -> None:
    pushed(store, f"{proxy.name}/chunks/whole")
    assert ranges(proxy) == IN_CHUNKS
    assert all(each.received == 0 for each in proxy.of("PUT", LAYER.partition(":")[2]))


@needs_registry
def test_a_small_blob_is_sent_whole(store: Store, proxy: Flaky) -> None:
    pushed(store, f"{proxy.name}/chunks/none", chunk=SIZE)
    assert ranges(proxy) == []
    assert [each.received for each in proxy.of("PUT", LAYER.partition(":")[2])] == [SIZE]


@needs_registry
@pytest.mark.parametrize("chunk", [CHUNK, SIZE])
def test_an_upload_that_breaks_is_sent_again(store: Store, proxy: Flaky, chunk: int) -> None:
    name = f"{proxy.name}/broken/{chunk}"
    proxy.wish(lambda seen: "/uploads/" in seen.path and seen.method == "PATCH", Act(cut_request=500_000), 2)
    proxy.wish(lambda seen: LAYER[7:] in seen.path and seen.method == "PUT", Act(cut_request=500_000), 2)
    assert pushed(store, name, chunk).digest == LARGE.digest
    assert len(proxy.of("POST", "/uploads/")) > 2


@needs_registry
def test_what_came_whole_is_not_sent_again_where_only_the_reply_was_lost(store: Store, proxy: Flaky) -> None:
    proxy.wish(lambda seen: LAYER[7:] in seen.path and seen.method == "PUT", Act(lose_reply=True), 1)
    pushed(store, f"{proxy.name}/lost", chunk=SIZE)
    assert [each.received for each in proxy.of("PUT", LAYER[7:])] == [SIZE]


@needs_registry
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_a_busy_registry_gets_it_later(store: Store, proxy: Flaky, method: str) -> None:
    busy = Act(503, {"Retry-After": "0"})
    proxy.wish(lambda seen: seen.method == method, busy, 2)
    assert pushed(store, f"{proxy.name}/busy/{method.lower()}").digest == LARGE.digest
    assert len([each for each in proxy.of(method, "") if each.status == 503]) == 2


@needs_registry
def test_the_manifest_comes_last_and_not_at_all_where_a_blob_is_refused(store: Store, proxy: Flaky) -> None:
    body = b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}'
    proxy.wish(lambda seen: seen.method == "PUT" and LAYER[7:] in seen.path, Act(400, {}, body))
    with pytest.raises(RegistryError, match=f"blob {LAYER}: .*answers 400 .provided digest did not match"):
        pushed(store, f"{proxy.name}/refused")
    assert proxy.of("PUT", "/manifests/") == []
    assert len(proxy.of("PUT", LAYER[7:])) == 1


@needs_registry
def test_a_damaged_blob_of_the_store_is_refused_by_the_registry(store: Store, proxy: Flaky) -> None:
    name = f"{proxy.name}/damaged"
    put(store, LARGE, name)
    path = blobs.path_of(store, Digest(LAYER))
    path.write_bytes(bytes(SIZE))
    with pytest.raises(RegistryError, match=r"answers 400 .*digest"):
        push(store, find.resolve(store, name), names.parse(name), QUICK)
    path.write_bytes(b"short")
    with pytest.raises(ImageError, match="in the store is shorter than"):
        push(store, find.resolve(store, name), names.parse(name), QUICK)
    assert proxy.of("PUT", "/manifests/") == []


class ByTheBook(Handler):
    """distribution-spec's uploads: chunks in their order, kept as they come, whose state can be asked for."""

    uploads: dict[str, bytearray]
    blobs: dict[str, bytes]
    minimum = 0

    def _reply(self, status: int, **headers: str) -> None:
        self.reply(status, {name.replace("_", "-"): value for name, value in headers.items()})

    def _state(self, status: int, name: str) -> None:
        there = len(self.uploads[name])
        self._reply(status, Location=f"{UPLOADS}/{name}?there={there}", Range=f"0-{max(there - 1, 0)}")

    def do_GET(self) -> None:
        found = re.fullmatch(r"/v2/x/blobs/uploads/(\w+)\?.*", self.path)
        if found is None:
            self._reply(200)
        else:
            self._state(204, found[1])

    def do_HEAD(self) -> None:
        self._reply(200 if self.path.rpartition("/")[2] in self.blobs else 404)

    def do_POST(self) -> None:
        name = f"u{len(self.uploads)}"
        self.uploads[name] = bytearray()
        self._reply(202, Location=f"{UPLOADS}/{name}?there=0", OCI_Chunk_Min_Length=str(self.minimum))

    def _take(self, name: str) -> bool:
        there = len(self.uploads[name])
        for block in self.body():
            self.uploads[name] += block
        return len(self.uploads[name]) - there == int(self.headers.get("Content-Length") or 0)

    def do_PATCH(self) -> None:
        name = urlsplit(self.path).path.rpartition("/")[2]
        there = parse_qs(urlsplit(self.path).query)["there"] == [str(len(self.uploads[name]))]
        begin = (self.headers.get("Content-Range") or "").partition("-")[0]
        if begin != str(len(self.uploads[name])) or not there:
            self.close_connection = True
            self._state(416, name)
        elif self._take(name):
            self._state(202, name)

    def do_PUT(self) -> None:
        found = urlsplit(self.path)
        if "/manifests/" in found.path:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._reply(201)
            return
        name = found.path.rpartition("/")[2]
        if self._take(name):
            [wanted] = parse_qs(found.query)["digest"]
            content = bytes(self.uploads[name])
            if digest(content) == wanted:
                self.blobs[wanted] = content
            self._reply(201 if digest(content) == wanted else 400)


@contextmanager
def by_the_book(minimum: int = 0) -> Iterator[tuple[str, type[ByTheBook]]]:
    kind = type("Book", (ByTheBook,), {"uploads": {}, "blobs": {}, "minimum": minimum})
    server = BreakingServer(kind)
    with server.serving():
        yield server.name, kind


def is_second_chunk(seen: Seen) -> bool:
    return seen.headers.get("content-range", "").startswith("1048576-")


def test_an_upload_goes_on_where_the_registry_says_that_it_stopped(store: Store) -> None:
    with by_the_book() as (address, kind), flaky(address) as proxy:
        proxy.wish(is_second_chunk, Act(cut_request=500_000), 1)
        assert pushed(store, f"{proxy.name}/x").digest == LARGE.digest
        assert kind.blobs[LAYER] == LARGE.blobs[0]
        begins = [int((each or "").partition("-")[0]) for each, _ in ranges(proxy)]
        assert begins == [0, CHUNK, CHUNK + 500_000, 2 * CHUNK + 500_000]
        assert sum(size for _, size in ranges(proxy)) == SIZE, "no byte was sent twice"


def test_a_lost_reply_to_a_chunk_is_found_out(store: Store) -> None:
    with by_the_book() as (address, kind), flaky(address) as proxy:
        proxy.wish(is_second_chunk, Act(lose_reply=True), 1)
        pushed(store, f"{proxy.name}/x")
        assert kind.blobs[LAYER] == LARGE.blobs[0]
        assert ranges(proxy) == IN_CHUNKS


def test_chunks_are_as_large_as_the_registry_wants_them(store: Store) -> None:
    with by_the_book(minimum=2 * CHUNK) as (address, kind), flaky(address) as proxy:
        pushed(store, f"{proxy.name}/x")
        assert kind.blobs[LAYER] == LARGE.blobs[0]
        assert [size for _, size in ranges(proxy)] == [2 * CHUNK, SIZE - 2 * CHUNK]


def test_an_upload_that_never_comes_forward_is_given_up(store: Store) -> None:
    with by_the_book() as (address, _), flaky(address) as proxy:
        proxy.wish(is_second_chunk, Act(cut_request=0))
        with pytest.raises(ImageError, match="given up after 5 tries"):
            pushed(store, f"{proxy.name}/x")
        assert proxy.of("PUT", "/manifests/") == []
