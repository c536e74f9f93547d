"""The units and the fstab in docs/examples, started and stopped by a systemd; the units also verified."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.mounts import REPOSITORY, needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.systemd.machine import Machine, Unavailable, machine

EXAMPLES = REPOSITORY / "docs" / "examples"
UNITS = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".mount", ".service"))

pytestmark = [
    one_transport,
    pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd (package systemd)"),
]
boots = [needs_root, needs_fuse]
needs_fusermount = pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")

LAYERS = """
    mountpoint -q /srv || mount -t tmpfs -o mode=755 tmpfs /srv
    rm -rf /srv/layers
    mountpoint -q /home || mount -t tmpfs -o mode=755 tmpfs /home
    rm -rf /home/ann
    mkdir -p /srv/layers/{site,base,upper,work} /srv/site /srv/shared /home/ann
    echo base > /srv/layers/base/file
    echo site > /srv/layers/site/log
    chown ann:ann /home/ann
"""
ANN = "HOME=/home/ann XDG_RUNTIME_DIR=/run/user/ann"
AS_ANN = f"setpriv --reuid ann --regid ann --clear-groups env {ANN}"
GONE = "! pgrep -x pyunionfs"


@pytest.fixture(scope="module")
def booted() -> Iterator[Machine]:
    """One systemd for all tests here, with pyunionfs installed in it."""
    try:
        context = machine()
        started = context.__enter__()
    except Unavailable as error:
        pytest.skip(f"no systemd can be started here: {error}")
    try:
        with tempfile.TemporaryDirectory() as directory:
            made = {name: Path(directory, name) for name in ("bin", "sbin")}
            for place in made.values():
                place.mkdir()
            programs.install(made["bin"], made["sbin"])
            for program in made["bin"].iterdir():
                started.write(f"/usr/local/bin/{program.name}", program.read_text())
            for program in made["sbin"].iterdir():
                started.write(f"/usr/sbin/{program.name}", program.read_text())
        started.run("useradd --no-create-home --user-group --home-dir /home/ann ann")
        started.run("chmod 755 /usr/local/bin/pyunionfs /usr/sbin/{,u}mount{.fuse,}.pyunionfs")
        yield started
    finally:
        context.__exit__(None, None, None)


@pytest.fixture
def inside(booted: Machine) -> Iterator[Machine]:
    """With fresh layers, and the example units known; whatever a test leaves running is stopped."""
    booted.run(LAYERS)
    for name in UNITS:
        booted.write(f"/run/examples/{name}", (EXAMPLES / name).read_text())
    booted.run("systemctl daemon-reload")
    try:
        yield booted
    finally:
        units = " ".join(UNITS)
        booted.run(f"systemctl stop {units}; systemctl reset-failed; rm /run/examples/*; :", status=None)
        booted.run("umount -l /srv/site", status=None)


class TestMountUnit:
    pytestmark = boots

    def test_it_starts_restarts_and_stops(self, inside: Machine) -> None:
        inside.run("systemctl start srv-site.mount && systemctl is-active srv-site.mount")
        shown = inside.run("findmnt -no SOURCE,FSTYPE /srv/site; cat /srv/site/file /srv/site/log").stdout
        assert shown.split() == ["site", "fuse.pyunionfs", "base", "site"]
        inside.run("echo changed > /srv/site/file && systemctl restart srv-site.mount")
        assert inside.run("cat /srv/site/file").stdout == "changed\n"
        inside.run("systemctl stop srv-site.mount && ! mountpoint -q /srv/site")
        # Who waits for the stop need not wait for the daemon.
        inside.run(
            f"{GONE} && grep -qx changed /srv/layers/upper/file && grep -qx base /srv/layers/base/file"
        )
        assert inside.run("systemctl is-active srv-site.mount", status=None).stdout == "inactive\n"

    def test_a_missing_layer_fails_it_and_the_journal_gets_the_reason(self, inside: Machine) -> None:
        inside.run("rm -r /srv/layers/site; ! systemctl start srv-site.mount")
        assert inside.run("systemctl is-failed srv-site.mount").stdout == "failed\n"
        shown = inside.run("systemctl show -p Result,ExecMount srv-site.mount").stdout
        assert "Result=exit-code" in shown
        assert "status=32" in shown

    def test_what_works_in_it_starts_and_stops_with_it(self, inside: Machine) -> None:
        inside.run("systemctl start site-reader.service")
        inside.run("systemctl is-active srv-site.mount site-reader.service && mountpoint -q /srv/site")
        inside.run("systemctl stop srv-site.mount")
        assert inside.run("systemctl is-active site-reader.service", status=None).stdout == "inactive\n"
        inside.run(GONE)


class TestService:
    pytestmark = boots

    def test_it_is_active_when_it_serves_and_stops_when_all_is_written(self, inside: Machine) -> None:
        inside.run("systemctl start site-union.service && grep -qx base /srv/site/file")
        shown = inside.run("systemctl show -p ActiveState,StatusText,MainPID site-union.service").stdout
        assert "ActiveState=active" in shown
        assert "StatusText=serving /srv/site" in shown
        pid = inside.run(
            "pyunionfs status --json /srv/site | sed -n 's/.*\"pid\": \\([0-9]*\\),/\\1/p'"
        ).stdout
        assert f"MainPID={pid}" in shown
        inside.run("rm /srv/site/file && systemctl stop site-union.service")
        inside.run(f"{GONE} && ! mountpoint -q /srv/site && test -c /srv/layers/upper/file")
        assert "Result=success" in inside.run("systemctl show -p Result site-union.service").stdout

    def test_a_busy_mount_is_detached_at_stop(self, inside: Machine) -> None:
        inside.run("systemctl start site-union.service")
        inside.run("cd /srv/site && systemctl stop site-union.service && ! mountpoint -q /srv/site")
        inside.eventually(GONE)

    def test_a_killed_daemon_is_started_again(self, inside: Machine) -> None:
        inside.run("systemctl start site-union.service && echo kept > /srv/site/new")
        inside.run("systemctl kill --kill-whom=main -s KILL site-union.service")
        inside.eventually("systemctl is-active site-union.service && grep -qx kept /srv/site/new")
        assert "NRestarts=1\n" in inside.run("systemctl show -p NRestarts site-union.service").stdout
        assert inside.run("grep -c ' /srv/site ' /proc/self/mountinfo").stdout == "1\n"

    def test_what_cannot_be_mounted_fails_it(self, inside: Machine) -> None:
        inside.run("rm -r /srv/layers/base; ! systemctl start site-union.service")
        inside.eventually("systemctl is-failed site-union.service")


class TestFstab:
    pytestmark = boots

    @pytest.fixture
    def fstab(self, inside: Machine) -> Iterator[Machine]:
        inside.run("rm /run/examples/*")
        inside.write("/etc/fstab", (EXAMPLES / "fstab").read_text())
        inside.run("systemctl daemon-reload")
        try:
            yield inside
        finally:
            inside.run("systemctl stop srv-shared.mount srv-site.mount && : > /etc/fstab", status=None)
            inside.run("systemctl daemon-reload")

    def test_its_lines_become_units_that_start(self, fstab: Machine) -> None:
        fstab.run("systemctl start srv-shared.mount srv-site.mount")
        shown = fstab.run("systemctl show -p RequiresMountsFor,FragmentPath srv-site.mount").stdout
        assert "/srv/layers" in shown
        assert "FragmentPath=/run/systemd/generator/srv-site.mount" in shown
        fstab.run("! touch /srv/shared/new && touch /srv/site/new")
        fstab.run("mount -a && systemctl stop srv-site.mount && test -f /srv/layers/upper/new")
        fstab.run(f"systemctl stop srv-shared.mount && {GONE}")

    def test_mount_finds_what_systemd_does_not_start(self, fstab: Machine) -> None:
        fstab.run("mkdir -p '/srv/layers/a name, with:all' /srv/odd; touch '/srv/layers/a name, with:all/f'")
        fstab.run("mount /srv/odd && test -f /srv/odd/f && umount /srv/odd")
        fstab.eventually(GONE)

    @needs_fusermount
    def test_an_ordinary_user_mounts_and_unmounts(self, fstab: Machine) -> None:
        fstab.run(f"{AS_ANN} mkdir /home/ann/site /home/ann/upper /home/ann/work")
        fstab.run(f"{AS_ANN} mount /home/ann/site && {AS_ANN} touch /home/ann/site/new")
        shown = fstab.run("findmnt -no SOURCE,FSTYPE,OPTIONS /home/ann/site").stdout
        assert shown.startswith("ann ")
        assert "nosuid,nodev,noexec" in shown
        assert "user_id=" in shown
        fstab.run(f"{AS_ANN} umount /home/ann/site && {GONE} && test -f /home/ann/upper/new")


@needs_fusermount
class TestUserUnit:
    pytestmark = boots

    def test_it_runs_under_a_users_systemd(self, inside: Machine) -> None:
        # What user@.service does, but for PAM.
        inside.write(
            "/run/examples/ann.service",
            f"[Service]\nUser=ann\nType=notify\nDelegate=yes\nEnvironment={ANN}\n"
            "Environment=SYSTEMD_UNIT_PATH=/home/ann/.config/systemd/user:/usr/lib/systemd/user\n"
            "ExecStart=/lib/systemd/systemd --user --unit=basic.target\n",
        )
        unit = (EXAMPLES / "user" / "site-union.service").read_text()
        inside.write("/home/ann/.config/systemd/user/site-union.service", unit)
        inside.run(
            "install -d -m 700 -o ann /run/user/ann && cd /home/ann"
            " && mkdir -p layers/{site,base,upper,work} site && echo base > layers/base/file"
            " && chown -R ann /home/ann"
        )
        inside.run("systemctl daemon-reload && systemctl start ann.service")
        try:
            inside.run(f"{AS_ANN} systemctl --user start site-union.service")
            inside.run(f"{AS_ANN} sh -c 'grep -qx base /home/ann/site/file && touch /home/ann/site/new'")
            shown = inside.run(f"{AS_ANN} systemctl --user show -p StatusText site-union.service").stdout
            assert shown == "StatusText=serving /home/ann/site\n"
            inside.run(f"{AS_ANN} systemctl --user stop site-union.service")
            inside.run(f"{GONE} && test -f /home/ann/layers/upper/new")
        finally:
            inside.run("systemctl stop ann.service")


@pytest.mark.parametrize("name", [*UNITS, "user/site-union.service"])
def test_systemd_finds_nothing_wrong_with_it(name: str, tmp_path: Path) -> None:
    """Also where no systemd can be started."""
    for path in [EXAMPLES / name, EXAMPLES / "srv-site.mount"]:
        # What it runs must be there.
        text = path.read_text().replace("/usr/local/bin/pyunionfs", sys.executable)
        (tmp_path / path.name).write_text(text)
    kind = "--user" if name.startswith("user/") else "--system"
    done = subprocess.run(
        ["systemd-analyze", kind, "--recursive-errors=no", "--man=no", "verify", tmp_path / Path(name).name],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
