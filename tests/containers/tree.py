"""What a tree holds, as text that can be compared: `-m tests.containers.tree DIRECTORY` prints it as JSON.

Times and inode numbers are left out: they differ from one run to the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tarfile
from pathlib import Path

Tree = dict[str, list[object]]
"""By path: type, mode, owner, group, content (its digest), and extended attributes."""


def of_directory(root: Path) -> Tree:
    """Everything below a directory, and the directory itself as `.`."""
    found: Tree = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        content: object = info.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else ""
        if kind == stat.S_IFREG:
            content = _digest(path.read_bytes())
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        }
        mode = stat.filemode(info.st_mode)
        found[str(path.relative_to(root))] = [mode, info.st_uid, info.st_gid, content, attributes]
    return found


def of_image(archive: Path) -> list[Tree]:
    """The layers of an image that `podman save` wrote, lowest first, marks of deletions among the names."""
    with tarfile.open(archive) as outer:
        [image] = json.load(_member(outer, "manifest.json"))
        layers = []
        for name in image["Layers"]:
            with tarfile.open(fileobj=_member(outer, name)) as layer:
                layers.append(_of_layer(layer))
        return layers


def _of_layer(layer: tarfile.TarFile) -> Tree:
    found: Tree = {}
    for member in layer:
        file = layer.extractfile(member) if member.isreg() else None
        content = member.linkname if file is None else _digest(file.read())
        attributes = {
            name: value for name, value in sorted(member.pax_headers.items()) if name.startswith("SCHILY")
        }
        kind = member.type.decode()
        name = member.name.strip("/")
        found[name] = [f"{kind}{member.mode:o}", member.uid, member.gid, content, attributes]
    return found


def _member(archive: tarfile.TarFile, name: str) -> tarfile.ExFileObject:
    file = archive.extractfile(name)
    assert isinstance(file, tarfile.ExFileObject)
    return file


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    json.dump(of_directory(Path(sys.argv[1])), sys.stdout)
