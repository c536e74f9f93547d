"""The same commands with volumes, by podman and by pyunionfs: what containers see, and what is left."""

from __future__ import annotations

import difflib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.container.boxes import Shop, make_tree
from tests.container.test_volume_store import make_data
from tests.containers import engines
from tests.support.images import plant
from tests.support.mounts import needs_fuse, needs_root, scratch
from tests.support.transports import one_transport
from tests.support.users import run_to_the_end, unshared

pytestmark = [needs_root, needs_fuse, one_transport]

LOOK = "cd /data; for each in . *; do stat -c '%n %u %g %a %h %s' $each; done; cat *"
"""Of a directory with the image's content, and what containers have put there."""
COMMANDS = (
    f"run --name one IMAGE sh -c {shlex.quote(LOOK + '; echo mine >mine')}",
    f"run --name two IMAGE sh -c {shlex.quote(LOOK)}",
    "cp PLACE/given one:/data/",
    "cp one:/data/mine PLACE/NAME-mine",
    "cp one:/data/given PLACE/NAME-given",
    "start -a one",
    "rm -v one",
    "rm two",
    f"run --rm -v named:/data IMAGE sh -c {shlex.quote(LOOK + '; rm hard; echo 2 >mine')}",
    f"run --rm -v named:/data IMAGE sh -c {shlex.quote(LOOK)}",
    "run --rm -v named:/data:ro IMAGE sh -c 'touch /data/x 2>/dev/null || echo refused'",
    "run --name four -v named:/data -v /more IMAGE sh -c 'echo >/more/x; ls /more; stat -c %a:%u /more'",
    "rm -v four",
    "run --rm -v named:/data -v PLACE/host:/data/sub IMAGE ls /data/sub",
)
MODULE = "tests.container.test_volumes_against_podman"


def test_what_is_seen_and_what_stays() -> None:
    missing = engines.missing()
    if missing is not None:
        pytest.skip(f"needs {missing}")
    with scratch() as place:
        run_to_the_end([*unshared(), "tests.containers.start", "0", "0", MODULE, str(place)])
        seen = json.loads((place / "seen.json").read_text())
        for name in ("podman", "ours"):
            assert (place / f"{name}-mine").read_text() == "mine\n"
            assert (place / f"{name}-given").read_text() == "given\n"
    assert [line for line in difflib.ndiff(seen["podman"], seen["ours"]) if line[0] != " "] == []


def done(place: Path, name: str, image: str, do: Callable[..., str], volumes: Callable[[], int]) -> list[str]:
    """What each command prints, unless that is an id or a name, and how many volumes there are then."""
    lines = []
    for line in COMMANDS:
        words = [
            word.replace("IMAGE", image).replace("PLACE", str(place)).replace("NAME", name)
            for word in shlex.split(line)
        ]
        out = do(*words)
        lines += [line, *(out.splitlines() if words[0] in ("run", "start") else ()), f"{volumes()} volumes"]
    return lines


def main(place: Path) -> None:
    """In namespaces where engines work: run both, and write down what is seen."""
    (place / "given").write_text("given\n")
    (place / "host").mkdir()
    (place / "host/file").touch()
    (place / "engine").mkdir()
    shop = Shop(place / "shop")
    plant(shop.store, "vol", [make_tree, make_data], Cmd=["sh"], Volumes={"/data": {}})
    engine = engines.Engine(place / "engine", "")
    (place / "tree").mkdir()
    make_tree(place / "tree")
    make_data(place / "tree")
    tar = place / "tree.tar"
    subprocess.run(["tar", "-C", place / "tree", "-cf", tar, "."], check=True)
    engine.podman("import", "-q", "-c", "VOLUME /data", "-c", 'CMD ["sh"]', tar, "vol:latest")
    try:
        podman = done(
            place,
            "podman",
            "localhost/vol",
            lambda *words: engine.podman(
                *([words[0], "--network", "host"] if words[0] == "run" else [words[0]]), *words[1:]
            ),
            lambda: len(engine.podman("volume", "ls", "-q").split()),
        )
    finally:
        engine.clear_away()
    ours = done(place, "ours", "vol", shop.do, lambda: len(os.listdir(shop.store.volumes)))
    (place / "seen.json").write_text(json.dumps({"podman": podman, "ours": ours}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
