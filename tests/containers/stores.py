"""A store that others have used, run by `start.py`: `tests.containers.stores DIRECTORY BEFORE PROGRAM`.

A container is made and changed under BEFORE (a mount program; nothing: kernel overlayfs), then started again,
compared, committed and run under PROGRAM. Prints what came of it as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.containers import life, tree
from tests.containers.engines import Engine

CHANGES = """\
set -e
test -e /data/before && exit
touch /data/before
rm -r /full /data/moved /data/copied
mkdir /full /data/moved
echo only > /data/moved/this
echo changed >> /data/built
chown 7:8 /data/one
mv /data/kept /data/renamed
"""

LOOK = "ls /data /data/moved /full; cat /data/built; ls -ln /data/one | cut -c1-26; grep ' / ' /proc/mounts"


def main(directory: Path, before: str, program: str) -> None:
    engine = Engine(directory, before)
    outcome: dict[str, object] = {}
    try:
        life.make_base(engine)
        life.build(engine)
        engine.podman("create", "--name", "old", "localhost/built", "sh", "-c", f"({CHANGES})\n{LOOK}")
        outcome["before"] = engine.podman("start", "--attach", "old").splitlines()
        engine.use(program)
        outcome["after"] = engine.podman("start", "--attach", "old").splitlines()
        outcome["diff"] = sorted(engine.podman("diff", "old").splitlines())
        engine.podman("commit", "--quiet", "old", "localhost/result")
        outcome["again"] = engine.podman("run", "--rm", "localhost/result", "sh", "-c", LOOK).splitlines()
        archive = engine.root / "files/result.tar"
        engine.podman("save", "--quiet", "--output", archive, "localhost/result")
        outcome["image"] = tree.of_image(archive)
        engine.clear_away()
        outcome["left"] = life.left_over(engine)
    finally:
        engine.remove()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
