"""Reading a PTY of the SDK from the side."""

from __future__ import annotations

import re
import threading

from .waiting import wait_until


class Terminal:
    """Collects what a PTY prints and types into it."""

    def __init__(self, sandbox, handle) -> None:
        self.sandbox = sandbox
        self.handle = handle
        self.output = b""
        self.error: BaseException | None = None
        self.result = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self.result = self.handle.wait(on_pty=self._take)
        except BaseException as error:  # handed to whoever waits
            self.error = error

    def _take(self, data: bytes) -> None:
        self.output += data

    def type(self, text: str) -> None:
        """Types; a newline is Enter."""
        self.sandbox.pty.send_stdin(self.handle.pid, text.encode())

    def expect(self, pattern: str, deadline: float = 20) -> re.Match[bytes]:
        """Waits until the output matches."""
        return wait_until(
            lambda: re.search(pattern.encode(), self.output, re.S),
            deadline,
            lambda: f"{pattern!r} in terminal output ending in {self.output[-500:]!r}",
        )

    def ended(self, deadline: float = 20) -> None:
        """Waits until the stream of the PTY ended."""
        self._thread.join(deadline)
        assert not self._thread.is_alive(), f"the terminal did not end; output so far: {self.output[-500:]!r}"
