"""`pyunionfs push`: an image of the store to a registry, as `docker push`."""

from __future__ import annotations

from dataclasses import replace

from unionfs.cli import registry_options, store_option
from unionfs.cli.layer_lines import LayerLines
from unionfs.cli.parser import Parser
from unionfs.errors import NotFoundError, OptionError
from unionfs.image import find, index, names
from unionfs.image.index import Image
from unionfs.image.model import Descriptor
from unionfs.image.names import Reference
from unionfs.image.store import Store
from unionfs.registry.push import push
from unionfs.registry.upload import Sent


def parser() -> Parser:
    made = Parser(
        "push",
        "Push an image to a registry: to the one that its name begins with, or as DEST.",
        "What the registry has is not sent, also if it has it in another repository that is known to have"
        " it. The manifest, which comes last, has the bytes and the digest with which it was pulled or"
        " made. Credentials are those of `pyunionfs login`, docker, podman and their helpers.",
        examples=[
            ("pyunionfs push localhost:5000/base:1", "to the registry on this machine"),
            ("pyunionfs push debian:12 registry.example.org/base/debian:12", "under another name"),
            ("pyunionfs push -a registry.example.org/base/debian", "all tags that the store has"),
        ],
    )
    made.add_argument("-a", "--all-tags", action="store_true", help="push every tag that the store has")
    made.add_argument("-q", "--quiet", action="store_true", help="print the image's whole name only")
    registry_options.add(made)
    store_option.add(made)
    made.add_argument("image", metavar="IMAGE", help="name, id or digest; with --all-tags a repository")
    made.add_argument("destination", metavar="NAME[:TAG]", nargs="?", help="the name there")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    store = store_option.opened_for_trees(given)
    options = registry_options.options(given)
    pairs = _all_tags(given.image, given.destination, store) if given.all_tags else None
    if pairs is None:
        target = names.parse(given.destination or given.image).tagged()
        pairs = [(find.resolve(store, given.image), target)]
        if given.destination is None and target.digest is not None:
            raise OptionError(f"push {given.image}: a digest is made by what is pushed: give a tag instead")

    for number, (image, target) in enumerate(pairs):
        with LayerLines(quiet=given.quiet, labels=_labels(store, image)) as lines:
            if number == 0:
                lines.print(f"The push refers to repository [{target.name}]")

            def finished(layer: Descriptor, sent: Sent, lines: LayerLines = lines) -> None:
                lines.finish(layer.id, _text(sent))

            pushed = push(store, image, target, options, lines, finished)
            lines.print(f"{target.tag}: digest: {pushed.digest} size: {pushed.size}")
        if given.quiet:
            print(target)
    return 0


def _text(sent: Sent) -> str:
    if sent.how == "mounted":
        return f"Mounted from {sent.source}"
    return "Layer already exists" if sent.how == "exists" else "Pushed"


def _all_tags(image: str, destination: str | None, store: Store) -> list[tuple[Image, Reference]]:
    """Each tag of a repository that the store has, and its name there."""
    repository = names.parse(image)
    target = names.parse(destination) if destination is not None else repository
    for each in (repository, target):
        if each.tag is not None or each.digest is not None:
            raise OptionError(f"push --all-tags: {each.familiar} names one image: leave out what follows it")
    found = [
        (each, replace(target, tag=tag.tag))
        for each in index.images(store)
        for tag in each.tags
        if tag.name == repository.name
    ]
    if not found:
        raise NotFoundError(f"there is no image of {image}: `pyunionfs images` lists those there are")
    return found


def _labels(store: Store, image: Image) -> dict[str, str]:
    """Docker calls a layer that is pushed by its DiffID."""
    manifest = find.manifest_of(store, image.manifest)
    config = find.config_of(store, manifest)
    return {
        layer.digest: diff_id.short for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    }
