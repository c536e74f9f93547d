"""Layers, and what counts as a change of them: told by the lowers, and by upper's marks alone."""

from __future__ import annotations

import os
import stat
from typing import Any

from tests.overlay.trees import WHITEOUT, Obj, Tree, directory, file, node, symlink

Layers = tuple[Tree, ...]
"""Upper first, then the lowers, top first."""


OPAQUE_FILE = {".wh..wh..opq": ""}


def up(entries: Tree | None = None, **more: Any) -> Obj:
    """A directory that was copied up."""
    return directory(entries, origin="", **more)


CASES: dict[str, tuple[Layers, str, str | None]] = {
    # Layers; what a comparison with the lowers tells; what the marks tell (None: the same).
    "nothing": (({}, {"f": "f", "d": {"x": "x"}}), "", None),
    "added": (
        ({"d": up({"new": "n"}), "top": directory({"in": {"f": ""}}, opaque="y")}, {"d": {"x": "x"}}),
        "C /d, A /d/new, A /top, A /top/in, A /top/in/f",
        None,
    ),
    "changed": (
        ({"d": up({"f": file("new", origin="")})}, {"d": {"f": "old", "g": "g"}}),
        "C /d, C /d/f",
        None,
    ),
    "copied up and left as it was": (
        ({"d": up({"f": file("same", origin="")})}, {"d": {"f": "same"}}),
        "",
        "C /d, C /d/f",
    ),
    "mode of a directory": (({"d": up(mode=0o700)}, {"d": {"x": "x"}}), "C /d", None),
    "deleted": (({"f": WHITEOUT, "d": WHITEOUT}, {"f": "f", "d": {"x": {"y": "y"}}}), "D /d, D /f", None),
    "deleted in a directory": (
        ({"d": up({"x": WHITEOUT})}, {"d": {"x": "x", "y": "y"}}),
        "C /d, D /d/x",
        None,
    ),
    "whiteout over nothing": (({"d": up({"x": WHITEOUT})}, {"d": {"y": "y"}}), "", "C /d, D /d/x"),
    "whiteout in an attribute": (
        ({"d": up({"x": file(whiteout="y")}, opaque="x")}, {"d": {"x": "x"}}),
        "C /d, D /d/x",
        None,
    ),
    "made where one was deleted": (({"f": "new"}, {"f": "old"}), "C /f", "A /f"),
    "a directory made where one was deleted": (
        ({"d": directory({"x": "new", "z": "z"}, opaque="y")}, {"d": {"x": "old", "y": {"in": ""}}}),
        "C /d, C /d/x, D /d/y, A /d/z",
        "A /d, A /d/x, A /d/z",
    ),
    "a file in the place of a directory": (({"d": "d"}, {"d": {"x": "x"}}), "C /d", "A /d"),
    "a directory in the place of a file": (
        ({"f": directory({"x": "x"}, opaque="y")}, {"f": "f"}),
        "C /f, A /f/x",
        "A /f, A /f/x",
    ),
    "renamed file": (
        ({"d": up({"new": file("f", origin=""), "old": WHITEOUT})}, {"d": {"old": "f"}}),
        "C /d, A /d/new, D /d/old",
        "C /d, C /d/new, D /d/old",
    ),
    "file renamed into a new directory": (
        ({"n": directory({"f": file("f", origin="")}, opaque="y"), "f": WHITEOUT}, {"f": "f"}),
        "D /f, A /n, A /n/f",
        None,
    ),
    "renamed directory": (
        ({"new": up({"own": ""}, redirect="old"), "old": WHITEOUT}, {"old": {"a": "a", "sub": {"b": "b"}}}),
        "A /new, A /new/a, A /new/own, A /new/sub, A /new/sub/b, D /old",
        "A /new, A /new/own, D /old",
    ),
    "deleted in a renamed directory": (
        (
            {"new": up({"a": WHITEOUT, "sub": up({"b": WHITEOUT})}, redirect="/old"), "old": WHITEOUT},
            {"old": {"a": "a", "sub": {"b": "b", "c": "c"}}},
        ),
        "A /new, A /new/sub, A /new/sub/c, D /old",
        "A /new, A /new/sub, D /old",
    ),
    "renamed onto the path of a deleted directory": (
        (
            {"b": up({}, redirect="a"), "a": WHITEOUT},
            {"a": {"same": "s", "x": "a's", "only": ""}, "b": {"same": "s", "x": "another", "gone": ""}},
        ),
        "D /a, C /b, D /b/gone, A /b/only, C /b/x",
        "D /a, A /b",
    ),
    "two directories have changed places": (
        (
            {"a": up({}, redirect="b"), "b": up({}, redirect="a")},
            {"a": {"x": "x", "both": "1"}, "b": {"y": "y", "both": "1"}},
        ),
        "C /a, D /a/x, A /a/y, C /b, A /b/x, D /b/y",
        "A /a, A /b",
    ),
    "renamed and back": (
        ({"d": up({"f": "f"}, redirect="/d")}, {"d": {"x": "x"}}),
        "C /d, A /d/f",
        None,
    ),
    "renamed below a renamed one": (
        (
            {"new": up({"in2": up({}, redirect="in"), "in": WHITEOUT}, redirect="old"), "old": WHITEOUT},
            {"old": {"in": {"f": "f"}}},
        ),
        "A /new, A /new/in2, A /new/in2/f, D /old",
        "A /new, A /new/in2, D /old",
    ),
    "metacopy": (
        ({"f": file(size=3, mode=0o600, metacopy="", origin="")}, {"f": "abc"}),
        "C /f",
        None,
    ),
    "renamed metacopy": (
        ({"g": file(size=3, metacopy="", origin="", redirect="f"), "f": WHITEOUT}, {"f": "abc"}),
        "D /f, A /g",
        None,
    ),
    "the same size and time, but other data": (({"f": file("abc", origin="")}, {"f": "abd"}), "C /f", None),
    "attribute": (
        ({"f": file("f", xattrs={"user.a": b"2"}, origin="")}, {"f": file("f", xattrs={"user.a": b"1"})}),
        "C /f",
        None,
    ),
    "an attribute of the same name as a mark": (
        ({"f": file("f", origin="", marked={"overlay.opaque": "y"})}, {"f": "f"}),
        "C /f",
        None,
    ),
    "target of a symlink": (({"l": symlink("b")}, {"l": symlink("a")}), "C /l", "A /l"),
    "number of a device": (
        (
            {"c": node(stat.S_IFCHR | 0o600, os.makedev(1, 3))},
            {"c": node(stat.S_IFCHR | 0o600, os.makedev(1, 5))},
        ),
        "C /c",
        "A /c",
    ),
    "several lowers": (
        (
            {"d": up({"one": WHITEOUT, "three": file("3", origin="")})},
            {"d": {"one": "1", "two": WHITEOUT}},
            {"d": {"two": "2", "three": ""}},
        ),
        "C /d, D /d/one, C /d/three",
        None,
    ),
    "deleted what a lower has hidden": (({"f": WHITEOUT}, {"f": WHITEOUT}, {"f": "f"}), "", "D /f"),
    "AUFS": (
        (
            {
                "d": {".wh.x": "", "y": "new"},
                "o": {**OPAQUE_FILE, "z": "z"},
                ".wh..wh.plnk": {},
                ".wh.r": "",
                "r": "r",
            },
            {"d": {"x": "x", "y": "old"}, "o": {"gone": ""}, "r": {"in": ""}},
        ),
        "C /d, D /d/x, C /d/y, C /o, D /o/gone, A /o/z, C /r",
        "C /d, D /d/x, A /d/y, A /o, A /o/z, C /r",
    ),
    "made by hand, without marks": (
        ({"a": {"b": {"f": WHITEOUT, "n": ""}, "e": {"m": ""}}}, {"a": {"b": {"f": "f"}, "e": {"x": ""}}}),
        "C /a, C /a/b, D /a/b/f, A /a/b/n, C /a/e, A /a/e/m",
        "C /a, C /a/b, D /a/b/f, A /a/b/n, A /a/e, A /a/e/m",
    ),
    "fuse-overlayfs": (
        (
            {
                "d": {
                    "f": file("new", xattrs={"user.fuseoverlayfs.origin": b"d/f\0"}),
                    "g2": file("g", xattrs={"user.fuseoverlayfs.origin": b"d/g\0"}),
                    "g": WHITEOUT,
                    "n": directory(OPAQUE_FILE, opaque="y"),
                }
            },
            {"d": {"f": "old", "g": "g"}},
        ),
        "C /d, C /d/f, D /d/g, A /d/g2, A /d/n",
        None,
    ),
    "fuse-overlayfs of an ordinary user": (
        (
            {
                "d": {"f": file("new", xattrs={"user.fuseoverlayfs.origin": b"d/f\0"})},
                "n": directory({".wh..opq": WHITEOUT}, xattrs={"user.fuseoverlayfs.opaque": b"y"}),
            },
            {"d": {"f": "old"}},
        ),
        "C /d, C /d/f, A /n",
        None,
    ),
}
