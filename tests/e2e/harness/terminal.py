"""Reading a PTY of the SDK from the side."""

from __future__ import annotations

from .following import Following


class Terminal(Following):
    """Collects what a PTY prints and types into it."""

    def __init__(self, sandbox, handle) -> None:
        self.sandbox = sandbox
        super().__init__(handle)

    def type(self, text: str) -> None:
        """Types; a newline is Enter."""
        self.sandbox.pty.send_stdin(self.handle.pid, text.encode())
