"""`pyunionfs images`: lists the images of the store, in the form of `docker images`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from unionfs.cli import listing, store_option
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.errors import OptionError
from unionfs.image import filters
from unionfs.image.names import Reference
from unionfs.image.summary import Summary, summaries, without_intermediate

NONE = "<none>"

HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
}
"""The fields of --format, and their columns."""


def parser() -> Parser:
    made = Parser(
        "images",
        "List the images of the store, the newest first. REPOSITORY[:TAG] shows those of that name; it may"
        " be a pattern with *, ? and [...].",
        "The size is that of the files of all layers; layers that images share are counted for each of them"
        " (`pyunionfs df` tells them apart). The fields of TEMPLATE are those that Docker has:"
        " .ID, .Repository, .Tag, .Digest, .CreatedSince, .CreatedAt and .Size; a template that begins with"
        ' "table " gets a headline.',
        examples=[
            ("pyunionfs images", "all images with a name, and those without that no other is built on"),
            ("pyunionfs images --digests 'debian:*'", "tags of one repository, with registries' digests"),
            ("pyunionfs images -q --filter dangling=true", "ids of images without a name"),
            ("pyunionfs images --format '{{.Repository}}:{{.Tag}} {{.Size}}'", "in another form"),
            ("pyunionfs images --json", "for programs"),
        ],
    )
    made.add_argument(
        "-a", "--all", action="store_true", help="list nameless images that others build on, too"
    )
    made.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    made.add_argument("--digests", action="store_true", help="show the digests by which registries know them")
    made.add_argument("--no-trunc", action="store_true", help="print whole ids")
    made.add_argument("--json", action="store_true", help="print a JSON array, for programs")
    made.add_argument(
        "--format", metavar="TEMPLATE", help="a Go template for each image, `table ...` or `json`"
    )
    made.add_argument(
        "-f",
        "--filter",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="list only images for which this holds: dangling=true|false, reference=PATTERN,"
        " label=KEY[=VALUE], before=IMAGE, since=IMAGE; may be repeated",
    )
    store_option.add(made)
    made.add_argument("name", metavar="REPOSITORY[:TAG]", nargs="?", help="list only images of this name")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if given.json and (given.quiet or given.format):
        raise OptionError("images: --json conflicts with --quiet and --format")
    store = store_option.opened(given)
    by_name = [f"reference={given.name}"] if given.name else []
    by = filters.filters(store, [*given.filter, *by_name])
    found, problems = summaries(store)
    if not given.all:
        found = without_intermediate(found)
    found = filters.chosen(found, by)
    if given.json:
        print(json.dumps([document(each) for each in found], indent=2))
    else:
        rows = [row for each in found for row in _rows(each, digests=given.digests, whole=given.no_trunc)]
        for line in listing.listing(
            rows, _form(given.format, quiet=given.quiet, digests=given.digests), HEADERS
        ):
            print(line)
    for problem in problems:
        print(f"pyunionfs: {printable(str(problem))}", file=sys.stderr)
    return 1 if problems else 0


def _form(template: str | None, *, quiet: bool, digests: bool) -> str:
    if quiet:
        return "{{.ID}}"
    if template is None or template == "table":
        shown = ["Repository", "Tag", *(["Digest"] if digests else []), "ID", "CreatedSince", "Size"]
        return listing.table(*shown)
    return template


def _rows(each: Summary, *, digests: bool, whole: bool) -> Iterator[dict[str, object]]:
    """A row for each name, and with *digests* for each digest of that name."""
    for repository, tag, digest in _names(each, digests=digests):
        yield {
            "ID": str(each.id) if whole else each.id.short,
            "Repository": repository,
            "Tag": tag,
            "Digest": digest,
            "CreatedSince": listing.since(each.created),
            "CreatedAt": listing.moment(each.created),
            "Size": listing.size(each.size),
        }


def _names(each: Summary, *, digests: bool) -> list[tuple[str, str, str]]:
    """Repository, tag and digest of each row (Docker: cli/command/formatter/image.go)."""
    names: list[tuple[str, str, str]] = []
    repositories = _by_repository(each.image.tags)
    known = _by_repository(each.image.repo_digests)
    for repository in {**repositories, **known}:
        tags = [str(reference.tag) for reference in repositories.get(repository, [])] or [NONE]
        by = [str(reference.digest) for reference in known.get(repository, [])] if digests else []
        names += [(repository, tag, digest) for tag in tags for digest in by or [NONE]]
    return names or [(NONE, NONE, NONE)]


def _by_repository(references: Sequence[Reference]) -> dict[str, list[Reference]]:
    found: dict[str, list[Reference]] = {}
    for reference in references:
        found.setdefault(reference.familiar_name, []).append(reference)
    return found


def document(each: Summary) -> dict[str, Any]:
    """An image for programs, in the Engine API's words (ImageSummary)."""
    return {
        "Id": each.id,
        "RepoTags": [tag.familiar for tag in each.image.tags],
        "RepoDigests": [digest.familiar for digest in each.image.repo_digests],
        "Created": int(each.created.timestamp()) if each.created else None,
        "Size": each.size,
        "Labels": dict(each.labels),
        "Manifest": each.image.manifest.digest,
    }
