"""How `pyunionfs status` looks, with answers that are made up: the table, the details, and watching both."""

from __future__ import annotations

import copy
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from tests.cli.test_terminal import ROOT, in_terminal
from unionfs.cli import main, status_text

EVIL = "a\x1b]0;owned\x07\ud800\udc9b\nb"
HARMLESS = r"a\x1b]0;owned\x07\ud800\udc9b\nb"
COPY = {
    "work": "copy_up",
    "path": "/var/big",
    "step": "copying",
    "done": 256 << 20,
    "total": 1 << 30,
    "seconds": 61,
}


def answer(mountpoint: str = "/srv/merged", **other: Any) -> dict[str, Any]:
    return {
        "mountpoint": mountpoint,
        "device": "0:7",
        "lowers": ["/site", "/base"],
        "data_lowers": [],
        "upper": "/upper",
        "work": "/work",
        "options": [],
        "transport": "direct",
        "flags": ["MAX_PAGES"],
        "passthrough_problem": None,
        "started": "2026-01-01T00:00:00Z",
        "uptime": 3 * 86400 + 4 * 3600,
        "memory": 20 << 20,
        "log": "syslog",
        "open_handles": 5,
        "silent_opens": False,
        "requests": {"LOOKUP": 1200, "OPEN": 34, "WRITE": 0},
        "union": {"open_files": 3, "copy_ups": 12},
        "under_way": [],
        "upper_space": {"size": 4 << 30, "free": 3 << 29},
        "state": "serving",
        "pid": 4711,
        "user": os.geteuid(),
        **other,
    }


def unreachable(mountpoint: str, pid: int | None = None) -> dict[str, Any]:
    return {
        "mountpoint": mountpoint,
        "device": "0:8",
        "state": "unreachable",
        "pid": pid,
        "user": os.geteuid(),
    }


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is found; for the test to fill."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr("unionfs.control.status_socket.list_mounts", lambda: copy.deepcopy(found))
    return found


def drawn(found: list[dict[str, Any]], width: int, rates: status_text.Rates | None = None) -> list[str]:
    """The table on a terminal of this width, without colours."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(
        status_text.table(found, rates)
    )
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines), lines
    return [line.rstrip() for line in lines]


def test_one_row_a_mount(mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    mounts += [
        answer(),
        answer("/ro", lowers=["/base"], upper=None, upper_space=None, uptime=59),
        unreachable("/dead"),
    ]
    assert main(["status"]) == 0
    assert [line.split("  ") for line in capsys.readouterr().out.splitlines()[:4]] == [
        line.split("  ")
        for line in (
            "MOUNTPOINT   STATE        LAYERS      FREE    MEMORY    UP  REQUESTS  OPEN  COPY-UPS",
            "/srv/merged  serving      2+upper  1.5 GiB  20.0 MiB   3 d      1234     3        12",
            "/ro          serving      1 ro           -  20.0 MiB  59 s      1234     3        12",
            "/dead        unreachable  -              -         -     -         -     -         -",
        )
    ]


def test_what_needs_words_comes_below(
    mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    mounts += [
        answer("/m", under_way=[COPY]),
        answer("/gone", state="detached"),
        unreachable("/dead"),
        unreachable("/stuck", 99),
    ]
    assert main(["status"]) == 0
    dead = "its daemon does not respond: it was killed or hangs"
    stuck = "its daemon does not respond: pid 99 hangs, or waits for a slow disk"
    assert capsys.readouterr().out.splitlines()[5:] == [
        "",
        "/m: copying up /var/big: 256.0 MiB of 1.0 GiB (25 %), 1 min 1 s",
        "/gone: not mounted in this mount namespace, 5 files open",
        f"/dead: {dead}; `pyunionfs umount /dead` unmounts it",
        f"/stuck: {stuck}; `pyunionfs umount --lazy /stuck` unmounts it",
    ]


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"open_handles": 0}, "0 files open"),
        ({"open_handles": 1}, "1 file open"),
        ({"open_handles": 2}, "2 files open"),
        ({"open_handles": 0, "silent_opens": True}, "files may be open"),
    ],
)
def test_how_many_files_are_open(
    mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], known: dict[str, Any], says: str
) -> None:
    mounts.append(answer("/gone", state="detached", **known))
    assert main(["status"]) == 0
    _, row, _, remark = capsys.readouterr().out.splitlines()
    assert row.split()[-2:] == ["-" if "silent_opens" in known else "3", "12"]
    assert remark == f"/gone: not mounted in this mount namespace, {says}"


@pytest.mark.parametrize(
    ("work", "says"),
    [
        ({}, "copying up /var/big: 256.0 MiB of 1.0 GiB (25 %), 1 min 1 s"),
        ({"done": 1 << 30}, "copying up /var/big: 1.0 GiB of 1.0 GiB (100 %), 1 min 1 s"),
        ({"step": "waiting", "done": 0}, "copying up /var/big: waiting for other work, 1 min 1 s"),
        (
            {"step": "writing_out", "done": 1 << 30},
            "copying up /var/big: 1.0 GiB copied, writing it to disk, 1 min 1 s",
        ),
        ({"path": ""}, "copying up a deleted file: 256.0 MiB of 1.0 GiB (25 %), 1 min 1 s"),
        ({"path": EVIL}, f"copying up {HARMLESS}: 256.0 MiB of 1.0 GiB (25 %), 1 min 1 s"),
        ({"work": "listing", "done": None, "total": None}, "listing /var/big, 1 min 1 s"),
        ({"work": EVIL, "step": EVIL, "total": None}, f"{HARMLESS} /var/big: {HARMLESS}, 1 min 1 s"),
        ({"total": 0, "done": 0}, "copying up /var/big: 0 B of 0 B (0 %), 1 min 1 s"),
    ],
)
def test_slow_work(
    mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], work: dict[str, Any], says: str
) -> None:
    mounts.append(answer("/m", under_way=[{**COPY, **work}]))
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"/m: {says}"
    assert main(["status", "/m"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  progress  {says}"


def test_much_slow_work_is_cut_short(
    mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    mounts.append(answer("/m", under_way=[{**COPY, "path": f"/{number}"} for number in range(12)]))
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    assert lines[4].startswith("/m: copying up /4: ")
    assert lines[5:] == ["/m: and 7 more"]


LONG = "/home/somebody/projects/" + "x" * 70 + "/merged"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_any_terminal(width: int) -> None:
    found = [answer(), answer(LONG, under_way=[{**COPY, "path": "/" + "y" * 300}])]
    text = "".join(line.strip() for line in drawn(found, width))
    is_table = width >= 200
    assert ("MOUNTPOINT" in text) == is_table
    assert text.replace(" ", "").count("1.5GiB") == 2
    squeezed = "".join(drawn(found, width)).replace(" ", "")
    assert squeezed.count("y" * 300) == 1
    if not is_table:
        assert LONG in squeezed
        assert "serving,layers2+upper,free1.5GiB,memory20.0MiB,up3d,requests1234,open3,copy-ups12" in squeezed


def test_a_path_is_not_folded_for_a_column() -> None:
    found = [answer("/home/somebody/projects/one/merged")]
    assert drawn(found, 97)[0].startswith("MOUNTPOINT ")
    lines = drawn(found, 97, {"0:7": {"WRITE": 25.0}})
    assert lines[0] == "/home/somebody/projects/one/merged"
    assert lines[1].startswith("  serving, layers 2+upper, ")
    assert "req/s 25, open 3," in " ".join(line.strip() for line in lines)


def test_what_others_call_things_cannot_reach_the_terminal_raw(
    mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ("upper", "work", "log", "transport", "passthrough_problem")
    evil = {
        **dict.fromkeys(texts, EVIL),
        "lowers": [EVIL],
        "data_lowers": [EVIL],
        "options": [EVIL],
        "flags": [EVIL],
        "requests": {EVIL: 1},
        "union": {EVIL: 1},
        "state": "detached",
        "pid": 1,
        "user": 12345,
        "uptime": 1,
    }
    mounts += [answer("/" + EVIL, **evil), answer("/m", **evil)]
    assert main(["status", "/m"]) == 0
    details = capsys.readouterr().out
    assert details.count(HARMLESS) == 11
    assert "pid 1 of user 12345, up 1 s" in details
    assert main(["status"]) == 0
    table = capsys.readouterr().out
    assert f"\n/{HARMLESS}  detached  " in table
    assert all(line.isprintable() for line in [*details.splitlines(), *table.splitlines()])
    assert main(["umount", EVIL.replace("\ud800", "")]) == 1
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_details(mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    mounts.append(answer())
    assert main(["status", "/srv/merged"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "/srv/merged",
        "  lowers    /site:/base",
        "  upper     /upper",
        "  space     1.5 GiB of 4.0 GiB free on the upper filesystem",
        "  work      /work",
        "  options   default",
        "  transport direct, passthrough",
        "  flags     MAX_PAGES",
        "  daemon    pid 4711, up 3 d 4 h, 20.0 MiB",
        "  log       syslog",
        "  union     copy_ups 12, open_files 3",
        "  requests  1234, LOOKUP 1200, OPEN 34",
    ]


def test_json_is_what_the_daemons_say(
    mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    mounts += [answer("/" + EVIL), unreachable("/dead")]
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(mounts))


def test_no_mounts(mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "no mounts\n"


# --- watching --------------------------------------------------------------------------------------


def test_requests_a_second() -> None:
    before = [answer(requests={"LOOKUP": 100, "OPEN": 7}), answer(device="0:9"), unreachable("/dead")]
    after = [
        answer(requests={"LOOKUP": 120, "OPEN": 7, "WRITE": 50}),
        answer(device="0:9", pid=5000),  # another mount has got the number
        unreachable("/dead"),
    ]
    assert status_text.requests_a_second(before, after, 2.0) == {"0:7": {"WRITE": 25.0, "LOOKUP": 10.0}}
    assert status_text.requests_a_second(before, after, 0) == {}


def test_rates_are_shown() -> None:
    found = [answer(), answer("/quiet", device="0:9")]
    lines = drawn(found, 120, {"0:7": {"WRITE": 25.0, "LOOKUP": 9.5}})
    place = lines[0].index("REQ/S") + len("REQ/S")
    assert [line[:place].split()[-1] for line in lines[1:]] == ["34", "0"]


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch, mounts: list[dict[str, Any]]) -> Iterator[list[float]]:
    """Time goes by only when it is slept through; after three times somebody presses Ctrl-C."""
    slept: list[float] = []
    now = time.monotonic()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        for status in mounts:
            status["requests"] = {"LOOKUP": status["requests"]["LOOKUP"] + 100}
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now + sum(slept))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield slept
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("words", "each"),
    [
        (["--watch"], 2.0),
        (["-w", "5"], 5.0),
        (["--watch=0.5"], 0.5),
        (["--watch", "/m"], 2.0),
        (["/m", "--watch"], 2.0),
        (["/m", "--watch", "4"], 4.0),
        (["--watch", "4", "/m"], 4.0),
    ],
)
def test_watching_on_a_pipe_prints_it_each_time(
    mounts: list[dict[str, Any]],
    ticks: list[float],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    each: float,
) -> None:
    mounts.append(answer("/m"))
    assert main(["status", *words]) == 0
    assert ticks == [each] * 3
    blocks = capsys.readouterr().out.split("\n\n")
    assert len(blocks) == 4
    assert blocks.pop() == ""
    for count, block in enumerate(blocks):
        _, *lines = block.splitlines()  # the first is the time
        rate = f"{100 / each:.0f}" if count else "0"
        if "/m" in words:
            assert lines[0] == "/m"
            assert lines[-1].split(", ")[0] == f"  req/s     {rate}"
        else:
            assert lines[1].split()[-3] == rate


def test_watching_for_programs_gives_a_list_a_line(
    mounts: list[dict[str, Any]], ticks: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    mounts.append(answer())
    assert main(["status", "--watch", "--json"]) == 0
    lists = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(each) for each in lists] == [1, 1, 1]


@pytest.mark.parametrize("as_json", [False, True])
def test_watching_one_mount_ends_with_it(
    mounts: list[dict[str, Any]],
    ticks: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    mounts.append(answer("/m"))
    monkeypatch.setattr(time, "sleep", lambda _: mounts.clear())
    assert main(["status", "/m", "--watch", *(["--json"] if as_json else [])]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == ("[]" if as_json else "/m has been unmounted")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "0.01"])
def test_intervals_that_cannot_be(
    mounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    mounts.append(answer("/m"))
    assert main(["status", f"--watch={seconds}"]) == 2
    said = capsys.readouterr().err
    assert f"invalid value '{seconds}' of --watch: give a number of seconds, 0.1 or more" in said
    assert main(["status", "/m", "--watch", "often"]) == 2
    assert "invalid value 'often' of --watch: give a number of seconds" in capsys.readouterr().err


WATCHING = """
import sys
import unionfs.control.status_socket
from tests.cli.test_status import answer
unionfs.control.status_socket.list_mounts = lambda: [answer("/one"), answer("/two")]
from unionfs.cli import main
taken = []
import time
def sleep(seconds):
    taken.append(seconds)
    if len(taken) == 3:
        raise KeyboardInterrupt
time.sleep = sleep
sys.exit(main(["status", "--watch", "7"]))
"""


def test_watching_on_a_terminal_stays_in_one_place() -> None:
    got, _ = in_terminal(WATCHING, environment={"COLUMNS": "100"})
    assert got.startswith("\x1b[?1049h")  # the alternate screen
    assert got.count("every 7 s, Ctrl-C to quit") == 3
    assert got.count("MOUNTPOINT") == 3
    assert "\x1b[?1049l" in got  # and back


def test_watching_on_a_dumb_terminal_prints_it_each_time() -> None:
    got, _ = in_terminal(WATCHING, environment={"COLUMNS": "100", "TERM": "dumb"})
    assert "\x1b" not in got
    assert got.count("MOUNTPOINT") == 3


def test_sigterm_gives_the_terminal_back() -> None:
    program = WATCHING.replace("raise KeyboardInterrupt", "import os; os.kill(os.getpid(), 15)")
    assert "\x1b[?1049l" in in_terminal(program)[0]


def test_a_reader_that_has_enough_ends_it() -> None:
    program = WATCHING.replace("if len(taken) == 3", "if len(taken) == 3000")
    script = f"{sys.executable} -c '{program}' | head -n 3; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3
