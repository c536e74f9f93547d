"""Names of containers: what one may be, and one made up for a container that was given none."""

from __future__ import annotations

import re

from unionfs.errors import ContainerError

_FORM = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""Docker's RestrictedNamePattern."""

_FIRST_WORDS = """
    amber bold brave bright brisk calm candid clear clever cosy crisp daring deft eager early fair fleet
    fond frank fresh gentle glad golden grand happy hardy honest jolly keen kind lively loyal lucid lucky
    mellow merry mild neat nimble noble patient placid plain polite proud quick quiet rapid ready serene
    sharp silver sleek smart snug solid spry steady sunny swift tidy trim trusty upbeat vivid warm wise
    witty young zesty
"""
_SECOND_WORDS = """
    acorn anchor aspen badger bamboo beacon birch bison bridge brook canyon cedar cliff clover comet coral
    crane creek delta dune eagle ember falcon fern finch fjord forest fox garden glacier harbor hawk hazel
    heron hill island ivy juniper kestrel lagoon lake lantern larch lark lily linden lynx maple meadow
    moose moss oak ocean orchard otter owl pebble pine plover pond prairie quail raven reef ridge river
    robin sparrow spruce stone stream summit swan thistle tulip valley walnut willow wren
"""


def check(name: str) -> str:
    """The name, if a container may have it. Raises ContainerError."""
    if not _FORM.fullmatch(name):
        raise ContainerError(
            f"{name[:100]!r} is not a name of a container: at least two characters are expected, letters,"
            " digits and _.-, a letter or a digit first"
        )
    return name


def invent() -> str:
    """Two words with an underscore between."""
    import random  # here, because it takes long to load

    return f"{random.choice(_FIRST_WORDS.split())}_{random.choice(_SECOND_WORDS.split())}"
