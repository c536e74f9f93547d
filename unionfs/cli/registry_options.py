"""`--tls-verify` and `--cert-dir`, for the commands that speak with registries."""

from __future__ import annotations

import argparse
from pathlib import Path

from unionfs.cli.parser import Parser
from unionfs.registry.connections import Options


def add(parser: Parser) -> None:
    """Both options, for `options`."""
    parser.add_argument(
        "--tls-verify",
        metavar="true|false",
        nargs="?",
        const=True,
        default=True,
        type=_boolean,
        help="false: take any certificate, and plain HTTP where the registry has no TLS (default: true; HTTP"
        " for addresses of this machine only)",
    )
    parser.add_argument(
        "--cert-dir",
        metavar="DIRECTORY",
        help="certificates for the registry: authorities in *.crt, this client's in *.cert and *.key"
        " (default: the registry's directory in /etc/containers/certs.d or /etc/docker/certs.d)",
    )


def options(given: argparse.Namespace) -> Options:
    """What the command line says of how a registry is reached."""
    return Options(
        tls_verify=given.tls_verify, cert_dir=None if given.cert_dir is None else Path(given.cert_dir)
    )


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
