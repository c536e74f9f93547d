"""`pyunionfs ps`: lists the containers of the store, in the form of `docker ps`."""

from __future__ import annotations

import json
import shlex
from datetime import datetime
from typing import Any

from unionfs.cli import listing, store_option
from unionfs.cli.parser import Parser
from unionfs.container import filters, record
from unionfs.container.record import Container
from unionfs.container.state import State
from unionfs.errors import ImageError, OptionError
from unionfs.image import find as images
from unionfs.image.digest import Digest

HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "State": "STATE",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Mounts": "MOUNTS",
}
"""The fields of --format, and their columns."""

_COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
_COMMAND = 20
"""Characters of a command that is cut, as by Docker."""


def parser() -> Parser:
    made = Parser(
        "ps",
        "List the containers that run, the newest first; with --all the others, too.",
        "PORTS is empty: the network is the host's. The fields of TEMPLATE are those that Docker has: .ID,"
        " .Image, .Command, .CreatedAt, .RunningFor, .Status, .State, .Ports, .Names and .Mounts; a template"
        ' that begins with "table " gets a headline.',
        examples=[
            ("pyunionfs ps", "what runs"),
            ("pyunionfs ps -a --filter status=exited", "what has ended"),
            ("pyunionfs ps -aq", "all ids"),
            ("pyunionfs ps -a --format '{{.Names}}: {{.Status}}'", "in another form"),
            ("pyunionfs ps -a --json", "for programs"),
        ],
    )
    made.add_argument("-a", "--all", action="store_true", help="list containers that do not run, too")
    made.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    made.add_argument("--no-trunc", action="store_true", help="print whole ids and commands")
    made.add_argument("--json", action="store_true", help="print a JSON array, for programs")
    made.add_argument(
        "--format", metavar="TEMPLATE", help="a Go template for each container, `table ...` or `json`"
    )
    made.add_argument(
        "-f",
        "--filter",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="list only containers for which this holds: ancestor=IMAGE, before=CONTAINER, exited=STATUS,"
        " id=ID, name=PATTERN, since=CONTAINER, status=created|running|exited; may be repeated",
    )
    store_option.add(made)
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if given.json and (given.quiet or given.format):
        raise OptionError("ps: --json conflicts with --quiet and --format")
    store = store_option.opened(given)
    by = filters.filters(store, given.filter)
    # As in Docker, which status they are to have says that they need not run.
    every = given.all or any(each.startswith(("status=", "exited=")) for each in given.filter)
    found = [(container, container.state()) for container in reversed(record.containers(store))]
    found = [pair for pair in found if (every or pair[1].running) and all(each(*pair) for each in by)]
    if given.json:
        print(json.dumps([_document(*pair) for pair in found], indent=2))
        return 0
    form = "{{.ID}}" if given.quiet else given.format
    if form is None or form == "table":
        form = listing.table(*_COLUMNS)
    rows = [row(*pair, whole=given.no_trunc) for pair in found]
    for line in listing.listing(rows, form, HEADERS):
        print(line)
    return 0


def row(container: Container, state: State, *, whole: bool = False) -> dict[str, object]:
    """The fields of a container in a list."""
    created = _time(container.record.created)
    command = shlex.join(container.record.process.args)
    if not whole and len(command) > _COMMAND:
        command = command[: _COMMAND - 1] + "…"
    return {
        "ID": container.id if whole else container.short,
        "Image": _image(container),
        "Command": f'"{command}"',
        "CreatedAt": listing.moment(created),
        "RunningFor": listing.since(created),
        "Status": status(state),
        "State": state.status,
        "Ports": "",
        "Names": container.name,
        "Mounts": ",".join(mount.source for mount in container.record.process.mounts if mount.source),
    }


def _image(container: Container) -> str:
    """Its name, or its id where that name means another one by now."""
    store, text = container.store, container.record.image
    try:
        manifest = images.manifest_of(store, images.resolve(store, text).manifest)
        if manifest.config.digest == container.record.image_id:
            return text
    except ImageError:  # it is gone
        pass
    return Digest(container.record.image_id).short


def status(state: State) -> str:
    """`Up 5 minutes`, `Exited (0) 2 hours ago`, `Created`."""
    if state.running and state.started is not None:
        seconds = (datetime.now().astimezone() - _time(state.started)).total_seconds()
        return f"Up {listing.age(seconds)}"
    if state.status == "created":
        return "Created"
    code = "unknown" if state.exit_code is None else state.exit_code
    ago = "" if state.finished is None else f" {listing.since(_time(state.finished))}"
    return f"Exited ({code}){ago}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _document(container: Container, state: State) -> dict[str, Any]:
    """A container for programs, in the Engine API's words (ContainerSummary)."""
    kept = container.record
    return {
        "Id": container.id,
        "Names": [container.name],
        "Image": kept.image,
        "ImageID": kept.image_id,
        "Command": list(kept.process.args),
        "Created": int(_time(kept.created).timestamp()),
        "State": state.status,
        "Status": status(state),
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Mounts": [
            {"Type": each.kind, "Source": each.source, "Destination": each.target, "RW": not each.read_only}
            for each in kept.process.mounts
        ],
    }
