"""`pyunionfs logout`: removes the credentials for a registry, as `docker logout`."""

from __future__ import annotations

from unionfs.cli.login import registry_name
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.errors import OptionError
from unionfs.registry import credentials


def parser() -> Parser:
    made = Parser(
        "logout",
        "Remove the credentials for a registry from every file and helper in which `pyunionfs pull` looks"
        " for them. Without REGISTRY: docker.io.",
        examples=[
            ("pyunionfs logout localhost:5000", "of one registry"),
            ("pyunionfs logout --all", "of all registries"),
        ],
    )
    made.add_argument("-a", "--all", action="store_true", help="remove the credentials for all registries")
    made.add_argument("registry", metavar="REGISTRY", nargs="?", help="host, or host:port")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if given.all and given.registry is not None:
        raise OptionError(f"logout: --all conflicts with {given.registry}: leave one out")
    for registry in credentials.registries() if given.all else [registry_name(given.registry)]:
        places = credentials.erase(registry)
        if places:
            print(f"Removing login credentials for {printable(registry)} from {printable(', '.join(places))}")
        else:
            print(f"Not logged in to {printable(registry)}")
    return 0
