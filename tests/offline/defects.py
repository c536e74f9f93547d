"""Each defect that a check knows: what is planted, and what is found and mended then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.offline.planting import (
    BOTH,
    deleted_lower,
    directory_entry,
    drop,
    entry_of_nobody,
    file_for_work,
    foreign_origin,
    litter,
    lower_bad_redirect,
    lower_metacopy,
    lower_redirect,
    metacopy_without_data,
    misnamed_entry,
    move_lower,
    new_directory,
    nothing_covers,
    opaque_with_whiteout,
    origin_of,
    orphan_entry,
    other_metacopy,
    other_top,
    put,
    redirect_elsewhere,
    stale_directory_entry,
    stale_entry_with_links,
    two_redirects,
    user_metacopy,
    volatile,
    whiteout,
    whiteout_file,
    wrong_type,
)
from tests.overlay.rig import Stack
from unionfs.offline.findings import Consent

Plant = Callable[[Stack], object]


@dataclass(frozen=True)
class Defect:
    """What is planted and what must be found: (kind, severity, path) for each finding."""

    plant: Plant
    findings: set[tuple[str, str, str]]
    mended: bool = True
    """Whether a repair mends all of the findings, with the consent if one is given."""
    same_tree: bool = True
    """Whether the union can be looked at as a whole before, and must be the same after."""
    consent: Consent | None = None
    options: dict[str, Any] = field(default_factory=lambda: BOTH)
    mountable: bool = True
    """Whether the kernel mounts it with all its features afterwards."""


NOTHING = "whiteout", "warning"


DEFECTS: dict[str, Defect] = {
    "whiteout over nothing": Defect(lambda s: whiteout(s.upper / "nothing"), {(*NOTHING, "upper/nothing")}),
    "whiteout over nothing, merged": Defect(
        lambda s: whiteout(s.upper / "d/e/nothing"), {(*NOTHING, "upper/d/e/nothing")}
    ),
    "whiteout over nothing, redirected": Defect(
        lambda s: whiteout(s.upper / "here/nothing"), {(*NOTHING, "upper/here/nothing")}
    ),
    "whiteout in upper alone": Defect(lambda s: whiteout(s.upper / "new/w"), {(*NOTHING, "upper/new/w")}),
    "whiteout in opaque": Defect(opaque_with_whiteout, {(*NOTHING, "upper/opaque/w")}),
    "whiteout of which the lower is gone": Defect(
        lambda s: (s.lowers[1] / "gone").unlink(), {(*NOTHING, "upper/gone")}
    ),
    "aufs whiteout": Defect(
        lambda s: (s.upper / "d/.wh.nothing").touch(), {(*NOTHING, "upper/d/.wh.nothing")}, same_tree=False
    ),
    "aufs whiteout with content": Defect(
        lambda s: (s.upper / "d/.wh.nothing").write_text("precious"),
        {(*NOTHING, "upper/d/.wh.nothing")},
        mended=False,
        same_tree=False,
    ),
    "whiteout file": Defect(whiteout_file, {(*NOTHING, "upper/m/nothing")}, same_tree=False),
    "redirect to nothing": Defect(
        move_lower, {("redirect", "warning", "upper/here"), (*NOTHING, "upper/moved")}
    ),
    "redirect to a file": Defect(
        lambda s: put(new_directory(s.upper / "r"), "redirect", b"/b"),
        {("redirect", "warning", "upper/r")},
        consent=Consent.LOWERS,
    ),
    "malformed redirect": Defect(
        lambda s: put(s.upper / "here", "redirect", b"a/../b"),
        {("redirect", "error", "upper/here")},
        mended=False,
        same_tree=False,
    ),
    "redirect not followed": Defect(
        lambda s: None,
        {("redirect", "error", "upper/here")},
        mended=False,
        same_tree=False,
        options={"redirect_dir": "nofollow"},
    ),
    "redirect to what another shows": Defect(
        two_redirects, {("duplicate", "error", "upper/twin")}, mended=False, same_tree=False
    ),
    "redirect that nothing covers": Defect(
        nothing_covers, {("duplicate", "error", "upper/here")}, mended=False, same_tree=False
    ),
    "redirect to another than the origin": Defect(
        redirect_elsewhere, {("redirect", "warning", "upper/here")}, mended=False
    ),
    "redirect of upper's root": Defect(
        lambda s: put(s.upper, "redirect", b"/d"), {("redirect", "warning", "upper")}
    ),
    "redirect to nothing in a lower": Defect(
        lower_redirect, {("redirect", "warning", "lower0/d")}, mended=False, same_tree=False
    ),
    "malformed redirect in a lower": Defect(
        lower_bad_redirect, {("redirect", "error", "lower0/d")}, mended=False, same_tree=False
    ),
    "metacopy without data": Defect(
        metacopy_without_data, {("metacopy", "error", "upper/data")}, mended=False, same_tree=False
    ),
    "metacopy without data in a lower": Defect(
        lower_metacopy, {("metacopy", "error", "lower1/b")}, mended=False, same_tree=False
    ),
    "metacopy of another size": Defect(
        lambda s: (s.lowers[1] / "data").write_text("more data"),
        {("metacopy", "error", "upper/data")},
        mended=False,
        same_tree=False,
    ),
    "metacopy of another file": Defect(
        other_metacopy, {("metacopy", "error", "upper/data")}, mended=False, same_tree=False
    ),
    "malformed metacopy": Defect(
        lambda s: put(s.upper / "data", "metacopy", b"\0\x09\0\0"),
        {("metacopy", "error", "upper/data")},
        mended=False,
        same_tree=False,
    ),
    "metacopy of a directory": Defect(
        lambda s: put(s.upper / "new", "metacopy", b""), {("metacopy", "warning", "upper/new")}
    ),
    "metacopy with user marks": Defect(
        user_metacopy,
        {("metacopy", "error", "upper/a")},
        mended=False,
        same_tree=False,
        options={"userxattr": True, "redirect_dir": "nofollow"},
    ),
    "malformed origin": Defect(
        lambda s: put(s.upper / "a", "origin", b"\0\xfb\x30nonsense"), {("origin", "warning", "upper/a")}
    ),
    "malformed origin of a directory": Defect(
        lambda s: put(s.upper / "d/e", "origin", b"nonsense"), {("origin", "warning", "upper/d/e")}
    ),
    "origin that was deleted": Defect(deleted_lower, {("origin", "warning", "upper/a")}),
    "origin on another filesystem": Defect(foreign_origin, {("lowers", "note", "upper/a")}, mended=False),
    "origin of another version": Defect(
        lambda s: put(s.upper / "a", "origin", b"\x01" + origin_of(s.upper / "a")[1:]),
        {("origin", "note", "upper/a")},
        mended=False,
    ),
    "origin of another type": Defect(wrong_type, {("origin", "error", "upper/a")}, same_tree=False),
    "odd opaque": Defect(
        lambda s: put(s.upper / "d/e", "opaque", b"yes"), {("opaque", "warning", "upper/d/e")}, mended=False
    ),
    "opaque file": Defect(lambda s: put(s.upper / "a", "opaque", b"y"), {("opaque", "warning", "upper/a")}),
    "opaque root": Defect(
        lambda s: put(s.upper, "opaque", b"y"), {("opaque", "warning", "upper")}, mended=False
    ),
    "not impure": Defect(lambda s: drop(s.upper / "d", "impure"), {("impure", "warning", "upper/d")}),
    "root not impure": Defect(lambda s: drop(s.upper, "impure"), {("impure", "warning", "upper")}),
    "malformed protattr": Defect(
        lambda s: put(s.upper / "a", "protattr", b"axe"), {("protattr", "warning", "upper/a")}, mended=False
    ),
    "malformed nlink": Defect(
        lambda s: put(s.upper / "h1", "nlink", b"many"),
        {("nlink", "warning", "upper/h1"), ("nlink", "warning", "work/index/@")},
        mended=False,
    ),
    "malformed uuid": Defect(lambda s: put(s.upper, "uuid", b"short"), {("uuid", "warning", "upper")}),
    "another top lower": Defect(other_top, {("lowers", "error", "upper")}, consent=Consent.LOWERS),
    "volatile": Defect(
        volatile, {("volatile", "error", "work/work/incompat/volatile")}, consent=Consent.VOLATILE
    ),
    "litter": Defect(
        litter,
        {("litter", "warning", f"work/{name}") for name in ("work/#1", "work/#2", "index/#1")},
    ),
    "litter of fuse-overlayfs": Defect(
        lambda s: (s.work / "work/17").write_text("half a file"), {("litter", "warning", "work/work/17")}
    ),
    "something else in work/work": Defect(
        lambda s: (s.work / "work/notes").write_text("precious"),
        {("litter", "warning", "work/work/notes")},
        mended=False,
        mountable=False,
    ),
    "something else in work": Defect(
        lambda s: (s.work / "notes").write_text("precious"), {("work", "error", "work/notes")}, mended=False
    ),
    "a file where work/work should be": Defect(
        file_for_work,
        {("work", "error", "work/work")},
        mended=False,
        mountable=False,
    ),
    "a feature of the future": Defect(
        lambda s: new_directory(s.work / "work/incompat/quantum"),
        {("work", "error", "work/work/incompat/quantum")},
        mended=False,
        mountable=False,
    ),
    "index entry with no handle for a name": Defect(
        lambda s: (s.work / "index/notes").write_text("precious"),
        {("index", "error", "work/index/notes")},
        mended=False,
        mountable=False,
    ),
    # Without an index, the tree shows that such a file has a link less.
    "index entry with another origin": Defect(
        misnamed_entry, {("index", "warning", "work/index/@")}, same_tree=False
    ),
    "index entry of a deleted lower": Defect(
        stale_entry_with_links,
        {("index", "warning", "work/index/@"), ("origin", "warning", "upper/kept")},
        same_tree=False,
    ),
    "index entry of a deleted lower, alone": Defect(
        lambda s: entry_of_nobody(s, "precious"), {("index", "warning", "work/index/@")}, mended=False
    ),
    "index entry of a deleted lower, empty": Defect(
        lambda s: entry_of_nobody(s, ""), {("index", "warning", "work/index/@")}
    ),
    "index entry without a name": Defect(orphan_entry, {("index", "warning", "work/index/@")}),
    "index entry of a directory, leading nowhere": Defect(
        lambda s: directory_entry(s, None), {("index", "warning", "work/index/@")}
    ),
    "index entry of a directory, leading nowhere and full": Defect(
        lambda s: directory_entry(s, None, content=True),
        {("index", "warning", "work/index/@")},
        mended=False,
        mountable=False,
    ),
    "index entry of a deleted upper directory": Defect(
        stale_directory_entry, {("index", "warning", "work/index/@")}, mended=False
    ),
    "index of another upper": Defect(
        lambda s: put(s.work / "index", "upper", origin_of(s.upper / "d/e")),
        {("index", "error", "work/index")},
        consent=Consent.LOWERS,
    ),
}
