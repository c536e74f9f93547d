"""The mount options one by one: names, values, and what they are for.

Help, man page and completion show this table. It knows nothing of what options have to do with each other:
`mount_options.py` does. A value that cannot be is an `OptionError`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unionfs.errors import OptionError
from unionfs.overlay.config import IdMap

Value = bool | str | float | IdMap

LEAST_MAX_READ = 4096
"""What the kernel reads at once at least, whatever it is told."""

_MOST_ID = (1 << 32) - 2
"""4294967295 is "no id" to chown(2)."""

GROUPS = {
    "layers": "Layers",
    "union": "The union",
    "owners": "Owners and modes",
    "mount": "The mount",
    "data": "Requests and data",
    "daemon": "The daemon",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One name that `-o` takes.

    `key` is the field that it sets. `values` says what each word means, `read` reads a free value, and
    without either any text will do. `flag` is what the bare name means; None: the name needs a value.
    `many` says that each time it is given it adds a value.
    """

    key: str
    group: str
    help: str
    meta: str = ""
    values: Mapping[str, Value] | None = None
    flag: Value | None = None
    read: Callable[[str, str], Value] | None = None
    many: bool = False

    @property
    def takes_value(self) -> bool:
        return bool(self.meta or self.values)

    def syntax(self, name: str) -> str:
        if not self.takes_value:
            return name
        value = "|".join(self.values) if self.values else self.meta
        return f"{name}[={value}]" if self.flag is not None else f"{name}={value}"

    def value(self, name: str, text: str | None) -> Value:
        """What `name` (None) or `name=text` means; OptionError for what it cannot."""
        if not text and self.flag is not None and (text is None or not self.takes_value):
            if text is not None:
                raise OptionError(f"mount option {name}=: {name} takes no value; write just {name}")
            return self.flag
        if text and not self.takes_value:
            raise OptionError(f"mount option {name}={text}: {name} takes no value; write just {name}")
        if not text:
            raise OptionError(f"mount option {name} needs a value: {self.syntax(name)}")
        if self.values is not None:
            if text not in self.values:
                raise OptionError(
                    f"mount option {name}={text}: {text!r} is not one of its values: {self.syntax(name)}"
                )
            return self.values[text]
        return self.read(name, text) if self.read is not None else _printable(name, text)


def _printable(name: str, text: str) -> str:
    if any(ord(character) < 32 or character == "\x7f" for character in text):
        raise OptionError(f"mount option {name}={text!r}: control characters cannot be used there")
    return text


def _label(name: str, text: str) -> str:
    if '"' in text:
        raise OptionError(f"mount option {name}={text}: no label holds a quotation mark")
    return _printable(name, text)


def _path(name: str, text: str) -> str:
    if "\0" in text:
        raise OptionError(f"mount option {name} holds a NUL byte: no path can")
    return text


def _bytes(name: str, text: str) -> int:
    # The kernel has 32 bits for it.
    if not (text.isascii() and text.isdigit() and LEAST_MAX_READ <= int(text) < 1 << 32):
        raise OptionError(
            f"mount option {name}={text}: give a number of bytes, {LEAST_MAX_READ} or more, as in"
            f" {name}=131072"
        )
    return int(text)


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 63):
        raise OptionError(f"mount option {name}={text}: give a whole number, 0 or more, as in {name}=100000")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise OptionError(
            f"mount option {name}={text}: give a number of seconds, 0 or more, as in {name}=1.5"
        )
    return seconds


def _id(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_ID):
        raise OptionError(f"mount option {name}={text}: give an id, 0 to {_MOST_ID}, as in {name}=1000")
    return int(text)


def _id_map(name: str, text: str) -> IdMap:
    # Container engines write a colon before the first triple, too; fuse-overlayfs sees nothing in it.
    words = [word for word in text.split(":") if word]
    if not words or len(words) % 3 or not all(word.isascii() and word.isdigit() for word in words):
        raise OptionError(
            f"mount option {name}={text}: give triples STORED:SHOWN:LENGTH with colons between them (a"
            f" container's id and the host's), as in {name}=0:1000:1:1:100000:65536"
        )
    numbers = iter([int(word) for word in words])
    ranges = tuple(zip(numbers, numbers, numbers, strict=True))
    for stored, shown, length in ranges:
        if length == 0 or max(stored, shown) + length - 1 > _MOST_ID:
            raise OptionError(
                f"mount option {name}={text}: the range {stored}:{shown}:{length} is empty or ends above"
                f" {_MOST_ID}"
            )
    for side, what in ((0, "container"), (1, "host")):
        ordered = sorted((each[side], each[2]) for each in ranges)
        for (first, length), (following, _) in itertools.pairwise(ordered):
            if first + length > following:
                raise OptionError(
                    f"mount option {name}={text}: {what} id {following} is in two ranges, and would mean"
                    " two things"
                )
    return ranges


_ON_OFF: dict[str, Value] = {"on": True, "off": False}
_YES_NO: dict[str, Value] = {"0": False, "1": True}
_NO_YES: dict[str, Value] = {"0": True, "1": False}


def _choice(*words: str) -> dict[str, Value]:
    return {word: word for word in words}


OPTIONS: dict[str, Option] = {
    # --- layers ----------------------------------------------------------------------------------
    "lowerdir": Option(
        "lowerdir",
        "layers",
        "the lowers, instead of the argument; data-only layers after two colons each",
        "LOWER[:LOWER...][::DATA...]",
        read=_path,
    ),
    "lowerdir+": Option(
        "lowerdir+", "layers", "one more lower, below the others", "LOWER", read=_path, many=True
    ),
    "datadir+": Option("datadir+", "layers", "one more data-only layer", "DATA", read=_path, many=True),
    "upperdir": Option("upperdir", "layers", "the upper, instead of the argument", "UPPER", read=_path),
    "workdir": Option("workdir", "layers", "work, instead of the argument", "WORK", read=_path),
    # --- the union -------------------------------------------------------------------------------
    "redirect_dir": Option(
        "redirect_dir",
        "union",
        "directories of lowers are renamed by a redirect (on, the default), or answer EXDEV (the others)",
        values=_choice("on", "off", "follow", "nofollow"),
    ),
    "rename_copy_bytes": Option(
        "rename_copy_bytes",
        "union",
        "without redirects, rename directories of lowers by copying up to so much (1 GiB); 0: EXDEV",
        "BYTES",
        read=_count,
    ),
    "rename_copy_files": Option(
        "rename_copy_files", "union", "and up to so many objects (100000)", "NUMBER", read=_count
    ),
    "index": Option("index", "union", "keep the hard links of lower files together for good", values=_ON_OFF),
    "metacopy": Option("metacopy", "union", "chmod and chown of a lower file copy no data", values=_ON_OFF),
    "userxattr": Option(
        "userxattr", "union", "marks are user.overlay.*; always so without root's privileges", flag=True
    ),
    "volatile": Option(
        "volatile", "union", "nothing is synced: fast, and upper is lost when the machine crashes", flag=True
    ),
    "fsync": Option(
        "fsync", "union", "0: programs that ask for a sync are told that it is done", values=_YES_NO
    ),
    "timeout": Option(
        "timeout",
        "union",
        "the kernel asks again after that time; for layers that change",
        "SECONDS",
        read=_seconds,
    ),
    "xino": Option(
        "xino",
        "union",
        "inode numbers of all filesystems are told apart and last (on, auto), or upper's alone do (off)",
        values=_choice("on", "off", "auto"),
    ),
    "ino32_t": Option("ino32", "union", "inode numbers fit into 32 bits", flag=True, values=_YES_NO),
    "fast_ino": Option(
        "", "union", "accepted: inode numbers are the real ones and cost nothing", flag=True, values=_YES_NO
    ),
    "static_nlink": Option("static_nlink", "union", "directories show one link", flag=True),
    "noacl": Option("acl", "union", "no ACLs: modes alone decide", flag=False),
    "noxattrs": Option(
        "xattrs", "union", "no extended attributes are shown or set", flag=False, values=_NO_YES
    ),
    "whiteouts": Option(
        "whiteouts",
        "union",
        "deletions are recorded by devices 0/0 (overlay, the default), .wh. files (aufs), what works (auto)",
        values=_choice("overlay", "aufs", "auto"),
    ),
    "uuid": Option(
        "uuid",
        "union",
        "off: origins name no filesystem, so that layers may be copied to another; a FUSE mount shows none",
        values=_choice("on", "off", "null", "auto"),
    ),
    "nfs_export": Option(
        "nfs_export", "union", "on is refused: FUSE has no file handles that last", values=_ON_OFF
    ),
    # --- owners ----------------------------------------------------------------------------------
    "uidmapping": Option(
        "uid_map",
        "owners",
        "which user ids are shown for those that layers hold, as in /proc/PID/uid_map",
        "STORED:SHOWN:LENGTH[:...]",
        read=_id_map,
    ),
    "gidmapping": Option(
        "gid_map",
        "owners",
        "which group ids are shown for those that layers hold",
        "STORED:SHOWN:LENGTH[:...]",
        read=_id_map,
    ),
    "squash_to_root": Option("squash_to_root", "owners", "everything is shown as root's", flag=True),
    "squash_to_uid": Option("squash_uid", "owners", "everything is shown as this user's", "UID", read=_id),
    "squash_to_gid": Option("squash_gid", "owners", "everything is shown as this group's", "GID", read=_id),
    "xattr_permissions": Option(
        "xattr_permissions",
        "owners",
        "owner and mode are kept in an attribute of each object: 1 in one that only root can set,"
        " 2 in user.containers.override_stat",
        values={"0": 0, "1": 1, "2": 2},
    ),
    # --- the mount -------------------------------------------------------------------------------
    "ro": Option("read_only", "mount", "no changes through this mount", flag=True),
    "rw": Option("read_only", "mount", "changes are allowed (the default)", flag=False),
    "nodev": Option("nodev", "mount", "device nodes do not work", flag=True),
    "dev": Option("nodev", "mount", "device nodes work (root's default)", flag=False),
    "nosuid": Option("nosuid", "mount", "setuid bits and file capabilities do not work", flag=True),
    "suid": Option("nosuid", "mount", "setuid bits and file capabilities work (root's default)", flag=False),
    "noexec": Option("noexec", "mount", "programs cannot be run", flag=True),
    "exec": Option("noexec", "mount", "programs can be run (the default)", flag=False),
    "nosymfollow": Option("nosymfollow", "mount", "symlinks are not followed", flag=True),
    "symfollow": Option("nosymfollow", "mount", "symlinks are followed (the default)", flag=False),
    "noatime": Option("access_times", "mount", "reading changes no access time", flag="noatime"),
    "strictatime": Option(
        "access_times", "mount", "every reading changes the access time", flag="strictatime"
    ),
    "relatime": Option(
        "access_times", "mount", "access times follow changes and days (the default)", flag=""
    ),
    "atime": Option("access_times", "mount", "access times as the kernel does by default", flag=""),
    "nodiratime": Option("nodiratime", "mount", "reading changes no directory's access time", flag=True),
    "diratime": Option(
        "nodiratime", "mount", "directories as noatime and the others say (the default)", flag=False
    ),
    "lazytime": Option("lazytime", "mount", "times are written later, with other changes", flag=True),
    "nolazytime": Option("lazytime", "mount", "times are written when they change (the default)", flag=False),
    "sync": Option("sync", "mount", "every write is on disk before it returns", flag=True),
    "async": Option("sync", "mount", "writes reach the disk later (the default)", flag=False),
    "dirsync": Option("dirsync", "mount", "changes of directories are on disk before they return", flag=True),
    "allow_other": Option(
        "allow_other", "mount", "other users may use the mount (always so as root)", flag=True
    ),
    "default_permissions": Option("", "mount", "the kernel checks modes and ACLs (always so)", flag=True),
    "auto_unmount": Option("auto_unmount", "mount", "the mount goes when its daemon is killed", flag=True),
    "fsname": Option("fsname", "mount", "the source that the mount table shows", "NAME"),
    "subtype": Option("subtype", "mount", "the type that it shows is fuse.NAME", "NAME"),
    "context": Option("context", "mount", "SELinux: one label for every object (root)", "LABEL", read=_label),
    "fscontext": Option(
        "fscontext", "mount", "SELinux: the label of the filesystem (root)", "LABEL", read=_label
    ),
    "defcontext": Option(
        "defcontext", "mount", "SELinux: the label of what has none (root)", "LABEL", read=_label
    ),
    "rootcontext": Option(
        "rootcontext", "mount", "SELinux: the label of the root directory (root)", "LABEL", read=_label
    ),
    # --- requests and data -----------------------------------------------------------------------
    "transport": Option(
        "transport",
        "data",
        "how requests are received: from /dev/fuse directly, or by libfuse and pyfuse3",
        values=_choice("auto", "direct", "pyfuse3"),
    ),
    "passthrough": Option(
        "passthrough",
        "data",
        "the kernel reads and writes data itself (auto: where it can and no reader is misled; on: always)",
        values=_choice("auto", "on", "off"),
    ),
    "coherent": Option(
        "coherent",
        "data",
        "readers of programs and large lower files, too, see later changes; no passthrough for lowers",
        flag=True,
    ),
    "writeback": Option(
        "writeback",
        "data",
        "small writes wait in the kernel (1, the default) or not; direct transport without passthrough",
        flag=True,
        values=_YES_NO,
    ),
    "max_read": Option("max_read", "data", "how much a read request asks for at most", "BYTES", read=_bytes),
    "threaded": Option("", "data", "accepted: slow work has threads in any case", flag=True, values=_YES_NO),
    # --- the daemon ------------------------------------------------------------------------------
    "debug": Option("debug", "daemon", "log every request", flag=True),
    "log_file": Option(
        "log_file", "daemon", "where the daemon logs to, instead of syslog", "FILE", read=_path
    ),
}


_FSTAB_WORDS = """
    defaults auto noauto nofail _netdev _rnetdev user nouser users nousers owner noowner group nogroup
    comment uhelper helper silent loud remount
"""
_FSTAB = frozenset(_FSTAB_WORDS.split())


def is_for_mount8(name: str) -> bool:
    """Whether mount(8), its fstab or systemd means something by this option, and a union nothing.

    What follows from them is among the other options that mount(8) gives its helpers: `user` brings nosuid,
    nodev and noexec along.
    """
    return name in _FSTAB or name.startswith(("x-", "X-"))
