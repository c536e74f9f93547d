"""Output for terminals: colors, tables and progress bars, by rich.

rich is imported by the functions here, never with this module: `mount` must not pay for it. No color and no
cursor movement is written to a file, a pipe or a dumb terminal, no color if NO_COLOR is set, and no text is
parsed as markup. Names may hold control characters: pass them through `text.printable`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_SHORT_WORK = 0.5
"""Seconds after which progress is shown."""
_SHOWN_EACH = 0.1

_ENDLESS = 100_000
"""The width without a terminal: programs that read a table need all of it."""

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def console() -> Console:
    """Standard output; without a terminal, lines are never wrapped."""
    return _console(sys.stdout)


def error_console() -> Console:
    """Standard error, for progress and remarks."""
    return _console(sys.stderr)


def may_move_cursor(stream: TextIO) -> bool:
    """Whether output to *stream* can be overwritten."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # Explicit, because rich takes a pipe for a terminal if FORCE_COLOR or TTY_COMPATIBLE is set.
    terminal = stream.isatty()
    plain = not may_move_cursor(stream) or os.environ.get("NO_COLOR", "") != ""
    return Console(
        file=stream,
        force_terminal=terminal,
        force_interactive=may_move_cursor(stream),
        color_system=None if plain else "auto",
        no_color=plain,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if terminal else _ENDLESS,
    )


def show(renderable: RenderableType) -> None:
    """Print to standard output; without a terminal, with no blanks at the ends of lines."""
    shown = console()
    if sys.stdout.isatty():
        shown.print(renderable)
        return
    with shown.capture() as capture:
        shown.print(renderable)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


@dataclass(frozen=True, slots=True)
class Row:
    """Work under way: what it is, and how many bytes of how many are done."""

    text: str
    done: int
    total: int | None


class LiveRows:
    """Lines on standard output, and on a terminal what is under way below them, ten times a second.

    *rows* is called by a thread. With *plain*, or without a terminal, there are the lines alone.
    """

    def __init__(self, rows: Callable[[], list[Row]], *, plain: bool = False) -> None:
        self._rows = rows
        self._live: Live | None = None
        if not plain and may_move_cursor(sys.stdout):
            from rich.live import Live

            self._live = Live(
                console=console(),
                get_renderable=self._render,
                refresh_per_second=1 / _SHOWN_EACH,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def start(self) -> None:
        if self._live is not None:
            self._live.start()

    def stop(self) -> None:
        """Erase what is under way; the lines stay."""
        if self._live is not None:
            self._live.stop()

    def print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, soft_wrap=True)
        else:
            print(line, flush=True)

    def _render(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for row in self._rows():
            known = row.total is not None and row.total > 0
            size = human_size(row.done) + (f"/{human_size(row.total)}" if row.total else "")
            bar = ProgressBar(total=row.total, completed=row.done, width=30) if known else Text()
            table.add_row(Text(row.text), bar, Text(size))
        return table


class Screen:
    """Standard output for repeated output: in place on a terminal, else one after the other.

    *caption* is the title. With *plain* the terminal is left alone: the caller prints by itself.
    """

    def __init__(self, caption: str, *, plain: bool = False) -> None:
        self._caption = caption
        self._live: Live | None = None
        if not plain and may_move_cursor(sys.stdout):
            from rich.live import Live

            self._live = Live(
                console=console(),
                screen=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, renderable: RenderableType) -> None:
        """Replace the previous output."""
        from rich.console import Group
        from rich.text import Text

        now = time.strftime("%Y-%m-%d %H:%M:%S")
        if self._live is not None:
            caption = Text(f"{now}, {self._caption}", style="dim")
            self._live.update(Group(caption, "", renderable), refresh=True)
        else:
            show(Group(now, renderable, ""))
            sys.stdout.flush()


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show the progress of long work on standard error while the block runs; yields `advance(n=1)`.

    *total* is the number of steps; None: unknown, steps are counted. Nothing is shown for short work or if
    standard error is not a terminal. The output is erased at the end; print nothing to the terminal in
    between.
    """
    if not may_move_cursor(sys.stderr):
        yield _shown_nowhere
        return
    bar = _Bar(description, total)
    try:
        yield bar.advance
    finally:
        bar.close()


def _shown_nowhere(n: int = 1) -> None:
    pass


class _Bar:
    """One bar, made only when the work takes long. Called for each step, so cheap."""

    def __init__(self, description: str, total: int | None) -> None:
        from unionfs.cli.text import printable

        self._description = printable(description)
        self._total = total
        self._done = 0
        self._next = time.monotonic() + _SHORT_WORK
        self._update: Callable[[int], None] | None = None
        self._stop: Callable[[], None] | None = None

    def advance(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SHOWN_EACH
        if self._update is None:
            self._start()
        assert self._update is not None
        self._update(self._done)

    def _start(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        known = self._total is not None
        shown = Progress(
            *(() if known else (SpinnerColumn(),)),
            TextColumn("{task.description}", markup=False),
            *(
                (BarColumn(), MofNCompleteColumn())
                if known
                else (TextColumn("{task.completed}", markup=False),)
            ),
            TimeRemainingColumn() if known else TimeElapsedColumn(),
            console=error_console(),
            transient=True,
            # Output of the command may go to a file and must not be redirected.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        task = shown.add_task(self._description, total=self._total)
        shown.start()
        self._update = lambda done: shown.update(task, completed=done)
        self._stop = shown.stop

    def close(self) -> None:
        if self._stop is not None:
            self._stop()


def human_size(size: float) -> str:
    """A human-readable number of bytes: `512 B`, `1.2 MiB`, `-3.0 GiB`."""
    if abs(size) < 1024:
        return f"{size:.0f} B"
    step = 1
    # What would be shown as 1024.0 is 1.0 of the next unit.
    while step < len(_UNITS) and abs(size) / 1024**step >= 1023.95:
        step += 1
    return f"{size / 1024**step:.1f} {_UNITS[step - 1]}"
