"""Debian's docker-registry: what is pushed is pulled, byte for byte, and nothing is sent or fetched twice."""

from __future__ import annotations

import os

import pytest

from testing.images import Image, digest, directory, encode, file, image, whiteout
from testing.images.layout import OCI
from tests.registry.conftest import QUICK
from tests.support.flaky import Act, Flaky
from tests.support.registries import Running, needs_registry
from tests.support.stores import layers_in, put
from unionfs.errors import ImageError, NotFoundError, OptionError
from unionfs.image import blobs, find, index, names, platform
from unionfs.image.digest import Digest
from unionfs.image.model import Descriptor
from unionfs.image.store import Store
from unionfs.registry.client import Client
from unionfs.registry.pull import Pulled, Puller, pull
from unionfs.registry.push import push
from unionfs.registry.repository import Repository
from unionfs.registry.upload import Sent

pytestmark = [
    needs_registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers of these tests have owners"),
]

BASE = [directory("etc"), file("etc/a", b"a" * 3000, uid=1), file("etc/gone", b"x")]
TOP = [file("etc/b", b"b", 0o4755, gid=3), whiteout("etc/gone")]
ONE = image([BASE, TOP], {"Cmd": ["one"]})
TWO = image([BASE, [file("srv/two", b"two" * 1000)]], {"Cmd": ["two"]})


def pushed(store: Store, made: Image, name: str, *tags: str) -> str:
    """Push an image that is put into the store under *name*; returns its digest there."""
    put(store, made, name, *tags)
    return push(store, find.resolve(store, name), names.parse(name), QUICK).digest


def pulled(store: Store, name: str, wanted: str | None = None) -> Pulled:
    chosen = None if wanted is None else platform.parse(wanted)
    return pull(store, names.parse(name), chosen, QUICK)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_what_is_pushed_is_pulled_byte_for_byte(
    store: Store, empty: Store, plain: Running, compression: str, docker: bool
) -> None:
    made = image([BASE, TOP], {"Cmd": ["x"]}, compression=compression, docker=docker)
    name = f"{plain.name}/bytes/{compression}-{'docker' if docker else 'oci'}"
    sent = pushed(store, made, name)
    found = pulled(empty, name)
    assert (sent, found.digest, found.is_new) == (made.digest, made.digest, True)
    assert found.image.manifest == Descriptor(made.media_type, made.digest, len(made.manifest))
    assert [str(each) for each in found.image.tags] == [f"{name}:latest"]
    assert [str(each) for each in found.image.repo_digests] == [f"{name}@{made.digest}"]
    for content in (made.manifest, made.config, *made.blobs):
        assert blobs.path_of(empty, Digest(digest(content))).read_bytes() == content
    layers = layers_in(empty, name)
    assert [layer.diff_id for layer in layers] == [digest(each) for each in made.layers]
    assert (layers[0].path / "etc/a").stat().st_uid == 1
    assert sorted(os.listdir(layers[1].path / "etc")) == ["b", "gone"]


def test_what_is_there_is_neither_sent_nor_fetched(store: Store, empty: Store, proxy: Flaky) -> None:
    name = f"{proxy.name}/twice"
    pushed(store, ONE, name)
    proxy.seen.clear()
    push(store, find.resolve(store, name), names.parse(name), QUICK)
    assert [(each.method, each.received) for each in proxy.seen if each.method not in ("GET", "HEAD")] == [
        ("PUT", len(ONE.manifest))
    ]
    pulled(empty, name)
    proxy.seen.clear()
    assert not pulled(empty, name).is_new
    assert [(each.method, each.path) for each in proxy.seen] == [
        ("GET", "/v2/"),
        ("HEAD", "/v2/twice/manifests/latest"),
    ]


def test_an_image_with_the_same_base_brings_only_what_is_new(
    store: Store, empty: Store, proxy: Flaky
) -> None:
    pushed(store, ONE, f"{proxy.name}/based/one")
    pushed(store, TWO, f"{proxy.name}/based/two")
    pulled(empty, f"{proxy.name}/based/one")
    proxy.seen.clear()
    pulled(empty, f"{proxy.name}/based/two")
    assert sorted(each.path for each in proxy.of("GET", "/blobs/")) == sorted(
        f"/v2/based/two/blobs/{each}" for each in (TWO.id, digest(TWO.blobs[1]))
    )


def test_a_layer_that_was_unpacked_is_not_fetched_although_its_blob_is_gone(
    store: Store, empty: Store, proxy: Flaky
) -> None:
    pushed(store, ONE, f"{proxy.name}/freed/one")
    pulled(empty, f"{proxy.name}/freed/one")
    for each in ONE.blobs:
        blobs.path_of(empty, Digest(digest(each))).unlink()
    proxy.seen.clear()
    assert not pulled(empty, f"{proxy.name}/freed/one").is_new
    assert proxy.of("GET", "/blobs/") == []


def test_layers_that_another_repository_has_are_mounted(store: Store, proxy: Flaky) -> None:
    pushed(store, ONE, f"{proxy.name}/origin")
    proxy.seen.clear()
    how: dict[str, Sent] = {}
    put(store, ONE, f"{proxy.name}/derived")
    push(
        store,
        find.resolve(store, f"{proxy.name}/derived"),
        names.parse(f"{proxy.name}/derived"),
        QUICK,
        finished=lambda layer, sent: how.update({layer.digest: sent}),
    )
    assert how == {digest(each): Sent("mounted", "origin") for each in ONE.blobs}
    assert sum(each.received for each in proxy.seen) == len(ONE.manifest)
    mounts = proxy.of("POST", "/v2/derived/blobs/uploads/?mount=")
    assert len(mounts) == 3
    assert all(each.status == 201 and each.path.endswith("&from=origin") for each in mounts)


def test_a_repository_that_does_not_have_it_any_more_is_no_hindrance(store: Store, proxy: Flaky) -> None:
    missing = names.parse(f"{proxy.name}/missing@{ONE.digest}")
    put(store, ONE, f"{proxy.name}/elsewhere", repo_digest=str(missing))
    push(store, find.resolve(store, f"{proxy.name}/elsewhere"), names.parse(f"{proxy.name}/elsewhere"), QUICK)
    assert len(proxy.of("POST", "mount=")) == 3
    assert sum(each.received for each in proxy.of("PUT", "/uploads/")) == sum(
        map(len, (ONE.config, *ONE.blobs))
    )


def test_another_image_that_is_broken_is_no_hindrance(store: Store, plain: Running) -> None:
    put(store, ONE, "broken:1", repo_digest=f"{plain.name}/other@{ONE.digest}")
    blobs.path_of(store, Digest(ONE.digest)).unlink()
    assert pushed(store, TWO, f"{plain.name}/beside") == TWO.digest


def test_a_push_makes_the_registrys_digest_known(store: Store, plain: Running) -> None:
    name = f"{plain.name}/known"
    pushed(store, ONE, name, f"{name}:other")
    (found,) = index.images(store)
    assert [str(each) for each in found.repo_digests] == [f"{name}@{ONE.digest}"]
    assert len(found.tags) == 2


def push_index(
    store: Store, name: str, images: dict[str, Image], *more: dict[str, object]
) -> tuple[Repository, str]:
    """An index of images by their platforms, under `latest`."""
    reference = names.parse(name)
    entries: list[dict[str, object]] = []
    for text, each in images.items():
        pushed(store, each, f"{name}:{text.replace('/', '-')}")
        parts = text.split("/")
        on = {"os": parts[0], "architecture": parts[1], **({"variant": parts[2]} if parts[2:] else {})}
        entries.append(each.descriptor | {"platform": on})
    kind = f"{OCI}.index.v1+json"
    content = encode({"schemaVersion": 2, "mediaType": kind, "manifests": [*entries, *more]})
    repository = Repository(Client(reference.registry, QUICK), reference.repository, "pull,push")
    repository.put_document("latest", content, kind, Digest(digest(content)))
    return repository, digest(content)


def on(system: str, architecture: str) -> Image:
    return image([BASE], {"Cmd": [architecture]}, platform=(system, architecture))


def test_of_an_index_the_image_for_the_platform_is_pulled(store: Store, empty: Store, proxy: Flaky) -> None:
    name = f"{proxy.name}/index"
    images = {each: on(*each.split("/")[:2]) for each in ("linux/s390x", "linux/arm64/v8", "linux/amd64")}
    attestation = {
        **on("unknown", "unknown").descriptor,
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    pushed(store, on("unknown", "unknown"), f"{name}:attestation")
    _, top = push_index(store, name, images, attestation)
    for text, wanted in {"linux/s390x": "linux/s390x", "arm64": "linux/arm64/v8"}.items():
        found = pulled(empty, name, text)
        assert (found.digest, found.image.manifest.digest) == (top, images[wanted].digest)
        assert [str(each) for each in found.image.repo_digests] == [f"{name}@{top}"]
        assert [str(each) for each in found.image.tags] == [f"{name}:latest"]
    assert blobs.has(empty, Digest(top)), "the index is stored, too"
    proxy.seen.clear()
    assert not pulled(empty, name, "linux/arm64").is_new
    assert [each.method for each in proxy.seen] == ["GET", "HEAD"]
    with pytest.raises(NotFoundError) as raised:
        pulled(empty, name, "linux/riscv64")
    assert "linux/riscv64" in str(raised.value)
    assert "linux/amd64, linux/arm64/v8, linux/s390x:" in str(raised.value)
    assert "unknown" not in str(raised.value)


def test_an_image_for_another_platform_than_was_asked_for_is_refused(
    store: Store, empty: Store, plain: Running
) -> None:
    name = f"{plain.name}/single"
    pushed(store, on("linux", "s390x"), name)
    with pytest.raises(NotFoundError, match="no image for linux/amd64: those there are for linux/s390x"):
        pulled(empty, name, "linux/amd64")
    assert index.images(empty) == []
    assert pulled(empty, name).is_new, "without --platform it is taken, as by Docker"


def test_every_tag_of_a_repository(store: Store, empty: Store, plain: Running) -> None:
    tags = [f"tag{number}" for number in range(4)]
    pushed(store, ONE, f"{plain.name}/tags:{tags[0]}")
    repository = Repository(Client(plain.name, QUICK), "tags", "pull,push")
    for each in tags[1:]:
        repository.put_document(each, ONE.manifest, ONE.media_type, Digest(ONE.digest))
    assert sorted(Puller(empty, names.parse(f"{plain.name}/tags"), QUICK).tags()) == tags


@pytest.mark.parametrize("link", ['</v2/p/tags/list?last=b&n=2>; rel="next"', "<list?last=b>;rel=next"])
def test_every_page_of_a_list_of_tags(empty: Store, proxy: Flaky, link: str) -> None:
    more = {"Link": link}
    proxy.wish(lambda seen: "last=b" in seen.path, Act(200, {}, b'{"tags": ["c"]}'))
    proxy.wish(lambda seen: "tags/list" in seen.path, Act(200, more, b'{"tags": ["a", "b"]}'))
    assert Puller(empty, names.parse(f"{proxy.name}/p"), QUICK).tags() == ["a", "b", "c"]


def test_a_list_of_tags_that_leads_to_itself_or_elsewhere_ends(empty: Store, proxy: Flaky) -> None:
    more = {"Link": '<https://evil.example/v2/p/tags/list?n=1000>; rel="next"'}
    proxy.wish(lambda seen: "tags/list" in seen.path, Act(200, more, b'{"tags": ["a"]}'))
    assert Puller(empty, names.parse(f"{proxy.name}/p"), QUICK).tags() == ["a"]
    assert [each.path for each in proxy.of("GET", "tags")] == ["/v2/p/tags/list?n=1000"]


def test_by_its_digest_an_image_has_no_tag_and_is_asked_for_once(
    store: Store, empty: Store, proxy: Flaky
) -> None:
    pushed(store, ONE, f"{proxy.name}/exact")
    name = f"{proxy.name}/exact@{ONE.digest}"
    found = pulled(empty, name)
    assert (found.image.tags, [str(each) for each in found.image.repo_digests]) == ([], [name])
    proxy.seen.clear()
    assert not pulled(empty, name).is_new
    assert proxy.seen == [], "a digest never means anything else"


def test_a_digest_of_the_store_is_no_digest_of_every_repository(store: Store, plain: Running) -> None:
    pushed(store, ONE, f"{plain.name}/here")
    with pytest.raises(NotFoundError, match="no such image in the registry"):
        pulled(store, f"{plain.name}/nothere@{ONE.digest}")


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("absent", "no such image in the registry"),
        ("present:absent", r"present:absent: no such image in the registry \(manifest unknown\)"),
        ("present@sha256:" + "0" * 64, "no such image in the registry"),
    ],
)
def test_what_is_not_there_is_named(
    store: Store, empty: Store, plain: Running, name: str, about: str
) -> None:
    pushed(store, ONE, f"{plain.name}/present")
    with pytest.raises(NotFoundError, match=about):
        pulled(empty, f"{plain.name}/{name}")
    assert index.images(empty) == []


def test_a_manifest_with_other_bytes_is_refused(store: Store, empty: Store, proxy: Flaky) -> None:
    name = f"{proxy.name}/changed"
    pushed(store, ONE, name)
    proxy.wish(
        lambda seen: "/manifests/" in seen.path, Act(change=lambda block: block.replace(b"2", b"3", 1))
    )
    for each in (name, f"{name}@{ONE.digest}"):
        with pytest.raises(
            ImageError, match=f"expected digest {ONE.digest}, got sha256:.*nothing was stored"
        ):
            pulled(empty, each)
    assert list(blobs.all_blobs(empty)) == []


@pytest.mark.parametrize("what", ["config", "layer"])
def test_a_blob_with_other_bytes_is_refused(store: Store, empty: Store, proxy: Flaky, what: str) -> None:
    name = f"{proxy.name}/spoiled"
    pushed(store, ONE, name)
    wrong = ONE.id if what == "config" else digest(ONE.blobs[1])
    proxy.wish(lambda seen: wrong in seen.path, Act(change=lambda block: bytes([block[0] ^ 1]) + block[1:]))
    with pytest.raises(ImageError, match=f"expected digest {wrong}, got sha256:"):
        pulled(empty, name)
    assert index.images(empty) == []
    assert not blobs.has(empty, Digest(wrong))
    assert len(proxy.of("GET", wrong)) == 1, "wrong bytes are no broken connection"


def test_schema_1_is_refused_with_the_reason(empty: Store, proxy: Flaky) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    body = encode({"schemaVersion": 1, "name": "old", "tag": "1", "fsLayers": [], "history": []})
    proxy.wish(lambda seen: "/manifests/" in seen.path, Act(200, {"Content-Type": kind}, body))
    with pytest.raises(ImageError, match="a manifest of schema version 1, which"):
        pulled(empty, f"{proxy.name}/old:1")


def test_an_endless_manifest_is_refused(empty: Store, proxy: Flaky) -> None:
    proxy.wish(lambda seen: "/manifests/" in seen.path, Act(200, {}, b" " * (9 << 20)))
    with pytest.raises(ImageError, match="the answer has more than"):
        pulled(empty, f"{proxy.name}/endless")


def test_a_freed_blob_comes_back_from_where_the_image_is_from(
    store: Store, empty: Store, plain: Running, proxy: Flaky
) -> None:
    pushed(store, ONE, f"{plain.name}/freed/from")
    pulled(empty, f"{plain.name}/freed/from")
    for each in ONE.blobs:
        blobs.path_of(empty, Digest(digest(each))).unlink()
    (found,) = index.images(empty)
    # By the proxy it is another registry: no mount, and nothing there but by its own name.
    target = names.parse(f"{proxy.name}/freed/to")
    assert push(empty, found, target, QUICK).digest == ONE.digest
    assert all(blobs.has(empty, Digest(digest(each))) for each in ONE.blobs)


def test_a_freed_blob_that_no_registry_has_is_named_with_what_to_do(store: Store, plain: Running) -> None:
    put(store, ONE, f"{plain.name}/lost")
    blobs.path_of(store, Digest(digest(ONE.blobs[0]))).unlink()
    with pytest.raises(NotFoundError) as raised:
        push(store, find.resolve(store, f"{plain.name}/lost"), names.parse(f"{plain.name}/lost"), QUICK)
    assert digest(ONE.blobs[0]) in str(raised.value)
    assert "`prune --blobs`" in str(raised.value)
    with pytest.raises(NotFoundError, match="no such image"):
        pulled(store, f"{plain.name}/lost:latest")


def test_a_digest_is_no_target_of_a_push(store: Store, plain: Running) -> None:
    put(store, ONE, "one")
    with pytest.raises(OptionError, match="give a tag instead"):
        push(store, find.resolve(store, "one"), names.parse(f"{plain.name}/x@{ONE.digest}"), QUICK)


def test_two_pulls_of_one_image_fetch_it_once(store: Store, empty: Store, proxy: Flaky) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = f"{proxy.name}/both"
    pushed(store, ONE, name)
    proxy.seen.clear()
    with ThreadPoolExecutor(4) as pool:
        found = [each.result() for each in [pool.submit(pulled, empty, name) for _ in range(4)]]
    assert {each.digest for each in found} == {ONE.digest}
    for each in ONE.blobs:
        assert len(proxy.of("GET", f"/blobs/{digest(each)}")) == 1
    assert [*empty.ingest.iterdir()] == []
