"""What goes on beside the requests while a mount serves: signals, questions on the control socket, the end.

All of it runs under trio, which is slow to load: a transport that needs no trio serves before this module is
imported. This thread touches no path that the mount may cover: it may be the one that answers, and would wait
for itself. What must be touched (unmounting) is touched in a worker thread.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import trio

from unionfs.control import ControlSocket, Status
from unionfs.readiness import PATIENCE, SIGNALS, TOO_LATE, Outcome, Readiness
from unionfs.transport.detach import detach
from unionfs.transport.session import Session

GRACE = 10.0
"""How long files that are open at SIGTERM may be used on, in seconds."""

logger = logging.getLogger("unionfs.daemon")


@dataclass
class Serving:
    """One mount while it serves."""

    session: Session
    mountpoint: str
    device: tuple[int, int] | None
    foreground: bool
    stopping: bool = False

    async def run(
        self,
        outcome: Outcome | None,
        readiness: Readiness,
        control: ControlSocket | None,
        status: Callable[[], Status],
    ) -> None:
        """Return when the mount is gone. `outcome` is that of the first answer; None: not answered yet."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals, nursery)
            if control is not None:
                nursery.start_soon(self._answer_questions, control, status)
            nursery.start_soon(self._begin, outcome, readiness, nursery)
            await self.session.serve()
            logger.info("%s is unmounted", self.mountpoint)
            nursery.cancel_scope.cancel()

    async def _begin(self, outcome: Outcome | None, readiness: Readiness, nursery: trio.Nursery) -> None:
        if outcome is None:
            reason: str | None = TOO_LATE
            with trio.move_on_after(PATIENCE):
                reason = await trio.to_thread.run_sync(readiness.look, self.device, abandon_on_cancel=True)
            outcome = readiness.announce(reason, self.session)
        if outcome is Outcome.REFUSED:
            await trio.to_thread.run_sync(detach, self.device, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
        elif outcome is Outcome.ABANDONED:
            await self._stop(nursery)

    async def _answer_questions(self, control: ControlSocket, status: Callable[[], Status]) -> None:
        """Serve the control socket; whatever goes wrong there, the mount goes on without."""
        try:
            await control.serve(status)
        except Exception:
            logger.exception("`status` no longer shows %s", self.mountpoint)

    async def _signals(self, nursery: trio.Nursery) -> None:
        with trio.open_signal_receiver(*SIGNALS) as received:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            try:
                await self._receive(received, nursery)
            finally:
                # What follows writes data out, which a repeated signal must not cut off.
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    async def _receive(self, received: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in received:
            name = signal.Signals(number).name
            if number == signal.SIGHUP and not self.foreground:
                continue
            if self.stopping:
                logger.warning("%s again: ending at once", name)
                nursery.cancel_scope.cancel()
                return
            logger.info("%s: unmounting %s", name, self.mountpoint)
            nursery.start_soon(self._stop, nursery)

    async def _stop(self, nursery: trio.Nursery) -> None:
        """Free the mountpoint now, and go on serving what is still open, for a while."""
        self.stopping = True
        await trio.to_thread.run_sync(detach, self.device, abandon_on_cancel=True)
        # When nobody is inside any more the kernel ends the session and `serve` returns. Whoever only has
        # its working directory here keeps the session alive without an open file, and is not waited for.
        idle = 0
        with trio.move_on_after(GRACE) as grace:
            while idle < 5:
                await trio.sleep(0.05)
                # An open that waits for its copy-up is no handle yet.
                busy = self.session.open_handles() or self.session.under_way()
                idle = 0 if busy else idle + 1
        if grace.cancelled_caught:
            logger.warning("%d files are still open after %g seconds", self.session.open_handles(), GRACE)
        nursery.cancel_scope.cancel()
