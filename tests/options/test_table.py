"""The table of mount options is the one place of an option: everything else is made from it, or agrees."""

from __future__ import annotations

import os
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from testing.mounts import REPOSITORY
from testing.option_files import MADE, updated
from unionfs.api import keywords
from unionfs.api.keywords import Options, words
from unionfs.cli import completion, fuse_overlayfs, manual
from unionfs.cli.commands import COMMANDS
from unionfs.cli.mount import option_tables
from unionfs.cli.mount import parser as mount_parser
from unionfs.errors import OptionError
from unionfs.options import mount_options
from unionfs.options.kinds import SECONDS
from unionfs.options.lists import escape
from unionfs.options.mount_options import MountOptions
from unionfs.options.option import Option
from unionfs.options.table import GROUPS, OPTIONS
from unionfs.overlay.config import OwnersConfig, UnionConfig
from unionfs.transport.mount import _FLAGS, FuseMountOptions
from unionfs.transport.session import SessionOptions

PARTS = (UnionConfig, OwnersConfig, FuseMountOptions, SessionOptions, MountOptions)
FIELDS = {each.name for part in PARTS for each in fields(part)}

CHECKED_ONLY = {"squash_to_root", "nfs_export"}
"""Of these `mount_options.py` makes other fields' values, or an error; they have none of their own."""

SETTINGS = {name: option for name, option in OPTIONS.items() if option.group != "layers"}

SAMPLES: dict[str, list[str]] = {
    "str": ["name", 'a,b\\c"d', "co:lon", "\udcff"],
    "int": ["4096", "65536", "4294967294"],
    "float": ["0", "0.1", "2", "1073741824", "1e-7", "123456.789", "1e22"],
    "IdRanges": ["0:1000:1", "0:1000:1:1:100000:65536"],
    "StrOrBytesPath": ["/log", '/a,b\\c"d:e', "/\udcff"],
}
"""Values of each type, one of which at least is no default."""


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options whose defaults are others without root are parsed as root parses them."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def parse(*texts: str) -> MountOptions:
    return mount_options.parse(["/l", "/u", "/w", "/m"], texts, privileged=True)


def spellings(option: Option) -> list[str]:
    """The option with each of its values, as it can be written."""
    name = option.name
    bare = [name] if option.flag is not None else []
    if option.values is not None:
        return [*bare, *(f"{name}={word}" for word in option.values)]
    if option.kind is None:
        return bare
    samples = SAMPLES[option.python_type]
    if name.endswith("context"):
        samples = ["system_u:object_r:tmp_t:s0:c1,c2"]
    return [*bare, *(f"{name}={escape(sample)}" for sample in samples)]


# --- each option -----------------------------------------------------------------------------------


def test_every_field_exists() -> None:
    given = {option.field for option in SETTINGS.values() if option.field}
    assert given - FIELDS == CHECKED_ONLY


@pytest.mark.parametrize("name", _FLAGS)
def test_every_mount_flag_is_an_option_and_a_field(name: str) -> None:
    assert OPTIONS[name].group == "mount"
    assert parse(name).fuse.flag_names() == [name]
    assert parse(name).words() == [name]
    assert parse().fuse.flag_names() == []


def test_a_field_in_two_parts_has_one_value() -> None:
    """By its name it is set in both."""
    given = parse("noacl,max_read=8192,debug,allow_other")
    assert (given.config.acl, given.fuse.acl) == (False, False)
    assert (given.fuse.max_read, given.session.max_read) == (8192, 8192)
    assert (given.fuse.allow_other, given.session.allow_other) == (True, True)
    names = [each.name for part in PARTS for each in fields(part)]
    assert {name for name in names if names.count(name) > 1} == {"acl", "max_read", "allow_other"}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_default_is_that_of_the_field(name: str) -> None:
    """What the help texts call the default is it, and every option that has one says so."""
    option = OPTIONS[name]
    default = parse()
    if option.default:
        written = "(default" if option.default == name else f"(default: {option.default}"
        assert option.text.startswith(f"{option.help} {written}")
        assert parse(name if option.default == name else f"{name}={option.default}") == default
    elif option.kind is not None:
        assert default.value(option.field) in (None, ())
    elif option.flag is not None and option.values is None and option.field not in ("", "allow_other"):
        alike = [each for each in OPTIONS.values() if each.field == option.field and each.flag == option.flag]
        is_default = option.flag == default.value(option.field)
        assert is_default == any(each.default == each.name for each in alike)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_value_is_printed_such_that_it_parses_to_the_same(name: str) -> None:
    option = OPTIONS[name]
    changed = 0
    for spelling in spellings(option):
        try:
            given = parse(spelling)
        except OptionError:
            assert spelling == "nfs_export=on"
            continue
        assert parse(",".join(given.words())) == given
        # One word a value, and none for a default; both ids are squashed to those of root.
        assert len(given.words()) == (given != parse()) + (name == "squash_to_root")
        changed += given != parse()
    if option.field and not option.default and name not in ("allow_other", "atime"):
        assert changed > 0


def test_options_print_together() -> None:
    """All that can be given beside each other."""
    given = parse(
        "ro,nodev,nosuid,noexec,nosymfollow,strictatime,nodiratime,lazytime,sync,dirsync,auto_unmount,debug",
        "redirect_dir=nofollow,rename_copy_bytes=7,rename_copy_files=9,index=on,volatile,fsync=0,timeout=0.1",
        "xino=on,ino32_t,static_nlink,noacl,noxattrs,whiteouts=auto,uuid=off,uidmapping=0:1:2",
        "squash_to_uid=3,squash_to_gid=4,xattr_permissions=1,fsname=a,subtype=b,context=c,max_read=8192",
        "transport=direct,passthrough=off,coherent,writeback=0,log_file=/log",
    )
    assert parse(",".join(given.words())) == given
    assert len(given.words()) == 39
    assert given.words()[:2] == ["ro", "nodev"]


# --- what is made from the table, and written out ----------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_what_is_written_out_is_up_to_date(name: str) -> None:
    assert updated(name) == (REPOSITORY / name).read_text(), "call `make options`"


def test_the_keywords_are_those_of_the_table() -> None:
    assert list(Options.__annotations__) == [option.keyword for option in SETTINGS.values()]
    names = vars(keywords)
    types = {option.keyword: eval(option.python_type, names) for option in SETTINGS.values()}
    assert typing.get_type_hints(Options) == types


def test_the_layers_are_parameters_of_mount() -> None:
    import inspect

    import unionfs

    parameters = inspect.signature(unionfs.mount).parameters
    layers = {option.keyword for option in OPTIONS.values() if option.group == "layers"}
    assert layers == {"lowers", "data_lowers", "upper", "work", "image", "store"}
    assert layers <= set(parameters)


def test_what_is_known_of_fuse_overlayfs_are_options() -> None:
    assert fuse_overlayfs._IGNORED_IF_INVALID | fuse_overlayfs._CHECKED_BY_FUSE_OVERLAYFS | set(
        fuse_overlayfs._IGNORED
    ) <= set(OPTIONS)
    assert not fuse_overlayfs._IGNORED_IF_INVALID & fuse_overlayfs._CHECKED_BY_FUSE_OVERLAYFS


# --- one more option ---------------------------------------------------------------------------------

PLANTED = {
    "lock_wait": Option(
        "lock_wait",
        "lock_patience",
        "daemon",
        "how long to wait for a locked upper",
        SECONDS,
        "SECONDS",
        default="10",
    ),
    "lambda": Option("lambda", "any_work", "union", "accept a work directory that has files", flag=True),
    "access": Option(
        "access",
        "access_times",
        "mount",
        "access times by a word",
        values={"never": "noatime", "always": "strictatime"},
    ),
}
"""Options for fields that have no option, or one of another form."""


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, option in PLANTED.items():
        monkeypatch.setitem(OPTIONS, name, option)


@pytest.mark.usefixtures("planted")
class TestOneMoreOption:
    """An entry in the table is all that an option takes, beside its field."""

    def test_it_is_parsed_and_checked(self) -> None:
        given = parse("lock_wait=2.5,lambda,access=always")
        assert (given.lock_patience, given.config.any_work) == (2.5, True)
        assert given.fuse.access_times == "strictatime"
        assert parse("lock_wait=10") == parse()
        for text, says in (
            ("lock_wait=soon", "invalid value 'soon' of mount option lock_wait: give a number"),
            ("lock_wait", "lock_wait needs a value: write lock_wait=SECONDS"),
            ("access=x", "write access=never|always"),
            ("lambda=1", "lambda takes no value"),
            ("lock_wai=1", "did you mean lock_wait?"),
        ):
            with pytest.raises(OptionError) as caught:
                parse(text)
            assert says in str(caught.value)

    def test_it_is_printed(self) -> None:
        given = parse("lock_wait=2.5,lambda")
        assert sorted(given.words()) == ["lambda", "lock_wait=2.5"]
        assert parse(*given.words()) == given

    def test_it_is_a_keyword(self) -> None:
        options: dict[str, Any] = {"lock_wait": 0.5, "lambda_": True, "access": "never"}
        assert words(options) == ["lock_wait=0.5", "lambda", "access=never"]
        with pytest.raises(OptionError, match=r"did you mean lock_wait=\?"):
            words({"lock_wiat": 1})
        with pytest.raises(OptionError, match="access='never' and noatime=True set the same mount option"):
            words({"access": "never", "noatime": True})

    def test_it_is_a_word_of_the_other_command_line(self, tmp_path: Path) -> None:
        given = fuse_overlayfs._split_words(["-o", "lowerdir=/a,lock_wait=x", str(tmp_path)])
        with pytest.raises(OptionError, match="invalid value 'x' of mount option lock_wait"):
            fuse_overlayfs._parse(given)

    def test_help_and_man_page_show_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "100")
        rows = [row for _, table in option_tables() for row in table]
        assert ("lock_wait=SECONDS", "how long to wait for a locked upper (default: 10)") in rows
        shown = " ".join(mount_parser().format_help().split())
        assert " lock_wait=SECONDS how long to wait for a locked upper (default: 10)" in shown
        assert " access=never|always access times by a word" in shown
        page = manual.page(COMMANDS)
        assert (
            "\\fBlock_wait\\fR=\\fISECONDS\\fR\nhow long to wait for a locked upper (default: 10)\n" in page
        )
        assert "\\fBlambda\\fR\naccept a work directory that has files\n" in page

    @pytest.mark.parametrize("shell", completion.SHELLS)
    def test_shells_complete_it(self, shell: str) -> None:
        script = completion.script(shell, COMMANDS)
        for word in {
            "bash": (" lock_wait= lambda access='", "access) compgen -W 'never always'"),
            "zsh": ("'lambda[accept a work", "access[access times by a word]:value:(never always)"),
            "fish": (" 'lambda' 'accept a work", " 'access=always' 'access times", " 'lock_wait=' 'how long"),
        }[shell]:
            assert word in script

    def test_it_is_written_into_the_documentation_and_the_types(self) -> None:
        page = updated("docs/options.md")
        assert "\n| `lock_wait=SECONDS` | how long to wait for a locked upper (default: 10) |\n" in page
        assert f"## {GROUPS['daemon']}\n" in page.partition("| `lock_wait")[0]
        assert "\n| `access=never\\|always` | access times by a word |\n" in page
        types = updated("unionfs/api/keywords.py")
        for line in ("lock_wait: float", "lambda_: bool", 'access: Literal["noatime", "strictatime"]'):
            assert f"\n    {line}\n" in types
