"""Lists as Docker prints them: columns, templates, sizes and ages."""

from __future__ import annotations

import pytest

from unionfs.cli.listing import age, listing, size, table
from unionfs.errors import OptionError

HEADERS = {"ID": "IMAGE ID", "Tag": "TAG"}
ROWS = [{"ID": "abc", "Tag": "latest"}, {"ID": "0123456789ab", "Tag": "1"}]


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (table("ID", "Tag"), ["IMAGE ID       TAG", "abc            latest", "0123456789ab   1"]),
        (table("Tag", "ID"), ["TAG       IMAGE ID", "latest    abc", "1         0123456789ab"]),
        ("table {{.ID}}", ["IMAGE ID", "abc", "0123456789ab"]),
        ("{{.ID}}:\\t{{.Tag}}", ["abc:\tlatest", "0123456789ab:\t1"]),
        ("{{json .Tag}}", ['"latest"', '"1"']),
        ("json", ['{"ID":"abc","Tag":"latest"}', '{"ID":"0123456789ab","Tag":"1"}']),
    ],
)
def test_a_list(form: str, lines: list[str]) -> None:
    assert listing(ROWS, form, HEADERS) == lines


def test_a_template_that_is_wrong_is_refused_even_for_an_empty_list() -> None:
    for form in ("{{.ID", "table {{.Nope}}"):
        with pytest.raises(OptionError):
            listing([], form, HEADERS)


def test_no_text_moves_the_cursor() -> None:
    (line,) = listing([{"ID": "\x1b[2J"}], "{{.ID}}\\t.", {"ID": "ID"})
    assert "\x1b" not in line
    assert line.endswith("\t.")
    assert "\x1b" not in "".join(listing([{"ID": "\x1b[2J"}], table("ID"), {"ID": "ID"}))


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (4262, "4.26kB"),
        (116_533_937, "117MB"),
        (1_234_567_890, "1.23GB"),
        (10**21, "1e+03EB"),
    ],
)
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words


HOUR = 3600
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (59 * 60, "59 minutes"),
        (HOUR, "About an hour"),
        (1.4 * HOUR, "About an hour"),
        (1.6 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (700 * DAY, "23 months"),
        (2 * 365 * DAY, "2 years"),
    ],
)
def test_ages(seconds: float, words: str) -> None:
    assert age(seconds) == words
