"""`pyunionfs history`: how an image was made, step by step, in the form of `docker history`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from unionfs.cli import listing, store_option
from unionfs.cli.parser import Parser
from unionfs.errors import OptionError
from unionfs.image import find
from unionfs.image.history import Step, steps

MISSING = "<missing>"
HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
"""The fields of --format, and their columns."""

_LONGEST = 45


def parser() -> Parser:
    made = Parser(
        "history",
        "List the steps by which IMAGE was made, the last one first, with the size of the layer of each.",
        f"IMAGE is the id of the image that ended with that step, if the store has it, else {MISSING}. The"
        " fields of TEMPLATE are those that Docker has: .ID, .CreatedSince, .CreatedAt, .CreatedBy, .Size and"
        ' .Comment; a template that begins with "table " gets a headline.',
        examples=[
            ("pyunionfs history debian:12", "as docker history"),
            ("pyunionfs history --no-trunc debian:12", "with whole ids and commands"),
            ("pyunionfs history --format '{{.Size}} {{.CreatedBy}}' debian:12", "in another form"),
            ("pyunionfs history --json debian:12", "for programs"),
        ],
    )
    made.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    made.add_argument("--no-trunc", action="store_true", help="print whole ids and commands")
    made.add_argument(
        "-H",
        "--human",
        metavar="true|false",
        default="true",
        choices=("true", "false"),
        help="print ages and sizes in words (the default: true), or times and bytes",
    )
    made.add_argument("--json", action="store_true", help="print a JSON array, for programs")
    made.add_argument(
        "--format", metavar="TEMPLATE", help="a Go template for each step, `table ...` or `json`"
    )
    store_option.add(made)
    made.add_argument("image", metavar="IMAGE", help="name, id or digest")
    return made


def run(words: list[str]) -> int:
    # As in Docker the option may stand alone, and what follows a blank is not its value.
    given = parser().parse_args(["--human=true" if word in ("-H", "--human") else word for word in words])
    if given.json and (given.quiet or given.format):
        raise OptionError("history: --json conflicts with --quiet and --format")
    store = store_option.opened(given)
    found = steps(store, find.resolve(store, given.image))
    human = given.human == "true"
    if given.json:
        print(json.dumps([_document(step) for step in found], indent=2))
        return 0
    rows = [_row(step, human=human, whole=given.no_trunc) for step in found]
    for line in listing.listing(rows, _form(given.format, quiet=given.quiet, human=human), HEADERS):
        print(line)
    return 0


def _form(template: str | None, *, quiet: bool, human: bool) -> str:
    if quiet:
        return "{{.ID}}"
    if template is None or template == "table":
        return listing.table("ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment")
    return template


def _row(step: Step, *, human: bool, whole: bool) -> dict[str, object]:
    by = step.created_by.replace("\t", " ")
    if not whole and len(by) > _LONGEST:
        by = by[: _LONGEST - 1] + "…"
    name = MISSING if step.id is None else str(step.id) if whole else step.id.short
    at = _time(step.created)
    return {
        "ID": name,
        "CreatedSince": listing.since(step.created) if human else at,
        "CreatedAt": at,
        "CreatedBy": by,
        "Size": listing.size(step.size) if human else str(step.size),
        "Comment": step.comment,
    }


def _time(when: datetime | None) -> str:
    """By RFC 3339, at the local time, as Docker has it here."""
    return "N/A" if when is None else when.astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")


def _document(step: Step) -> dict[str, Any]:
    """A step for programs, in the Engine API's words (HistoryResponseItem)."""
    return {
        "Id": MISSING if step.id is None else step.id,
        "Created": None if step.created is None else int(step.created.timestamp()),
        "CreatedBy": step.created_by,
        "Tags": list(step.tags) or None,
        "Size": step.size,
        "Comment": step.comment,
    }
