"""Lists as Docker's commands print them: columns by tabs, `--format` with `table`, ages and sizes in words.

Forms: Docker's cli/command/formatter, Go's text/tabwriter, github.com/docker/go-units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from unionfs.cli.go_template import Template, encode_json
from unionfs.cli.text import printable

_NARROWEST = 10
_BETWEEN = 3
_SIZES = ("B", "kB", "MB", "GB", "TB", "PB", "EB")

Row = Mapping[str, object]


def listing(rows: Sequence[Row], form: str, headers: Mapping[str, str]) -> list[str]:
    """The lines of a list.

    *form* is `table` and a template for each row with its columns separated by tabs, `json` for one object a
    line, or a template for each row. *headers* names each field's column. Raises OptionError for a template
    that is malformed or names no field.
    """
    if form == "json":
        return [encode_json(row) for row in rows]
    # As in Docker, where a shell's quotes keep a tab from being typed.
    text = form.removeprefix("table").strip() if _is_table(form) else form
    template = Template(text.replace("\\t", "\t").replace("\\n", "\n"))
    if not _is_table(form):
        return [printable_lines(template.render(row)) for row in rows]
    cells = [template.render(each).split("\t") for each in (headers, *rows)]
    return _aligned([[printable(cell) for cell in line] for line in cells])


def table(*fields: str) -> str:
    """The form that shows these fields as columns."""
    return "table " + "\\t".join(f"{{{{.{field}}}}}" for field in fields)


def _is_table(form: str) -> bool:
    return form == "table" or form.startswith("table ")


def printable_lines(text: str) -> str:
    """Text of several lines without other control characters than tabs."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Each column as wide as its widest cell and three blanks; the last one ends where its text does."""
    columns = max((len(line) for line in lines), default=0)
    widths = [
        max(_NARROWEST, *(len(line[column]) + _BETWEEN for line in lines if column < len(line) - 1), 0)
        for column in range(columns)
    ]
    return [
        "".join(cell.ljust(widths[column]) for column, cell in enumerate(line[:-1])) + line[-1]
        for line in lines
    ]


def size(count: float) -> str:
    """Bytes in powers of 1000 with three digits, as Docker shows sizes: `117MB`, `4.26kB`."""
    unit = 0
    while count >= 1000 and unit < len(_SIZES) - 1:
        count /= 1000
        unit += 1
    return f"{count:.3g}{_SIZES[unit]}"


def age(seconds: float) -> str:
    """A duration in words: `2 weeks`, `About an hour`."""
    whole, hours = int(seconds), int(seconds / 3600 + 0.5)
    steps: list[tuple[bool, str]] = [
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (whole < 120, "About a minute"),
        (whole < 3600, f"{whole // 60} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{hours // 24} days"),
        (hours < 24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    ]
    return next((words for fits, words in steps if fits), f"{whole // 3600 // 24 // 365} years")


def since(when: datetime | None) -> str:
    """`2 weeks ago`; `N/A` for what has no time."""
    return "N/A" if when is None else f"{age((datetime.now(UTC) - when).total_seconds())} ago"


def moment(when: datetime | None) -> str:
    """`2023-11-14 22:13:20 +0000 UTC`, as Go prints a time."""
    return "N/A" if when is None else f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} +0000 UTC"
