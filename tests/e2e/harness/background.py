"""Doing something again and again beside a test."""

from __future__ import annotations

import threading
from typing import Callable


class Background:
    """Calls `step` with 0, 1, 2, ..., with a rest in between, until it fails or is told to stop."""

    def __init__(self, step: Callable[[int], None], rest: float = 0) -> None:
        self.done = 0
        self.error: Exception | None = None
        self._step, self._rest, self._stop = step, rest, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._step(self.done)
                self.done += 1
                self._stop.wait(self._rest)
        except Exception as error:  # handed to whoever waits
            self.error = error

    def stop(self, deadline: float = 30) -> None:
        """Lets it finish its step. One that hangs is a failure."""
        self._stop.set()
        self._thread.join(deadline)
        assert not self._thread.is_alive(), f"a step did not end within {deadline} s"
