"""Mount options as keywords: their types, and the words of `-o` that they stand for.

What a word means, which values it takes and what contradicts what is decided by the one parser of options,
in the daemon's process. Here a keyword only becomes a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypedDict, TypeVar

from unionfs.errors import OptionError
from unionfs.options.lists import escape
from unionfs.options.table import OPTIONS, Option

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

IdRanges = Sequence[tuple[int, int, int]]
"""Triples: the first id that layers hold, the first that is shown for it, and how many follow each other."""

_Item = TypeVar("_Item", covariant=True)


class Several(Protocol[_Item]):
    """A list or a tuple, but no str, which is a sequence too: a single path is an easy mistake."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_Item]: ...
    def __getitem__(self, index: int, /) -> _Item: ...

    # str and bytes only look for their like, so that they do not fit in here.
    def __contains__(self, value: object, /) -> bool: ...


Paths = Several[StrOrBytesPath]


class Options(TypedDict, total=False):
    """Every mount option but the layers, by its name (`async` with an underscore: Python has that word).

    True gives a bare option or its value on or 1, False its opposite. What is left out has the default of
    `pyunionfs mount`.
    """

    # The union.
    redirect_dir: Literal["on", "off", "follow", "nofollow"]
    rename_copy_bytes: int
    rename_copy_files: int
    index: bool
    metacopy: bool
    userxattr: bool
    volatile: bool
    fsync: bool
    timeout: float
    xino: Literal["on", "off", "auto"]
    ino32_t: bool
    fast_ino: bool
    static_nlink: bool
    noacl: bool
    noxattrs: bool
    whiteouts: Literal["overlay", "aufs", "auto"]
    uuid: Literal["on", "off", "null", "auto"]
    nfs_export: bool
    # Owners and modes.
    uidmapping: IdRanges
    gidmapping: IdRanges
    squash_to_root: bool
    squash_to_uid: int
    squash_to_gid: int
    xattr_permissions: Literal[0, 1, 2]
    # The mount.
    ro: bool
    rw: bool
    nodev: bool
    dev: bool
    nosuid: bool
    suid: bool
    noexec: bool
    exec: bool
    nosymfollow: bool
    symfollow: bool
    noatime: bool
    strictatime: bool
    relatime: bool
    atime: bool
    nodiratime: bool
    diratime: bool
    lazytime: bool
    nolazytime: bool
    sync: bool
    async_: bool
    dirsync: bool
    allow_other: bool
    default_permissions: bool
    auto_unmount: bool
    fsname: str
    subtype: str
    context: str
    fscontext: str
    defcontext: str
    rootcontext: str
    # Requests and data.
    transport: Literal["auto", "direct", "pyfuse3"]
    passthrough: Literal["auto", "on", "off"]
    coherent: bool
    writeback: bool
    max_read: int
    threaded: bool
    # The daemon.
    debug: bool
    log_file: StrOrBytesPath


_ID_RANGES = ("uidmapping", "gidmapping")
_YES = ("on", "1")
_NO = ("off", "0")
_ARGUMENTS = {"lowerdir": "lowers", "upperdir": "upper", "workdir": "work"}
"""What mount(8) has among the options, and `unionfs.mount` has arguments for."""


def words(options: Mapping[str, object]) -> list[str]:
    """The words of `-o` for these keywords, each ready to stand between commas.

    OptionError: there is no such keyword, two contradict each other, or a value is of a type that no option
    takes.
    """
    found: list[str] = []
    said: dict[str, str] = {}
    for keyword, value in options.items():
        if keyword not in Options.__annotations__:
            raise _unknown(keyword)
        name = keyword.removesuffix("_")
        option = OPTIONS[name]
        word = _word(keyword, name, option, value)
        if word is None:
            continue
        given = f"{keyword}={value!r}"
        if option.key and said.setdefault(option.key, given) != given:
            raise OptionError(
                f"{said[option.key]} and {given} contradict each other, or say the same: leave one of them"
                " out"
            )
        found.append(word)
    return found


def _word(keyword: str, name: str, option: Option, value: object) -> str | None:
    """None: the keyword says what holds without it."""
    if isinstance(value, bool):
        return _switch(keyword, name, option, value)
    if isinstance(value, str | bytes | int | float) and _is_no_word_of(option, value):
        raise OptionError(f"{keyword}={value!r}: {_truth(keyword, value)}")
    if name == "log_file":
        text = one_path(keyword, value)
    elif isinstance(value, int | float):
        text = str(value)
    elif isinstance(value, str | bytes | os.PathLike):
        text = path_text(value)
    elif name in _ID_RANGES and isinstance(value, Sequence):
        text = _id_ranges(keyword, value)
    else:
        raise OptionError(f"{keyword}={value!r}: no mount option takes {_a(value)}; {_advice(option, name)}")
    return f"{name}={escape(text)}"


def _is_no_word_of(option: Option, value: object) -> bool:
    """Whether a truth value is wanted, and this is neither that nor what `-o` would take."""
    if not option.takes_value:
        return True
    words = option.values
    # One with more words than these tells them itself.
    return words is not None and set(words) <= {*_YES, *_NO} and str(value) not in words


def _truth(keyword: str, value: object) -> str:
    meant = str(value).lower()
    for truth, words in ((True, (*_YES, "yes", "true")), (False, (*_NO, "no", "false"))):
        if meant in words:
            return f"say {keyword}={truth}"
    return "give True or False"


def _switch(keyword: str, name: str, option: Option, value: bool) -> str | None:
    if option.values is not None:
        for word in _YES if value else _NO:
            if word in option.values:
                return f"{name}={word}"
    if option.flag is None or option.takes_value:
        raise OptionError(f"{keyword}={value!r}: {_advice(option, name)}")
    if value:
        return name
    opposites = (
        other
        for other, each in OPTIONS.items()
        if each.key == option.key and isinstance(each.flag, bool) and each.flag is not option.flag
    )
    return next(opposites, None)


def _id_ranges(keyword: str, value: Sequence[object]) -> str:
    numbers: list[str] = []
    for each in value:
        if not isinstance(each, Sequence) or len(each) != 3 or not all(type(n) is int for n in each):
            raise OptionError(
                f"{keyword}={value!r}: give triples (stored, shown, length) of numbers, as in"
                f" {keyword}=[(0, 100000, 65536)]"
            )
        numbers += map(str, each)
    return ":".join(numbers)


def _advice(option: Option, name: str) -> str:
    if option.values is not None:
        return "give one of " + ", ".join(map(repr, option.values))
    if option.takes_value:
        return f"give what `-o {option.syntax(name)}` takes"
    return "give True or False"


def _unknown(keyword: str) -> OptionError:
    import difflib

    argument = _ARGUMENTS.get(keyword)
    close = [argument] if argument else difflib.get_close_matches(keyword, Options.__annotations__, 1)
    guess = f"did you mean {close[0]}=?" if close else "unionfs.Options lists all"
    return OptionError(f"unknown mount option {keyword!r}; {guess}")


def path_text(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """A path as the str that Python has for its bytes."""
    return os.fsdecode(path)


def several_paths(what: str, paths: object) -> list[str]:
    """Absolute paths of a list of layers; OptionError for what is no list of paths."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise OptionError(
            f"{what} is the one path {paths!r}: give a list, the topmost layer first, as in"
            f" {what}=[{paths!r}]"
        )
    if not isinstance(paths, Sequence):
        raise OptionError(f"{what} is {_a(paths)}: give a list of paths, the topmost layer first")
    return [one_path(f"{what}[{index}]", path) for index, path in enumerate(paths)]


def one_path(what: str, path: object) -> str:
    """The absolute path, `..` and symlinks left as they are; OptionError for what is no path."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise OptionError(f"{what} is {_a(path)}: give a path, as a str, bytes or pathlib.Path")
    text = path_text(path)
    if not text:
        raise OptionError(f"{what} is empty: give a directory")
    if "\0" in text:
        raise OptionError(f"{what} holds a NUL byte: no path can")
    # The current directory may be gone, which does not matter to an absolute path.
    return text if os.path.isabs(text) else os.path.join(os.getcwd(), text)


def _a(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
