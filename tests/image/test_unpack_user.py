"""Layers that are unpacked in a user namespace, and by an ordinary user."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from testing.mounts import REPOSITORY, scratch
from tests.image.tar_made import END, entry, pax
from tests.image.test_unpack import BASE, directory
from tests.support.mounts import needs_overlayfs, needs_root

pytestmark = needs_root

UNPACK = """
import io, json, sys
from pathlib import Path
from unionfs.errors import ImageError
from unionfs.image.layer_form import LayerForm
from unionfs.image.unpack import unpack
form = LayerForm.of_process()
base = Path(sys.argv[1])
try:
    below = []
    for number, stream in enumerate(sys.argv[2:]):
        target = base / str(number)
        target.mkdir()
        result = unpack(io.BytesIO(Path(stream).read_bytes()), target, lambda: below, form, "layer")
        below.insert(0, target)
    print(json.dumps([form.name, result.left_out]))
except ImageError as error:
    print(json.dumps(str(error)))
"""
IN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def unpacked(base: Path, *layers: bytes, under: tuple[str, ...]) -> object:
    """What UNPACK says of these layers, run under a command."""
    files = []
    for number, stream in enumerate(layers):
        files.append(base / f"{number}.tar")
        files[-1].write_bytes(stream + END)
    words: list[str | Path] = [*under, sys.executable, "-c", UNPACK, base, *files]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


OWN = BASE.replace(entry(b"d/f", data=b"below", mode=0o640, uid=5), entry(b"d/f", data=b"below", mode=0o640))
TOP = (
    directory(b"d") + entry(b"d/.wh..wh..opq") + entry(b"d/new") + entry(b".wh.f") + entry(b"e/y", data=b"y")
)


@needs_overlayfs
def test_overlayfs_of_the_namespace_shows_what_a_namespace_has_unpacked() -> None:
    with scratch() as base:
        assert unpacked(base, OWN, TOP, under=IN_NAMESPACE) == ["userns", {}]
        assert os.getxattr(base / "1/d", "user.overlay.opaque") == b"y"
        (base / "merged").mkdir()
        script = f"""
            mount -t overlay none -o userxattr,lowerdir={base}/1:{base}/0 {base}/merged &&
            cd {base}/merged && find . | sort && cat e/x e/y
        """
        shown = subprocess.run(
            [*IN_NAMESPACE, "sh", "-c", script], capture_output=True, text=True, check=False
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout == ".\n./d\n./d/new\n./e\n./e/x\n./e/y\n./s\nxy"


@pytest.mark.parametrize(
    ("layer", "about"),
    [
        (entry(b"f", uid=5), "5:0 has no id in this user namespace"),
        (entry(b"a/d", b"5", uid=5), "'a/d' is refused: its owner 5:0 has no id in this user namespace"),
        (entry(b"n", b"3", device=(1, 3)), "a device, which only root can make"),
    ],
)
def test_what_a_namespace_cannot_hold_is_refused(layer: bytes, about: str) -> None:
    with scratch() as base:
        assert about in str(unpacked(base, layer, under=IN_NAMESPACE))


def test_an_ordinary_users_layer_holds_all_owners_modes_and_devices() -> None:
    layer = (
        directory(b"closed", 0)
        + entry(b"closed/f", mode=0, uid=7, data=b"secret")
        + entry(b"n", b"3", mode=0o666, device=(1, 3))
        + entry(b".wh.gone")
        + pax({b"SCHILY.xattr.security.capability": b"\1" * 20, b"SCHILY.xattr.trusted.a": b"v"})
        + entry(b"c")
    )
    with scratch() as base:
        base.chmod(0o777)
        user = (
            "setpriv",
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        )
        if (
            subprocess.run([*user, sys.executable, "-c", ""], check=False, capture_output=True).returncode
            != 0
        ):
            pytest.skip("needs a Python that an ordinary user can run")
        assert unpacked(base, BASE, layer, under=user) == ["override_stat", {"trusted.a": 1}]
        top, name = base / "1", "user.containers.override_stat"
        assert os.getxattr(top / "closed", name) == b"0:0:0"
        assert os.getxattr(top / "closed/f", name) == b"7:0:0"
        assert os.getxattr(top / "n", name) == b"0:0:666:char-1-3"
        assert os.getxattr(top / "c", "user.containers.override_security.capability") == b"\1" * 20
        gone = (top / "gone").lstat()
        assert stat.S_ISCHR(gone.st_mode)
        assert gone.st_rdev == 0
