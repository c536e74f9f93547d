"""Mount options: parsed, checked against each other, and printed.

What concerns a single option is in `table.py`, how lists of lowers and of options are split in `lists.py`.
Nothing here looks at the layers (`overlay/check.py` does) or mounts. An error is an `OptionError`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

from unionfs.errors import OptionError
from unionfs.linux import mount, process
from unionfs.options.lists import split_lowers, split_options
from unionfs.options.table import OPTIONS
from unionfs.overlay.config import OwnersConfig, UnionConfig
from unionfs.transport.mount import FuseMountOptions
from unionfs.transport.session import SessionOptions

logger = logging.getLogger(__name__)

Values = dict[str, Any]
"""The values of the options that were given, by field."""

_Config = TypeVar("_Config", UnionConfig, OwnersConfig, FuseMountOptions, SessionOptions, "MountOptions")

_OF_IMAGE = ("image", "store")
_LAYERS = tuple(
    option.name for option in OPTIONS.values() if option.group == "layers" and option.name not in _OF_IMAGE
)


class ImageLayers(NamedTuple):
    """What the option `image` stands for, found before options are parsed: nothing here knows of images."""

    name: str
    """The image as `status` and the mount table show it."""
    lowers: tuple[str, ...]
    """The directories of its layers, topmost first."""
    override_stat: bool = False
    """Whether `override_stat` attributes say owners and modes in there."""
    held: tuple[int, ...] = ()
    """Descriptors with locks that say that a mount has these layers."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The configuration of one mount. All paths are absolute and free of symlinks.

    `lock_patience` is how long, in seconds, it waits for an upper or work that is still locked by a daemon
    whose mount is gone. With `supervise` the supervisor forks the daemon where it can. `image` is the name
    of the image whose layers are the lowest lowers, if there is one, and `held` are descriptors that the
    daemon keeps open because of that.
    """

    config: UnionConfig
    mountpoint: str
    fuse: FuseMountOptions = field(default_factory=FuseMountOptions)
    session: SessionOptions = field(default_factory=SessionOptions)
    foreground: bool = False
    log_file: str | None = None
    transport: str = "auto"
    lock_patience: float = 10.0
    supervise: bool = True
    image: str = ""
    held: tuple[int, ...] = ()

    @property
    def debug(self) -> bool:
        return self.session.debug

    def value(self, name: str) -> Any:
        """The value of the configuration field of that name; None: there is no such field."""
        for part in (self.config, self.config.owners, self.fuse, self.session, self):
            if hasattr(part, name):
                return getattr(part, name)
        return None

    def words(self) -> list[str]:
        """The words of `-o` that parse to the same mount, defaults left out, flags of the mount first."""
        defaults = _defaults(self)
        words = []
        for option in sorted(OPTIONS.values(), key=lambda option: option.group != "mount"):
            value = self.value(option.field)
            if value != defaults.value(option.field) and (word := option.word(value)) is not None:
                words.append(word)
        return words


def _defaults(given: MountOptions) -> MountOptions:
    """What holds without options, but for the defaults that depend on *given* ones."""
    config = given.config
    redirect_dir = _default_redirect_dir(config.userxattr, config.whiteouts)
    asked = None if config.redirect_dir == redirect_dir else config.redirect_dir
    # As root that is so whether it is given or not.
    fuse = FuseMountOptions(allow_other=os.geteuid() == 0)
    return MountOptions(
        UnionConfig((), redirect_dir=redirect_dir, rename_copy_bytes=_default_copy_bytes(asked)),
        mountpoint="",
        fuse=replace(fuse, fsname=given.image) if given.image else fuse,
    )


def parse(
    arguments: list[str],
    option_texts: Iterable[str] = (),
    *,
    foreground: bool = False,
    debug: bool = False,
    log_file: str | None = None,
    privileged: bool | None = None,
    on_unknown: Callable[[str], None] | None = None,
    image: ImageLayers | None = None,
) -> MountOptions:
    """The configuration for `mount LOWER[:LOWER...] [UPPER WORK] MERGED` and its `-o` texts.

    With the layers among the options (`lowerdir=` and so on) the only argument is MERGED. `privileged` says
    whether `trusted.*` attributes can be used; None: find out. `on_unknown` is called with the name of each
    unknown option, which is then ignored; None: it is an error. `image` is what the option of that name
    stands for, with which LOWER may be left out.
    """
    values = _parse_options(option_texts, on_unknown)
    lowers, data_lowers, upper, work = _layers(arguments, values, image)
    if image is not None:
        lowers += image.lowers
        values["image"], values["held"] = image.name, image.held
        values.setdefault("fsname", image.name)
        values.setdefault("xattr_permissions", 2 if image.override_stat else 0)
    if privileged is None:
        privileged = process.may_use_trusted_xattrs()
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
    if upper is None:
        # As overlayfs. A kernel that opens files without asking would else take writes that can go nowhere.
        values["read_only"] = True
    _refuse_contradictions(config, values)
    if upper is None:
        config = _without_upper(config)
    values.setdefault("allow_other", os.geteuid() == 0)
    values["debug"] = debug or values.get("debug", False)
    given_log = values.get("log_file", log_file)
    values["log_file"] = None if given_log is None else os.path.abspath(given_log)
    options = MountOptions(
        config,
        resolve_mountpoint(arguments[-1]),
        fuse=_replace_given(FuseMountOptions(), values),
        session=_replace_given(SessionOptions(), values),
        foreground=foreground,
    )
    return _replace_given(options, values)


def _without_upper(config: UnionConfig) -> UnionConfig:
    """Without what concerns upper: overlayfs ignores that with a warning (ovl_fs_params_verify())."""
    for name in ("volatile", "index"):
        if getattr(config, name):
            logger.warning(
                "pyunionfs: mount option %s has no effect without an upper layer and is ignored", name
            )
    return replace(config, volatile=False, index=False)


def image_of(option_texts: Iterable[str]) -> tuple[str, str | None] | None:
    """The image that is named among the options, and the store; None: there is no image."""
    values = _parse_options(option_texts, lambda name: None)
    return (values["image"], values.get("store")) if "image" in values else None


def parse_mount_flags(option_texts: Iterable[str]) -> FuseMountOptions:
    """The flags of the mount among the options; those of the union are ignored."""
    return _replace_given(FuseMountOptions(), _parse_options(option_texts, lambda name: None))


def parse_union(
    arguments: Sequence[str], option_texts: Sequence[str] = (), image: ImageLayers | None = None
) -> UnionConfig:
    """The configuration for `check LOWER[:LOWER...] UPPER WORK` and its `-o` texts, without a mountpoint.

    It has an upper. The layers may be among the options, and LOWER left out with an image, as for `parse`.
    """
    values = _parse_options(option_texts, None)
    named = [name for name in _LAYERS if name in values]
    if named and arguments:
        raise OptionError(
            f"{_were_given(arguments)} as well as mount option {named[0]}: give the layers in one way only"
        )
    if not named and len(arguments) != 3 and not (image is not None and len(arguments) == 2):
        raise OptionError(
            f"{_were_given(arguments)}: give three, LOWER[:LOWER...] UPPER WORK, or none with"
            " -o lowerdir=,upperdir=,workdir="
        )
    config = parse([*arguments, "/"], option_texts, image=image).config
    if config.upper is None:
        raise OptionError(
            "missing upper layer: add upperdir= and workdir= to the options, or give UPPER WORK"
        )
    return config


def _replace_given(given: _Config, values: Values) -> _Config:
    """The same with the fields that have a value."""
    names = [each.name for each in fields(given) if each.name in values]
    return replace(given, **{name: values[name] for name in names})


def _layers(
    arguments: Sequence[str], values: Values, image: ImageLayers | None
) -> tuple[list[str], list[str], str | None, str | None]:
    """The lowers, the data-only ones, upper and work, as arguments or as options give them."""
    if image is None and (lost := [name for name in _OF_IMAGE if name in values]):
        raise OptionError(
            f"mount option {lost[0]} is of no use here: "
            + (
                "add image=IMAGE, which the store has"
                if "image" not in values
                else "give the layers as lowerdir="
            )
        )
    named = [name for name in _LAYERS if name in values]
    if not named:
        return _layer_arguments(arguments) if image is None else _arguments_beside_image(arguments)
    if len(arguments) != 1:
        raise OptionError(
            f"{_were_given(arguments)} as well as mount option {named[0]}: with the layers among the options"
            " give one argument, MERGED"
        )
    _refuse_impossible(arguments[0], "MERGED")
    lowers, data = split_lowers(values["lowerdir"]) if "lowerdir" in values else ([], [])
    if data and "lowerdir+" in values:
        raise OptionError(
            "mount option lowerdir+ conflicts with data-only layers (::) in lowerdir: give those by datadir+"
        )
    lowers += values.get("lowerdir+", [])
    data += values.get("datadir+", [])
    upper, work = values.get("upperdir"), values.get("workdir")
    if not lowers and image is None:
        raise OptionError(f"mount option {named[0]} requires lowerdir: add the lower layers")
    if upper is None and work is not None:
        raise OptionError("mount option workdir requires upperdir: add that, or leave workdir out")
    if upper is not None and work is None:
        raise OptionError(
            "mount option upperdir requires workdir: add an empty directory on the same filesystem"
        )
    return lowers, data, upper, work


def _were_given(arguments: Sequence[str]) -> str:
    return "one directory was given" if len(arguments) == 1 else f"{len(arguments)} directories were given"


def _layer_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str], str | None, str | None]:
    if len(arguments) == 3:
        raise OptionError(
            f"three directories were given ({', '.join(arguments)}): give LOWER UPPER WORK MERGED for a"
            " writable mount, LOWER MERGED for a read-only one"
        )
    if len(arguments) == 1:
        raise OptionError(
            f"one directory was given, {arguments[0]}, and no layers: write `pyunionfs mount LOWER[:LOWER...]"
            " [UPPER WORK] MERGED`, or give the layers as mount options, as in"
            " lowerdir=LOWER[:LOWER...],upperdir=UPPER,workdir=WORK"
        )
    if len(arguments) not in (2, 4):
        raise OptionError(
            f"{_were_given(arguments)}: write `pyunionfs mount LOWER[:LOWER...] [UPPER WORK] MERGED`, two or"
            " four"
        )
    names = ("LOWER", "MERGED") if len(arguments) == 2 else ("LOWER", "UPPER", "WORK", "MERGED")
    for argument, name in zip(arguments, names, strict=True):
        _refuse_impossible(argument, name)
    lowers, data = split_lowers(arguments[0])
    upper, work = (arguments[1], arguments[2]) if len(arguments) == 4 else (None, None)
    return lowers, data, upper, work


def _arguments_beside_image(
    arguments: Sequence[str],
) -> tuple[list[str], list[str], str | None, str | None]:
    """[LOWER] [UPPER WORK] MERGED, which their number tells apart."""
    if not 1 <= len(arguments) <= 4:
        raise OptionError(
            f"{_were_given(arguments)}: with an image write `pyunionfs mount -o image=IMAGE"
            " [LOWER[:LOWER...]] [UPPER WORK] MERGED`"
        )
    has_lower, has_upper = len(arguments) % 2 == 0, len(arguments) > 2
    names = [*(["LOWER"] if has_lower else []), *(["UPPER", "WORK"] if has_upper else []), "MERGED"]
    given = dict(zip(names, arguments, strict=True))
    for name, argument in given.items():
        _refuse_impossible(argument, name)
    lowers, data = split_lowers(given["LOWER"]) if has_lower else ([], [])
    return lowers, data, given.get("UPPER"), given.get("WORK")


def _refuse_impossible(argument: str, name: str) -> None:
    if not argument:
        raise OptionError(f"{name} is empty: give a directory")
    if "\0" in argument:
        raise OptionError(f"invalid {name} {argument!r}: a path has no NUL byte; leave it out")


def _owners(values: Values) -> OwnersConfig:
    """fuse-overlayfs(1): squash_to_uid and squash_to_gid have precedence over squash_to_root."""
    owners = _replace_given(OwnersConfig(), values)
    if values.get("squash_to_root", False):
        uid = 0 if owners.squash_uid is None else owners.squash_uid
        gid = 0 if owners.squash_gid is None else owners.squash_gid
        owners = replace(owners, squash_uid=uid, squash_gid=gid)
    return owners


_RENAME_COPY_BYTES = 1 << 30


def _default_redirect_dir(userxattr: bool, whiteouts: str) -> str:
    """The default of redirect_dir. With userxattr overlayfs neither writes nor follows redirects, and by
    default upper stays one that it can mount. With AUFS's whiteouts no redirect can be written."""
    if userxattr:
        return "nofollow"
    return UnionConfig(()).redirect_dir if whiteouts == "overlay" else "follow"


def _default_copy_bytes(redirect_dir: str | None) -> int:
    """The default of rename_copy_bytes; 0, which means EXDEV as overlayfs has it, where a redirect_dir that
    writes no redirects was given by name."""
    return _RENAME_COPY_BYTES if redirect_dir in (None, "on") else 0


def _parse_options(texts: Iterable[str], on_unknown: Callable[[str], None] | None) -> Values:
    """The values by field; of options that contradict each other the last counts, as with mount(8)."""
    values: Values = {}
    for text in texts:
        for word in split_options(text):
            if not word:
                continue
            name, equals, raw = word.partition("=")
            option = OPTIONS.get(name)
            if option is None:
                if on_unknown is None:
                    raise unknown_option(name)
                on_unknown(name)
                continue
            value = option.value(option.unescape(raw) if equals else None)
            if option.repeatable:
                values.setdefault(option.field, []).append(value)
            else:
                values[option.field] = value
    values.pop("", None)
    return values


def unknown_option(name: str) -> OptionError:
    """The error for a name that is not in the table."""
    if name in ("dirs", "br"):
        return OptionError(
            f"unknown mount option {name!r} (of AUFS or unionfs-fuse): give the layers by lowerdir=,"
            " upperdir= and workdir=, or as arguments: `pyunionfs mount LOWER[:LOWER...] UPPER WORK MERGED`"
        )
    if name == "verity":
        return OptionError(
            "unsupported mount option 'verity': fs-verity digests are not verified by pyunionfs; leave it out"
        )
    import difflib

    close = difflib.get_close_matches(name, OPTIONS, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    return OptionError(f"unknown mount option {name!r}: {guess}`pyunionfs mount --help` lists all options")


def _refuse_contradictions(config: UnionConfig, values: Mapping[str, Any]) -> None:
    if config.userxattr and config.metacopy:
        raise OptionError(
            "mount option metacopy=on conflicts with userxattr, which is set without privileges, too: a user"
            " with write access to upper could read any file through a user.overlay.metacopy xattr; leave"
            " metacopy out"
        )
    if config.whiteouts != "overlay":
        redirects = config.redirect_dir == "on"
        for given, name in ((redirects, "redirect_dir=on"), (config.metacopy, "metacopy=on")):
            if given:
                raise OptionError(
                    f"mount options whiteouts={config.whiteouts} and {name} conflict: a rename with a"
                    " redirect and the creation of its .wh. file are not atomic; leave one of them out"
                )
    # Without an upper nothing is renamed: overlayfs only asks that redirects are followed.
    found_by_redirect = config.redirect_dir == "on" if config.upper is not None else config.redirect_follow
    if config.metacopy and not found_by_redirect:
        raise OptionError(
            f"mount options metacopy=on and redirect_dir={config.redirect_dir} conflict: the data of a"
            " renamed metacopy file is found by its redirect; leave one of them out"
        )
    if values.get("transport") == "pyfuse3" and values.get("passthrough") == "on":
        raise OptionError(
            "mount options passthrough=on and transport=pyfuse3 conflict: pyfuse3 does not support"
            " passthrough; leave one of them out"
        )
    if values.get("nfs_export", False):
        raise OptionError(
            "unsupported mount option nfs_export=on: file handles of a FUSE mount are stale once the kernel"
            " has dropped the inode, and NFS clients would get ESTALE; leave it out"
        )
    if os.geteuid() != 0:
        for key, name in (("nodev", "dev"), ("nosuid", "suid")):
            if values.get(key) is False:
                raise OptionError(f"mount option {name} is permitted for root only: leave it out")


def resolve_mountpoint(path: str) -> str:
    """The absolute path without symlinks, found without touching what is mounted there: that may hang."""
    path = path.rstrip("/") or "/"
    # The current directory may be gone, which does not matter to an absolute path.
    head, name = os.path.split(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    resolved = os.path.join(os.path.realpath(head), name)
    return resolved if mount.mount_at(resolved) else os.path.realpath(resolved)
