"""Containers in user namespaces of their own, run by `start.py`: `tests.containers.mapped DIRECTORY PROGRAM`.

Prints as JSON what their users see and may do, by kind of namespace.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.containers.engines import Engine
from tests.containers.life import make_base

SEEN = """\
cat /proc/self/uid_map
ls -ln /others /data/one | cut -c1-30
ls -lnd /data | cut -c1-30
touch /data/one 2>/dev/null && echo touched || echo refused
touch /mine && chown 7:8 /mine && chmod 4750 /mine
ls -ln /mine | cut -c1-30
"""


def main(directory: Path, program: str, options: str = "") -> None:
    engine = Engine(directory, program, options)
    outcome: dict[str, list[str]] = {}
    try:
        make_base(engine)
        for kind, user in (("keep-id", "0"), ("auto:size=5000", "0"), ("keep-id", "3:4")):
            words = ["run", "--rm", "--userns", kind, "--user", user, "localhost/base", "sh", "-c", SEEN]
            outcome[f"{kind} {user}"] = engine.podman(*words).splitlines()
        engine.clear_away()
    finally:
        engine.remove()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
