"""What `create` and `run` have in common: their options, and the container that is made by them.

The options are Docker's, and so are their rules (docker/cli, cli/command/container/opts.go).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container import record
from unionfs.container.process import Wishes
from unionfs.container.record import Container
from unionfs.container.spec import Mount
from unionfs.container.volumes import NOCOPY, is_name
from unionfs.errors import ImageError, NotFoundError, OptionError
from unionfs.image import names
from unionfs.image.store import Store

RUNTIMES = ("crun", "runc")


def add(parser: Parser) -> None:
    """All of them, and IMAGE [COMMAND [ARG...]] after the parser's own arguments."""
    parser.add_argument("--name", metavar="NAME", help="name of the container (default: made up)")
    parser.add_argument("--rm", action="store_true", help="remove the container when it ends")
    add_process(parser)
    parser.add_argument(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="SRC:DST[:ro]|DST",
        help="show the host's file or directory SRC, or the volume of that name, at DST; without SRC a new"
        " volume",
    )
    parser.add_argument(
        "--tmpfs",
        action="append",
        default=[],
        metavar="PATH[:OPTIONS]",
        help="mount a tmpfs, with options as size=64m",
    )
    parser.add_argument("--hostname", metavar="NAME", default="", help="host name (default: the short id)")
    parser.add_argument("--read-only", action="store_true", help="mount the root read-only")
    parser.add_argument(
        "--entrypoint",
        metavar="COMMAND",
        help="program in place of the image's entrypoint; empty: none",
    )
    parser.add_argument(
        "--init",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pass signals on and reap zombies by a process 1 of pyunionfs's; without, COMMAND is process 1",
    )
    parser.add_argument(
        "--pull",
        metavar="WHEN",
        choices=("missing", "always", "never"),
        default="missing",
        help="whether the image is pulled: missing, if it is not in the store (default); always; never",
    )
    parser.add_argument(
        "--runtime",
        metavar="RUNTIME",
        choices=RUNTIMES,
        default="",
        help="start it by this OCI runtime: crun or runc (default: by pyunionfs itself)",
    )
    parser.add_argument("image", metavar="IMAGE", help="name, digest or id of an image in the store")
    parser.add_argument(
        "command",
        metavar="COMMAND",
        nargs=argparse.REMAINDER,
        help="command and arguments (default: the image's)",
    )


def add_process(parser: Parser) -> None:
    """Those of the process alone, which `exec` has, too."""
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give the process a terminal")
    parser.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set an environment variable; without VALUE to the value that it has here",
    )
    parser.add_argument(
        "--env-file", action="append", default=[], metavar="FILE", help="file with NAME[=VALUE] lines"
    )
    parser.add_argument("-w", "--workdir", metavar="PATH", default="", help="working directory")
    parser.add_argument(
        "-u",
        "--user",
        metavar="USER[:GROUP]",
        default="",
        help="user and group, names or numbers of the container",
    )


def check_terminal(given: argparse.Namespace) -> None:
    """OptionError: a terminal is to be read that is none."""
    if given.interactive and given.tty and not sys.stdin.isatty():
        raise OptionError("the input device is not a TTY: leave out -t where input comes from elsewhere")


def created(store: Store, given: argparse.Namespace) -> Container:
    """The container that the command line asks for. OptionError: an option is wrong."""
    for word in (*given.command, *given.env, given.workdir, given.user, *given.volume):
        if not _is_text(word):
            raise OptionError(f"{word!r} is not UTF-8: the record of a container cannot hold it")
    wishes = Wishes(
        command=given.command,
        entrypoint=given.entrypoint,
        env=environment(given.env, given.env_file),
        workdir=workdir(given.workdir),
        user=given.user,
        hostname=given.hostname,
        tty=given.tty,
        interactive=given.interactive,
        read_only=given.read_only,
        init=given.init,
        mounts=mounts(given.volume, given.tmpfs),
    )

    def create() -> Container:
        return record.create(
            store, given.image, wishes, name=given.name, runtime=given.runtime, auto_remove=given.rm
        )

    if given.pull == "always":
        _pull(store, given.image)
    try:
        return create()
    except NotFoundError:
        if given.pull != "missing":
            raise
        print(f"Unable to find image '{printable(given.image)}' locally", file=sys.stderr)
        try:
            _pull(store, given.image)
        except ImageError as failure:
            raise NotFoundError(
                f"image {given.image} is not in the store and cannot be pulled: {failure}"
            ) from failure
        return create()


def _pull(store: Store, text: str) -> None:
    """Pull an image. Its lines go to standard error: the other output is the container's."""
    # Most containers have their image, and this is slow to load.
    from unionfs.cli.layer_lines import LayerLines
    from unionfs.cli.pull import print_status, pull_one
    from unionfs.registry.pull import Puller

    reference = names.parse(text).tagged()
    with redirect_stdout(sys.stderr), LayerLines() as lines:
        is_new = pull_one(Puller(store, reference, observer=lines), reference, lines)
        print_status(lines, reference, is_new=is_new)


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def environment(words: Sequence[str], files: Sequence[str]) -> list[str]:
    """NAME=VALUE of -e and --env-file, which -e overrides. A name alone has the value that it has here."""
    lines = [line for path in files for line in _env_lines(path)]
    found = []
    for word in [*lines, *words]:
        name, equals, _ = word.partition("=")
        if not name:
            raise OptionError(f"invalid environment variable {word!r}: write NAME=VALUE")
        if equals:
            found.append(word)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def _env_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.lstrip().rstrip("\n") for line in file]
    except OSError as error:
        raise OptionError(f"cannot read --env-file {path}: {error.strerror}") from error
    kept = [line for line in lines if line and not line.startswith("#")]
    for line in kept:
        if any(letter.isspace() for letter in line.partition("=")[0]):
            raise OptionError(f"--env-file {path}: {line!r}: the name of a variable has no blank")
    return kept


def workdir(path: str) -> str:
    if path and not path.startswith("/"):
        raise OptionError(f"invalid value {path!r} of --workdir: give an absolute path")
    return path


def mounts(volumes: Sequence[str], tmpfs: Sequence[str]) -> list[Mount]:
    """What -v and --tmpfs ask for, outer targets first. OptionError: malformed, or two of one target."""
    found = [*map(_volume, volumes), *map(_tmpfs, tmpfs)]
    targets = [each.target for each in found if not each.anonymous]
    for target in targets:
        if targets.count(target) > 1:
            raise OptionError(f"duplicate mount point {target}: give each target once")
    return sorted(found, key=lambda mount: mount.target.count("/"))


def _volume(text: str) -> Mount:
    source, *rest = text.split(":")
    if not rest:
        return Mount("volume", _target("--volume", source), anonymous=True)
    if len(rest) > 2 or not source:
        raise OptionError(f"invalid value {text!r} of --volume: write SRC:DST, SRC:DST:ro or DST")
    target = _target("--volume", rest[0])
    words = rest[1].split(",") if len(rest) == 2 else []
    is_path = source.startswith(("/", "./", "../")) or source in (".", "..")
    known = ("ro", "rw") if is_path else ("ro", "rw", NOCOPY)
    if any(word not in known for word in words) or {"ro", "rw"} <= {*words}:
        raise OptionError(f"invalid mode {rest[1]!r} of --volume {text}: write {' or '.join(known)}")
    if is_path:
        return Mount("bind", target, os.path.abspath(source), read_only="ro" in words)
    if not is_name(source):
        raise OptionError(
            f"--volume {text}: {source} is no name of a volume (two letters, digits or _.- at least, the"
            f" first no _.-); for a directory write ./{source}:{rest[0]}"
        )
    options = (NOCOPY,) if NOCOPY in words else ()
    return Mount("volume", target, source, read_only="ro" in words, options=options)


def _tmpfs(text: str) -> Mount:
    path, _, options = text.partition(":")
    words = tuple(filter(None, options.split(",")))
    return Mount("tmpfs", _target("--tmpfs", path), options=words)


def _target(option: str, path: str) -> str:
    clean = os.path.normpath(path)
    if not path.startswith("/") or clean in ("/", "//"):
        raise OptionError(f"invalid target {path!r} of {option}: give an absolute path below /")
    return clean
