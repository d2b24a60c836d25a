"""How much memory and disk Coldframe itself takes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Callable

import httpx
from e2b import Sandbox

from harness.server import Server, binary
from harness.waiting import wait_until

MIB = 1 << 20


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


def supervisor_of(server: Server, sandbox_id: str) -> int:
    socket = server.state / "run" / "sandboxes" / sandbox_id / "control.sock"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        return client.get("http://supervisor/v1/status").json()["supervisor_pid"]


def test_the_binary_is_small():
    assert binary().stat().st_size <= 25 * MIB


def test_an_idle_server_is_small(instance: Callable[[str], Server]):
    idle = instance("idle")
    pid = json.loads((idle.state / "run" / "server.json").read_text())["pid"]
    assert resident(pid) <= 30 * MIB


def test_a_supervisor_is_small(server: Server, create: Callable[..., Sandbox]):
    sandbox = create()
    assert sandbox.commands.run("true").exit_code == 0
    pid = supervisor_of(server, sandbox.sandbox_id)
    # What was needed to start is given back some seconds later.
    wait_until(lambda: resident(pid) <= 10 * MIB, 10, "the supervisor to be small")


def guest_memory(pid: int) -> int:
    """Guest memory that exists on the host, in bytes: what of the memfd has pages, whoever mapped them."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/memfd:guest-memory"):
            return os.stat(f"/proc/{pid}/fd/{fd}").st_blocks * 512
    raise AssertionError(f"process {pid} holds no guest memory")


def test_an_idle_sandbox_holds_little_memory(server: Server, create: Callable[..., Sandbox]):
    sandbox = create()
    time.sleep(10)  # idle
    assert guest_memory(server.supervisor_pid(sandbox.sandbox_id)) <= 16 * MIB
