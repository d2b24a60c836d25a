"""Reading a stream of the SDK, a command's or a terminal's, from the side."""

from __future__ import annotations

import re
import threading

from .waiting import wait_until


class Following:
    """Collects what a process prints, and how that ended."""

    def __init__(self, handle) -> None:
        self.handle = handle
        self.output = b""
        self.error: BaseException | None = None
        self.result = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self.result = self.handle.wait(on_pty=self._take, on_stdout=lambda text: self._take(text.encode()))
        except BaseException as error:  # handed to whoever waits
            self.error = error

    def _take(self, data: bytes) -> None:
        self.output += data

    @property
    def goes_on(self) -> bool:
        """Whether the stream is still open."""
        return self._thread.is_alive()

    def expect(self, pattern: str, deadline: float = 20) -> re.Match[bytes]:
        """Waits until the output matches."""
        return wait_until(
            lambda: re.search(pattern.encode(), self.output, re.S),
            deadline,
            lambda: f"{pattern!r} in output ending in {self.output[-500:]!r}",
        )

    def ended(self, deadline: float = 20) -> None:
        """Waits until the stream ended."""
        self._thread.join(deadline)
        assert not self._thread.is_alive(), f"the stream did not end; output so far: {self.output[-500:]!r}"
