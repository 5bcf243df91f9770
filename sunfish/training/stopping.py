"""SIGTERM and SIGINT ask a training to save and leave; a second one does not ask."""

from __future__ import annotations

import signal
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL: try again later


class Stopped(SystemExit):
    """Raised once all is saved; the first process leaves with `EXIT_CODE`, the others with 0."""

    def __init__(self, rank: int = 0) -> None:
        super().__init__(EXIT_CODE if rank == 0 else 0)


class StopRequest:
    """Inside the block, notes the first SIGTERM or SIGINT in `came`; the second one has its usual effect."""

    def __init__(self) -> None:
        self.came: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self.usual = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.came = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.usual.items():
            signal.signal(number, handler)
