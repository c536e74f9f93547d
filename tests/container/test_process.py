"""The process of a container, from the image and what was asked for: a table of Docker's rules."""

from __future__ import annotations

import pytest

from unionfs.container.process import Wishes, environment, process_of
from unionfs.container.spec import ProcessSpec
from unionfs.errors import ContainerError
from unionfs.image.model import RuntimeConfig

IMAGE = RuntimeConfig(
    user="web",
    env=["A=1", "B=2"],
    entrypoint=["/init"],
    cmd=["serve"],
    working_dir="/srv",
    stop_signal="SIGINT",
)


@pytest.mark.parametrize(
    ("image", "wishes", "args"),
    [
        (IMAGE, Wishes(), ["/init", "serve"]),
        (IMAGE, Wishes(command=["sh", "-c"]), ["/init", "sh", "-c"]),
        (IMAGE, Wishes(entrypoint="/sh"), ["/sh"]),
        (IMAGE, Wishes(entrypoint="/sh", command=["x"]), ["/sh", "x"]),
        (IMAGE, Wishes(entrypoint="", command=["x"]), ["x"]),
        (RuntimeConfig(cmd=["bash"]), Wishes(), ["bash"]),
        (RuntimeConfig(entrypoint=["bash"]), Wishes(), ["bash"]),
        (None, Wishes(command=["x"]), ["x"]),
    ],
)
def test_entrypoint_and_command(image: RuntimeConfig | None, wishes: Wishes, args: list[str]) -> None:
    assert list(process_of(image, wishes, "image").args) == args


@pytest.mark.parametrize(
    ("image", "wishes"), [(None, Wishes()), (RuntimeConfig(), Wishes()), (IMAGE, Wishes(entrypoint=""))]
)
def test_nothing_to_run(image: RuntimeConfig | None, wishes: Wishes) -> None:
    with pytest.raises(ContainerError, match="image x has no command"):
        process_of(image, wishes, "x")


def test_what_is_asked_for_goes_before_the_image() -> None:
    asked = Wishes(env=["B=3", "C=4"], workdir="/w", user="1:2", hostname="h")
    found = process_of(IMAGE, asked, "x")
    assert (found.env, found.cwd, found.user, found.hostname) == (("A=1", "B=3", "C=4"), "/w", "1:2", "h")
    plain = process_of(IMAGE, Wishes(), "x")
    assert (plain.cwd, plain.user, plain.stop_signal) == ("/srv", "web", "SIGINT")
    assert process_of(None, Wishes(command=["x"]), "x").cwd == "/"


def test_the_environment() -> None:
    spec = ProcessSpec(("sh",), ("A=1", "TERM=dumb", "GONE"), hostname="h", tty=True)
    assert list(environment(spec, "/root").items()) == [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOSTNAME", "h"),
        ("TERM", "dumb"),
        ("A", "1"),
        ("HOME", "/root"),
    ]
    assert environment(ProcessSpec(("sh",), ("HOME=/x", "PATH=/p")), "/root") == {
        "PATH": "/p",
        "HOSTNAME": "",
        "HOME": "/x",
    }
