"""Pauses that keep the disk alone, and sandboxes that boot from it: because that is all there is, because somebody wants it,
or because their memory is damaged."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import httpx
import pytest
from e2b import Sandbox, SandboxException

from harness.guest import boot_of, output
from harness.reboots import HEADER, connect, counted
from harness.server import Server
from harness.waiting import wait_until

METADATA = {"a": "b=c & d"}
#: In no memory but that of the sandbox that was told to hold it.
MARK = b"a secret of the first life"


# -- the disk alone ------------------------------------------------------------------------------------------------------


def test_a_disk_comes_back_with_everything_that_was_written(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900, metadata=METADATA, envs={"MARK": "of the sandbox"}, allow_internet_access=False)
    boot, before = boot_of(sbx), sbx.get_info()
    sbx.commands.run("echo memory > /dev/shm/in-memory")
    sbx.commands.run("exec sleep 900", background=True, timeout=0)
    sbx.commands.run("head -c 30M /dev/urandom > big && md5sum big > sum && echo just before > last")
    assert sbx.pause(mode="filesystem") is True
    assert server.state_of(sbx.sandbox_id) == "paused"
    assert sbx.pause(mode="filesystem") is False
    files = {path.name for path in server.newest_build(sbx.sandbox_id).iterdir()}
    assert not files & {"memory.header", "memory.data", "device.state"} and "disk.header" in files, files

    reboots = counted(server, "no_memory")
    again = Sandbox.connect(sbx.sandbox_id, timeout=600, **server.sdk())
    assert counted(server, "no_memory") == reboots + 1
    assert boot_of(again) != boot
    assert output(again, "cat last && md5sum -c sum") == "just before\nbig: OK"
    assert output(again, "ls /dev/shm") == ""
    assert output(again, "pgrep -c sleep || true") == "0"
    assert output(again, "echo $MARK; hostname") == f"of the sandbox\n{sbx.sandbox_id}"
    info = again.get_info()
    assert (info.metadata, info.started_at, info.allow_internet_access) == (METADATA, before.started_at, False)
    assert (again.sandbox_id, again._envd_access_token) == (sbx.sandbox_id, sbx._envd_access_token)
    assert abs(info.end_at.timestamp() - time.time() - 600) < 10
    # The disk was not left in the middle of something.
    mounted = output(again, "dmesg | grep -i ext4", user="root")
    assert "mounted filesystem" in mounted and "recovery" not in mounted, mounted


def test_from_one_kind_of_pause_to_the_other(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    boots = [boot_of(sbx)]
    for turn, mode in enumerate(["filesystem", "full", "filesystem", "filesystem", "full", "full"]):
        sbx.commands.run(f"echo {turn} >> turns; echo {turn} > /dev/shm/turn")
        assert sbx.pause(mode=mode) is True
        answer = connect(server, sbx)
        assert (HEADER in answer.headers) == (mode == "filesystem"), (turn, mode, answer.headers)
        boots.append(boot_of(sbx))
        assert (boots[-1] == boots[-2]) == (mode == "full")
        assert output(sbx, "cat turns").split() == [str(one) for one in range(turn + 1)]
        assert output(sbx, "cat /dev/shm/turn || true") == (str(turn) if mode == "full" else "")


def test_whoever_connects_during_the_pause_finds_a_disk_that_can_be_written(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    writer = "while true; do echo x >> written; sync written; done"
    sbx.commands.run(writer, background=True, timeout=0)

    def pause() -> None:
        try:
            sbx.pause(mode="filesystem")
        except SandboxException:
            pass  # taken back

    with ThreadPoolExecutor(2) as pool:
        for turn in range(6):
            pausing = pool.submit(pause)
            time.sleep(turn * 0.03)
            # During the pause, or after it.
            sbx.connect(timeout=900)
            pausing.result()
            sbx.connect(timeout=900)
            assert output(sbx, f"echo {turn} > turn && sync turn && cat turn", timeout=20) == str(turn)


def test_an_end_time_that_keeps_the_disk_alone(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900, lifecycle={"on_timeout": {"action": "pause", "mode": "filesystem"}})
    boot = boot_of(sbx)
    sbx.files.write("/home/user/kept", "kept")
    sbx.set_timeout(1)
    # Until it is over: whoever connects before that takes it back.
    wait_until(lambda: sbx.sandbox_id not in server.directories(), 40, "the end time to pause it")
    assert server.state_of(sbx.sandbox_id) == "paused"
    assert "memory was not kept" in connect(server, sbx).headers[HEADER]
    assert boot_of(sbx) != boot
    assert sbx.files.read("/home/user/kept") == "kept"


# -- a reboot that is asked for ------------------------------------------------------------------------------------------


def test_a_reboot_in_place_of_the_memory_and_nothing_of_that_in_the_next_one(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    boot = boot_of(sbx)
    fill = f"python3 -c 'import sys; sys.stdout.write(\"{MARK.decode()}\" * 100000)' > /dev/shm/secret; echo 1 > kept"
    sbx.commands.run(fill)
    sbx.pause()
    first = server.newest_build(sbx.sandbox_id)
    assert MARK in (first / "memory.data").read_bytes()

    again = Sandbox.connect(sbx.sandbox_id, timeout=900, on_resume="reboot", **server.sdk())
    rebooted = boot_of(again)
    assert rebooted != boot
    assert output(again, "cat kept; ls /dev/shm") == "1"
    # What runs is not booted again.
    assert HEADER not in connect(server, sbx, status=200, memory=False).headers
    again.commands.run("echo second > /dev/shm/mark")
    again.pause()
    second = server.newest_build(sbx.sandbox_id)
    assert second != first
    assert MARK not in (second / "memory.data").read_bytes()
    for name in ("memory.header", "memory.data", "device.state"):
        (first / name).unlink(missing_ok=True)
    assert HEADER not in connect(server, sbx).headers
    assert (boot_of(again), output(again, "cat /dev/shm/mark kept")) == (rebooted, "second\n1")


def test_a_snapshot_of_what_was_rebooted_has_its_memory(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    sbx.pause(mode="filesystem")
    sbx.connect(timeout=900)
    sbx.commands.run("echo of-the-source > /dev/shm/mark")
    boot = boot_of(sbx)
    snapshot = sbx.create_snapshot()
    try:
        other = create(template=snapshot.snapshot_id)
        assert output(other, "cat /dev/shm/mark") == "of-the-source"
        assert boot_of(other) == boot
        sbx.pause()
        sbx.connect(timeout=900)
        assert output(sbx, "cat /dev/shm/mark") == "of-the-source"
        # Its kernel is known, though it was made from no template.
        other.pause()
        assert HEADER in connect(server, other, memory=False).headers
        assert boot_of(other) != boot
    finally:
        Sandbox.delete_snapshot(snapshot.snapshot_id, **server.sdk())


# -- damage --------------------------------------------------------------------------------------------------------------


#: A thousand pages in memory, no two the same and each there once.
_PAGES = """python3 -c '
import hashlib
with open("/dev/shm/pages", "wb", buffering=0) as file:
    for number in range(1000):
        file.write(hashlib.sha256(b"%d" % number).digest() * 128)
'"""


def test_a_page_that_turns_out_to_be_damaged_later(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    sbx.commands.run(f"{_PAGES}; echo 1 > kept")
    sbx.pause()
    path = server.newest_build(sbx.sandbox_id) / "memory.data"
    content = bytearray(path.read_bytes())
    damaged = 0
    # What the writer had in hand last may be anywhere.
    for number in range(900):
        at = content.find(hashlib.sha256(b"%d" % number).digest() * 128)
        if at >= 0:
            content[at] ^= 1
            damaged += 1
    assert damaged > 800
    path.write_bytes(content)
    assert HEADER not in connect(server, sbx).headers
    assert output(sbx, "cat kept") == "1"
    with pytest.raises(Exception):
        sbx.commands.run("md5sum /dev/shm/pages", timeout=20)
    wait_until(lambda: server.state_of(sbx.sandbox_id) == "paused", 20, "it to be back at its snapshot")
    assert "memory.data" in connect(server, sbx).headers[HEADER]
    assert output(sbx, "cat kept") == "1"


def test_a_sandbox_that_is_made_from_a_snapshot_with_a_damaged_memory(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    sbx.commands.run("echo 1 > kept")
    snapshot = sbx.create_snapshot().snapshot_id
    try:
        (server.newest_build(sbx.sandbox_id) / "device.state").unlink()
        with server.api(timeout=120) as api:
            answer = api.post("/v2/sandboxes", json={"templateID": snapshot, "timeout": 900})
        assert answer.status_code == 201, answer.text
        made = Sandbox.connect(answer.json()["sandboxID"], **server.sdk())
        assert "device.state" in answer.headers[HEADER]
        assert output(made, "cat kept; hostname") == f"1\n{made.sandbox_id}"
        made.kill()
    finally:
        Sandbox.delete_snapshot(snapshot, **server.sdk())


# -- traffic -------------------------------------------------------------------------------------------------------------


def test_traffic_does_not_reboot_unless_it_was_made_so(server: Server, create: Callable[..., Sandbox]):
    health = f"{server.url}/health"
    sbx = create(timeout=900, lifecycle={"on_timeout": "pause", "auto_resume": True})
    sbx.pause(mode="filesystem")
    answer = httpx.get(health, headers=server.edge_headers(sbx.sandbox_id), timeout=60)
    assert answer.status_code == 502 and "connect to it" in answer.json()["message"], answer.text
    assert server.state_of(sbx.sandbox_id) == "paused"
    sbx.connect(timeout=900)
    sbx.pause()
    (server.newest_build(sbx.sandbox_id) / "memory.header").unlink()
    for _ in range(2):
        answer = httpx.get(health, headers=server.edge_headers(sbx.sandbox_id), timeout=60)
        assert answer.status_code == 502 and "connect to it" in answer.json()["message"], answer.text
    assert HEADER in connect(server, sbx).headers

    with server.api() as api:
        body = {"templateID": "base", "timeout": 900, "autoPause": True, "autoPauseMemory": False}
        refused = api.post("/v2/sandboxes", json={**body, "autoResume": {"enabled": True}})
        assert refused.status_code == 400, refused.text
        made = api.post("/v2/sandboxes", json={**body, "autoResume": {"enabled": True, "reboot": True}})
        assert made.status_code == 201, made.text
        allowed = made.json()["sandboxID"]
        assert api.post(f"/sandboxes/{allowed}/pause", json={"memory": False}).status_code == 204
    try:
        assert httpx.get(health, headers=server.edge_headers(allowed), timeout=90).status_code == 204
        assert server.state_of(allowed) == "running"
    finally:
        Sandbox.kill(allowed, **server.sdk())
