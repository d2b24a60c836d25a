"""How much memory and disk Coldframe itself takes."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest
from e2b import Sandbox

from harness.census import back_to, wait_for_no_sandbox_left
from harness.memory import Held, held, memory_files, shared_memory_apart_from_others, translated_code, watch
from harness.processes import resident_bytes
from harness.server import Server, binary
from harness.waiting import wait_until

MIB = 1 << 20


def test_the_binary_is_small():
    assert binary().stat().st_size <= 25 * MIB


def test_an_idle_server_is_small(instance: Callable[[str], Server]):
    assert resident_bytes(instance("idle").server_pid()) <= 30 * MIB


def test_a_supervisor_is_small(server: Server, create: Callable[..., Sandbox]):
    sandbox = create()
    assert sandbox.commands.run("true").exit_code == 0
    pid = server.supervisor_pid(sandbox.sandbox_id)
    # What was needed to start is given back some seconds later.
    wait_until(lambda: resident_bytes(pid) <= 10 * MIB, 10, "the supervisor to be small")


def test_an_idle_sandbox_holds_little_memory(server: Server, create: Callable[..., Sandbox]):
    sandbox = create()
    time.sleep(10)  # idle
    assert held(server.group(sandbox.sandbox_id)).guest <= 16 * MIB


def test_all_memory_is_brought_where_that_is_wanted(
    instance: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLDFRAME_PREFETCH", "everything")
    server = instance("everything")
    with Sandbox.create(timeout=600, **server.sdk()) as sbx:
        fill(sbx, SECOND)
        digest = sbx.commands.run(f"md5sum /dev/shm/{SECOND}").stdout
        sbx.pause()
        sbx.connect(timeout=600)
        group = server.group(sbx.sandbox_id)
        wait_until(lambda: held(group).guest >= SECOND * MIB, 20, "the memory that nobody asked for")
        assert sbx.commands.run(f"md5sum /dev/shm/{SECOND}").stdout == digest
        # What was brought and not written is not stored again.
        before = server.snapshots()
        sbx.pause()
        (build,) = server.snapshots() - before
        assert (server.state / "store" / build / "memory.data").stat().st_size <= SECOND * MIB // 2
        sbx.connect(timeout=600)


# -- a pause -------------------------------------------------------------------------------------------------------------

#: What a pause may need beside what the guest touched: for the sandbox's processes, and for what they read and write.
ROOM = 64 * MIB
#: What a guest writes into its memory before its first pause, and before the second, in MiB.
FIRST, SECOND = 200, 32


def fill(sbx: Sandbox, mib: int) -> None:
    sbx.commands.run(f"head -c {mib}M /dev/urandom > /dev/shm/{mib}", user="root", timeout=120)


def pause(own: Server, sbx: Sandbox, empty: dict[str, object]) -> Held:
    """Pauses a sandbox, and checks what that took of the host's memory and what it left. Gives what was held before."""
    group = own.group(sbx.sandbox_id)
    os.sync()  # what others wrote is not the pause's
    before, files = held(group), memory_files(group)
    shared = shared_memory_apart_from_others(files) - before.guest
    # What an emulator keeps of its guest's program is neither memory that the guest touched nor the pause's.
    code = translated_code(group)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch, group, 60)
        assert sbx.pause() is True
        seen = watching.result()
    peak = max(seen, key=lambda held: held.total)
    figures = f"{before=}, {peak=}, {code=}, seen {len(seen)} times"
    print(figures)
    assert len(seen) >= 20, figures
    assert peak.total - code <= before.guest + ROOM, figures

    wait_for_no_sandbox_left(own, sbx.sandbox_id)
    back_to(own, empty, apart_from=("snapshots",))
    wait_until(
        lambda: shared_memory_apart_from_others(files) <= shared + 4 * MIB,
        20,
        lambda: f"shared memory to be {shared} again, not {shared_memory_apart_from_others(files)}",
    )
    return before


def published(own: Server, empty: dict[str, object]) -> list[set[str]]:
    """The files of each build that came since."""
    new = own.snapshots() - set(empty["snapshots"])
    return [{path.name for path in (own.state / "store" / build).iterdir()} for build in new]


def test_a_pause_takes_little_memory_and_leaves_none(own: Server, make: Callable[..., Sandbox], empty):
    """The first pause writes everything that the guest touched, the second what differs from that."""
    sbx = make()
    fill(sbx, FIRST)
    build = {path.name for path in (own.state / "store" / empty["snapshots"][0]).iterdir()}
    first = pause(own, sbx, empty)
    assert first.guest >= FIRST * MIB
    assert published(own, empty) == [build]

    sbx.connect(timeout=900)
    fill(sbx, SECOND)
    second = pause(own, sbx, empty)
    # Little of what was written first is there, and a pause that brought it would show.
    assert SECOND * MIB <= second.guest <= FIRST * MIB - ROOM
    assert published(own, empty) == [build, build]
