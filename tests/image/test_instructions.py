"""Dockerfile instructions change a config as `docker commit --change` does."""

from __future__ import annotations

import re
from typing import Any

import pytest

from unionfs.errors import OptionError
from unionfs.image.dockerfile_words import expand, split
from unionfs.image.instructions import apply

BASE: dict[str, Any] = {
    "Env": ["PATH=/bin", "A=1"],
    "Cmd": ["old"],
    "Entrypoint": ["/entry"],
    "WorkingDir": "/srv",
    "Labels": {"kind": "base"},
    "Unknown": {"kept": True},
}

CASES: dict[str, dict[str, Any]] = {
    'CMD ["a", "b c"]': {"Cmd": ["a", "b c"]},
    "CMD echo $A": {"Cmd": ["/bin/sh", "-c", "echo $A"]},
    "cmd []": {"Cmd": []},
    "CMD [broken": {"Cmd": ["/bin/sh", "-c", "[broken"]},
    'ENTRYPOINT ["/x"]': {"Entrypoint": ["/x"], "Cmd": None},
    'CMD ["c"]\nENTRYPOINT ["/x"]': {"Entrypoint": ["/x"], "Cmd": ["c"]},
    'ENTRYPOINT ["/x"]\nCMD ["c"]': {"Entrypoint": ["/x"], "Cmd": ["c"]},
    "ENV B=2 C=\"3 4\" D='$A' E=$A": {"Env": ["PATH=/bin", "A=1", "B=2", "C=3 4", "D=$A", "E=1"]},
    "ENV PATH=/opt/bin:$PATH": {"Env": ["PATH=/opt/bin:/bin", "A=1"]},
    "ENV A=2 B=$A": {"Env": ["PATH=/bin", "A=2", "B=1"]},
    "ENV A=2\nENV B=$A": {"Env": ["PATH=/bin", "A=2", "B=2"]},
    "ENV B a long value": {"Env": ["PATH=/bin", "A=1", "B=a long value"]},
    "ENV B=": {"Env": ["PATH=/bin", "A=1", "B="]},
    "ENV B=2 \\\n C=3": {"Env": ["PATH=/bin", "A=1", "B=2", "C=3"]},
    "EXPOSE 80 53/udp 8000-8002": {
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}}
    },
    'HEALTHCHECK CMD ["curl", "-f", "x y"]': {"Healthcheck": {"Test": ["CMD", "curl", "-f", "x y"]}},
    "HEALTHCHECK CMD curl  -f $A || exit 1": {
        "Healthcheck": {"Test": ["CMD-SHELL", "curl  -f $A || exit 1"]}
    },
    "healthcheck --interval=1m30s --timeout=1.5s --start-period=500ms --start-interval=1h0.5m \\\n"
    " --retries=3  cmd true": {
        "Healthcheck": {
            "Test": ["CMD-SHELL", "true"],
            "Interval": 90_000_000_000,
            "Timeout": 1_500_000_000,
            "StartPeriod": 500_000_000,
            "StartInterval": 3_630_000_000_000,
            "Retries": 3,
        }
    },
    "HEALTHCHECK --retries=0 --interval=0 --timeout= CMD true": {
        "Healthcheck": {"Test": ["CMD-SHELL", "true"]}
    },
    "HEALTHCHECK CMD --interval=5s": {"Healthcheck": {"Test": ["CMD-SHELL", "--interval=5s"]}},
    "HEALTHCHECK --interval='5s' -- CMD x": {
        "Healthcheck": {"Test": ["CMD-SHELL", "x"], "Interval": 5_000_000_000}
    },
    "HEALTHCHECK none": {"Healthcheck": {"Test": ["NONE"]}},
    "HEALTHCHECK --retries=2 CMD x\nHEALTHCHECK NONE": {"Healthcheck": {"Test": ["NONE"]}},
    "LABEL a=1 \"b c\"='d e'": {"Labels": {"kind": "base", "a": "1", "b c": "d e"}},
    "LABEL kind=": {"Labels": {"kind": ""}},
    "ONBUILD RUN make": {"OnBuild": ["RUN make"]},
    "STOPSIGNAL SIGQUIT": {"StopSignal": "SIGQUIT"},
    "STOPSIGNAL 9": {"StopSignal": "9"},
    "STOPSIGNAL rtmin+3": {"StopSignal": "rtmin+3"},
    "USER ann:staff": {"User": "ann:staff"},
    "VOLUME /data /log": {"Volumes": {"/data": {}, "/log": {}}},
    'VOLUME ["/a b"]': {"Volumes": {"/a b": {}}},
    "WORKDIR /a/../b": {"WorkingDir": "/b"},
    "WORKDIR sub/dir": {"WorkingDir": "/srv/sub/dir"},
    "WORKDIR ${A:+/$A}/${X:-y}": {"WorkingDir": "/1/y"},
    "\n# a comment\n\n USER  ann": {"User": "ann"},
    "user\tann": {"User": "ann"},
}


@pytest.mark.parametrize("text", CASES)
def test_an_instruction(text: str) -> None:
    before = {key: value.copy() if isinstance(value, list | dict) else value for key, value in BASE.items()}
    assert apply(BASE, [text]) == {**BASE, **CASES[text]}
    assert before == BASE


def test_the_shell_of_the_image_runs_commands() -> None:
    assert apply({"Shell": ["/bin/bash", "-ec"]}, ["CMD x"])["Cmd"] == ["/bin/bash", "-ec", "x"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("RUN make", "RUN is no instruction that can change an image: these are CMD, ENTRYPOINT, ENV"),
        ("FROM debian", "FROM is no instruction"),
        ("CMD", "nothing follows it"),
        ("CMD [1]", "only strings"),
        ("ENV", "nothing follows it"),
        ("ENV A", "A has no value"),
        ("ENV A=1 B", "'B' is not of the form NAME=VALUE"),
        ("ENV =1", "without a name"),
        ('ENV A="1', "a double quote is not closed"),
        ("ENV A='1", "a single quote is not closed"),
        ("ENV A=${B", "B"),
        ("ENV A=${B:?x}", "only :- and :+"),
        ("EXPOSE http", "'http' is no port"),
        ("EXPOSE 70000", "is no port"),
        ("EXPOSE 9-8", "is no port"),
        ("HEALTHCHECK", "nothing follows it"),
        ("HEALTHCHECK --retries=2", "NONE or CMD is missing"),
        ("HEALTHCHECK TCP 80", "'TCP' is neither NONE nor CMD"),
        ("HEALTHCHECK NONE now", "NONE takes no arguments"),
        ("HEALTHCHECK CMD", "a command is missing"),
        ("HEALTHCHECK CMD []", "a command is missing"),
        ("HEALTHCHECK CMD [1]", "only strings"),
        ("HEALTHCHECK --period=1s CMD x", "unknown flag: --period"),
        ("HEALTHCHECK --interval CMD x", "--interval has no value"),
        ("HEALTHCHECK --interval=1s --interval=2s CMD x", "--interval is given twice"),
        ("HEALTHCHECK --interval=5 CMD x", "a duration is expected"),
        ("HEALTHCHECK --timeout=-5s CMD x", "a duration is expected"),
        ("HEALTHCHECK --timeout=+ CMD x", "a duration is expected"),
        ("HEALTHCHECK --timeout=1.s.5s x CMD x", "'x' is neither"),
        ("HEALTHCHECK --timeout=1d CMD x", "a duration is expected"),
        ("HEALTHCHECK --timeout=999us CMD x", "shorter than 1ms"),
        ("HEALTHCHECK --start-period=9999999h CMD x", "longer than 292 years"),
        ("HEALTHCHECK --retries=-1 CMD x", "not negative"),
        ("HEALTHCHECK --retries=2147483648 CMD x", "a number is expected"),
        ("ONBUILD ONBUILD RUN x", "ONBUILD cannot be"),
        ("ONBUILD from x", "FROM cannot be"),
        ("STOPSIGNAL SIGNOTHING", "'SIGNOTHING' is no signal"),
        ("STOPSIGNAL 65", "is no signal"),
        ("VOLUME []", "a volume needs a path"),
        ("WORKDIR", "nothing follows it"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(OptionError, match="(?s)--change .*" + re.escape(why)):
        apply(BASE, [text])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a  b\tc ", ["a", "b", "c"]),
        ("a='b c' d\"e f\"", ["a='b c'", 'd"e f"']),
        (r"a\ b c\\ d", [r"a\ b", r"c\\", "d"]),
        ("'a\\' b", ["'a\\'", "b"]),
        ('"a\\" b" c', ['"a\\" b"', "c"]),
    ],
)
def test_words_are_parted_at_blanks(text: str, words: list[str]) -> None:
    assert split(text) == words


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("plain", "plain"),
        ("$A-${A}-$NONE-${NONE}", "one-one--"),
        ("${A:-x}${E:-x}${E-x}${NONE-x}", "onexx"),
        ("${A:+x}${E:+x}${E+x}${NONE+x}", "xx"),
        ("${NONE:-$A${A}}", "oneone"),
        (r"\$A '$A' \"", '$A $A "'),
        (r'"$A \$A \" \x"', r'one $A " \x'),
        ("$", "$"),
        ("a$/b", "a$/b"),
        ("'a'\"b\"c", "abc"),
    ],
)
def test_variables_and_quotes(word: str, meant: str) -> None:
    assert expand(word, {"A": "one", "E": ""}) == meant
