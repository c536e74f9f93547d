"""Archives whose documents and headers were spoiled at random: refused by one clear error, or read.

The digests are made right again, to get behind them. `make malformed` tries many more.
"""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testing.images import TarEntry, digest, encode, file, image, symlink, tar
from testing.images.archives import docker_old
from testing.images.layout import OCI
from unionfs.errors import ImageError
from unionfs.image import archive, inspect, summary
from unionfs.image.archive_members import opened
from unionfs.image.archive_read import images
from unionfs.image.store import Store

ROUNDS = int(os.environ.get("PYUNIONFS_MALFORMED", "4000")) // 4
SEED = int(os.environ.get("PYUNIONFS_SEED", "1"))
LIMIT = 1 << 30

MADE = image([[file("a", b"content")], [file("b")]], {"Cmd": ["a"]})
NUMBERS: list[Any] = [None, True, -1, 0, 3, 1 << 62, 1 << 70, 1e308]
TEXTS = [
    "",
    "x",
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "\0\n\x1b",
    "layers",
    "docker.io/library/x:1",
]
TYPES = [f"{OCI}.index.v1+json", f"{OCI}.manifest.v1+json", f"{OCI}.layer.v1.tar"]
DIGESTS = [digest(b"none"), "sha256:" + "g" * 64, "sha512:" + "0" * 128]
VALUES: list[Any] = [*NUMBERS, *TEXTS, *TYPES, *DIGESTS, [], {}, [[]], [None], {"": None}, ["a"] * 3]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with each of its keys."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    found = [(value, key) for key, _ in items]
    for _, inner in items:
        if isinstance(inner, dict | list):
            found += places(inner)
    return found


def spoil(chance: random.Random, document: Any) -> Any:
    """A document with some values replaced, removed or doubled."""
    spoiled = copy.deepcopy(document)
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2])):
        every = places(spoiled)
        if not every:
            break
        holder, key = chance.choice(every)
        match chance.randrange(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 2:
                holder[key] = copy.deepcopy(chance.choice(every)[0])
            case _:
                holder[key] = copy.deepcopy(chance.choice(VALUES))
    return spoiled


def encoded(chance: random.Random, document: Any) -> bytes:
    content = encode(document)
    if chance.random() < 0.03:
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        content = bytes(changed)
    return content + b" " * chance.choice([0] * 9 + [1])


def layout(chance: random.Random) -> list[TarEntry]:
    """An OCI layout, each document spoiled or not, and described as it is now."""
    blobs = list(MADE.blobs)
    config = encoded(chance, spoil(chance, msgspec.json.decode(MADE.config)))
    manifest = msgspec.json.decode(MADE.manifest)
    manifest["config"] |= {"digest": digest(config), "size": len(config)}
    content = encoded(chance, spoil(chance, manifest))
    described = {"mediaType": MADE.media_type, "digest": digest(content), "size": len(content)}
    blobs += [config, content]
    for _ in range(chance.choice([0, 0, 1, 2])):
        content = encoded(chance, spoil(chance, {"schemaVersion": 2, "manifests": [described]}))
        described = {"mediaType": f"{OCI}.index.v1+json", "digest": digest(content), "size": len(content)}
        blobs.append(content)
    described["annotations"] = {"org.opencontainers.image.ref.name": "a:1"}
    found = [file(f"blobs/sha256/{digest(each)[7:]}", each) for each in blobs]
    found.append(
        file("index.json", encoded(chance, spoil(chance, {"schemaVersion": 2, "manifests": [described]})))
    )
    found.append(file("oci-layout", encoded(chance, spoil(chance, {"imageLayoutVersion": "1.0.0"}))))
    return found


def docker(chance: random.Random) -> list[TarEntry]:
    """A Docker archive, the same."""
    found = []
    for entry in docker_old({"a:1": MADE}):
        if str(entry.name).endswith(".json") and entry.content:
            content = encoded(chance, spoil(chance, msgspec.json.decode(entry.content)))
            entry = file(entry.name, content)
        found.append(entry)
    return found


def archived(chance: random.Random) -> bytes:
    entries = chance.choice([layout, docker])(chance)
    match chance.randrange(12):
        case 0:
            del entries[chance.randrange(len(entries))]
        case 1:
            entries.append(
                symlink(chance.choice(entries).name, chance.choice(["..", "../a", "/", "index.json"]))
            )
        case 2:
            chance.shuffle(entries)
    content = bytearray(tar(entries))
    for _ in range(chance.choice([0] * 8 + [1, 4])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    if chance.random() < 0.05:
        del content[chance.randrange(len(content)) :]
    return bytes(content)


def held(content: bytes) -> int:
    fd = os.memfd_create("archive")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_said_of_images_is_read_or_refused(store: Store) -> None:
    chance = random.Random(SEED)
    refusals: list[str] = []
    taken = 0
    for number in range(ROUNDS):
        content = archived(chance)
        fd = held(content)
        try:
            with opened(store, fd, "archive", LIMIT) as members:
                taken += bool(images(members, None))
        except ImageError as error:
            refusals.append(str(error))
        except Exception as error:
            kept = Path(f"/tmp/spoiled-archive-{SEED}-{number}.tar")
            kept.write_bytes(content)
            raise AssertionError(f"{kept} raises {error!r}") from error
        finally:
            os.close(fd)
    assert taken > ROUNDS // 20
    assert len(refusals) > ROUNDS // 4
    assert [each for each in refusals if "\n" in each or len(each) > 1000] == []


def test_what_is_refused_leaves_nothing(store: Store) -> None:
    chance = random.Random(SEED + 1)
    refused = 0
    for _ in range(ROUNDS // 20):
        fd = held(archived(chance))
        before = store.index.read_bytes() if store.index.exists() else b""
        try:
            archive.load(store, fd, "archive")
        except ImageError:
            refused += 1
            assert (store.index.read_bytes() if store.index.exists() else b"") == before
        finally:
            os.close(fd)
        assert [*store.ingest.iterdir()] == []
    assert refused
    found, problems = summary.summaries(store)
    assert (found, problems) != ([], [])
    for image_ in found:
        assert inspect.image(store, image_.image)["Id"] == image_.id
    assert problems == []
