"""Many sandboxes come and go; afterwards the host holds exactly what it held before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Callable

import pytest

from harness.census import census, difference
from harness.server import Server
from harness.waiting import wait_until

#: How many create/kill cycles; the full number unless a shorter run is wanted while working on the tests.
CYCLES = int(os.environ.get("COLDFRAME_E2E_CYCLES", "100"))
AT_ONCE = 10

#: Runs in a process of its own, so that its connections to the server end with it.
_CYCLES = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from e2b import Sandbox
options, count = json.loads(sys.argv[1]), int(sys.argv[2])
def cycle(i):
    sbx = Sandbox.create(timeout=300, **options)
    if i % 5 == 0:
        assert sbx.commands.run(f"echo {i}").stdout == f"{i}\\n"
    if i % 7 == 0:
        sbx.commands.run("sleep 60", background=True)  # killed with the sandbox
    assert sbx.kill() is True
    return sbx.sandbox_id
with ThreadPoolExecutor(4) as pool:
    assert len(set(pool.map(cycle, range(count)))) == count
"""

_AT_ONCE = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from e2b import Sandbox
options, count = json.loads(sys.argv[1]), int(sys.argv[2])
with ThreadPoolExecutor(count) as pool:
    made = list(pool.map(lambda _: Sandbox.create(timeout=300, request_timeout=120, **options), range(count)))
    assert len({sbx.sandbox_id for sbx in made}) == count
    assert len(Sandbox.list(**options).next_items()) == count
    def use(pair):
        i, sbx = pair
        sbx.files.write("/home/user/who", str(i))
        return sbx.commands.run("cat who; hostname").stdout
    for (i, sbx), output in zip(enumerate(made), pool.map(use, enumerate(made))):
        assert output == f"{i}{sbx.sandbox_id}\\n", output
    assert all(pool.map(lambda sbx: sbx.kill(), made))
"""


@pytest.fixture(scope="module")
def own(instance: Callable[[str], Server]) -> Server:
    """An instance that nobody else uses, warmed up by one sandbox."""
    one = instance("leaks")
    run(one, _CYCLES, 1)
    return one


def run(server: Server, code: str, count: int, timeout: float = 900) -> None:
    """Runs a piece of client code in a process of its own."""
    command = [sys.executable, "-c", code, json.dumps(server.sdk()), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]


def counted(server: Server) -> dict[str, object]:
    """The census once it has settled."""
    last = census(server)

    def same():
        nonlocal last
        before, last = last, census(server)
        return not difference(before, last)

    wait_until(same, 60, "the census to settle", interval=1.5)
    return last


def assert_equal_soon(server: Server, before: dict[str, object]) -> None:
    def equal():
        now = difference(before, census(server))
        assert not now, now
        return True

    wait_until(equal, 30, "the census to be what it was", interval=0.5)


@pytest.mark.timeout(900)
def test_a_hundred_cycles_leave_nothing(own: Server):
    before = counted(own)
    run(own, _CYCLES, CYCLES)
    assert_equal_soon(own, before)


@pytest.mark.timeout(300)
def test_ten_at_once_leave_nothing(own: Server):
    before = counted(own)
    run(own, _AT_ONCE, AT_ONCE, timeout=280)
    assert_equal_soon(own, before)


def test_nothing_had_to_be_removed_by_force(own: Server):
    """The metric counts control groups that were still busy when their sandbox ended."""
    text = own.api().get("/metrics").text
    forced = [line for line in text.splitlines() if "forced" in line and not line.startswith("#")]
    assert forced, "the server does not count forced removals"
    assert all(float(line.split()[-1]) == 0 for line in forced), forced
