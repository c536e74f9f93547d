"""Keywords are the mount options, all of them, and say what the words of `-o` say."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import Any, Literal

import pytest

from unionfs.api.keywords import Options, several_paths, words
from unionfs.errors import OptionError
from unionfs.options.lists import split_options
from unionfs.options.mount_options import MountOptions, parse
from unionfs.options.table import OPTIONS

TYPES = typing.get_type_hints(Options)
LAYER_OPTIONS = {"lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir", "image", "store"}
"""Parameters of `mount` instead."""
LAYERS = ["lowerdir+=/lower", "upperdir=/upper", "workdir=/work"]


def parsed(**options: Any) -> MountOptions:
    """What the one parser makes of these keywords."""
    return parse(["/merged"], [*LAYERS, *words(options)], privileged=True)


def test_every_option_has_a_keyword_and_no_other_has() -> None:
    assert {name.removesuffix("_") for name in TYPES} | LAYER_OPTIONS == set(OPTIONS)
    assert [name for name in TYPES if name.endswith("_")] == ["async_"]


@pytest.mark.parametrize("keyword", TYPES)
def test_the_type_is_what_the_option_takes(keyword: str) -> None:
    option = OPTIONS[keyword.removesuffix("_")]
    given = TYPES[keyword]
    if option.values is None:
        if not option.takes_value:
            assert given is bool
        else:
            assert given is not bool
    elif set(option.values) in ({"on", "off"}, {"0", "1"}):
        assert given is bool
    else:
        assert typing.get_origin(given) is Literal
        assert [str(value) for value in typing.get_args(given)] == list(option.values)


def meanings(keyword: str) -> list[tuple[object, str]]:
    """Values of the keyword's type, and what one would write after `-o` instead."""
    name = keyword.removesuffix("_")
    values = OPTIONS[name].values
    if TYPES[keyword] is bool and values is None:
        return [(True, name)]
    if TYPES[keyword] is bool:
        assert values is not None
        yes, no = ("on", "off") if "on" in values else ("1", "0")
        return [(True, f"{name}={yes}"), (False, f"{name}={no}")]
    if values is not None:
        return [(value, f"{name}={value}") for value in typing.get_args(TYPES[keyword])]
    if "mapping" in keyword:
        return [([(0, 1000, 1), (1, 100000, 65536)], f"{name}=0:1000:1:1:100000:65536")]
    free: dict[object, list[object]] = {float: [0, 1.5], int: [65536], str: ["a:b,c"]}
    return [(value, f'{name}="{value}"') for value in free.get(TYPES[keyword], [Path("/var/log/x,y")])]


@pytest.mark.parametrize("keyword", TYPES)
def test_every_value_means_what_its_word_means(keyword: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for value, word in meanings(keyword):
        given: dict[str, Any] = {keyword: value}
        (mine,) = words(given)
        assert split_options(mine) == [mine]
        if word == "nfs_export=on":
            with pytest.raises(OptionError, match="unsupported mount option nfs_export=on"):
                parsed(**given)
        else:
            assert parsed(**given) == parse(["/merged"], [*LAYERS, word], privileged=True)


def test_true_and_false() -> None:
    assert parsed(nosuid=True).fuse.nosuid is True
    assert parsed(suid=False).fuse.nosuid is True
    assert words({"nosuid": False}) == ["suid"]
    assert parsed(rw=False) == parsed(ro=True) != parsed()
    assert parsed(async_=False) == parsed(sync=True) != parsed()
    assert parsed(index=True).config.index is True
    assert parsed(index=False) == parsed(volatile=False) == parsed(noatime=False) == parsed()
    assert parsed(fsync=False).config.fsync is False
    assert parsed(noxattrs=True).config.xattrs is False
    assert parsed(redirect_dir=False).config.redirect_dir == "off"


def test_numbers_and_triples() -> None:
    assert parsed(timeout=0.25).config.timeout == 0.25
    assert parsed(timeout=1).config.timeout == 1.0
    assert parsed(max_read=8192).fuse.max_read == 8192
    assert parsed(uidmapping=[(0, 1000, 1), (1, 5, 3)]).config.owners.uid_map == ((0, 1000, 1), (1, 5, 3))
    assert parsed(xattr_permissions=2).config.owners.xattr_permissions == 2


@pytest.mark.parametrize("name", ["a,b", 'q"u"', "back\\slash", "co:lon", "\udcff\udcfe", " ", "a=b", "\\,"])
def test_texts_arrive_as_they_are(name: str) -> None:
    assert parsed(log_file="/log/" + name).log_file == "/log/" + name
    assert parsed(log_file=os.fsencode("/log/" + name)).log_file == "/log/" + name
    assert parsed(log_file=Path("/log") / name).log_file == "/log/" + name
    if name.isprintable():
        assert parsed(fsname=name).fuse.fsname == name


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"indx": True}, "unknown mount option 'indx': did you mean index=\\?"),
        ({"lowerdir": "/a"}, "unknown mount option 'lowerdir': did you mean lowers=\\?"),
        ({"upperdir": "upper"}, "did you mean upper=\\?"),
        ({"workdir": "work"}, "did you mean work=\\?"),
        ({"index_": True}, "unknown mount option 'index_'"),
        ({"ro": True, "rw": True}, "ro=True and rw=True set the same mount option"),
        (
            {"noatime": True, "strictatime": True},
            "noatime=True and strictatime=True set the same mount option",
        ),
        ({"timeout": True}, "timeout=True: give a value as for `-o timeout=SECONDS`"),
        ({"timeout": "soon"}, "invalid value 'soon' of mount option timeout: give a number"),
        (
            {"timeout": None},
            "timeout=None: None is no value of a mount option; give a value as for `-o timeout=SECONDS`",
        ),
        ({"fsname": False}, "fsname=False: give a value as for `-o fsname=NAME`"),
        ({"index": 3}, "index=3: give True or False"),
        ({"index": "yes"}, "index='yes': write index=True"),
        ({"index": "No"}, "index='No': write index=False"),
        ({"ro": "yes"}, "ro='yes': write ro=True"),
        ({"nosuid": 0}, "nosuid=0: write nosuid=False"),
        ({"nosuid": "maybe"}, "nosuid='maybe': give True or False"),
        ({"xino": "yes"}, "invalid value 'yes' of mount option xino: write xino=on\\|off\\|auto"),
        ({"volatile": []}, "volatile=\\[\\]: a list is no value of a mount option; give True or False"),
        ({"transport": True}, "transport=True: give one of 'auto', 'direct', 'pyfuse3'"),
        ({"uidmapping": [(0, 1)]}, "give triples"),
        ({"uidmapping": [(0, 1, True)]}, "give triples"),
        (
            {"uidmapping": "0:1"},
            "invalid value '0:1' of mount option uidmapping: give triples STORED:SHOWN:LENGTH",
        ),
        ({"log_file": "a\0b"}, "NUL byte"),
        ({"fsname": ""}, "fsname needs a value"),
        ({"log_file": ""}, "log_file is empty"),
        ({"log_file": 7}, "log_file is an int"),
    ],
)
def test_wrong_ones_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        parsed(**options)


@pytest.mark.parametrize(
    "lowers, complaint",
    [
        ("/a", r"lowers is a single path, '/a': give a list.*lowers=\['/a'\]"),
        (b"/a", "lowers is a single path"),
        (Path("/a"), "lowers is a single path"),
        (None, "lowers is None"),
        ({"/a"}, "lowers is a set"),
        (iter(["/a"]), "lowers is a list_iterator"),
        ([None], r"lowers\[0\] is None"),
        (["/a", 1], r"lowers\[1\] is an int"),
        ([""], r"lowers\[0\] is empty"),
        (["a\0b"], r"lowers\[0\] is 'a.*: a path has no NUL byte"),
    ],
)
def test_layers_that_are_none(lowers: Any, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        several_paths("lowers", lowers)


def test_paths_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["a/../b", b"\xff", Path("c"), "/d"]
    assert several_paths("lowers", given) == [
        f"{tmp_path}/a/../b",
        f"{tmp_path}/\udcff",
        f"{tmp_path}/c",
        "/d",
    ]
