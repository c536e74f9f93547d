"""What a part of the tree holds before the first operation: files in two lowers, and the model of them.

Must draw everything from the generator that it is given: a run is repeated by its seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from testing.crash.model import Model, Node, pattern

BIG = 6 << 20


def build(rng: random.Random, lowers: Sequence[Path], part: str, model: Model, *, big: int = BIG) -> None:
    """Make this part's lower files, three of them of `big` bytes. Directories lie in all lowers."""
    for directory in (part, f"{part}/dir-a", f"{part}/dir-b", f"{part}/dir-b/inner"):
        for lower in lowers:
            os.mkdir(lower / directory)
            os.chmod(lower / directory, 0o755)
        model.add(directory, Node("dir", 0o755))
    for number in range(14):
        home = rng.choice([part, f"{part}/dir-a", f"{part}/dir-b", f"{part}/dir-b/inner"])
        path = f"{home}/{part}-file{number}"
        size = big + rng.randrange(5000) if number < 3 else rng.randrange(0, 30_000)
        node = Node("file", 0o644).edited(("write", 0, rng.randrange(1_000_000), size))
        times = rng.randrange(10**9, 15 * 10**17)
        for lower in lowers if rng.random() < 0.2 else [rng.choice(lowers)]:
            (lower / path).write_bytes(pattern(node.edits[0][2], size))
            os.chmod(lower / path, 0o644)
            os.utime(lower / path, ns=(times, times))
        model.add(path, _with_time(node, times))


def _with_time(node: Node, mtime_ns: int) -> Node:
    return Node(node.kind, node.mode, edits=node.edits, size=node.size, mtime_ns=mtime_ns)
