"""`pyunionfs pull`: an image from a registry into the store, as `docker pull`."""

from __future__ import annotations

from dataclasses import replace

from unionfs.cli import registry_options, size_option, store_option
from unionfs.cli.layer_lines import LayerLines
from unionfs.cli.parser import Parser
from unionfs.errors import OptionError
from unionfs.image import names, platform
from unionfs.image.layers import MAX_LAYER_SIZE
from unionfs.image.model import Platform
from unionfs.image.names import DEFAULT_TAG, Reference
from unionfs.registry.pull import Puller


def parser() -> Parser:
    made = Parser(
        "pull",
        "Pull an image from a registry into the store, and unpack its layers. NAME is as in Docker: debian is"
        " docker.io/library/debian:latest, and one that begins with a host is that registry's.",
        "What the store has is not fetched. An interrupted download goes on where it stopped, in a later"
        " command, too. Busy registries and broken connections are tried again, with growing pauses; content"
        " that does not have the digest that it must have is refused. Credentials are those of `pyunionfs"
        " login`, docker, podman and their helpers.",
        examples=[
            ("pyunionfs pull debian:12", "docker.io/library/debian:12"),
            ("pyunionfs pull --platform linux/arm64 localhost:5000/base", "for another kind of machine"),
            ("pyunionfs pull -a registry.example.org/tools/gcc", "all tags of a repository"),
        ],
    )
    made.add_argument("-a", "--all-tags", action="store_true", help="pull every tag of the repository")
    made.add_argument("-q", "--quiet", action="store_true", help="print the image's whole name only")
    made.add_argument(
        "--platform",
        metavar="OS/ARCHITECTURE",
        help="of images for several platforms pull this one (default: this machine's)",
    )
    registry_options.add(made)
    size_option.add(made)
    store_option.add(made)
    made.add_argument("name", metavar="NAME[:TAG|@DIGEST]", help="the image's name; without a tag: latest")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    reference = names.parse(given.name)
    wanted = None if given.platform is None else platform.parse(given.platform)
    if given.all_tags and (reference.tag is not None or reference.digest is not None):
        raise OptionError(f"pull --all-tags: {given.name} names one image: leave out its tag or digest")
    store = store_option.opened_for_trees(given)
    with LayerLines(quiet=given.quiet) as lines:
        puller = Puller(store, reference, registry_options.options(given), lines)
        if given.all_tags:
            wanted_names = [replace(reference, tag=each) for each in puller.tags()]
        else:
            wanted_names = [reference.tagged()]
            if reference.tag is None and reference.digest is None:
                lines.print(f"Using default tag: {DEFAULT_TAG}")
        is_new = False
        for each in wanted_names:
            is_new |= pull_one(puller, each, lines, wanted, given.max_layer_size)
        shown = reference if given.all_tags else wanted_names[0]
        print_status(lines, shown, is_new=is_new)
    print(shown)
    return 0


def pull_one(
    puller: Puller,
    reference: Reference,
    lines: LayerLines,
    wanted: Platform | None = None,
    max_layer_size: int = MAX_LAYER_SIZE,
) -> bool:
    """Pull an image, with its lines; whether the store did not have it."""
    lines.begin()
    lines.print(f"{_short(reference)}: Pulling from {reference.repository}")
    pulled = puller.pull(reference, wanted, max_layer_size=max_layer_size)
    lines.print(f"Digest: {pulled.digest}")
    return pulled.is_new


def print_status(lines: LayerLines, reference: Reference, *, is_new: bool) -> None:
    """The last of the lines."""
    what = "Downloaded newer image for" if is_new else "Image is up to date for"
    lines.print(f"Status: {what} {reference.familiar}")


def _short(reference: Reference) -> str:
    return str(reference) if reference.digest is not None else str(reference.tag)
