"""Long lives: whatever is done with a sandbox, in whatever order, nothing of it is lost and nothing old comes back.

A program that verifies itself is paused, by hand and by the timer, with its memory and without, woken by its client and by
traffic, copied while it runs, killed, and made again from what it was."""

from __future__ import annotations

import os
from typing import Callable, Iterator

import pytest
from e2b import Sandbox

from harness.dice import SEED, dice
from harness.server import Server
from harness.verified import Verified
from harness.waiting import wait_until

#: How many lives a run of the tests has; each of so many steps.
LIVES = int(os.environ.get("COLDFRAME_E2E_LIVES", "5"))
STEPS = 20
#: Bytes of each piece that the program verifies. Every step reads all of them once or more, and each is some pages.
PIECE = 64 << 10
LIFECYCLE = {"on_timeout": "pause", "auto_resume": True}


class Life:
    """One program, in one sandbox after the other."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.seed, self.dice = server, f"{SEED}/{name}", dice(name)
        #: What is to be killed in the end.
        self.sandboxes: set[str] = set()
        #: Snapshots, and what the program was when each was made.
        self.snapshots: list[tuple[str, Verified]] = []
        self.told: list[str] = []
        self.program = Verified(server, self.made(Sandbox.create(timeout=900, lifecycle=LIFECYCLE, **server.sdk())), PIECE)

    def made(self, sbx: Sandbox) -> Sandbox:
        self.sandboxes.add(sbx.sandbox_id)
        return sbx

    def kill(self, sbx: Sandbox) -> None:
        assert Sandbox.kill(sbx.sandbox_id, **self.server.sdk()) is True
        self.sandboxes.discard(sbx.sandbox_id)

    def step(self, number: int) -> None:
        if self.dice.random() < 0.7:
            self.program.write(f"{self.seed}-{number}")
        step = self.dice.choice([self.pause, self.timer, self.snapshot, self.fork, self.again, self.disk, self.killed])
        self.told.append(step.__name__)
        step()
        if self.dice.random() < 0.3:
            self.program.verify()

    def pause(self) -> None:
        assert self.program.sbx.pause() is True
        self.wake()

    def timer(self) -> None:
        sbx = self.program.sbx
        sbx.set_timeout(self.dice.choice([0, 1]))
        wait_until(lambda: self.server.state_of(sbx.sandbox_id) == "paused", 20, "the timer to pause it")
        self.wake()

    def wake(self) -> None:
        if self.dice.random() < 0.5:
            self.program.sbx.connect(timeout=900)
        # By traffic otherwise.
        self.program.seen(self.program.ask("GET", "/state"))

    def snapshot(self) -> None:
        self.snapshots.append((self.program.sbx.create_snapshot().snapshot_id, self.program.moment()))
        self.program.seen(self.program.ask("GET", "/state"))
        if len(self.snapshots) > 3:
            name, _ = self.snapshots.pop(self.dice.randrange(len(self.snapshots)))
            assert Sandbox.delete_snapshot(name, **self.server.sdk()) is True

    def fork(self) -> None:
        was = self.program.moment()
        forks = self.program.sbx.fork(count=2, timeout=900)
        for fork in forks:
            assert isinstance(fork, Sandbox), fork
            self.made(fork)
        programs = [was.at(fork) for fork in forks]
        programs[0].write(f"{self.seed}-fork")
        for program in programs:
            program.verify()
        self.go_on_as([self.program, *programs])

    def again(self) -> None:
        """From a snapshot of some time ago."""
        if not self.snapshots:
            return self.snapshot()
        name, was = self.dice.choice(self.snapshots)
        sbx = Sandbox.create(name, timeout=900, lifecycle=LIFECYCLE, **self.server.sdk())
        program = was.at(self.made(sbx))
        program.verify()
        self.go_on_as([self.program, program])

    def killed(self) -> None:
        """Without anything but its snapshots to come back from."""
        if not self.snapshots:
            return self.snapshot()
        self.kill(self.program.sbx)
        name, was = self.snapshots[-1]
        self.program = was.at(self.made(Sandbox.create(name, timeout=900, lifecycle=LIFECYCLE, **self.server.sdk())))
        self.program.verify()

    def disk(self) -> None:
        """Only the disk is kept, or only it is wanted: the program is no more, its files are."""
        sbx = self.program.sbx
        way = self.dice.choice(["pause", "snapshot", "reboot"])
        if way == "pause":
            assert sbx.pause(mode="filesystem") is True
            sbx.connect(timeout=900)
        elif way == "snapshot":
            name = sbx.create_snapshot(mode="filesystem").snapshot_id
            # The program itself does not notice.
            self.program.verify()
            self.kill(sbx)
            sbx = self.made(Sandbox.create(name, timeout=900, lifecycle=LIFECYCLE, **self.server.sdk()))
            assert Sandbox.delete_snapshot(name, **self.server.sdk()) is True
        else:
            assert sbx.pause() is True
            with self.server.api(timeout=120) as api:
                woken = api.post(f"/v2/sandboxes/{sbx.sandbox_id}/connect", json={"timeout": 900, "memory": False})
            assert woken.status_code == 201, woken.text
        self.program.files_hold(sbx)
        self.program = Verified(self.server, sbx, PIECE)

    def go_on_as(self, programs: list[Verified]) -> None:
        self.program = self.dice.choice(programs)
        for program in programs:
            if program is not self.program:
                self.kill(program.sbx)


@pytest.fixture
def live(server: Server) -> Iterator[Callable[[str], Life]]:
    lives: list[Life] = []

    def begin(name: str) -> Life:
        lives.append(Life(server, name))
        return lives[-1]

    yield begin
    for life in lives:
        for name, _ in life.snapshots:
            Sandbox.delete_snapshot(name, **server.sdk())
        for sandbox in life.sandboxes:
            Sandbox.kill(sandbox, **server.sdk())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(LIVES))
def test_a_life_of_many_steps(server: Server, live: Callable[[str], Life], number: int):
    life = live(f"life {number}")
    try:
        for step in range(STEPS):
            life.step(step)
        life.program.verify()
    finally:
        print(" ".join(life.told))
