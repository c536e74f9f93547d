"""`pyunionfs prune`: removes images, layers, blobs and volumes that nothing uses, as Docker does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unionfs.cli import listing, store_option
from unionfs.cli.mounted_layers import directories_in_use
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container import record
from unionfs.container import volumes as volume_store
from unionfs.errors import ImageError
from unionfs.image import prune, tree_walk
from unionfs.image.prune import Pruned
from unionfs.image.store import Store

_DANGLING = "This will remove all dangling images."
_ALL = "This will remove all images without at least one container associated to them."
_VOLUMES = {
    "anonymous": "Anonymous volumes that no container has go, too, with what is in them.",
    "all": "All volumes that no container has go, too, with what is in them.",
}
_BLOBS = "The blobs of unpacked layers go, too: a push may have to fetch them from where they came from."


def parser() -> Parser:
    made = Parser(
        "prune",
        "Remove images without a name, and layers, blobs and interrupted downloads that no image, container"
        " or mount uses. Asks first.",
        "It waits for commands that are bringing images into the store. With --blobs the layers of images are"
        " kept only once, unpacked: the blobs from which they were unpacked are freed. A later `push` fetches"
        " a blob from where the image came from, and `save` makes it anew, if the layer comes out the same."
        " Volumes go only with --volumes, since nothing brings them back. Where the manifest or the config of"
        " an image is damaged, what that image may need stays, which is said, and the exit status is 1.",
        examples=[
            ("pyunionfs prune", "images without a name"),
            ("pyunionfs prune -af", "all images of which there is no container, without asking"),
            ("pyunionfs prune --volumes", "anonymous volumes of containers that are gone, too"),
            ("pyunionfs prune --blobs", "the compressed form of layers, too"),
        ],
    )
    made.add_argument(
        "-a", "--all", action="store_true", help="remove all images of which there is no container"
    )
    made.add_argument(
        "--volumes",
        metavar="WHICH",
        nargs="?",
        choices=tuple(_VOLUMES),
        const="anonymous",
        help="remove volumes that no container has: anonymous ones (default); all, also those with a name",
    )
    made.add_argument("--blobs", action="store_true", help="free the blobs of layers that are unpacked")
    made.add_argument("-f", "--force", action="store_true", help="do not ask")
    store_option.add(made)
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    store = store_option.opened_for_trees(given)
    warnings = [_ALL if given.all else _DANGLING]
    warnings += [_VOLUMES[given.volumes]] if given.volumes else []
    warnings += [_BLOBS] if given.blobs else []
    if not given.force and not _confirmed(warnings):
        raise ImageError("prune was cancelled: nothing was removed (-f does not ask)")
    with store.pruning(_report_busy):
        volumes, freed = _prune_volumes(store, given.volumes) if given.volumes else ([], 0)
        done = prune.prune(
            store, all_images=given.all, layer_blobs=given.blobs, directories=directories_in_use()
        )
    done.freed += freed
    if volumes:
        print("Deleted Volumes:\n" + "\n".join(volumes) + "\n")
    print_pruned(done)
    for broken in done.broken:
        print(f"pyunionfs: prune: {printable(str(broken))}", file=sys.stderr)
    return 1 if done.broken else 0


def _prune_volumes(store: Store, which: str) -> tuple[list[str], int]:
    """The names of what was removed, and its bytes. The caller holds `Store.pruning`."""
    used = record.volumes_in_use(store)
    gone, freed = [], 0
    for volume in volume_store.volumes(store):
        if volume.name not in used and (which == "all" or volume.record.anonymous):
            size = tree_walk.size(volume.data)
            if volume_store.remove(store, volume.name, lambda: used):
                gone.append(volume.name)
                freed += size
    return gone, freed


def _report_busy() -> None:
    print("pyunionfs: prune: waiting for a command that is changing the store", file=sys.stderr)


def _confirmed(warnings: Sequence[str]) -> bool:
    print("WARNING! " + "\n".join(warnings))
    try:
        return input("Are you sure you want to continue? [y/N] ").strip().lower() == "y"
    except EOFError:
        print()
        return False


def print_pruned(done: Pruned) -> None:
    """What was removed, in Docker's words."""
    if done.untagged or done.images or done.layers:
        print("Deleted Images:")
        for name in done.untagged:
            print(f"untagged: {name}")
        for digest in (*done.images, *done.layers):
            print(f"deleted: {digest}")
        print()
    if done.blobs:
        print("Freed Blobs:")
        for digest in done.blobs:
            print(f"deleted: {digest}")
        print()
    print(f"Total reclaimed space: {listing.size(done.freed)}")
