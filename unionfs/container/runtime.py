"""Containers that an OCI runtime starts, crun or runc: the union is mounted, and the bundle handed over.

A forked process has the union in namespaces of its own and waits for the runtime; this one waits for that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from unionfs.container import users
from unionfs.container.bundle import Ids, document
from unionfs.container.mounted import call_in, end_with, own_mount
from unionfs.container.runner import PASSED_ON, StartError
from unionfs.container.spec import ProcessSpec, UnionSpec
from unionfs.errors import ContainerError
from unionfs.linux import user_namespace
from unionfs.linux.process import has_capability
from unionfs.linux.user_namespace import IdMaps

FILES = ("hosts", "hostname", "resolv.conf")
CAP_SYS_RESOURCE = 24
_PID = "pid "
_PAUSE = 0.005
_SI_KERNEL = 0x80
"""si_code of a signal of the kernel: from a terminal, it has gone to the whole process group already."""
_STATUS = {"not found": 127, "no such file": 127, "permission denied": 126}
"""What a runtime's message says of a program that could not be started, and Docker's status for that."""


def run(
    runtime: str,
    process: ProcessSpec,
    union: UnionSpec,
    identifier: str,
    place: Path,
    started: Callable[[int], None],
) -> int:
    """Run a process by *runtime* and return its exit status; `started` as of `run_in`. Raises StartError.

    *place* is a directory that this makes and removes.
    """
    program = shutil.which(runtime)
    if program is None:
        raise StartError(f"there is no program {runtime}: install it, or leave --runtime out")
    if place.exists():  # of a command that was killed
        shutil.rmtree(place)
    place.mkdir()
    reader, writer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    try:
        child = os.fork()
        if child == 0:
            os.close(reader)
            waiting = _Waiting(program, process, union, identifier, place, writer)
            end_with(waiting.run, writer)
        os.close(writer)
        with open(reader, "rb", buffering=0) as pipe:
            first = os.fsdecode(pipe.readline())
            reached = first.startswith(_PID)
            if reached:
                started(int(first.removeprefix(_PID)))
            status = _wait_for(child)
            text = ("" if reached else first) + os.fsdecode(pipe.read())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        shutil.rmtree(place)
    code, _, message = text.partition(" ")
    if text:
        raise StartError(message, int(code)) if code.isdigit() else StartError(text)
    if not reached:
        raise StartError(f"{runtime} has started nothing, and ended with status {status}")
    return status


class _Waiting:
    """What the forked process does."""

    def __init__(
        self,
        program: str,
        process: ProcessSpec,
        union: UnionSpec,
        identifier: str,
        place: Path,
        report: int,
    ) -> None:
        self._program = program
        self._process = process
        self._union = union
        self._identifier = identifier
        self._place = place
        self._report = report

    def run(self) -> None:
        """Mount, start, and end with the status of the process."""
        maps = runtime_maps()
        with own_mount(self._union):
            status = self._run(maps)
        os._exit(status)

    def _run(self, maps: IdMaps | None) -> int:
        config = document(
            self._process,
            ids_in(self._union.merged, self._process.user),
            self._union.merged,
            host_files(self._union.lowers[0]),
            maps,
            f"/pyunionfs/{self._identifier}",
            limits_devices=limits_devices(),
        )
        (self._place / "config.json").write_text(json.dumps(config, indent=1))
        pid_file, log = self._place / "pid", self._place / "log"
        words = [
            self._program,
            "--root",
            str(self._place / "state"),
            "--log",
            str(log),
            "--log-format",
            "json",
        ]
        if maps is not None and os.path.basename(self._program) == "crun":
            words += ["--cgroup-manager", "disabled"]
        words += ["run", "--bundle", str(self._place), "--pid-file", str(pid_file), self._identifier]
        runtime = subprocess.Popen(
            words,
            stdin=None if self._process.interactive else subprocess.DEVNULL,
            # Signals are blocked here, so that they are passed on, and would be there.
            preexec_fn=_unblock_signals,
        )
        pid = _pid(pid_file, runtime)
        if pid is not None:
            os.write(self._report, f"{_PID}{pid}\n".encode())
        status = _wait_for(runtime.pid)
        if status and (message := _failure(log)):
            low = message.lower()
            code = next((code for words, code in _STATUS.items() if words in low), 125)
            os.write(self._report, f"{code} {os.path.basename(self._program)}: {message}".encode())
        return status


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def host_files(init: str) -> dict[str, str]:
    """What of the init layer is mounted over the container's /etc, so that changes are in no layer."""
    paths = {f"/etc/{name}": f"{init}/etc/{name}" for name in FILES}
    return {target: source for target, source in paths.items() if os.path.isfile(source)}


def ids_in(root: str, user: str) -> Ids:
    """The user that USER[:GROUP] means in a root directory. Raises ContainerError where there is none."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        end_with(lambda: call_in(root, lambda: _write_ids(user, writer)), writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise ContainerError(os.fsdecode(answer))
    return msgspec.json.decode(answer, type=Ids)


def runtime_maps() -> IdMaps | None:
    """The maps of the user namespace in which this process can start a runtime; None: in none, as root."""
    return user_namespace.own_maps() if os.geteuid() == 0 else user_namespace.id_maps()


def limits_devices() -> bool:
    """Whether a cgroup can decide about devices: crun raises a limit to load a program for that."""
    return has_capability(CAP_SYS_RESOURCE)


def find_ids(user: str) -> Ids:
    """The same in this process's root. Raises ContainerError."""
    try:
        found = users.find(user)
    except users.UnknownUserError as error:
        raise ContainerError(str(error)) from None
    return Ids(found.uid, found.gid, tuple(found.groups), found.home)


def _write_ids(user: str, writer: int) -> None:
    os.write(writer, msgspec.json.encode(find_ids(user)))


def _pid(path: Path, runtime: subprocess.Popen[bytes]) -> int | None:
    """The pid of the container's first process, once the runtime has written it; None: it ended without."""
    while True:
        ended = os.waitid(os.P_PID, runtime.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = ""
        if text:
            return int(text)
        if ended:
            return None
        time.sleep(_PAUSE)


def _wait_for(pid: int) -> int:
    """Pass signals on to a child until it has ended; its exit status. They and SIGCHLD are blocked."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        info = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD and info.si_code != _SI_KERNEL:
            with suppress(ProcessLookupError):
                os.kill(pid, info.si_signo)


def _failure(log: Path) -> str:
    """The last error of a runtime's log."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") == "error":
            return str(entry.get("msg", ""))
    return ""
