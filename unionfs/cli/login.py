"""`pyunionfs login`: credentials for a registry, verified and kept, as `docker login`."""

from __future__ import annotations

import argparse
import getpass
import sys

from unionfs.cli import registry_options
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.errors import OptionError
from unionfs.image.names import DEFAULT_REGISTRY
from unionfs.registry import credentials, login
from unionfs.registry.connections import Options
from unionfs.registry.credentials import Credentials
from unionfs.registry.replies import RegistryError


def parser() -> Parser:
    made = Parser(
        "login",
        "Log in to a registry: have it verify a user name and a password, and keep them. Without REGISTRY:"
        " docker.io.",
        "They are kept where docker, podman, skopeo and buildah find them, too: in the file that has"
        " credentials for this registry already, else in $REGISTRY_AUTH_FILE, else in ~/.docker/config.json;"
        " there a credential helper (credsStore, credHelpers) keeps them if the file names one, and else they"
        " lie in it readable for their owner. Where a token server gives a token to be kept instead of"
        " the password, that is kept. Without -u, credentials that are kept are verified again.",
        examples=[
            ("pyunionfs login", "to docker.io; asks for user name and password"),
            ("pyunionfs login -u admin --password-stdin localhost:5000 < password", "without a terminal"),
        ],
    )
    made.add_argument("-u", "--username", metavar="USER", help="user name")
    made.add_argument("-p", "--password", metavar="PASSWORD", help="password, which other users may see")
    made.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    registry_options.add(made)
    made.add_argument("registry", metavar="REGISTRY", nargs="?", help="host, or host:port")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    registry = registry_name(given.registry)
    options = registry_options.options(given)
    password = _password(given)
    if given.username is None and password is None and _confirmed(registry, options):
        print("Login Succeeded")
        return 0
    username = given.username or _ask(f"Username ({registry}): ", hidden=False)
    password = password or _ask("Password: ", hidden=True)
    if not username or not password:
        raise OptionError("login: a user name and a password are needed")
    place = login.login(registry, Credentials(username, password), options)
    if "/" in place:
        print(f"WARNING! Your credentials are stored unencrypted in {printable(place)}.", file=sys.stderr)
    print("Login Succeeded")
    return 0


def registry_name(text: str | None) -> str:
    """The registry that a word means, which may be a URL, as it stands in Docker's file."""
    if text is None:
        return DEFAULT_REGISTRY
    name = text.partition("://")[2] or text
    host = name.partition("/")[0]
    if not host or host in credentials.HUB_HOSTS:
        return DEFAULT_REGISTRY
    return host


def _password(given: argparse.Namespace) -> str | None:
    if given.password is not None:
        if given.password_stdin:
            raise OptionError("login: --password conflicts with --password-stdin")
        print(
            "WARNING! Using --password via the CLI is insecure: other users see it. Use --password-stdin.",
            file=sys.stderr,
        )
        password: str = given.password
        return password
    if not given.password_stdin:
        return None
    if given.username is None:
        raise OptionError("login: --password-stdin needs --username")
    return sys.stdin.read().rstrip("\r\n")


def _confirmed(registry: str, options: Options) -> bool:
    """Whether credentials that are kept are still good."""
    kept = credentials.find(registry)
    if kept is None:
        return False
    print("Authenticating with existing credentials...")
    try:
        login.verify(registry, kept, options)
    except RegistryError as error:
        print(f"pyunionfs: {error}", file=sys.stderr)
        return False
    return True


def _ask(prompt: str, *, hidden: bool) -> str:
    if not sys.stdin.isatty():
        raise OptionError("login: standard input is no terminal: give --username and --password-stdin")
    return getpass.getpass(prompt) if hidden else input(prompt)
