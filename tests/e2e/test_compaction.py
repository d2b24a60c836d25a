"""Sandboxes that are paused again and again: what they take on the disk is bounded, and nothing of them is lost by that."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Callable

import pytest
from e2b import Sandbox

from harness.server import Server
from harness.waiting import wait_until

MIB = 1 << 20
#: As in the plan of `artifacts`: so much is not worth anybody's time.
SPARE = 4 * MIB
#: Those that only one sandbox holds: so many sources, and its own.
MOST_BUILDS = 13
CYCLES = int(os.environ.get("COLDFRAME_E2E_CYCLES", "6"))
#: What is written anew before each pause: once on the disk, and once in the guest's page cache.
FILE = "/home/user/garbage"
FILE_MIB = 8


class Worn:
    """A sandbox that writes the same file again and again."""

    def __init__(self, own: Server, sbx: Sandbox) -> None:
        self.own, self.id = own, sbx.sandbox_id
        self.process = sbx.commands.run("exec sleep 9000", background=True, timeout=0).pid
        self.sums = ""

    def connect(self) -> Sandbox:
        return Sandbox.connect(self.id, timeout=900, **self.own.sdk())

    def wear(self, mib: int = FILE_MIB) -> None:
        """Leaves dead what the last pause stored; its result is in a file and in memory."""
        write = f"head -c {MIB} /dev/urandom > /tmp/piece && for _ in $(seq {mib}); do cat /tmp/piece; done > {FILE}"
        self.sums = self.run(f"{write} && cp {FILE} /dev/shm/ && sync && cat {FILE} /dev/shm/garbage | md5sum")

    def run(self, command: str, **options) -> str:
        return self.connect().commands.run(command, timeout=300, **options).stdout

    def verify(self) -> None:
        assert self.run(f"cat {FILE} /dev/shm/garbage | md5sum") == self.sums
        # Not what the guest has of it in its memory, but the disk.
        self.run("sync; echo 3 > /proc/sys/vm/drop_caches", user="root")
        assert self.run(f"cat {FILE} /dev/shm/garbage | md5sum") == self.sums
        assert self.process in {process.pid for process in self.connect().commands.list()}

    def pause(self) -> None:
        assert Sandbox.pause(self.id, **self.own.sdk()) is True

    def is_compact(self) -> bool:
        """Of what only this sandbox holds, little is dead: less than a fifth of the rest, and what is not worth the time."""
        account = storage(self.own)
        ours = [holder for holder in account["holders"] if holder["name"] == self.id]
        # It counts as running, too, until it is released.
        assert [holder["kind"] for holder in ours] == ["paused"]
        alone = [build for build in account["builds"] if build["holders"] == [self.id]]
        taken, dead = (sum(build[what] for build in alone) for what in ("bytes", "dead"))
        assert ours[0]["frees"] == taken < ours[0]["reads"], "the template is not its own"
        assert len(alone) <= MOST_BUILDS
        assert dead <= (taken - dead) / 5 + SPARE, f"{dead >> 20} of {taken >> 20} MiB are dead"
        return True


def storage(own: Server) -> dict:
    return json.loads(own.cli("storage", "--json").stdout)


def compactions(own: Server, outcome: str = "committed") -> int:
    """How many there were since the server was started."""
    with own.api() as api:
        told = api.get("/metrics").text
    name = f'coldframe_compactions_total{{outcome="{outcome}"}} '
    return sum(int(line.removeprefix(name)) for line in told.splitlines() if line.startswith(name))


def staged(own: Server) -> list[Path]:
    """Builds that are being written."""
    return list((own.state / "store").glob(".staging-*"))


def begins(own: Server) -> bool:
    """Whether a compaction begins. The pause before it has published its own build, so it is no part of that."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if staged(own):
            return True
        time.sleep(0.001)
    return False


@pytest.mark.timeout(900)
def test_a_sandbox_that_is_paused_again_and_again_takes_little_more_than_it_is(own: Server, make: Callable[..., Sandbox]):
    worn, before = Worn(own, make()), compactions(own)
    for cycle in range(CYCLES):
        worn.wear()
        worn.pause()
        # Every third time it is left alone until there was time. Otherwise whoever wants it does not wait for that.
        if cycle % 3 == 2:
            wait_until(worn.is_compact, 60, "compaction", interval=0.5)
            worn.verify()
            worn.pause()
    assert compactions(own) > before
    wait_until(worn.is_compact, 60, "compaction", interval=0.5)
    worn.verify()


@pytest.mark.timeout(900)
def test_a_server_that_is_killed_while_it_compacts_loses_nothing(own: Server, make: Callable[..., Sandbox]):
    worn, caught = Worn(own, make()), False
    for _ in range(8):
        worn.wear(24)
        worn.pause()
        caught = begins(own)
        own.kill_server()
        own.up()
        assert own.state_of(worn.id) == "paused"
        worn.verify()
        if caught:
            break
    assert caught, "no server was killed in time"
    worn.pause()
    wait_until(worn.is_compact, 60, "compaction after the crashes", interval=0.5)
    wait_until(lambda: not staged(own), 30, "what was being written to be done or gone")
    worn.verify()


@pytest.mark.timeout(600)
def test_whoever_wants_the_sandbox_does_not_wait_for_its_compaction(own: Server, make: Callable[..., Sandbox]):
    worn, caught = Worn(own, make()), False
    for _ in range(6):
        worn.wear(24)
        worn.pause()
        caught = begins(own)
        worn.verify()
        if caught:
            break
    assert caught, "nobody came in time"
    worn.pause()
    assert Sandbox.kill(worn.id, **own.sdk()) is True
    assert own.state_of(worn.id) is None
    wait_until(lambda: not staged(own), 5, "what was being written to be gone")
