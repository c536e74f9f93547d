"""A root filesystem that looks like Debian's in six layers, for what needs many files and real proportions.

Every call with the same numbers gives the same bytes, on each machine.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from testing.images.entries import TarEntry, directory, file, hard_link, opaque, symlink, whiteout

CONFIG = {
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "Cmd": ["bash"],
    "Labels": {"org.example.kind": "like-debian"},
}
"""What a container of it runs."""

CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
"""security.capability with cap_net_raw=ep (struct vfs_cap_data, revision 2)."""

_FOLDERS = """
    boot dev etc etc/apt etc/default etc/init.d home media mnt opt proc root run srv sys tmp usr usr/bin
    usr/lib usr/lib/x86_64-linux-gnu usr/local usr/local/bin usr/sbin usr/share usr/share/doc
    usr/share/locale usr/share/man usr/share/man/man1 usr/share/perl usr/share/zoneinfo var var/cache
    var/cache/apt var/lib var/lib/dpkg var/lib/dpkg/info var/log var/tmp
"""
_MODES = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700}
_WORDS = b"the of and a to in is it you that he was for on are with as his they be at one have this\n".split()

_REPLACED = ("usr/share/doc/package0-0", "usr/share/doc/package0-1")

_SHARES = (0.55, 0.15, 0.12, 0.10, 0.08)
"""Which part of the files is in each of the first five layers."""


def debian_like(files: int = 400, size: int = 4_000_000, seed: int = 1) -> list[list[TarEntry]]:
    """The layers, from the lowest up: about *files* files of *size* bytes in all, before deletions.

    The first is a base system, the next four are packages installed over it (the fifth replaces files of the
    first), and the sixth deletes, replaces a directory by an opaque one and by a file.
    """
    chance = random.Random(seed)
    sizes = _sizes(chance, files, size)
    layers: list[list[TarEntry]] = []
    begin = 0
    for number, share in enumerate(_SHARES):
        end = files if number == len(_SHARES) - 1 else begin + int(files * share)
        entries = _base() if number == 0 else []
        entries += _packages(chance, number, sizes[begin:end])
        layers.append(entries)
        begin = end
    regular = [entry for entry in layers[0] if b"package" in os.fsencode(entry.name) and entry.content]
    layers[4] += [
        file(entry.name, b"changed\n" + entry.content, entry.mode & 0o7777) for entry in regular[:20]
    ]
    layers.append(_deletions(regular[20:60]))
    return [layers[0], *(_with_parents(layer) for layer in layers[1:])]


def _with_parents(entries: list[TarEntry]) -> list[TarEntry]:
    """With the directories around the entries first, as engines write a layer."""
    named = {os.fsdecode(entry.name) for entry in entries}
    above = {str(path) for name in named for path in PurePath(name).parents} - named - {"."}
    return [*(directory(name, _MODES.get(name, 0o755)) for name in sorted(above)), *entries]


def _base() -> list[TarEntry]:
    entries = [directory(name, _MODES.get(name, 0o755)) for name in _FOLDERS.split()]
    entries += [symlink(name, f"usr/{name}") for name in ("bin", "lib", "sbin")]
    entries += [
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\nmail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n"),
        file("etc/group", b"root:x:0:\nmail:x:8:\nshadow:x:42:\n"),
        file("etc/shadow", b"root:*:19600:0:99999:7:::\n", 0o640, gid=42),
        file("usr/bin/su", b"\x7fELF" + bytes(2000), 0o4755),
        file("usr/bin/chage", b"\x7fELF" + bytes(1000), 0o2755, gid=42),
        file("usr/bin/ping", b"\x7fELF" + bytes(3000), xattrs={"security.capability": CAP_NET_RAW}),
        file("usr/bin/perl", b"\x7fELF perl" + bytes(4000), 0o755),
        hard_link("usr/bin/perl5.36.0", "usr/bin/perl", 0o755),
        symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
        file("var/log/lastlog", b"", 0o664, gid=43),
    ]
    return entries


def _sizes(chance: random.Random, files: int, size: int) -> list[int]:
    """As files of a system are: most are small, a few have most of the bytes."""
    drawn = [2 ** chance.randrange(14) * chance.randrange(1, 100) for _ in range(files)]
    return [each * size // sum(drawn) for each in drawn]


def _packages(chance: random.Random, layer: int, sizes: Sequence[int]) -> list[TarEntry]:
    """Packages of some 40 files each: a program, a library with its symlink, pages, translations."""
    entries: list[TarEntry] = []
    for number in range(0, len(sizes), 40):
        entries += _package(chance, f"package{layer}-{number // 40}", sizes[number : number + 40])
    return entries


def _package(chance: random.Random, package: str, sizes: Sequence[int]) -> Iterator[TarEntry]:
    doc, locale = f"usr/share/doc/{package}", f"usr/share/locale/{package}"
    library = f"usr/lib/x86_64-linux-gnu/lib{package}.so.1"
    yield directory(doc)
    yield directory(locale)
    for number, size in enumerate(sizes):
        when = 1_600_000_000 + chance.randrange(90_000_000)
        match number:
            case 0:
                yield file(f"usr/bin/{package}", _binary(chance, size), 0o755, mtime=when)
            case 1:
                yield file(f"{library}.0.{len(sizes)}", _binary(chance, size), mtime=when)
                yield symlink(library, f"{library.rpartition('/')[2]}.0.{len(sizes)}", mtime=when)
            case 2:
                yield file(f"var/lib/dpkg/info/{package}.list", _text(chance, size), mtime=when)
            case 3:
                yield file(f"etc/default/{package}", _text(chance, size), mtime=when)
            case _ if number < 12:
                yield file(f"{doc}/page-{number}", _text(chance, size), mtime=when)
            case _:
                yield directory(f"{locale}/{number}")
                yield file(f"{locale}/{number}/{package}.mo", _binary(chance, size), mtime=when)


def _deletions(files: Sequence[TarEntry]) -> list[TarEntry]:
    names = [os.fsdecode(entry.name) for entry in files]
    return [
        *(whiteout(name) for name in names if not name.startswith(_REPLACED)),
        directory(_REPLACED[0]),
        opaque(_REPLACED[0]),
        file(f"{_REPLACED[0]}/new", b"in place of all that was there\n"),
        file(_REPLACED[1], b"a file in place of a directory\n"),
    ]


def _binary(chance: random.Random, size: int) -> bytes:
    """About as compressible as a program."""
    noise = chance.randbytes(size // 3)
    return (b"\x7fELF" + b"".join(noise[at : at + 64] + bytes(128) for at in range(0, len(noise), 64)))[:size]


def _text(chance: random.Random, size: int) -> bytes:
    return b" ".join(chance.choices(_WORDS, k=size // 4 + 1))[:size]
