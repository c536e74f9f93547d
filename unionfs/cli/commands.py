"""The commands, in the groups and the order of the help text; each is a module of its name in this folder."""

from __future__ import annotations

from collections.abc import Mapping

FUSE_OVERLAYFS = "fuse-overlayfs"
"""Under this name, as a symlink, the command line is that of fuse-overlayfs, whatever its first word is."""

UNIONS: Mapping[str, str] = {
    "mount": "mount a union of directories as one writable tree",
    "umount": "unmount, and wait until all data is written",
    "status": "list mounts: layers, memory, requests, work in progress",
    "changes": "list the changes of a union against its lower layers",
    "check": "check the layers of a union for inconsistencies, and repair them",
    "completion": "print a completion script for a shell",
}

IMAGES: Mapping[str, str] = {
    "pull": "pull an image from a registry",
    "push": "push an image to a registry",
    "login": "log in to a registry",
    "logout": "remove the credentials for a registry",
    "load": "load images from an archive or a directory",
    "save": "save images into an archive or a directory",
    "import": "make an image of a root filesystem",
    "export": "write the tree of a container or an image as one tar",
    "images": "list the images of the store",
    "history": "show how an image was made, step by step",
    "rmi": "remove images",
    "tag": "give an image one name more",
    "prune": "remove images, layers and blobs that nothing uses",
    "verify": "read the whole store again, and repair what is damaged",
    "df": "show how much of the disk images and containers take",
    "inspect": "print all that is known of containers, images and mounts",
}
"""What moves images between registries, archives, directories and the store, and lists them."""

CONTAINERS: Mapping[str, str] = {
    "run": "make a container of an image and run it",
    "exec": "run a further process in a container",
    "create": "make a container of an image",
    "start": "start containers that were made before",
    "ps": "list containers",
    "diff": "list the changes of a container",
    "cp": "copy files from containers or into them",
    "bundle": "write a bundle for an OCI runtime",
    "rm": "remove containers",
    "commit": "make an image of what a container has changed",
}
"""What makes containers of images, and runs them."""

COMMANDS: Mapping[str, str] = {**UNIONS, **IMAGES, **CONTAINERS}

ALIASES: Mapping[str, str] = {"unmount": "umount"}


def module_of(command: str) -> str:
    """The name of the module of a command."""
    return f"unionfs.cli.{command}"
