"""Sandboxes that come back, with their memory or by booting from their disk."""

from __future__ import annotations

import httpx
from e2b import Sandbox

from .server import Server

#: Says why a sandbox was booted.
HEADER = "x-coldframe-rebooted"


def connect(server: Server, sbx: Sandbox, status: int = 201, **body) -> httpx.Response:
    with server.api(timeout=120) as api:
        answer = api.post(f"/v2/sandboxes/{sbx.sandbox_id}/connect", json={"timeout": 900, **body})
    assert answer.status_code == status, answer.text
    return answer


def counted(server: Server, cause: str) -> int:
    """How many sandboxes were booted for a cause."""
    with server.api() as api:
        lines = api.get("/metrics").text.splitlines()
    name = f'coldframe_sandboxes_rebooted_total{{cause="{cause}"}} '
    return sum(int(line.removeprefix(name)) for line in lines if line.startswith(name))
