"""Whatever dies, fills up or comes in between while a sandbox is paused: it runs, or it is paused, or it is gone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

import httpx
import pytest
from e2b import Sandbox

from harness.census import assert_no_sandbox_left, back_to, wait_for_no_sandbox_left
from harness.dice import dice
from harness.server import Server
from harness.waiting import wait_until

#: How often each race is run; more when it is looked for something rare.
RACES = int(os.environ.get("COLDFRAME_E2E_RACES", "5"))
#: Moments of a pause at which something is killed, as parts of how long a pause takes.
MOMENTS = (0.05, 0.4, 0.7, 1.0)


class Marked:
    """A sandbox that carries the same mark in a process, in memory and on disk: whatever is resumed must agree."""

    def __init__(self, own: Server, sbx: Sandbox) -> None:
        self.own, self.id, self.count = own, sbx.sandbox_id, 0
        self.process = sbx.commands.run("exec sleep 9000", background=True, timeout=0).pid
        self.mark()

    def connect(self) -> Sandbox:
        return Sandbox.connect(self.id, timeout=900, **self.own.sdk())

    def mark(self) -> int:
        """Writes the next mark; it is nowhere near a disk yet."""
        self.count += 1
        self.connect().commands.run(f"echo {self.count} > /dev/shm/mark; echo {self.count} > /home/user/mark")
        return self.count

    def found(self) -> int:
        """Resumes it and gives the mark that it carries."""
        sbx = self.connect()
        marks = sbx.commands.run("cat /dev/shm/mark /home/user/mark").stdout.split()
        assert len(marks) == 2 and marks[0] == marks[1], f"memory and disk are of two moments: {marks}"
        assert self.process in {process.pid for process in sbx.commands.list()}
        return int(marks[0])

    def pause(self) -> int:
        return post(self.own, self.id, "pause")

    def timed_pause(self) -> float:
        """Pauses it, once it has something to write, and gives how long that took."""
        self.mark()
        since = time.monotonic()
        assert self.pause() == 204
        return time.monotonic() - since


def post(own: Server, sandbox: str, action: str, body: dict | None = None) -> int:
    """The status of a request about a sandbox, or 0 when the server did not live to answer."""
    try:
        with own.api() as api:
            if action == "kill":
                return api.delete(f"/sandboxes/{sandbox}").status_code
            return api.post(f"/sandboxes/{sandbox}/{action}", json=body or {}).status_code
    except httpx.TransportError:
        return 0


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def everything(own: Server) -> list[int]:
    return [process.pid for process in own.own_processes()]


def settled_state(own: Server, sandbox: str) -> str | None:
    """The state of a sandbox once it is the same in its details and in the list, and does not change."""

    def look() -> tuple[str | None, str | None]:
        with own.api() as api:
            listed = {item["sandboxID"]: item["state"] for item in api.get("/v2/sandboxes").json()}
        return own.state_of(sandbox), listed.get(sandbox)

    def same() -> tuple[str | None] | None:
        first, second = look(), look()
        return (first[0],) if first == second and first[0] == first[1] else None

    return wait_until(same, 20, "details and list to agree")[0]


# -- a pause that was acknowledged ---------------------------------------------------------------------------------------


def test_an_acknowledged_pause_survives_the_death_of_everything(own: Server, make):
    marked = Marked(own, make())
    for _ in range(2):
        mark = marked.mark()
        pids = [own.server_pid(), own.supervisor_pid(marked.id), own.vmm_pid(marked.id)]
        assert marked.pause() == 204
        kill_all(pids)
        kill_all(everything(own))
        wait_until(lambda: not own.own_processes(), 10, "every process to be gone")
        own.up()
        assert settled_state(own, marked.id) == "paused"
        assert marked.found() == mark


def test_a_paused_sandbox_holds_nothing_but_its_snapshot(own: Server, make, empty):
    marked = Marked(own, make())
    assert marked.pause() == 204
    wait_for_no_sandbox_left(own, marked.id)
    back_to(own, empty, apart_from=("snapshots",))
    before = set(empty["snapshots"])
    first = own.snapshots()
    assert before < first and not [name for name in first if name.startswith(".")]
    # However often it is paused, it does not leave what nobody reads any more.
    for _ in range(2):
        marked.mark()
        assert marked.pause() == 204
    assert len(own.snapshots() - before) <= 3
    assert Sandbox.kill(marked.id, **own.sdk()) is True
    assert own.snapshots() == before


def test_down_keeps_what_is_paused(own: Server, make):
    marked = Marked(own, make())
    mark = marked.mark()
    assert marked.pause() == 204
    own.down()
    own.up()
    assert own.state_of(marked.id) == "paused"
    assert marked.found() == mark


# -- a pause that is interrupted -----------------------------------------------------------------------------------------


def interrupt(marked: Marked, after: float, victims: Callable[[], list[int]]) -> int:
    """Kills processes when a pause has been under way for some time; gives what the pause was answered."""
    pids = victims()
    with ThreadPoolExecutor(1) as pool:
        answer: Future[int] = pool.submit(marked.pause)
        time.sleep(after)  # the moment that is tried
        kill_all(pids)
        return answer.result()


@pytest.mark.parametrize("victim", ["supervisor", "vmm"])
def test_a_killed_part_during_a_pause(own: Server, make, victim: str):
    """The sandbox is paused: as it was just now, or as it was when it was resumed. Never a mixture."""
    marked = Marked(own, make())
    takes = marked.timed_pause()
    for part in MOMENTS:
        old = marked.found()
        new = marked.mark()
        one = own.supervisor_pid if victim == "supervisor" else own.vmm_pid
        answer = interrupt(marked, takes * part, lambda: [one(marked.id)])
        assert answer in (204, 404, 409, 500), answer
        state = settled_state(own, marked.id)
        assert state == "paused", (part, answer, state)
        assert marked.found() in ((new,) if answer == 204 else (old, new)), (part, answer)
        assert marked.pause() == 204


def test_a_killed_part_during_the_first_pause(own: Server, make):
    """There is nothing older to go back to: the pause came about, or the sandbox is gone."""
    for part in (0.2, 0.6):
        marked = Marked(own, make())
        answer = interrupt(marked, part * 0.5, lambda: [own.supervisor_pid(marked.id)])
        state = settled_state(own, marked.id)
        assert state in ("paused", None), state
        if state:
            assert marked.found() == marked.count
        else:
            assert answer != 204
            assert_no_sandbox_left(own, marked.id)


def test_a_killed_server_during_a_pause(own: Server, make):
    """The pause comes about or does not; nothing is lost either way."""
    marked = Marked(own, make())
    takes = marked.timed_pause()
    for part in MOMENTS:
        mark = marked.mark()
        answer = interrupt(marked, takes * part, lambda: [own.server_pid()])
        assert answer in (0, 204), answer
        wait_until(lambda: not own.serves(), 10, "the server to be gone")
        own.up()
        state = settled_state(own, marked.id)
        assert state in ("running", "paused"), (part, answer, state)
        assert answer != 204 or state == "paused"
        assert marked.found() == mark, (part, answer, state)


def test_everything_is_killed_during_a_pause(own: Server, make):
    marked = Marked(own, make())
    takes = marked.timed_pause()
    for part in MOMENTS[1::2]:
        old = marked.found()
        new = marked.mark()
        answer = interrupt(marked, takes * part, lambda: everything(own))
        kill_all(everything(own))
        wait_until(lambda: not own.own_processes(), 10, "every process to be gone")
        own.up()
        assert settled_state(own, marked.id) == "paused"
        assert marked.found() in ((new,) if answer == 204 else (old, new)), (part, answer)
        assert marked.pause() == 204
    # What was being written when it was killed is nobody's.
    assert not [name for name in own.snapshots() if name.startswith(".")]


# -- a pause that is not alone -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chance() -> random.Random:
    return dice("races")


def race(own: Server, sandbox: str, chance: random.Random, takes: float, other: str, body: dict | None = None) -> tuple[int, int]:
    """A pause and another request, one of them a little later; what both were answered."""
    delays = [0.0, chance.uniform(0, 1.3 * takes)]
    if chance.random() < 0.2:
        delays.reverse()

    def later(delay: float, action: str, body: dict | None) -> int:
        time.sleep(delay)  # the moment that is tried
        return post(own, sandbox, action, body)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(later, delays[0], "pause", None)
        second = pool.submit(later, delays[1], other, body)
        return first.result(), second.result()


def test_a_pause_races_with_a_pause(own: Server, make, chance):
    marked = Marked(own, make())
    takes = marked.timed_pause()
    for _ in range(RACES):
        mark = marked.mark()
        assert sorted(race(own, marked.id, chance, takes, "pause")) == [204, 409]
        assert settled_state(own, marked.id) == "paused"
    assert marked.found() == mark


def test_a_pause_races_with_a_connect(own: Server, make, chance):
    marked = Marked(own, make())
    takes = marked.timed_pause()
    for _ in range(RACES):
        mark = marked.mark()
        answers = race(own, marked.id, chance, takes, "connect", {"timeout": 900})
        state = settled_state(own, marked.id)
        # In turn: paused and then resumed, or connected to and then paused. Or the pause was taken back.
        documented = {(204, 201): {"running"}, (204, 200): {"paused"}, (409, 200): {"running"}}
        assert state in documented.get(answers, set()), (answers, state)
        assert marked.found() == mark, (answers, state)


def test_a_pause_races_with_traffic(own: Server, make, chance):
    """A request to a sandbox that is being paused, and is resumed by requests, is answered."""
    marked = Marked(own, make(lifecycle={"on_timeout": "pause", "auto_resume": True}))
    takes = marked.timed_pause()
    for _ in range(RACES):
        mark = marked.mark()

        def ask() -> int:
            time.sleep(chance.uniform(0, 1.3 * takes))  # the moment that is tried
            return httpx.get(f"{own.url}/health", headers=own.edge_headers(marked.id), timeout=60).status_code

        with ThreadPoolExecutor(2) as pool:
            asked, answer = pool.submit(ask), pool.submit(marked.pause).result()
            # One that was on its way into the guest when that stopped may be cut off; it may not be lost in silence.
            assert asked.result() in (204, 502)
        assert answer in (204, 409)
        assert settled_state(own, marked.id) in ("running", "paused")
        assert marked.found() == mark


def test_a_pause_races_with_a_kill(own: Server, make, chance):
    before = own.snapshots()
    for _ in range(RACES // 2):
        marked = Marked(own, make())
        answers = race(own, marked.id, chance, 0.5, "kill")
        assert answers[0] in (204, 404, 409) and answers[1] == 204, answers
        assert settled_state(own, marked.id) is None
        assert_no_sandbox_left(own, marked.id)
        assert post(own, marked.id, "connect", {"timeout": 60}) == 404
    wait_until(lambda: own.snapshots() == before, 10, lambda: f"nothing to be left in the store: {own.snapshots() - before}")


# -- a disk that is full -------------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(instance: Callable[..., Server]) -> Iterator[Server]:
    """An instance whose store has room for the template's snapshot and little else."""
    mounted: list[Path] = []

    def mount(target: Path, *options: str) -> None:
        subprocess.run(["mount", *options, str(target)], check=True)
        mounted.append(target)

    def small_store(one: Server) -> None:
        store = one.state / "store"
        aside = store.rename(one.state / "aside")
        store.mkdir()
        mount(store, "-t", "tmpfs", "-o", "size=16m,mode=700", "small")
        # The template's snapshot stays where it is; only what is new takes room.
        for build in aside.iterdir():
            (store / build.name).mkdir()
            mount(store / build.name, "--bind", str(build))

    try:
        one = instance("full", small_store)
        yield one
        one.down()
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk(crowded: Server):
    """A pause that cannot be written says so, and the sandbox runs on as if nobody had asked."""
    before = crowded.snapshots()
    sbx = Sandbox.create(timeout=900, lifecycle={"on_timeout": "pause"}, **crowded.sdk())
    sbx.commands.run("head -c 48M /dev/urandom > /dev/shm/much; sha256sum < /dev/shm/much > /home/user/sum")
    boot = sbx.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    process = sbx.commands.run("exec sleep 9000", background=True, timeout=0)
    with crowded.api() as api:
        for _ in range(2):
            refused = api.post(f"/sandboxes/{sbx.sandbox_id}/pause", json={})
            assert refused.status_code == 500, refused.text
            assert "space" in refused.json()["message"], refused.text
            assert crowded.state_of(sbx.sandbox_id) == "running"
            assert crowded.snapshots() == before
    assert sbx.commands.run("sha256sum < /dev/shm/much | diff - /home/user/sum").exit_code == 0
    assert process.pid in {one.pid for one in sbx.commands.list()}
    # Its end time does not end it either: it lives on until it can be kept.
    sbx.set_timeout(0)
    wait_until(lambda: (end := sbx.get_info().end_at.timestamp()) and end > time.time() + 5, 20, "another end time")
    assert sbx.commands.run("cat /proc/sys/kernel/random/boot_id").stdout == boot
    # With room again, it can be paused.
    subprocess.run(["mount", "-o", "remount,size=512m", str(crowded.state / "store")], check=True)
    assert sbx.pause() is True
    again = Sandbox.connect(sbx.sandbox_id, **crowded.sdk())
    assert again.commands.run("sha256sum < /dev/shm/much | diff - /home/user/sum").exit_code == 0
    assert again.commands.run("cat /proc/sys/kernel/random/boot_id").stdout == boot
    assert again.kill() is True
    assert crowded.snapshots() == before


def test_a_full_disk_and_a_snapshot_of_the_disk_alone(crowded: Server):
    """It says so, and whoever writes in the sandbox does not wait for it."""
    before = crowded.snapshots()
    sbx = Sandbox.create(timeout=900, **crowded.sdk())
    sbx.commands.run("head -c 24M /dev/urandom > much && sha256sum much > sum")
    for number in range(2):
        with crowded.api() as api:
            refused = api.post(f"/sandboxes/{sbx.sandbox_id}/snapshots", json={"memory": False})
        assert refused.status_code == 500, refused.text
        assert "space" in refused.json()["message"], refused.text
        assert crowded.snapshots() == before
        assert sbx.commands.run(f"echo {number} > number && sync number && sha256sum -c sum").exit_code == 0
    # With room again, all of it is in the next one.
    subprocess.run(["mount", "-o", "remount,size=512m", str(crowded.state / "store")], check=True)
    taken = sbx.create_snapshot(mode="filesystem").snapshot_id
    assert sbx.kill() is True
    again = Sandbox.create(taken, **crowded.sdk())
    assert again.commands.run("cat number && sha256sum -c sum").stdout == "1\nmuch: OK\n"
    assert again.kill() is True
    assert Sandbox.delete_snapshot(taken, **crowded.sdk()) is True
    assert crowded.snapshots() == before
