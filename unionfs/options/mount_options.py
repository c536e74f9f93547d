"""Mount options: parsed, checked against each other, and printed.

With `table.py`, which has each option by itself, the only place that knows an option's name. Nothing
here looks at the layers (`overlay/check.py` does) or mounts. What is wrong is an `OptionError`. How lowers
and `-o` are taken apart says `lists.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from unionfs.errors import OptionError
from unionfs.linux import mount as linux
from unionfs.linux import process
from unionfs.options.lists import escape, split_lowers, split_options, unescape
from unionfs.options.table import OPTIONS
from unionfs.overlay.config import OwnersConfig, UnionConfig
from unionfs.transport.mount import FuseMountOptions
from unionfs.transport.session import SessionOptions

logger = logging.getLogger(__name__)

Values = dict[str, Any]
"""What options were given, by key; `table.py` gives each its type."""

_Fields = TypeVar("_Fields", UnionConfig, OwnersConfig, FuseMountOptions)

_LAYER_KEYS = ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that one mount was asked to be. All paths are absolute and free of symlinks.

    `lock_patience` is how long, in seconds, it waits for an upper or work that another still has
    whose mount is gone.
    """

    config: UnionConfig
    mountpoint: str
    fuse: FuseMountOptions = field(default_factory=FuseMountOptions)
    foreground: bool = False
    debug: bool = False
    log_file: str | None = None
    transport: str = "auto"
    passthrough: str = "auto"
    coherent: bool = False
    writeback: bool = True
    lock_patience: float = 10.0

    def session(self) -> SessionOptions:
        """What concerns the transport."""
        return SessionOptions(
            passthrough=self.passthrough,
            coherent=self.coherent,
            writeback=self.writeback,
            max_read=self.fuse.max_read,
            allow_other=self.fuse.allow_other,
            debug=self.debug,
        )

    def words(self) -> list[str]:
        """The `-o` options in force, defaults left out, such that parsing them gives the same mount."""
        config = self.config
        plain = UnionConfig(())
        words = self.fuse.flag_names()
        # Root's mounts let others in whether it is given or not.
        words += ["allow_other"] if self.fuse.allow_other and os.geteuid() != 0 else []
        words += ["auto_unmount"] if self.fuse.auto_unmount else []
        words += [name for name in ("userxattr", "volatile", "static_nlink") if getattr(config, name)]
        words += [f"{name}=on" for name in ("index", "metacopy") if getattr(config, name)]
        words += [f"{name}=0" for name in ("fsync",) if not getattr(config, name)]
        words += [
            name for name, given in (("noacl", not config.acl), ("noxattrs", not config.xattrs)) if given
        ]
        words += ["ino32_t"] if config.ino32 else []
        named = config.redirect_dir != _default_redirect_dir(config.userxattr, config.whiteouts)
        if named:
            words.append(f"redirect_dir={config.redirect_dir}")
        if config.rename_copy_bytes != _default_copy_bytes(config.redirect_dir if named else None):
            words.append(f"rename_copy_bytes={config.rename_copy_bytes}")
        words += [
            f"{name}={getattr(config, name)}"
            for name in ("xino", "uuid", "whiteouts", "rename_copy_files")
            if getattr(config, name) != getattr(plain, name)
        ]
        if config.timeout is not None:
            words.append(f"timeout={config.timeout:g}")
        words += _owner_words(config.owners)
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
        if not self.writeback:
            words.append("writeback=0")
        if self.debug:
            words.append("debug")
        if self.log_file is not None:
            words.append("log_file=" + escape(self.log_file))
        return words


def _owner_words(owners: OwnersConfig) -> list[str]:
    maps = (("uidmapping", owners.uid_map), ("gidmapping", owners.gid_map))
    words = [
        f"{name}={':'.join(str(number) for each in ids for number in each)}" for name, ids in maps if ids
    ]
    squashed = (("squash_to_uid", owners.squash_uid), ("squash_to_gid", owners.squash_gid))
    words += [f"{name}={number}" for name, number in squashed if number is not None]
    if owners.xattr_permissions:
        words.append(f"xattr_permissions={owners.xattr_permissions}")
    return words


def parse(
    arguments: list[str],
    option_texts: Iterable[str] = (),
    *,
    foreground: bool = False,
    debug: bool = False,
    log_file: str | None = None,
    privileged: bool | None = None,
    unknown: Callable[[str], None] | None = None,
) -> MountOptions:
    """What `mount LOWER[:LOWER...] [UPPER WORK] MERGED` and its `-o` texts ask for.

    With the layers among the options (`lowerdir=` and so on) the only argument is MERGED. `privileged` says
    whether `trusted.*` attributes can be used; None: find out. `unknown` is told of each option that nobody
    knows, which is then left aside; None: it is refused.
    """
    values = _parse_options(option_texts, unknown)
    lowers, data_lowers, upper, work = _layers(arguments, values)
    if privileged is None:
        privileged = process.may_use_trusted_xattrs()
    given_log = values.get("log_file", log_file)
    config = UnionConfig(
        lowers=tuple(os.path.realpath(path) for path in lowers),
        upper=None if upper is None else os.path.realpath(upper),
        work=None if work is None else os.path.realpath(work),
        data_lowers=tuple(os.path.realpath(path) for path in data_lowers),
        userxattr=bool(values.pop("userxattr", False)) or not privileged,
        owners=_owners(values),
    )
    whiteouts = values.get("whiteouts", config.whiteouts)
    values.setdefault("rename_copy_bytes", _default_copy_bytes(values.get("redirect_dir")))
    values.setdefault("redirect_dir", _default_redirect_dir(config.userxattr, whiteouts))
    config = _replace_given(config, values)
    fuse = _replace_given(FuseMountOptions(allow_other=os.geteuid() == 0), values)
    if upper is None:
        # As overlayfs. A kernel that opens files without asking would else take writes that can go nowhere.
        fuse = replace(fuse, read_only=True)
    _refuse_contradictions(config, values)
    if upper is None:
        config = _without_upper(config)
    return MountOptions(
        config=config,
        mountpoint=resolve_mountpoint(arguments[-1]),
        fuse=fuse,
        foreground=foreground,
        debug=debug or values.get("debug", False),
        log_file=os.path.abspath(given_log) if given_log is not None else None,
        transport=values.get("transport", "auto"),
        passthrough=values.get("passthrough", "auto"),
        coherent=values.get("coherent", False),
        writeback=values.get("writeback", True),
    )


def _without_upper(config: UnionConfig) -> UnionConfig:
    """The options but for those of upper: overlayfs warns of them and goes on (ovl_fs_params_verify())."""
    for name in ("volatile", "index"):
        if getattr(config, name):
            logger.warning(
                "pyunionfs: mount option %s means nothing without an upper layer and is ignored", name
            )
    return replace(config, volatile=False, index=False)


def parse_mount_flags(option_texts: Iterable[str]) -> FuseMountOptions:
    """What `-o` texts say about the mount itself. Whatever they say about the union is not looked at."""
    return _replace_given(FuseMountOptions(), _parse_options(option_texts, lambda name: None))


def parse_union(arguments: Sequence[str], option_texts: Sequence[str] = ()) -> UnionConfig:
    """The union that `check LOWER[:LOWER...] UPPER WORK` and its `-o` texts name: as for `parse`, but MERGED.

    One with an upper; it may be named by options instead.
    """
    values = _parse_options(option_texts, None)
    named = [key for key in _LAYER_KEYS if key in values]
    if named and arguments:
        raise OptionError(
            f"{_were_given(arguments)} beside the mount option {named[0]}: name the layers in one way only"
        )
    if not named and len(arguments) != 3:
        raise OptionError(
            f"{_were_given(arguments)}: it takes three, LOWER[:LOWER...] UPPER WORK, or none"
            " where -o lowerdir=,upperdir=,workdir= names them"
        )
    config = parse([*arguments, "/"], option_texts).config
    if config.upper is None:
        raise OptionError("no upper was given: add upperdir= and workdir= to the options, or give UPPER WORK")
    return config


def _replace_given(given: _Fields, values: Values) -> _Fields:
    """The same with the fields that options were given for."""
    names = [each.name for each in fields(given) if each.name in values]
    return replace(given, **{name: values[name] for name in names})


def _layers(arguments: Sequence[str], values: Values) -> tuple[list[str], list[str], str | None, str | None]:
    """The lowers, the data-only ones, upper and work, as arguments or as options give them."""
    named = [key for key in _LAYER_KEYS if key in values]
    if not named:
        return _layer_arguments(arguments)
    if len(arguments) != 1:
        raise OptionError(
            f"{_were_given(arguments)} beside the mount option {named[0]}: with the layers"
            " among the options there is one argument, MERGED"
        )
    _refuse_impossible(arguments[0], "MERGED")
    lowers, data = split_lowers(values["lowerdir"]) if "lowerdir" in values else ([], [])
    if data and "lowerdir+" in values:
        raise OptionError(
            "mount options lowerdir+ and lowerdir with data-only layers (::): give those by datadir+"
        )
    lowers += values.get("lowerdir+", [])
    data += values.get("datadir+", [])
    upper, work = values.get("upperdir"), values.get("workdir")
    if not lowers:
        raise OptionError(f"mount option {named[0]} was given without lowerdir: a union needs a lower")
    if upper is None and work is not None:
        raise OptionError("mount option workdir was given without upperdir: add that, or leave workdir out")
    if upper is not None and work is None:
        raise OptionError(
            "mount option upperdir was given without workdir: add an empty directory on the same filesystem"
        )
    return lowers, data, upper, work


def _were_given(arguments: Sequence[str]) -> str:
    return "one directory was given" if len(arguments) == 1 else f"{len(arguments)} directories were given"


def _layer_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str], str | None, str | None]:
    if len(arguments) == 3:
        raise OptionError(
            f"three directories were given ({', '.join(arguments)}): a writable union needs LOWER UPPER WORK"
            " MERGED, a read-only one LOWER MERGED"
        )
    if len(arguments) == 1:
        raise OptionError(
            f"one directory was given, {arguments[0]}, and no layers: `pyunionfs mount LOWER[:LOWER...]"
            " [UPPER WORK] MERGED` takes two or four; or give the layers as mount options, as in"
            " lowerdir=LOWER[:LOWER...],upperdir=UPPER,workdir=WORK"
        )
    if len(arguments) not in (2, 4):
        raise OptionError(
            f"{_were_given(arguments)}: `pyunionfs mount LOWER[:LOWER...] [UPPER WORK] MERGED`"
            " takes two or four"
        )
    names = ("LOWER", "MERGED") if len(arguments) == 2 else ("LOWER", "UPPER", "WORK", "MERGED")
    for argument, name in zip(arguments, names, strict=True):
        _refuse_impossible(argument, name)
    lowers, data = split_lowers(arguments[0])
    upper, work = (arguments[1], arguments[2]) if len(arguments) == 4 else (None, None)
    return lowers, data, upper, work


def _refuse_impossible(argument: str, name: str) -> None:
    if not argument:
        raise OptionError(f"{name} is empty: give a directory")
    if "\0" in argument:
        raise OptionError(f"{name} holds a NUL byte: no path can")


def _owners(values: Values) -> OwnersConfig:
    """fuse-overlayfs(1): squash_to_uid and squash_to_gid have precedence over squash_to_root."""
    owners = _replace_given(OwnersConfig(), values)
    if values.get("squash_to_root", False):
        uid = 0 if owners.squash_uid is None else owners.squash_uid
        gid = 0 if owners.squash_gid is None else owners.squash_gid
        owners = replace(owners, squash_uid=uid, squash_gid=gid)
    return owners


DEFAULT_COPY_BYTES = 1 << 30


def _default_redirect_dir(userxattr: bool, whiteouts: str) -> str:
    """overlayfs neither writes nor follows redirects with userxattr, and upper should stay one that it can
    mount; who does not need that may ask for redirect_dir=on. With AUFS's whiteouts none can be written."""
    if userxattr:
        return "nofollow"
    return UnionConfig(()).redirect_dir if whiteouts == "overlay" else "follow"


def _default_copy_bytes(redirect_dir: str | None) -> int:
    """How much is copied to rename a directory where no redirect may be written: nothing where overlayfs's
    EXDEV was asked for by name."""
    return DEFAULT_COPY_BYTES if redirect_dir in (None, "on") else 0


def _parse_options(texts: Iterable[str], unknown: Callable[[str], None] | None) -> Values:
    """The values by key; of options that contradict each other the last counts, as with mount(8)."""
    values: Values = {}
    for text in texts:
        for word in split_options(text):
            if not word:
                continue
            name, equals, raw = word.partition("=")
            option = OPTIONS.get(name)
            if option is None:
                if unknown is None:
                    raise unknown_option(name)
                unknown(name)
                continue
            value = option.value(name, _unescaped(name, raw) if equals else None)
            if option.many:
                values.setdefault(option.key, []).append(value)
            else:
                values[option.key] = value
    values.pop("", None)
    return values


def _unescaped(name: str, raw: str) -> str:
    if name == "lowerdir":
        return raw  # a list of lowers has escapes of its own
    # overlayfs takes these literally; escaped is only what a list of options could not hold otherwise.
    return unescape(raw, '\\,"') if name in ("lowerdir+", "datadir+") else unescape(raw)


def unknown_option(name: str) -> OptionError:
    """What is said of a mount option that nobody knows."""
    if name in ("dirs", "br"):
        return OptionError(
            f"mount option {name}: the layers are arguments here, or lowerdir= and upperdir= as overlayfs has"
            " them: `pyunionfs mount LOWER[:LOWER...] UPPER WORK MERGED`"
        )
    if name == "verity":
        return OptionError(
            "mount option verity cannot be had: digests of fs-verity are not checked here, and what is"
            " mounted with the option must not pass for checked; leave it out"
        )
    import difflib

    close = difflib.get_close_matches(name, OPTIONS, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    return OptionError(f"unknown mount option {name!r}; {guess}`pyunionfs mount --help` lists all options")


def _refuse_contradictions(config: UnionConfig, values: Mapping[str, Any]) -> None:
    if config.userxattr and config.metacopy:
        raise OptionError(
            "mount option metacopy=on does not go with user.overlay.* marks (userxattr, or no root's"
            " privileges): whoever may write upper could read any file through them; leave it out"
        )
    if config.whiteouts != "overlay":
        redirects = config.redirect_dir == "on"
        for given, name in ((redirects, "redirect_dir=on"), (config.metacopy, "metacopy=on")):
            if given:
                raise OptionError(
                    f"mount options whiteouts={config.whiteouts} and {name} contradict each other: what moves"
                    " by a redirect and the .wh. file that it leaves cannot come in one step; leave one out"
                )
    # Without an upper nothing is renamed: overlayfs only asks that redirects are followed.
    found_by_redirect = config.redirect_dir == "on" if config.upper is not None else config.redirect_follow
    if config.metacopy and not found_by_redirect:
        raise OptionError(
            f"metacopy=on and redirect_dir={config.redirect_dir} contradict each other: a renamed metacopy"
            " file finds"
            " its data by a redirect; leave one of them out"
        )
    if values.get("transport") == "pyfuse3" and values.get("passthrough") == "on":
        raise OptionError(
            "passthrough=on and transport=pyfuse3 contradict each other: pyfuse3 cannot ask the kernel for"
            " it; leave one of them out"
        )
    if values.get("nfs_export", False):
        raise OptionError(
            "mount option nfs_export=on cannot work: a FUSE mount's file handles do not outlive what the"
            " kernel remembers of it, so an NFS client would lose its files; leave it out"
        )
    if os.geteuid() != 0:
        for key, name in (("nodev", "dev"), ("nosuid", "suid")):
            if values.get(key) is False:
                raise OptionError(f"mount option {name}: the kernel allows it to root only; leave it out")


def resolve_mountpoint(path: str) -> str:
    """The absolute path without symlinks, found without touching what is mounted there: that may hang."""
    path = path.rstrip("/") or "/"
    # The current directory may be gone, which does not matter to an absolute path.
    head, name = os.path.split(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    resolved = os.path.join(os.path.realpath(head), name)
    return resolved if linux.mount_at(resolved) else os.path.realpath(resolved)
