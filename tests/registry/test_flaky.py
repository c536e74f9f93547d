"""Connections that break, busy servers, redirects: what is asked for is there in the end, or nothing is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from testing.images import digest, file, image
from tests.registry.conftest import QUICK
from tests.support.flaky import Act, Flaky, Seen, flaky
from tests.support.registries import Running, needs_registry
from tests.support.stores import layers_in, put
from unionfs.errors import ImageError
from unionfs.image import blobs, find, index, names
from unionfs.image.digest import Digest
from unionfs.image.model import Descriptor
from unionfs.image.store import Store
from unionfs.registry import credentials
from unionfs.registry.client import Client
from unionfs.registry.connections import Options, Response
from unionfs.registry.pull import Puller, pull
from unionfs.registry.push import push
from unionfs.registry.retry import Schedule

pytestmark = [
    needs_registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers of these tests have owners"),
]

LARGE = image([[file("large", os.urandom(1 << 20) * 3)]], {"Cmd": ["x"]}, compression="none")
"""Its layer is of 3 MiB, and a little more."""
LAYER = digest(LARGE.blobs[0])
SIZE = len(LARGE.blobs[0])
ONCE = Options(schedule=Schedule(tries=1))


def is_layer(seen: Seen) -> bool:
    return seen.method == "GET" and LAYER in seen.path


@pytest.fixture
def name(store: Store, plain: Running, proxy: Flaky) -> str:
    """The image's name by the proxy, where it has been pushed to by another way."""
    put(store, LARGE, f"{plain.name}/flaky/image")
    push(store, find.resolve(store, f"{plain.name}/flaky/image"), names.parse(f"{plain.name}/flaky/image"))
    return f"{proxy.name}/flaky/image"


def ranges(proxy: Flaky) -> list[str | None]:
    return [each.headers.get("range") for each in proxy.of("GET", LAYER)]


def content(store: Store, name: str) -> bytes:
    return (layers_in(store, name)[0].path / "large").read_bytes()


def test_a_download_goes_on_where_it_broke(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(is_layer, Act(cut_reply=1_000_000), 3)
    pull(empty, names.parse(name), options=QUICK)
    assert content(empty, name) == LARGE.layers[0][512 : 512 + (3 << 20)]
    assert ranges(proxy) == [None, "bytes=1000000-", "bytes=2000000-", "bytes=3000000-"]
    assert sum(each.sent for each in proxy.of("GET", LAYER)) == SIZE, "no byte was sent twice"


def test_the_next_command_goes_on_where_the_last_stopped(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(is_layer, Act(cut_reply=2_000_000), 1)
    with pytest.raises(ImageError, match=r"the connection broke.*; given up after 1 tries"):
        pull(empty, names.parse(name), options=ONCE)
    assert index.images(empty) == []
    empty.sweep()
    assert [each.name for each in empty.ingest.iterdir()] == [f"blob-{Digest(LAYER).hex}"]
    pull(empty, names.parse(name), options=ONCE)
    assert ranges(proxy) == [None, "bytes=2000000-"]
    assert sum(each.sent for each in proxy.of("GET", LAYER)) == SIZE
    assert blobs.path_of(empty, Digest(LAYER)).read_bytes() == LARGE.blobs[0]
    assert [*empty.ingest.iterdir()] == []


def test_a_server_that_knows_no_ranges_begins_anew(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(is_layer, Act(cut_reply=2_000_000, without="range"), 1)
    proxy.wish(is_layer, Act(without="range"))
    pull(empty, names.parse(name), options=QUICK)
    assert content(empty, name) == LARGE.layers[0][512 : 512 + (3 << 20)]
    assert [each.status for each in proxy.of("GET", LAYER)] == [200, 200]
    assert sum(each.sent for each in proxy.of("GET", LAYER)) == SIZE + 2_000_000


def test_what_was_left_half_is_not_trusted(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(is_layer, Act(cut_reply=2_000_000, change=lambda block: bytes(len(block))), 1)
    with pytest.raises(ImageError):
        pull(empty, names.parse(name), options=ONCE)
    pull(empty, names.parse(name), options=ONCE)
    assert content(empty, name) == LARGE.layers[0][512 : 512 + (3 << 20)]
    assert ranges(proxy) == [None, "bytes=2000000-", None], "then from the beginning"


def test_it_is_given_up_where_nothing_comes_any_more(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(is_layer, Act(cut_reply=1_000_000), 1)
    proxy.wish(is_layer, Act(cut_reply=0))
    with pytest.raises(ImageError, match=f"blob {LAYER}: the connection broke .*; given up after 5 tries"):
        pull(empty, names.parse(name), options=QUICK)
    assert len(proxy.of("GET", LAYER)) == 1 + 5 - 1
    assert index.images(empty) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("part", ["/v2/", "/manifests/", "/blobs/"])
def test_a_busy_registry_is_asked_again(
    empty: Store, proxy: Flaky, name: str, status: int, part: str
) -> None:
    proxy.wish(lambda seen: part in seen.path, Act(status, {"Retry-After": "0"}, b"<html>busy"), 2)
    assert pull(empty, names.parse(name), options=QUICK).digest == LARGE.digest
    assert len([each for each in proxy.seen if each.status == status]) == 2


def test_a_registry_that_stays_busy_is_left_alone(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(lambda seen: "/manifests/" in seen.path, Act(503))
    with pytest.raises(ImageError, match="answers 503; given up after 5 tries"):
        pull(empty, names.parse(name), options=QUICK)
    assert len(proxy.of("GET", "/manifests/")) == 5


def test_nothing_is_asked_again_that_stays_refused(empty: Store, proxy: Flaky, name: str) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not for you"}]}'
    proxy.wish(lambda seen: "/manifests/" in seen.path, Act(403, {}, body))
    with pytest.raises(ImageError, match=r"answers 403 \(not for you\): check the name"):
        pull(empty, names.parse(name), options=QUICK)
    assert len(proxy.of("GET", "/manifests/")) == 1


def test_a_registry_asks_for_its_pause(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(lambda seen: "/manifests/" in seen.path, Act(429, {"Retry-After": "7200"}))
    with pytest.raises(ImageError, match="answers 429; the registry asks to wait for 7200 seconds"):
        pull(empty, names.parse(name), options=QUICK)


def test_connections_that_break_before_the_reply(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(lambda seen: "/manifests/" in seen.path, Act(lose_reply=True), 2)
    assert pull(empty, names.parse(name), options=QUICK).digest == LARGE.digest


def test_blobs_are_fetched_from_where_they_are_redirected_to_without_credentials(
    empty: Store, plain: Running, proxy: Flaky, name: str
) -> None:
    """The registry has users here, and the other host does not know them."""
    credentials.store(proxy.name, credentials.Credentials("user", "secret"))
    proxy.wish(
        lambda seen: "authorization" not in seen.headers, Act(401, {"WWW-Authenticate": 'Basic realm="x"'})
    )
    with flaky(plain.name) as other:
        proxy.wish(
            lambda seen: seen.method == "GET" and "/blobs/" in seen.path,
            Act(307, {"Location": f"http://localhost:{other.port}/v2/flaky/image/blobs/{LAYER}"}),
        )
        other.wish(lambda seen: LAYER in seen.path, Act(cut_reply=1_000_000), 1)
        puller = Puller(empty, names.parse(name), QUICK)
        with puller.open_blob(Descriptor("x", LAYER, SIZE), 0) as source:
            got = b"".join(iter(lambda: source.read(1 << 20), b""))
        assert got == LARGE.blobs[0]
        assert [each.headers.get("range") for each in other.seen] == [None, "bytes=1000000-"]
        assert all("authorization" not in each.headers for each in other.seen)
        assert [each.headers["authorization"][:6] for each in proxy.of("GET", LAYER)] == ["Basic ", "Basic "]


def test_another_hosts_challenge_gets_no_answer(
    empty: Store, plain: Running, proxy: Flaky, name: str
) -> None:
    from unionfs.registry import credentials

    credentials.store(proxy.name, credentials.Credentials("user", "secret"))
    with flaky(plain.name) as other:
        proxy.wish(is_layer, Act(302, {"Location": f"http://localhost:{other.port}/steal"}))
        other.wish(lambda seen: True, Act(401, {"WWW-Authenticate": 'Basic realm="x"'}))
        with pytest.raises(ImageError, match="answers 401"):
            pull(empty, names.parse(name), options=QUICK)
        assert [(each.path, "authorization" in each.headers) for each in other.seen] == [("/steal", False)]


@pytest.mark.parametrize("target", ["http://registry.example/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_leads_to_https_only(empty: Store, proxy: Flaky, name: str, target: str) -> None:
    proxy.wish(is_layer, Act(302, {"Location": target}))
    with pytest.raises(ImageError, match=f"leads to {target}, which is no HTTPS"):
        pull(empty, names.parse(name), options=QUICK)


def test_redirects_in_a_circle_end(empty: Store, proxy: Flaky, name: str) -> None:
    proxy.wish(is_layer, Act(302, {"Location": f"/v2/flaky/image/blobs/{LAYER}"}))
    with pytest.raises(ImageError, match="more than 10 redirects"):
        pull(empty, names.parse(name), options=QUICK)


@pytest.mark.parametrize("stalled", ["the response", "its content"])
def test_a_download_that_is_left_ends_at_once(empty: Store, proxy: Flaky, name: str, stalled: str) -> None:
    """As with Ctrl-C: another thread waits for what does not come."""
    began, come = threading.Event(), threading.Event()

    def stall(block: bytes) -> bytes:
        began.set()
        come.wait(60)
        return block

    def is_stalled(seen: Seen) -> bool:
        if is_layer(seen):
            stall(b"")
        return False

    if stalled == "the response":
        proxy.wish(is_stalled, Act())
    else:
        proxy.wish(is_layer, Act(change=stall))
    failed: list[BaseException] = []

    def read() -> None:
        try:
            opened.read(1000)
        except ImageError as error:
            failed.append(error)

    with Puller(empty, names.parse(name)).open_blob(Descriptor("x", LAYER, SIZE), 0) as opened:
        reader = threading.Thread(target=read)
        reader.start()
        assert began.wait(30)
    reader.join(30)
    come.set()
    assert not reader.is_alive()
    assert "the download was ended" in str(failed[0])


def test_a_download_that_was_left_before_its_response_came_reads_nothing(
    empty: Store, proxy: Flaky, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves finds no response to end, and the one that comes then has no content."""
    come = threading.Event()
    proxy.wish(is_layer, Act(change=lambda block: block if come.wait(60) else b""))
    download = Puller(empty, names.parse(name)).open_blob(Descriptor("x", LAYER, SIZE), 0)
    send = Client.request

    def left_meanwhile(self: Client, *args: Any, **keywords: Any) -> Response:
        response = send(self, *args, **keywords)
        leaving.close()
        return response

    monkeypatch.setattr(Client, "request", left_meanwhile)
    with ExitStack() as leaving:
        opened = leaving.enter_context(download)
        with pytest.raises(ImageError, match="the download was ended"):
            opened.read(1000)
    assert not come.is_set()
    come.set()


def test_a_pull_that_was_killed_goes_on_in_the_next_command(empty: Store, proxy: Flaky, name: str) -> None:
    """SIGKILL at several moments of the download: each time what had come stays, and is not fetched again."""
    words = [sys.executable, "-m", "unionfs", "pull", "-q", "--store", str(empty.root), name]
    part = empty.ingest / f"blob-{Digest(LAYER).hex}" / "data"

    def slowly(block: bytes) -> bytes:
        time.sleep(0.01)
        return block

    proxy.wish(is_layer, Act(change=slowly))
    for least in (1, 500_000, 1_500_000):
        process = subprocess.Popen(words)
        while (part.stat().st_size if part.exists() else 0) < least and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert index.images(empty) == []
        assert part.stat().st_size < SIZE
    assert subprocess.run(words, check=False).returncode == 0
    assert content(empty, name) == LARGE.layers[0][512 : 512 + (3 << 20)]
    begins = [int((each or "bytes=0-")[6:-1]) for each in ranges(proxy)]
    assert begins == sorted(begins)
    assert begins[0] == 0
    assert begins[1] >= 1
    assert begins[2] >= 500_000
    assert begins[3] >= 1_500_000
    assert [*empty.ingest.iterdir()] == []
