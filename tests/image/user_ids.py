"""A user without further ids, with them, and without again: `python -m tests.image.user_ids DIRECTORY WHEN`.

WHEN is `without`, `given` or `taken`. There are two stores: `early` is made without ids, `late` with them. It
asserts every result.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from testing.images import directory, file, hard_link, make_image, whiteout
from tests.image.user_store import LAYERS
from tests.mount.rig import run
from unionfs.image.layer_record import all_layers
from unionfs.image.store import Store

WHOLE = "everything in the store is as it must be\n"
MORE = [
    [directory("other", uid=7), file("other/file", b"other", 0o4711, uid=8, gid=9)],
    [hard_link("link", "other/file", uid=8, gid=9), whiteout("other")],
]


def forms(store: Path) -> set[str]:
    return {layer.record.form for layer in all_layers(Store(store))}


def without(early: Path, late: Path, home: Path) -> None:
    run("load", "--store", early, "-q", make_image(home / "layout", LAYERS, name="box:1"))
    assert forms(early) == {"override_stat"}


def given(early: Path, late: Path, home: Path) -> None:
    # Each tree is compared with what its blob is unpacked to now.
    assert run("verify", "--store", early).stdout == WHOLE
    layout = make_image(home / "more", [LAYERS[0], *MORE], name="more:1")
    run("load", "--store", early, "-q", layout)
    tar = home / "tree.tar"
    run("export", "--store", early, "more:1", "-o", tar)
    run("import", f"--store={early}", tar, "flat:1")
    assert forms(early) == {"override_stat"}
    assert run("verify", "--store", early).stdout == WHOLE
    assert {each.owner() for each in early.rglob("*")} == {home.owner()}

    run("load", "--store", late, "-q", layout)
    run("import", "--store", late, tar, "flat:1")
    assert forms(late) == {"userns"}
    run("prune", "--store", late, "-f", "--blobs")
    assert run("verify", "--store", late).stdout == WHOLE
    run("save", "--store", late, "-o", home / "saved.tar", "flat:1")
    run("load", "--store", early, "-i", home / "saved.tar")


def taken(early: Path, late: Path, home: Path) -> None:
    assert run("verify", "--store", early).stdout == WHOLE
    run("export", "--store", early, "more:1", "-o", home / "again.tar")
    assert (home / "again.tar").read_bytes() == (home / "tree.tar").read_bytes()
    for words in (
        ("load", "-i", home / "saved.tar"),
        ("run", "more:1"),
        ("commit", "--base", "more:1", home, "new:1"),
        ("prune", "-af"),
        ("verify",),
    ):
        done = run(words[0], "--store", late, *words[1:], status=None)
        assert done.returncode != 0, words
        assert f"{late}: its layers were unpacked in a user namespace" in done.stderr, done
        assert "/etc/subuid" in done.stderr
    assert run("images", "--store", late, "--format", "{{.Repository}}").stdout == "flat\nmore\n"
    run("prune", "--store", early, "-af")
    for folder in ("layers", "trees", "blobs/sha256", "ingest"):
        assert os.listdir(early / folder) == []


if __name__ == "__main__":
    top = Path(sys.argv[1])
    {"without": without, "given": given, "taken": taken}[sys.argv[2]](top / "early", top / "late", top)
    print("all done")
