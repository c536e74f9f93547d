"""What an ordinary user does with a store: `python -m tests.image.user_store DIRECTORY FORM`.

FORM is how layers are written: `override_stat`, or `userns` in a user namespace in which the user is root.
It asserts every result.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from testing.images import directory, file, hard_link, image, make_image, opaque, symlink, whiteout
from tests.image.rig import Source, documents
from tests.mount.rig import run
from unionfs.errors import ImageError
from unionfs.image import layers
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import all_layers
from unionfs.image.store import Store

LAYERS = [
    [
        directory("d", 0o755, uid=0, gid=0),
        file("d/closed", b"secret", 0, uid=1, gid=2),
        file("d/setuid", b"#!", 0o4755),
        directory("shut", 0),
        file("shut/in", b"in", 0o600, uid=3),
        symlink("link", "d/closed", uid=4),
    ],
    [hard_link("d/linked", "d/closed", uid=1, gid=2), whiteout("link"), opaque("shut")],
]


def main(home: Path, form: str) -> None:
    assert LayerForm.of_process().name == form
    store = Store(home / "store")
    place = ["--store", str(store.root)]
    layout = make_image(home / "layout", LAYERS, name="box:1")
    run("load", *place, "-q", str(layout))
    below, above = sorted(all_layers(store), key=lambda layer: layer.parent is not None)
    assert {below.record.form, above.record.form} == {form}
    assert (below.depends, above.depends) == (False, True)
    assert (above.path / "d/linked").samefile(above.path / "d/closed")
    assert (above.path / "d/linked").read_bytes() == b"secret"
    link = (above.path / "link").lstat()
    assert (stat.S_ISCHR(link.st_mode), link.st_rdev) == (True, 0)
    assert run("verify", *place).stdout == "everything in the store is as it must be\n"

    (below.path / "d/setuid").write_bytes(b"changed")
    assert run("verify", *place, status=1).stdout.startswith(
        f"layer {below.diff_id}: its tree differs at 'd/setuid'"
    )
    run("verify", *place, "--repair")
    assert (below.path / "d/setuid").read_bytes() == b"#!"

    run("prune", *place, "-f", "--blobs")
    assert json.loads(run("df", *place, "--json").stdout)["Parts"]["Layer Blobs"]["Size"] == 0
    assert run("verify", *place).stdout == "everything in the store is as it must be\n"
    if form == "userns":
        other_form(store)
    run("prune", *place, "-af")
    for folder in ("layers", "trees", "blobs/sha256", "ingest"):
        assert os.listdir(store.root / folder) == []
    print("all done")


def other_form(store: Store) -> None:
    """A store has one form: another is refused, and no layer is mistaken for one of it."""
    made = image(LAYERS)
    form = LayerForm(userxattr=True, overrides=True)
    with pytest.raises(ImageError, match="use another --store"):
        layers.ensure(store, *documents(made), Source(made), form=form)


if __name__ == "__main__":
    if sys.argv[2] == "userns" and os.geteuid() != 0:
        unshare = ["unshare", "--map-root-user", "--map-auto", "--mount"]
        os.execvp(unshare[0], [*unshare, sys.executable, "-B", "-m", "tests.image.user_store", *sys.argv[1:]])
    main(Path(sys.argv[1]), sys.argv[2])
