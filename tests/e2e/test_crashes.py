"""Whoever dies at whatever moment: what was acknowledged is there, what is there is right, and nothing else is left.

A row of the table is one life. A sandbox with a program that verifies itself is made from a snapshot, paused once, so that
there is something to fall back to, resumed, and written to. Then something is done with it, and at one moment of that somebody
is killed, while the process whose moment it is stands still. Afterwards everything that a client can see is looked at and
ended, and the host has to be what it was before.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, Iterator

import httpx
import pytest
from e2b import Sandbox, SandboxException

from harness.census import back_to, settled
from harness.crash import Moment
from harness.points import SERVER, Point, name, rows
from harness.server import Server
from harness.verified import Verified
from harness.waiting import wait_until

#: Bytes of a piece: enough for pages of all kinds, and quickly verified.
PIECE = 32 << 10


# -- a life --------------------------------------------------------------------------------------------------------------


@dataclass
class Life:
    """A sandbox, and what its program was at two moments."""

    own: Server
    sbx: Sandbox
    #: When it was paused.
    old: Verified
    #: What it was before something was done with it.
    new: Verified
    #: The snapshot that it made, where that is what is deleted.
    made: str = ""

    @property
    def id(self) -> str:
        return self.sbx.sandbox_id

    def pause(self) -> None:
        assert self.sbx.pause() is True
        wait_until(lambda: self.id not in self.own.directories(), 10, "what a pause leaves behind to be released")

    def prepare(self, during: str) -> None:
        """Brings it to where the operation begins."""
        if during == "delete":
            self.made = self.sbx.create_snapshot().snapshot_id
            assert self.sbx.kill() is True
        if during in ("resume", "kill paused"):
            self.pause()
        if during == "compaction":
            # What the next pause stores makes this dead.
            self.waste()
            self.pause()
            self.sbx.connect(timeout=900)
            self.waste()

    def waste(self) -> None:
        self.sbx.commands.run("head -c 16M /dev/urandom > /dev/shm/waste", timeout=120)

    def do(self, during: str) -> object:
        sdk = self.own.sdk()
        operations: dict[str, Callable[[], object]] = {
            "pause": self.sbx.pause,
            "compaction": self.sbx.pause,
            "snapshot": lambda: self.sbx.create_snapshot(name="crashed").snapshot_id,
            "fork": lambda: self.sbx.fork(count=2, timeout=900),
            "resume": lambda: self.sbx.connect(timeout=900),
            "kill": lambda: Sandbox.kill(self.id, **sdk),
            "kill paused": lambda: Sandbox.kill(self.id, **sdk),
            "delete": lambda: Sandbox.delete_snapshot(self.made, **sdk),
        }
        return operations[during]()

    def watched(self, of: str) -> list[int]:
        if of == "server":
            return [self.own.server_pid()]
        if of == "supervisor":
            return [self.own.supervisor_pid(self.id)]
        standing_by = [process for process in self.own.own_processes() if "supervisor" in process.args[1:3]]
        return [process.pid for process in standing_by]

    def kill(self, victim: str) -> None:
        own = self.own
        victims: dict[str, Callable[[], list[int]]] = {
            "server": lambda: [own.server_pid()],
            "supervisor": lambda: [own.supervisor_pid(self.id)],
            "vmm": lambda: [own.vmm_pid(self.id)],
            "everything": lambda: [process.pid for process in own.own_processes()],
        }
        for pid in victims[victim]():
            # A VMM dies with its supervisor.
            with contextlib.suppress(ProcessLookupError):
                own.kill_process(pid)


def crash(life: Life, point: Point, victim: str) -> object:
    """Does it, and kills at the moment. What it was answered; None when that was no success, or no answer at all."""
    page_server = victim == "page server"
    with Moment(life.watched(point.of), point.call, point.nth, fails=page_server) as moment, ThreadPoolExecutor(1) as pool:
        try:
            doing = pool.submit(life.do, point.during)
            assert moment.reached(30), f"it never came to where {point.name}"
            if page_server:
                wait_until(doing.done, 60, "an answer")
            else:
                life.kill(victim)
        finally:
            moment.let_go()
        try:
            return doing.result(60)
        except (SandboxException, httpx.TransportError) as error:
            print(f"answered: {error!r}")
            return None


# -- what is left --------------------------------------------------------------------------------------------------------


def listed(own: Server, path: str, key: str) -> dict[str, dict]:
    with own.api() as api:
        answer = api.get(path)
    assert answer.status_code == 200, answer.text
    return {item[key]: item for item in answer.json()}


def holds(program: Verified, *moments: Verified) -> None:
    """It is one of these, byte for byte."""
    told = program.ask("GET", "/verify")
    wrong = []
    for moment in moments:
        try:
            return moment.moment().verified(told)
        except AssertionError as error:
            wrong.append(str(error))
    raise AssertionError(wrong)


def check(life: Life, base: str, point: Point, victim: str, answer: object) -> None:
    own, during = life.own, point.during
    sandboxes = listed(own, "/v2/sandboxes", "sandboxID")
    snapshots = {name for name in listed(own, "/snapshots", "snapshotID") if name != base}
    print(f"answer: {answer!r}; sandboxes: {[one['state'] for one in sandboxes.values()]}; snapshots: {snapshots}")
    assert all(one["state"] in ("running", "paused") for one in sandboxes.values()), sandboxes
    ended = during in ("kill", "kill paused", "delete")
    if ended and answer:
        assert not sandboxes and not snapshots, "it was acknowledged to be gone"
    if not ended:
        assert life.id in sandboxes, "the sandbox is lost"
    if during == "snapshot":
        assert not answer or answer in snapshots, "an acknowledged snapshot is lost"
    # Where nothing that held it died, nothing of it may be lost, and what was acknowledged never.
    kept = answer and during in ("pause", "compaction") or victim == "server" and not ended or during in ("resume", "kill paused")
    if answer and during in ("pause", "compaction"):
        assert sandboxes[life.id]["state"] == "paused"
    if answer and during == "fork" and victim != "everything":
        assert all(isinstance(fork, Sandbox) and fork.sandbox_id in sandboxes for fork in answer), answer
    for sandbox in sandboxes:
        sbx = Sandbox.connect(sandbox, timeout=900, **own.sdk())
        ours = sandbox == life.id and not kept
        holds(life.new.at(sbx), life.new, *([life.old] if ours else []))
        assert sbx.kill() is True
    for snapshot in snapshots:
        sbx = Sandbox.create(snapshot, timeout=900, **own.sdk())
        holds(life.new.at(sbx), life.new)
        assert sbx.kill() is True
        assert Sandbox.delete_snapshot(snapshot, **own.sdk()) is True


@pytest.fixture(scope="module")
def origin(_own: Server) -> Iterator[tuple[str, Verified]]:
    """A snapshot with a program that verifies itself."""
    sbx = Sandbox.create(timeout=900, **_own.sdk())
    program = Verified(_own, sbx, size=PIECE)
    snapshot = sbx.create_snapshot().snapshot_id
    sbx.kill()
    yield snapshot, program


@pytest.fixture
def life(own: Server, origin: tuple[str, Verified]) -> Iterator[Life]:
    """Whatever becomes of a life, the next one finds none of it."""
    snapshot, was = origin
    try:
        sbx = Sandbox.create(snapshot, timeout=900, **own.sdk())
        program = was.at(sbx)
        program.write("old")
        assert sbx.pause() is True
        sbx.connect(timeout=900)
        old = program.moment()
        program.write("new")
        yield Life(own, sbx, old, program)
    finally:
        if not own.serves():
            own.up()
        for sandbox in listed(own, "/v2/sandboxes", "sandboxID"):
            Sandbox.kill(sandbox, **own.sdk())
        for name in listed(own, "/snapshots", "snapshotID"):
            if name != snapshot:
                Sandbox.delete_snapshot(name, **own.sdk())


@pytest.fixture(scope="module")
def before(_own: Server, origin: tuple[str, Verified]) -> dict[str, object]:
    return settled(_own)


@pytest.mark.parametrize("row", rows(), ids=name)
def test_a_crash(own: Server, origin: tuple[str, Verified], before: dict[str, object], life: Life, row: tuple[Point, str]):
    point, victim = row
    life.prepare(point.during)
    answer = crash(life, point, victim)
    if victim in SERVER:
        wait_until(lambda: not own.serves(), 10, "the server to be gone")
        own.up()
    check(life, origin[0], point, victim, answer)
    back_to(own, before)
