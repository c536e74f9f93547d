"""fuse-overlayfs's command line: `pyunionfs [-f] [-d] [SOURCE] TARGET -o lowerdir=A:B,upperdir=U,workdir=W`.

Container engines, and mount(8) by way of mount.fuse3, run a mount program like this. They wait for its exit,
and often for the end of file on its standard error; they show what it printed if the exit status is not 0. So
every error is one line and status 1, and unknown options are ignored.

It must start as fast as `mount` does, hence no argparse. What differs from `mount`, because these callers
rely on it, is in `_understood_words` and `_defaults`; what an option means is decided elsewhere.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from unionfs.cli.text import printable
from unionfs.errors import MountError, OptionError
from unionfs.options import mount_options
from unionfs.options.lists import split_options
from unionfs.options.mount_options import MountOptions
from unionfs.options.table import OPTIONS

if TYPE_CHECKING:
    from unionfs.cli.parser import Parser

_AUFS = "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT"

_LIBFUSE = frozenset(
    (
        *("auto_cache", "big_writes", "clone_fd", "kernel_cache", "max_background", "max_idle_threads"),
        *("max_threads", "max_write", "nonempty", "splice_move", "splice_read", "splice_write", "use_ino"),
    )
)
"""Options of libfuse that have no meaning here."""

_IGNORED = ("index", "metacopy", "nfs_export")
"""fuse-overlayfs ignores these. With them upper is not the plain tree that image tools expect."""

_CHECKED_BY_FUSE_OVERLAYFS = frozenset(
    (
        *("lowerdir", "upperdir", "workdir", "writeback", "fsync", "threaded", "noxattrs", "redirect_dir"),
        *("squash_to_uid", "squash_to_gid", "xattr_permissions", "uidmapping", "gidmapping"),
    )
)
"""fuse-overlayfs ends on an invalid value of these."""

_IGNORED_IF_INVALID = frozenset(
    (
        *("userxattr", "volatile", "timeout", "xino", "uuid", "ino32_t", "fast_ino", "static_nlink", "noacl"),
        *("squash_to_root", "ro", "rw", "nodev", "dev", "nosuid", "suid", "noexec", "exec", "nosymfollow"),
        *("symfollow", "noatime", "strictatime", "relatime", "atime", "nodiratime", "diratime", "lazytime"),
        *("nolazytime", "sync", "async", "dirsync", "allow_other", "default_permissions", "auto_unmount"),
        *("fsname", "subtype", "context", "fscontext", "defcontext", "rootcontext", "max_read", "debug"),
    )
)
"""Its callers give these, too: its own options, overlayfs's, mount(8)'s and libfuse's. fuse-overlayfs knows
whole words of them only (`ro`, not `ro=0`) and ignores what it does not know. No caller of it gives the other
options of the table, so an invalid value of those is an error as in `mount`."""

_LOCK_PATIENCE = 30.0
"""Seconds. An engine mounts again right after it has unmounted, while the daemon still writes data."""


@dataclass(slots=True)
class _Words:
    """A parsed command line."""

    options: list[str] = field(default_factory=list)
    """The words of all `-o`, in order, with escapes and without quotes."""
    paths: list[str] = field(default_factory=list)
    foreground: bool = False
    debug: bool = False
    help: bool = False
    version: bool = False
    unknown: list[str] = field(default_factory=list)


def is_meant(words: Sequence[str]) -> bool:
    """Whether a command line whose first word is no command is of this form."""
    if words[0].startswith(("-f", "-d", "-s", "-o", "--debug")):
        return True
    texts = [word[2:] for word in words if word.startswith("-o")]
    texts += [after for word, after in itertools.pairwise(words) if word == "-o"]
    # A path is no command.
    return any("lowerdir" in text for text in texts) or ("/" in words[0] and bool(texts))


def run(words: Sequence[str]) -> int:
    """Mount and return 0 when the mount is ready (with -f, when it has ended). MountError: it failed."""
    try:
        given = _split_words(words)
        if given.help:
            print(parser().format_help(), end="")
            return 0
        if given.version:
            # `podman info` shows this.
            from unionfs import __version__

            print(f"pyunionfs {__version__}")
            return 0
        mount_options = _parse(given)
    except OptionError as error:
        raise MountError(str(error)) from error
    from unionfs.cli import supervised

    return supervised.mount(mount_options)


def _split_words(words: Sequence[str]) -> _Words:
    given = _Words()
    remaining = iter(words)
    for word in remaining:
        if word.startswith("-o"):
            text = word[2:] or next(remaining, None)
            if text is None:
                raise OptionError("option -o needs a value: write -o lowerdir=A:B,upperdir=U,workdir=W")
            given.options += filter(None, split_options(text))
        elif word == "-f":
            given.foreground = True
        elif word in ("-d", "--debug"):
            given.debug = True
        elif word in ("-h", "--help"):
            given.help = True
        elif word in ("-V", "--version"):
            given.version = True
        elif word == "-s":
            pass  # a single thread: slow work has threads in any case
        elif word == "--":
            given.paths += remaining
        elif word.startswith("-") and word != "-":
            given.unknown.append(word)
        else:
            given.paths.append(word)
    return given


def _parse(given: _Words) -> MountOptions:
    if not given.paths:
        raise OptionError("missing TARGET, the mountpoint: write `pyunionfs [SOURCE] TARGET -o lowerdir=...`")
    if len(given.paths) > 2:
        count = "three" if len(given.paths) == 3 else len(given.paths)
        raise OptionError(
            f"{count} arguments were given ({', '.join(given.paths)}): give SOURCE and TARGET, or TARGET"
        )
    words = _understood_words(given)
    names = {_name(word) for word in words}
    if not names & {"lowerdir", "lowerdir+"}:
        raise OptionError("missing mount option lowerdir: write -o lowerdir=A:B[,upperdir=U,workdir=W]")
    parsed = mount_options.parse(
        [given.paths[-1]],
        # Each by itself, and quoted, for its commas do not separate.
        [f'"{word}"' for word in [*_defaults(given), *words]],
        foreground=given.foreground,
        debug=given.debug,
        on_unknown=given.unknown.append,
    )
    for word in given.unknown:
        what = (
            "ignored, as by fuse-overlayfs; use `pyunionfs mount` for it"
            if _name(word) in _IGNORED
            else "unknown option or value, ignored"
        )
        print(f"pyunionfs: '{printable(word)}': {what}", file=sys.stderr)
    config = replace(parsed.config, any_work=True, foreign_marks=True)
    if "redirect_dir" not in names:
        # Image tools that read upper do not know redirects: directories are renamed by copying.
        config = replace(config, redirect_dir="nofollow" if config.userxattr else "off")
    return replace(
        parsed, config=config, lock_patience=_LOCK_PATIENCE, foreground=parsed.foreground or parsed.debug
    )


def _understood_words(given: _Words) -> list[str]:
    """The options but for those that fuse-overlayfs ignores and those that have no meaning here."""
    words = []
    for word in given.options:
        name, equals, value = word.partition("=")
        if name == "lowerdir":
            words.append(f"{name}{equals}{_lowers(value)}")
        elif name in _IGNORED or _is_ignored_spelling(name, value if equals else None):
            given.unknown.append(word)
        elif name not in _LIBFUSE:
            words.append(word)
    return words


def _lowers(text: str) -> str:
    """A list of lowers as `split_lowers` reads it.

    Scripts that pass it through two shells write two backslashes before a colon, which are read as one. Empty
    entries at the ends are ignored, as fuse-overlayfs does.
    """
    text = re.sub(r"\\{2,}(?=:)", lambda found: "\\" * (len(found[0]) // 2), text)
    text = text.lstrip(":")
    while text.endswith(":") and not re.search(r"(?<!\\)(\\\\)*\\:$", text):
        text = text[:-1]
    return text


def _is_ignored_spelling(name: str, value: str | None) -> bool:
    """Whether fuse-overlayfs ignores this spelling of an option, which here could only be refused."""
    option = OPTIONS.get(name)
    # It ignores the bare name of an option that it checks the value of.
    is_bare = name in _CHECKED_BY_FUSE_OVERLAYFS and value is None
    if option is None or not (is_bare or name in _IGNORED_IF_INVALID):
        return False
    try:
        option.value(value)
    except OptionError:
        return True
    return False


def _defaults(given: _Words) -> list[str]:
    """The defaults of fuse-overlayfs, as options."""
    words = ["noatime", "nodev"]
    if os.environ.get(_AUFS) is not None:
        words.append("whiteouts=aufs")
    elif "redirect_dir=on" not in given.options:
        # Upper may be on the overlayfs of a container's root, which cannot hold character devices 0/0.
        words.append("whiteouts=auto")
    if len(given.paths) > 1:
        source = given.paths[0].replace("\\", "\\\\").replace('"', '\\"')
        words.append(f"fsname={source}")
    return words


def _name(word: str) -> str:
    return word.partition("=")[0]


def parser() -> Parser:
    """For help texts and the man page; `run` does not use it, because argparse is slow to load."""
    from unionfs.cli.mount import option_tables
    from unionfs.cli.parser import Parser

    made = Parser(
        "fuse-overlayfs",
        "Mount with the command line of fuse-overlayfs, for container engines and for mount(8). Unknown"
        " options are ignored with a warning, and so are index, metacopy and nfs_export. Under the name"
        " fuse-overlayfs, as a symlink, the program has this command line only.\n\nReturns 0 when the mount"
        " is ready. Lower directories are renamed by copying unless redirect_dir=on is given; noatime and"
        " nodev are the default.",
        usage=("pyunionfs [-f] [-d] [SOURCE] TARGET -o lowerdir=A[:B...][,OPTION...]",),
        examples=[
            (
                "pyunionfs -o lowerdir=site:base,upperdir=upper,workdir=work merged",
                "as container engines run it",
            ),
            ("pyunionfs overlay merged -o lowerdir=site:base", "as mount(8) runs it; read-only"),
        ],
        tables=option_tables,
    )
    made.add_argument("source", nargs="?", metavar="SOURCE", help="source in the mount table")
    made.add_argument("target", metavar="TARGET", help="the mountpoint")
    made.add_argument("-f", action="store_true", help="stay in the foreground, log to standard error")
    made.add_argument("-d", "--debug", action="store_true", help="as -f, and log every request")
    made.add_argument(
        "-o", action="append", metavar="OPTIONS", help="mount options, comma-separated; may be repeated"
    )
    made.add_argument("-s", action="store_true", help="accepted, without effect: single-threaded")
    made.add_argument("-V", "--version", action="store_true", help="print the version")
    return made
