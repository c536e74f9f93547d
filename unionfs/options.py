"""Mount options: parsed, checked against each other, and printed. The only place that knows an option's
name.

Nothing here looks at the layers (`overlay/check.py` does) or mounts. What is wrong is an `OptionError`.

How lowers and `-o` are taken apart says `separated.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from unionfs.errors import OptionError
from unionfs.linux import mount as linux
from unionfs.linux import process
from unionfs.overlay.config import UnionConfig
from unionfs.separated import escape, split_lowers, split_options
from unionfs.transport.mount import FuseMountOptions
from unionfs.transport.session import SessionOptions

Value = bool | str | float

LEAST_MAX_READ = 4096
"""What the kernel reads at once at least, whatever it is told."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that one mount was asked to be. All paths are absolute and free of symlinks."""

    config: UnionConfig
    mountpoint: str
    fuse: FuseMountOptions = field(default_factory=FuseMountOptions)
    foreground: bool = False
    debug: bool = False
    log_file: str | None = None
    transport: str = "auto"
    passthrough: str = "auto"
    coherent: bool = False

    def session(self) -> SessionOptions:
        """What concerns the transport."""
        return SessionOptions(
            passthrough=self.passthrough,
            coherent=self.coherent,
            max_read=self.fuse.max_read,
            allow_other=self.fuse.allow_other,
            debug=self.debug,
        )

    def words(self) -> list[str]:
        """The `-o` options in force, defaults left out, such that parsing them gives the same mount."""
        config = self.config
        words = self.fuse.flag_names()
        words += [name for name in ("allow_other", "auto_unmount") if getattr(self.fuse, name)]
        words += [name for name in ("userxattr", "volatile") if getattr(config, name)]
        words += [f"{name}=on" for name in ("index", "metacopy") if getattr(config, name)]
        if config.redirect_dir != _default_redirect_dir(config.userxattr):
            words.append(f"redirect_dir={config.redirect_dir}")
        if config.timeout is not None:
            words.append(f"timeout={config.timeout:g}")
        if self.fuse.max_read is not None:
            words.append(f"max_read={self.fuse.max_read}")
        texts = [(name, getattr(self.fuse, name)) for name in ("fsname", "subtype")]
        given = [(name, text) for name, text in texts if text != getattr(FuseMountOptions(), name)]
        words += [f"{name}={escape(text)}" for name, text in [*given, *self.fuse.contexts()]]
        words += [
            f"{name}={value}"
            for name in ("transport", "passthrough")
            if (value := getattr(self, name)) != "auto"
        ]
        if self.coherent:
            words.append("coherent")
        if self.debug:
            words.append("debug")
        if self.log_file is not None:
            words.append("log_file=" + escape(self.log_file))
        return words


@dataclass(frozen=True, slots=True)
class _Option:
    """One name that `-o` takes. `values` says what each word means; without it the value is free."""

    key: str
    help: str
    meta: str = ""
    values: Mapping[str, Value] | None = None
    flag: Value | None = None  # what the bare name means; None: the name needs a value

    def syntax(self, name: str) -> str:
        if self.flag is not None:
            return name
        return f"{name}={'|'.join(self.values) if self.values else self.meta}"


_ON_OFF = {"on": True, "off": False}


def _choice(*words: str) -> dict[str, Value]:
    return {word: word for word in words}


OPTIONS: dict[str, _Option] = {
    "redirect_dir": _Option(
        "redirect_dir",
        "directories of lowers are renamed by a redirect (on, the default), or answer EXDEV (userxattr)",
        values=_choice("on", "off", "follow", "nofollow"),
    ),
    "index": _Option("index", "keep the hard links of lower files together for good", values=_ON_OFF),
    "metacopy": _Option("metacopy", "chmod and chown of a lower file copy no data", values=_ON_OFF),
    "userxattr": _Option(
        "userxattr", "marks are user.overlay.*; always so without root's privileges", flag=True
    ),
    "volatile": _Option(
        "volatile", "nothing is synced: fast, and upper is lost when the machine crashes", flag=True
    ),
    "timeout": _Option("timeout", "the kernel asks again after that time; for layers that change", "SECONDS"),
    "ro": _Option("read_only", "no changes through this mount", flag=True),
    "rw": _Option("read_only", "changes are allowed (the default)", flag=False),
    "nodev": _Option("nodev", "device nodes do not work", flag=True),
    "dev": _Option("nodev", "device nodes work (root's default)", flag=False),
    "nosuid": _Option("nosuid", "setuid bits and file capabilities do not work", flag=True),
    "suid": _Option("nosuid", "setuid bits and file capabilities work (root's default)", flag=False),
    "noexec": _Option("noexec", "programs cannot be run", flag=True),
    "exec": _Option("noexec", "programs can be run (the default)", flag=False),
    "nosymfollow": _Option("nosymfollow", "symlinks are not followed", flag=True),
    "symfollow": _Option("nosymfollow", "symlinks are followed (the default)", flag=False),
    "noatime": _Option("access_times", "reading changes no access time", flag="noatime"),
    "strictatime": _Option("access_times", "every reading changes the access time", flag="strictatime"),
    "relatime": _Option("access_times", "access times follow changes and days (the default)", flag=""),
    "atime": _Option("access_times", "access times as the kernel does by default", flag=""),
    "nodiratime": _Option("nodiratime", "reading changes no directory's access time", flag=True),
    "diratime": _Option("nodiratime", "directories as noatime and the others say (the default)", flag=False),
    "lazytime": _Option("lazytime", "times are written later, with other changes", flag=True),
    "nolazytime": _Option("lazytime", "times are written when they change (the default)", flag=False),
    "sync": _Option("sync", "every write is on disk before it returns", flag=True),
    "async": _Option("sync", "writes reach the disk later (the default)", flag=False),
    "dirsync": _Option("dirsync", "changes of directories are on disk before they return", flag=True),
    "allow_other": _Option("allow_other", "other users may use the mount (always so as root)", flag=True),
    "default_permissions": _Option("", "the kernel checks modes and ACLs (always so)", flag=True),
    "auto_unmount": _Option("auto_unmount", "the mount goes when its daemon is killed", flag=True),
    "fsname": _Option("fsname", "the source that the mount table shows", "NAME"),
    "subtype": _Option("subtype", "the type that it shows is fuse.NAME", "NAME"),
    "max_read": _Option("max_read", "how much a read request asks for at most", "BYTES"),
    "context": _Option("context", "SELinux: one label for every object (root)", "LABEL"),
    "fscontext": _Option("fscontext", "SELinux: the label of the filesystem (root)", "LABEL"),
    "defcontext": _Option("defcontext", "SELinux: the label of what has none (root)", "LABEL"),
    "rootcontext": _Option("rootcontext", "SELinux: the label of the root directory (root)", "LABEL"),
    "transport": _Option(
        "transport",
        "how requests are received: from /dev/fuse directly, or by libfuse and pyfuse3",
        values=_choice("auto", "direct", "pyfuse3"),
    ),
    "passthrough": _Option(
        "passthrough",
        "the kernel reads and writes data itself (auto: where it can; on: or refuse the mount)",
        values=_choice("auto", "on", "off"),
    ),
    "coherent": _Option(
        "coherent", "who has a lower file open sees later changes; no passthrough for lowers", flag=True
    ),
    "debug": _Option("debug", "log every request", flag=True),
    "log_file": _Option("log_file", "where the daemon logs to, instead of syslog", "FILE"),
}

# Options of other union filesystems that say in another way what is an argument here.
_ARGUMENTS = {"lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+", "dirs", "br"}


def parse(
    arguments: list[str],
    option_texts: Iterable[str] = (),
    *,
    foreground: bool = False,
    debug: bool = False,
    log_file: str | None = None,
    privileged: bool | None = None,
) -> MountOptions:
    """What `mount LOWER[:LOWER...] [UPPER WORK] MERGED` and its `-o` texts ask for.

    `privileged` says whether `trusted.*` attributes can be used; None: find out.
    """
    if len(arguments) == 3:
        raise OptionError(
            f"three directories were given ({', '.join(arguments)}): a writable union needs LOWER UPPER"
            " WORK MERGED,"
            " a read-only one LOWER MERGED"
        )
    if len(arguments) not in (2, 4):
        raise OptionError(
            f"{len(arguments)} directories were given: `pyunionfs mount LOWER[:LOWER...] [UPPER WORK] MERGED`"
            " takes two or four"
        )
    for argument, name in zip(arguments, _names(len(arguments)), strict=True):
        if not argument:
            raise OptionError(f"{name} is empty: give a directory")
        if "\0" in argument:
            raise OptionError(f"{name} holds a NUL byte: no path can")
    values = _parse_options(option_texts)
    if privileged is None:
        privileged = process.may_use_trusted_xattrs()
    writable = len(arguments) == 4
    given_log = values.get("log_file", log_file)
    config = UnionConfig(
        lowers=tuple(os.path.realpath(path) for path in split_lowers(arguments[0])),
        upper=os.path.realpath(arguments[1]) if writable else None,
        work=os.path.realpath(arguments[2]) if writable else None,
        userxattr=bool(values.get("userxattr", False)) or not privileged,
    )
    union_fields = ("redirect_dir", "index", "metacopy", "volatile", "timeout")
    if config.userxattr:
        values.setdefault("redirect_dir", _default_redirect_dir(True))
    config = replace(config, **{name: values[name] for name in union_fields if name in values})  # type: ignore[arg-type]
    fuse = FuseMountOptions(allow_other=os.geteuid() == 0)
    fuse_fields = (each.name for each in fields(fuse))
    fuse = replace(fuse, **{name: values[name] for name in fuse_fields if name in values})  # type: ignore[arg-type]
    if not writable:
        # As overlayfs. A kernel that opens files without asking would else take writes that can go nowhere.
        fuse = replace(fuse, read_only=True)
    _refuse_contradictions(config, values)
    return MountOptions(
        config=config,
        mountpoint=resolve_mountpoint(arguments[-1]),
        fuse=fuse,
        foreground=foreground,
        debug=debug or bool(values.get("debug", False)),
        log_file=os.path.abspath(str(given_log)) if given_log is not None else None,
        transport=str(values.get("transport", "auto")),
        passthrough=str(values.get("passthrough", "auto")),
        coherent=bool(values.get("coherent", False)),
    )


def _default_redirect_dir(userxattr: bool) -> str:
    """overlayfs neither writes nor follows redirects with userxattr, and upper should stay one that it can
    mount; who does not need that may ask for redirect_dir=on."""
    return "nofollow" if userxattr else UnionConfig(()).redirect_dir


def _names(count: int) -> tuple[str, ...]:
    return ("LOWER", "MERGED") if count == 2 else ("LOWER", "UPPER", "WORK", "MERGED")


def _parse_options(texts: Iterable[str]) -> dict[str, Value]:
    """The values by key; of options that contradict each other the last counts, as with mount(8)."""
    values: dict[str, Value] = {}
    for text in texts:
        for word in split_options(text):
            if not word:
                continue
            name, equals, value = word.partition("=")
            option = OPTIONS.get(name)
            if option is None:
                raise _unknown(name)
            values[option.key] = _value(name, option, value if equals else None)
    values.pop("", None)
    return values


def _value(name: str, option: _Option, value: str | None) -> Value:
    if option.flag is not None:
        if value is not None:
            raise OptionError(f"mount option {name}={value}: {name} takes no value; write just {name}")
        return option.flag
    if not value:
        raise OptionError(f"mount option {name} needs a value: {option.syntax(name)}")
    if option.values is not None:
        if value not in option.values:
            raise OptionError(
                f"mount option {name}={value}: {value!r} is not one of its values: {option.syntax(name)}"
            )
        return option.values[value]
    if name == "timeout":
        return _seconds(value)
    if name == "max_read":
        return _bytes(value)
    if any(ord(character) < 32 or character == "\x7f" for character in value):
        raise OptionError(f"mount option {name}={value!r}: control characters cannot be used there")
    if name.endswith("context") and '"' in value:
        raise OptionError(f"mount option {name}={value}: no label holds a quotation mark")
    return value


def _bytes(value: str) -> int:
    # The kernel has 32 bits for it.
    if not (value.isascii() and value.isdigit() and LEAST_MAX_READ <= int(value) < 1 << 32):
        raise OptionError(
            f"mount option max_read={value}: give a number of bytes, {LEAST_MAX_READ} or more, as in"
            " max_read=131072"
        )
    return int(value)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise OptionError(
            f"mount option timeout={value}: give a number of seconds, 0 or more, as in timeout=1.5"
        )
    return seconds


def _unknown(name: str) -> OptionError:
    if name in _ARGUMENTS:
        return OptionError(
            f"mount option {name}: the layers are arguments here, not options:"
            " `pyunionfs mount LOWER[:LOWER...] UPPER WORK MERGED`"
        )
    import difflib

    close = difflib.get_close_matches(name, OPTIONS, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    return OptionError(f"unknown mount option {name!r}; {guess}`pyunionfs mount --help` lists all options")


def _refuse_contradictions(config: UnionConfig, values: Mapping[str, Value]) -> None:
    if config.userxattr and config.metacopy:
        raise OptionError(
            "mount option metacopy=on does not go with user.overlay.* marks (userxattr, or no root's"
            " privileges): whoever may write upper could read any file through them; leave it out"
        )
    if config.metacopy and config.redirect_dir != "on":
        raise OptionError(
            f"metacopy=on and redirect_dir={config.redirect_dir} contradict each other: a renamed metacopy"
            " file finds"
            " its data by a redirect; leave one of them out"
        )
    if config.upper is None:
        for name in ("volatile", "index", "metacopy"):
            if getattr(config, name):
                raise OptionError(
                    f"mount option {name} needs an upper layer: add UPPER and WORK, or leave it out"
                )
    if values.get("transport") == "pyfuse3" and values.get("passthrough") == "on":
        raise OptionError(
            "passthrough=on and transport=pyfuse3 contradict each other: pyfuse3 cannot ask the kernel for"
            " it; leave one of them out"
        )
    if os.geteuid() != 0:
        for key, name in (("nodev", "dev"), ("nosuid", "suid")):
            if values.get(key) is False:
                raise OptionError(f"mount option {name}: the kernel allows it to root only; leave it out")


def resolve_mountpoint(path: str) -> str:
    """The absolute path without symlinks, found without touching what is mounted there: that may hang."""
    head, name = os.path.split(os.path.join(os.getcwd(), path.rstrip("/") or "/"))
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    resolved = os.path.join(os.path.realpath(head), name)
    return resolved if linux.mount_at(resolved) else os.path.realpath(resolved)


def option_table() -> list[tuple[str, str]]:
    """How every option is written and what it does, for help texts."""
    return [(option.syntax(name), option.help) for name, option in OPTIONS.items()]
