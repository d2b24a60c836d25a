"""The quick start of the documentation, word for word, in both languages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.server import Server

SNIPPETS = Path(__file__).parent / "snippets"
EXPECTED = "Hello from the sandbox\n\nHello, file\n"


def test_python(server: Server):
    done = subprocess.run(
        [sys.executable, str(SNIPPETS / "quickstart.py")],
        env={**os.environ, **server.environ()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, EXPECTED), done.stderr


def test_javascript(js):
    done = js(SNIPPETS / "quickstart.mjs", timeout=120)
    assert (done.returncode, done.stdout) == (0, EXPECTED), done.stderr


def test_what_the_server_tells_a_shell_is_enough(server: Server):
    """`eval "$(coldframe env)"`, then the snippet."""
    told = server.env()
    assert set(told) == {"E2B_API_URL", "E2B_SANDBOX_URL", "E2B_API_KEY"}
    done = subprocess.run(
        [sys.executable, str(SNIPPETS / "quickstart.py")],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, EXPECTED), done.stderr
