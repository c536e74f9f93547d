"""Layers and documents spoiled at random: taken, or refused by one line, and nothing outside is touched.

`make malformed` tries many more.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.image.tar_made import END, entry, gnu_long, pax
from tests.image.test_unpack import BASE, ROOT, directory, link, symlink, tree
from tests.support.mounts import needs_root
from unionfs.errors import ImageError
from unionfs.image.compression import decompressed
from unionfs.image.model import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Manifest, decode_config, decode_manifest
from unionfs.image.store import remove_tree
from unionfs.image.unpack import unpack

ROUNDS = int(os.environ.get("PYUNIONFS_MALFORMED", "4000")) // 10
SEED = int(os.environ.get("PYUNIONFS_SEED", "1"))
LIMIT = 64 << 20

NAMES = [b"a", b"a/b", b"a/b/c", b"d", b"d/f", b"s", b"s/x", b"../a", b"/a", b".wh.a", b"a/.wh..wh..opq"]
NAMES += [b".wh..wh..opq", b".wh.s", b"./"]
NAMES += [b"", b".", b"a\0b"]
KINDS = [b"3", b"4", b"6", b"7", b"\0", b"S", b"V"]
SPARSE = {b"GNU.sparse.size": b"5000", b"GNU.sparse.map": b"0,2,4096,2", b"SCHILY.xattr.user.a": b"v"}


def drawn(chance: random.Random) -> bytes:
    """An entry or an extension, well-formed by itself."""
    name, other = chance.choice(NAMES), chance.choice(NAMES)
    makers: list[Callable[[], bytes]] = [
        lambda: entry(name, data=b"x" * chance.randrange(2000), mode=chance.randrange(0o10000)),
        lambda: directory(name, chance.randrange(0o10000)),
        lambda: link(name, other),
        lambda: symlink(name, other),
        lambda: entry(name, chance.choice(KINDS), device=(1, chance.randrange(9))),
        lambda: pax({b"path": name, b"mtime": b"%d.5" % chance.randrange(1 << 33)}),
        lambda: pax({b"linkpath": name, b"uid": b"%d" % chance.randrange(1 << 33)}),
        lambda: pax(SPARSE) + entry(name, data=b"abcd"),
        lambda: pax({b"size": b"%d" % chance.randrange(3000)}),
        lambda: pax({b"SCHILY.xattr." + name: other}, chance.choice([b"x", b"g"])),
        lambda: gnu_long(chance.choice([b"L", b"K"]), name * chance.choice([1, 3, 40, 299])),
    ]
    return chance.choice(makers)()


def spoiled(chance: random.Random, stream: bytes) -> bytes:
    """With some bytes changed; a header's checksum is made right again mostly, to get behind it."""
    content = bytearray(stream)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(content))
        content[at] = chance.choice([0, 0xFF, 0x80, ord("/"), ord("."), ord("7"), chance.randrange(256)])
        block = content[at & ~511 : (at & ~511) + 512]
        if block[257:262] == b"ustar" and chance.random() < 0.8:
            block[148:156] = b" " * 8
            content[(at & ~511) + 148 : (at & ~511) + 156] = b"%06o\0 " % sum(block)
    if chance.random() < 0.1:
        del content[chance.randrange(len(content)) :]
    if chance.random() < 0.05:
        content += chance.randbytes(chance.randrange(600))
    return bytes(content)


@needs_root
@pytest.mark.parametrize("part", range(2))
def test_layers(tmp_path: Path, part: int) -> None:
    chance = random.Random(SEED * 2 + part)
    base = tmp_path / "base"
    base.mkdir()
    unpack(io.BytesIO(BASE + END), base, list, ROOT)
    canary = tmp_path / "canary"
    canary.mkdir()
    before, root, taken = tree(base), sorted(os.listdir("/")), 0
    refusals: list[str] = []
    for number in range(ROUNDS):
        stream = spoiled(chance, b"".join(drawn(chance) for _ in range(chance.randrange(1, 12))) + END)
        target = tmp_path / "target"
        target.mkdir()
        try:
            unpack(io.BytesIO(stream), target, lambda: [base], ROOT)
            taken += 1
        except ImageError as error:
            refusals.append(str(error))
        except Exception as error:
            kept = Path(f"/tmp/spoiled-{SEED}-{part}-{number}.tar")
            kept.write_bytes(stream)
            raise AssertionError(f"{kept} raises {error!r}") from error
        remove_tree(target)
    assert tree(base) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "canary"]
    assert not list(canary.iterdir())
    assert sorted(os.listdir("/")) == root
    assert taken
    assert refusals
    assert not [each for each in refusals if "\n" in each]


def test_compressed_streams() -> None:
    chance = random.Random(SEED)
    text = b"".join(b"%d\n" % number for number in range(3000))
    refusals: list[str] = []
    streams = [gzip.compress(text), gzip.compress(text) * 2, zstandard.ZstdCompressor().compress(text)]
    for _ in range(ROUNDS):
        content = bytearray(chance.choice(streams))
        for _ in range(chance.randrange(4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        if chance.random() < 0.3:
            del content[chance.randrange(len(content)) :]
        try:
            stream = decompressed(io.BytesIO(content), "layer", LIMIT)
            while stream.read(1 << 16):
                pass
        except ImageError as error:
            refusals.append(str(error))
    assert refusals
    assert not [each for each in refusals if "\n" in each]


DIGEST = "sha256:" + "a" * 64
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": {"mediaType": OCI_CONFIG, "digest": DIGEST, "size": 3},
    "layers": [{"mediaType": OCI_LAYER, "digest": DIGEST, "size": 9, "annotations": {"a": "b"}}],
}
CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["A=b"], "Cmd": None, "Labels": {"a": "b"}},
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    "history": [{"created": "2020-01-01T00:00:00Z", "empty_layer": True}],
}


def test_documents() -> None:
    chance = random.Random(SEED)
    refusals: list[str] = []
    manifest = decode_manifest(json.dumps(MANIFEST).encode(), None, "manifest")
    assert isinstance(manifest, Manifest)
    for _ in range(ROUNDS * 10):
        document = json.loads(json.dumps(chance.choice([MANIFEST, CONFIG])))
        _spoil(chance, document)
        content = bytearray(json.dumps(document).encode())
        for _ in range(chance.choice([0, 0, 1, 3])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        for read in (_manifest, _config):
            try:
                read(bytes(content), manifest)
            except ImageError as error:
                refusals.append(str(error))
    assert refusals
    assert not [each for each in refusals if "\n" in each]


def _manifest(content: bytes, _: Manifest) -> None:
    decode_manifest(content, None, "manifest")


def _config(content: bytes, manifest: Manifest) -> None:
    decode_config(content, manifest, "config")


def _spoil(chance: random.Random, document: object) -> None:
    """Change one value somewhere in it."""
    while isinstance(document, dict | list) and document:
        key = chance.choice(list(document) if isinstance(document, dict) else range(len(document)))
        if chance.random() < 0.4 or not isinstance(document[key], dict | list):
            document[key] = chance.choice(
                [
                    None,
                    -1,
                    1 << 70,
                    "",
                    "x",
                    [],
                    {},
                    [[]],
                    {"a": {}},
                    1.5,
                    True,
                    "sha256:..",
                    "\ud800",
                    MANIFEST,
                ]
            )
            return
        document = document[key]
