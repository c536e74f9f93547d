"""New images of uppers: their documents, their layers, and that the same upper gives the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testing.images import Image, digest, encode, file, image
from tests.image.rig import Source
from tests.image.rig import ensure as ensure_layers
from tests.overlay.trees import WHITEOUT, Tree, build, directory
from tests.support.mounts import needs_root
from tests.support.stores import put
from unionfs.errors import ImageError, OptionError
from unionfs.image import blobs, find, names
from unionfs.image.commit import Above, commit
from unionfs.image.layers import layers_of
from unionfs.image.model import OCI_LAYER, OCI_MANIFEST, decode
from unionfs.image.new_image import SOURCE_DATE_EPOCH, About, Made, source_date_epoch
from unionfs.image.store import Store
from unionfs.overlay.format import OPAQUE_FILE
from unionfs.overlay.layer import RealDir

pytestmark = needs_root

BASE = image(
    [[file("etc/conf", b"old"), file("gone", b"g" * 1000)], [file("second")]],
    {"Env": ["A=1"], "Cmd": ["sh"], "Labels": {"kind": "base"}},
)
CHANGES: Tree = {"etc": directory({"conf": "new"}, origin=""), "gone": WHITEOUT, "added": "added"}
NOW = 1_700_000_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With base:1, unpacked."""
    store = Store(tmp_path / "store")
    put(store, BASE, "base:1")
    ensure_layers(store, BASE, Source(BASE))
    return store


def remark(path: bytes, text: str) -> None:
    pytest.fail(f"{path!r}: {text}")


def make(
    store: Store,
    upper: Path,
    name: str | None = "new:1",
    *,
    base: str | None = "base:1",
    about: About | None = None,
    lowers: Sequence[Path] | None = None,
    above: Sequence[Path] = (),
    compression: str = "gzip",
) -> Made:
    return commit(
        store,
        Above([upper, *above], lowers),
        None if base is None else find.resolve(store, base),
        about or About("made by", now=NOW),
        remark,
        tag=None if name is None else names.parse(name).tagged(),
        compression=compression,
    )


def config(store: Store, made: Made) -> dict[str, Any]:
    found: dict[str, Any] = decode(blobs.path_of(store, made.id).read_bytes(), dict, "config")
    return found


def manifest(store: Store, made: Made) -> dict[str, Any]:
    found: dict[str, Any] = decode(
        blobs.path_of(store, made.image.manifest.id).read_bytes(), dict, "manifest"
    )
    return found


def tree(store: Store, made: Made, layer: int = -1) -> dict[str, object]:
    """What a layer's tree has: content of files, None for all else."""
    manifest = find.manifest_of(store, made.image.manifest)
    top = layers_of(store, find.config_of(store, manifest))[layer].path
    return {
        str(path.relative_to(top)): path.read_text() if path.is_file() else None
        for path in sorted(top.rglob("*"))
    }


def without(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def test_a_new_layer_over_the_base(store: Store, tmp_path: Path) -> None:
    upper = build(tmp_path / "upper", CHANGES)
    made = make(store, upper, about=About("sh -c x", "ann", "the fix", now=NOW))
    assert made.layers == 1
    assert [str(tag) for tag in find.resolve(store, made.id).tags] == ["docker.io/library/new:1"]
    assert tree(store, made) == {"added": "added", "etc": None, "etc/conf": "new", "gone": None}
    found, before = config(store, made), msgspec.json.decode(BASE.config)
    entry = {
        "created": "2023-11-14T22:13:20Z",
        "author": "ann",
        "created_by": "sh -c x",
        "comment": "the fix",
    }
    assert without(found, "created", "author", "rootfs", "history") == without(
        before, "created", "author", "rootfs", "history"
    )
    assert (found["created"], found["author"]) == (entry["created"], "ann")
    assert found["history"] == [*before["history"], entry]
    assert found["rootfs"]["diff_ids"][:2] == before["rootfs"]["diff_ids"]
    described = manifest(store, made)
    assert described["layers"][:2] == msgspec.json.decode(BASE.manifest)["layers"]
    assert described["mediaType"] == made.image.manifest.media_type == OCI_MANIFEST


def test_the_same_upper_gives_the_same_image(tmp_path: Path) -> None:
    """In two stores, from two copies of which one was made in another order."""
    found = []
    for turn, tree in enumerate((CHANGES, dict(reversed(list(CHANGES.items()))))):
        store = Store(tmp_path / f"store{turn}")
        put(store, BASE, "base:1")
        upper = build(tmp_path / f"upper{turn}", tree)
        found.append(make(store, upper))
    assert found[0].id == found[1].id
    assert found[0].image.manifest == found[1].image.manifest


def test_an_unchanged_upper_makes_no_layer(store: Store, tmp_path: Path) -> None:
    upper = build(tmp_path / "upper", {})
    before = set(blobs.all_blobs(store))
    made = make(store, upper, about=About("sh", config={"Cmd": ["other"]}, now=NOW))
    assert made.layers == 0
    assert len(set(blobs.all_blobs(store)) - before) == 2, "a config and a manifest"
    assert config(store, made)["config"] == {"Cmd": ["other"]}
    assert config(store, made)["history"][-1] == {
        "created": "2023-11-14T22:13:20Z",
        "created_by": "sh",
        "empty_layer": True,
    }
    again = make(store, upper, "again:1", about=About("sh", config={"Cmd": ["other"]}, now=NOW))
    assert [str(tag) for tag in again.image.tags] == ["docker.io/library/new:1", "docker.io/library/again:1"]


def test_a_commit_over_a_commit(store: Store, tmp_path: Path) -> None:
    make(store, build(tmp_path / "upper", CHANGES))
    made = make(store, build(tmp_path / "next", {"added": WHITEOUT}), None, base="new:1")
    assert tree(store, made) == {"added": None}
    assert tree(store, made, -2) == {"added": "added", "etc": None, "etc/conf": "new", "gone": None}
    assert made.image.tags == []
    assert len(config(store, made)["history"]) == 4


def test_directories_over_the_image_are_layers_of_their_own(store: Store, tmp_path: Path) -> None:
    patch = build(tmp_path / "patch", {"etc": {"conf": "patched"}, "more": ""})
    empty = build(tmp_path / "empty", {})
    upper = build(tmp_path / "upper", {"more": WHITEOUT})
    made = make(store, upper, above=[empty, patch])
    assert made.layers == 2
    assert [each.get("empty_layer", False) for each in config(store, made)["history"][-3:]] == [
        False,
        True,
        False,
    ]
    assert tree(store, made, -2) == {"etc": None, "etc/conf": "patched", "more": ""}
    assert tree(store, made, -1) == {"more": None}


def test_an_upper_alone_is_an_image_of_one_layer(store: Store, tmp_path: Path) -> None:
    made = make(store, build(tmp_path / "upper", CHANGES), base=None)
    found = config(store, made)
    assert len(manifest(store, made)["layers"]) == 1
    assert without(found, "variant").keys() == {"architecture", "os", "created", "rootfs", "history"}
    assert tree(store, made) == {"added": "added", "etc": None, "etc/conf": "new", "gone": None}


def test_an_upper_over_directories_is_an_image_of_one_layer(store: Store, tmp_path: Path) -> None:
    lower = build(tmp_path / "lower", {"old": {"f": "f"}, "gone": "", "kept": ""})
    upper = build(
        tmp_path / "upper", {"new": directory(redirect="old"), "old": WHITEOUT, "nothing": WHITEOUT}
    )
    made = make(store, upper, base=None, lowers=[lower])
    assert tree(store, made) == {"new": None, "new/f": "f", "old": None}


def test_an_image_of_docker_gets_documents_of_oci(store: Store, tmp_path: Path) -> None:
    docker = image([[file("f")]], docker=True)
    document = msgspec.json.decode(docker.config) | {
        "container": "abc",
        "docker_version": "20",
        "kept": {"a": 1},
    }
    content = encode(document)
    described = msgspec.json.decode(docker.manifest)
    described["config"] |= {"digest": digest(content), "size": len(content)}
    put(store, Image(content, docker.layers, docker.blobs, encode(described), docker.media_type), "docker:1")
    made = make(store, build(tmp_path / "upper", {"g": "g"}), base="docker:1")
    assert [each["mediaType"] for each in manifest(store, made)["layers"]] == [OCI_LAYER + "+gzip"] * 2
    found = config(store, made)
    assert found["kept"] == {"a": 1}
    assert not {"container", "docker_version"} & found.keys()


@pytest.mark.parametrize(("kind", "suffix"), [("none", ""), ("gzip", "+gzip"), ("zstd", "+zstd")])
def test_compression(store: Store, tmp_path: Path, kind: str, suffix: str) -> None:
    made = make(store, build(tmp_path / "upper", {"f": "f" * 100_000}), compression=kind)
    layer = manifest(store, made)["layers"][-1]
    assert layer["mediaType"] == OCI_LAYER + suffix
    assert (layer["digest"] == config(store, made)["rootfs"]["diff_ids"][-1]) == (kind == "none")
    assert (layer["size"] < 2000) == (kind != "none")


def test_source_date_epoch_takes_the_place_of_later_times(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper = build(tmp_path / "upper", {"early": "", "late": ""})
    os.utime(upper / "early", (NOW - 5, NOW - 5))
    os.utime(upper / "late", (NOW + 5, NOW + 5))
    monkeypatch.setenv(SOURCE_DATE_EPOCH, str(NOW))
    made = make(store, upper, about=About("sh"))
    assert config(store, made)["created"] == "2023-11-14T22:13:20Z"
    top = layers_of(store, find.config_of(store, find.manifest_of(store, made.image.manifest)))[-1].path
    assert {path.name: path.stat().st_mtime for path in top.iterdir()} == {"early": NOW - 5, "late": NOW}
    os.utime(upper / "late", (NOW + 50, NOW + 50))
    assert make(store, upper, about=About("sh")).id == made.id
    monkeypatch.delenv(SOURCE_DATE_EPOCH)
    assert make(store, upper, about=About("sh")).id != made.id


@pytest.mark.parametrize("text", ["yesterday", "-1", "1.5", "9" * 20])
def test_a_source_date_epoch_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SOURCE_DATE_EPOCH, text)
    with pytest.raises(OptionError, match="seconds since 1970"):
        source_date_epoch()


def test_without_it_the_time_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOURCE_DATE_EPOCH, raising=False)
    assert source_date_epoch() is None


def test_what_cannot_be_read_stores_nothing(store: Store, tmp_path: Path) -> None:
    upper = build(tmp_path / "upper", {"f": directory({"m": ""})})
    os.setxattr(upper / "f/m", "trusted.overlay.metacopy", b"")
    before = sorted(blobs.all_blobs(store))
    with pytest.raises(ImageError, match="cannot read /f/m"):
        make(store, upper)
    assert sorted(blobs.all_blobs(store)) == before
    assert list(store.ingest.iterdir()) == []


def test_no_mark_files_are_looked_for_in_layers_of_the_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is unpacked; in other lowers there may be some."""
    asked: list[bytes] = []
    lstat = RealDir.lstat

    def noting(directory: RealDir, name: bytes) -> os.stat_result | None:
        if name.startswith(b".wh.") and name != OPAQUE_FILE and not directory.layer.is_upper:
            asked.append(name)
        return lstat(directory, name)

    monkeypatch.setattr(RealDir, "lstat", noting)
    other = build(tmp_path / "other", {".wh.second": "", "third": ""})
    made = make(store, build(tmp_path / "upper", {**CHANGES, "second": "again"}))
    assert tree(store, made)["second"] == "again"
    assert asked == []
    changed = build(tmp_path / "changed", {"second": ""})
    lowers = [other, build(tmp_path / "lowest", {"second": "hidden"})]
    made = make(store, changed, "other:1", base=None, lowers=lowers)
    assert tree(store, made) == {"second": ""}
    assert b".wh.second" in asked
