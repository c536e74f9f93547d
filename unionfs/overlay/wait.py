"""How the union says "this needs slow work first" without knowing threads or tasks.

An operation that finds that it needs slow work (copying a file's data, listing a huge directory) raises
`Wait` *before it has changed anything*. The transport runs `task.run()` on any thread, then
`task.finish()` on the state thread, and calls the operation again. `run` works only on immutable lowers and
private files; `finish` commits to the union's state in a few system calls (invariants 2 and 3).

Several operations may raise the same task: it must be run once, and all of them be called again after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Task(Protocol):
    """Slow work and its commit. `finish` must be called exactly once, also when `run` raised."""

    def run(self) -> None:
        """Do the slow part; any thread. May raise OSError."""

    def finish(self, error: BaseException | None) -> None:
        """Commit, or with *error* clear away; state thread only. May raise OSError."""


class Owner(Protocol):
    """What an operation has begun over several waits, and must clear away when it is not called again."""

    def given_up(self, task: Task) -> Task | None:
        """*task*, which was waited for, is over, and its operation was called again if it is to be.

        Where that was not so (it has failed, or its caller was killed), clear away: returns a further task
        to do for that, after which to call this again, or None. State thread only.
        """


class BackgroundJob(Protocol):
    """Work that an operation leaves to be done by a worker some time. Nothing waits for it."""

    def run(self) -> None:
        """Do it; any thread. An OSError that leaves it says in words what was not done."""


class Wait(Exception):
    """Not an error: the operation has changed nothing and wants `task` done before it is called again.

    With an `owner` it has, in steps that no caller sees: the owner must hear when it is not called again.
    """

    def __init__(self, task: Task, owner: Owner | None = None) -> None:
        super().__init__()
        self.task = task
        self.owner = owner


def complete(operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *operation* and do its slow work in place, in this thread, as often as it asks for some."""
    while True:
        try:
            return operation(*args, **kwargs)
        except Wait as wait:
            task, owner = wait.task, wait.owner
        try:
            perform(task)
        except BaseException:
            if owner is not None:
                give_up(owner, task)
            raise


def give_up(owner: Owner, task: Task) -> None:
    """Have cleared away, here and now, what an operation has begun that is not called again."""
    following = owner.given_up(task)
    while following is not None:
        perform(following)
        following = owner.given_up(following)


def perform(task: Task) -> None:
    """Do a task here and now, and clear away when it fails."""
    error: BaseException | None = None
    try:
        task.run()
    except BaseException as failure:
        error = failure
        raise
    finally:
        task.finish(error)
