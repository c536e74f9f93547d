"""Mount options as keywords: their types, and the words of `-o` that they stand for.

Values and conflicts are checked by the parser of options, in the daemon's process. Here a keyword only
becomes a word. A type checker reads `Options` and cannot read the table of options, so `make options`
writes its fields here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypedDict, TypeVar

from unionfs.errors import OptionError
from unionfs.options.kinds import FILE, ID_MAP
from unionfs.options.lists import escape
from unionfs.options.option import Option
from unionfs.options.table import OPTIONS

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

IdRanges = Sequence[tuple[int, int, int]]
"""Triples: the first ID that layers hold, the first that is shown for it, and the length of the range."""

_Item = TypeVar("_Item", covariant=True)


class Several(Protocol[_Item]):
    """A list or a tuple. A str is a sequence, too, but no list of paths: a single path is an easy mistake."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_Item]: ...
    def __getitem__(self, index: int, /) -> _Item: ...

    # str and bytes only look for their like, so that they do not fit in here.
    def __contains__(self, value: object, /) -> bool: ...


Paths = Several[StrOrBytesPath]


class Options(TypedDict, total=False):
    """Every mount option but the layers, by its name (`async_` for `async`, which is a word of Python).

    True is the bare option or its value on or 1, False the opposite. What is left out has the default of
    `pyunionfs mount`.
    """

    # `make options` writes what follows from unionfs/options/table.py.
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
    supervise: bool
    # `make options` writes what precedes.


_YES = ("on", "1")
_NO = ("off", "0")


def words(options: Mapping[str, object]) -> list[str]:
    """The words of `-o` for these keywords, each ready to stand between commas.

    OptionError: a keyword is unknown, two conflict, or a value has a type that its option does not take.
    """
    known = _keywords()
    found: list[str] = []
    fields: dict[str, str] = {}
    for keyword, value in options.items():
        option = known.get(keyword)
        if option is None:
            raise _unknown(keyword, known)
        word = _word(option, value)
        if word is None:
            continue
        given = f"{keyword}={value!r}"
        if option.field and fields.setdefault(option.field, given) != given:
            raise OptionError(
                f"{fields[option.field]} and {given} set the same mount option: leave one of them out"
            )
        found.append(word)
    return found


def _keywords() -> dict[str, Option]:
    return {option.keyword: option for option in OPTIONS.values() if option.group != "layers"}


def _word(option: Option, value: object) -> str | None:
    """None: without the keyword it is the same."""
    given = f"{option.keyword}={value!r}"
    if isinstance(value, bool):
        return _switch(option, value)
    if isinstance(value, str | bytes | int | float) and _is_no_word_of(option, value):
        raise OptionError(f"{given}: {_truth(option.keyword, value)}")
    if option.kind is FILE:
        text = one_path(option.keyword, value)
    elif isinstance(value, int | float):
        text = str(value)
    elif isinstance(value, str | bytes | os.PathLike):
        text = path_text(value)
    elif option.kind is ID_MAP and isinstance(value, Sequence):
        text = _id_ranges(option.keyword, value)
    else:
        raise OptionError(f"{given}: {_a(value)} is no value of a mount option; {_advice(option)}")
    return f"{option.name}={escape(text)}"


def _is_no_word_of(option: Option, value: object) -> bool:
    """Whether the option takes a bool, and this is neither one nor a word that `-o` takes."""
    if not option.takes_value:
        return True
    words = option.values
    # Of other words the parser's own message gives the list.
    return words is not None and set(words) <= {*_YES, *_NO} and str(value) not in words


def _truth(keyword: str, value: object) -> str:
    meant = str(value).lower()
    for truth, words in ((True, (*_YES, "yes", "true")), (False, (*_NO, "no", "false"))):
        if meant in words:
            return f"write {keyword}={truth}"
    return "give True or False"


def _switch(option: Option, value: bool) -> str | None:
    if option.values is not None:
        for word in _YES if value else _NO:
            if word in option.values:
                return f"{option.name}={word}"
    if option.flag is None or option.takes_value:
        raise OptionError(f"{option.keyword}={value!r}: {_advice(option)}")
    if value:
        return option.name
    opposites = (
        each.name
        for each in OPTIONS.values()
        if each.field == option.field and isinstance(each.flag, bool) and each.flag is not option.flag
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


def _advice(option: Option) -> str:
    if option.values is not None:
        return "give one of " + ", ".join(map(repr, option.values))
    if option.takes_value:
        return f"give a value as for `-o {option.syntax}`"
    return "give True or False"


def _unknown(keyword: str, known: Mapping[str, Option]) -> OptionError:
    import difflib

    layers = OPTIONS.get(keyword)
    close = [layers.keyword] if layers is not None else difflib.get_close_matches(keyword, known, 1)
    guess = f"did you mean {close[0]}=?" if close else "unionfs.Options lists all"
    return OptionError(f"unknown mount option {keyword!r}: {guess}")


def path_text(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """A path as a str, undecodable bytes as surrogates (os.fsdecode())."""
    return os.fsdecode(path)


def several_paths(what: str, paths: object) -> list[str]:
    """The absolute paths of a list of layers; OptionError for what is no list of paths."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise OptionError(
            f"{what} is a single path, {paths!r}: give a list, topmost layer first, as in {what}=[{paths!r}]"
        )
    if not isinstance(paths, Sequence):
        raise OptionError(f"{what} is {_a(paths)}: give a list of paths, topmost layer first")
    return [one_path(f"{what}[{index}]", path) for index, path in enumerate(paths)]


def one_path(what: str, path: object) -> str:
    """The absolute path, `..` and symlinks left as they are; OptionError for what is no path."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise OptionError(f"{what} is {_a(path)}: give a path, as a str, bytes or pathlib.Path")
    text = path_text(path)
    if not text:
        raise OptionError(f"{what} is empty: give a path")
    if "\0" in text:
        raise OptionError(f"{what} is {text!r}: a path has no NUL byte; leave it out")
    # The current directory may be gone, which does not matter to an absolute path.
    return text if os.path.isabs(text) else os.path.join(os.getcwd(), text)


def _a(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
