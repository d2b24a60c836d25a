"""Snapshots of the disk alone: the source runs on with its memory, and what is made of them boots."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

import httpx
import pytest
from e2b import Sandbox

from harness.guest import boot_of, output, start
from harness.server import Server
from harness.waiting import wait_until

HEADER = "x-coldframe-rebooted"
PORT = 8000
#: In no memory but that of the sandbox that was told to hold it.
MARK = b"a secret of the source"
MEMORY = {"memory.header", "memory.data", "device.state"}


@pytest.fixture
def keep_disk() -> Iterator[Callable[..., str]]:
    """Makes snapshots of the disk alone, which are deleted after the test."""
    made: list[tuple[Sandbox, str]] = []

    def take(sbx: Sandbox, name: str | None = None) -> str:
        made.append((sbx, sbx.create_snapshot(name, mode="filesystem").snapshot_id))
        return made[-1][1]

    yield take
    for sbx, name in made:
        Sandbox.delete_snapshot(name, **sbx.connection_config.get_api_params())


def made_of(server: Server, template: str, **wanted) -> tuple[Sandbox, str | None]:
    """A sandbox, and why it was booted."""
    with server.api(timeout=120) as api:
        answer = api.post("/v2/sandboxes", json={"templateID": template, "timeout": 900, **wanted})
    assert answer.status_code == 201, answer.text
    return Sandbox.connect(answer.json()["sandboxID"], **server.sdk()), answer.headers.get(HEADER)


def memory_read_by(server: Server, sbx: Sandbox) -> set[str]:
    """The builds of which its supervisor has memory open."""
    fds = Path(f"/proc/{server.supervisor_pid(sbx.sandbox_id)}/fd").iterdir()
    files = [Path(os.readlink(fd)) for fd in fds]
    return {file.parent.name for file in files if file.name in MEMORY}


# -- what it is ----------------------------------------------------------------------------------------------------------


def test_sandboxes_boot_from_it_and_the_source_does_not_notice(server: Server, create, keep_disk):
    source = create(timeout=900, metadata={"a": "b"}, envs={"MARK": "of the source"})
    program = start(source, "living.py", "/home/user/living", PORT)
    boot, end = boot_of(source), source.get_info().end_at
    source.commands.run("echo memory > /dev/shm/in-memory; head -c 8M /dev/urandom > big && md5sum big > sum")
    # Nobody has synced it.
    source.commands.run("echo just before > last")
    taken = keep_disk(source, "disk")
    assert taken == "e2e/disk:default"
    build = server.newest_build(source.sandbox_id)
    files = {path.name for path in build.iterdir()}
    assert not files & MEMORY and "disk.header" in files, files

    source.commands.run("echo since > last")
    reboots = "memory was not kept"
    with_options = {"metadata": {"c": "d"}, "envVars": {"MARK": "of the child"}, "allow_internet_access": False}
    (first, why), (second, _) = made_of(server, taken, **with_options), made_of(server, "disk")
    try:
        assert why and reboots in why, why
        for child in (first, second):
            assert boot_of(child) not in (boot, boot_of(second if child is first else first))
            assert output(child, "cat last && md5sum -c sum") == "just before\nbig: OK"
            assert output(child, "ls /dev/shm; pgrep -c python3 || true") == "0"
            assert output(child, "hostname; echo $E2B_SANDBOX_ID") == f"{child.sandbox_id}\n{child.sandbox_id}"
            assert output(child, f"getent ahostsv4 {child.sandbox_id}")
        assert len({one._envd_access_token for one in (source, first, second)}) == 3
        assert output(first, "echo $MARK") == "of the child" and output(second, "echo $MARK") == ""
        told = first.get_info()
        assert (told.metadata, told.allow_internet_access) == ({"c": "d"}, False)
        # Neither changes another.
        first.files.write("/home/user/last", "of the first\n")
        assert output(second, "cat last") == "just before"
    finally:
        first.kill()
        second.kill()

    assert output(source, "cat last /dev/shm/in-memory") == "since\nmemory"
    assert boot_of(source) == boot and program in {one.pid for one in source.commands.list()}
    headers = server.edge_headers(source.sandbox_id, PORT)
    assert httpx.get(server.url, headers=headers, timeout=60).json()["errors"] == []
    info = source.get_info()
    assert (info.state.value, info.end_at, info.metadata) == ("running", end, {"a": "b"})


def test_with_every_option_of_a_create(server: Server, create, keep_disk):
    source = create()
    source.files.write("/home/user/kept", "kept")
    taken = keep_disk(source)
    sbx = create(
        template=taken,
        timeout=700,
        metadata={"x": "y"},
        envs={"ONE": "1"},
        lifecycle={"on_timeout": "pause", "auto_resume": True},
        network={"allow_public_traffic": False},
    )
    info = sbx.get_info()
    assert (info.metadata, info.lifecycle) == ({"x": "y"}, {"on_timeout": "pause", "auto_resume": True})
    assert abs(info.end_at.timestamp() - time.time() - 700) < 60
    assert sbx.traffic_access_token and output(sbx, "echo $ONE; cat kept") == "1\nkept"
    # The disk was not left in the middle of something.
    mounted = output(sbx, "dmesg | grep -i ext4", user="root")
    assert "mounted filesystem" in mounted and "recovery" not in mounted, mounted
    boot = boot_of(sbx)
    sbx.commands.run("echo memory > /dev/shm/kept")
    sbx.set_timeout(1)
    wait_until(lambda: server.state_of(sbx.sandbox_id) == "paused", 30, "its end time to pause it")
    # A request wakes it, with its own memory.
    assert output(sbx, "cat /dev/shm/kept") == "memory"
    assert boot_of(sbx) == boot
    # What it is by now can be kept in every way again.
    (fork,) = sbx.fork()
    try:
        assert (boot_of(fork), output(fork, "cat /dev/shm/kept kept")) == (boot, "memory\nkept")
        again = create(template=keep_disk(fork))
        assert boot_of(again) != boot and output(again, "cat kept; ls /dev/shm") == "kept"
    finally:
        fork.kill()


# -- while the source writes ---------------------------------------------------------------------------------------------

#: Two files, one always written before the other.
WRITER = """python3 -c '
import os
number = 0
while True:
    number += 1
    for name in "ab":
        with open(f"/home/user/{name}.new", "w") as file:
            file.write(str(number))
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"/home/user/{name}.new", f"/home/user/{name}")
'"""


def test_it_is_the_disk_of_one_moment_and_writers_go_on(server: Server, create, keep_disk):
    source = create()
    source.commands.run(WRITER, background=True, timeout=0)
    wait_until(lambda: output(source, "ls a b || true") == "a\nb", 60, "the writer to begin")
    last = 0
    for _ in range(3):
        taken = keep_disk(source)
        now = int(output(source, "cat a"))
        child = create(template=taken)
        first, second = map(int, output(child, "cat a; echo; cat b").split())
        assert second <= first <= second + 1 and last < first <= now, (last, first, second, now)
        assert child.kill() is True
        wait_until(lambda: int(output(source, "cat b")) > now, 60, "the writer to go on")
        last = first
    log = (server.state / "run" / "sandboxes" / source.sandbox_id / "supervisor.log").read_text()
    frozen = [float(time) for time in re.findall(r"the root file system stood still for ([0-9.]+) ms", log)]
    assert len(frozen) == 3
    assert "the machine stood still" not in log, "the processors run for it"


# -- what is kept, and what is not ---------------------------------------------------------------------------------------


def test_nothing_of_the_sources_memory_is_in_what_is_made_of_it(server: Server, create, keep_disk):
    source = create()
    fill = f"python3 -c 'import sys; sys.stdout.write(\"{MARK.decode()}\" * 100000)' > /dev/shm/secret; echo 1 > kept"
    source.commands.run(fill)
    # In a snapshot with memory it is there; the sandbox of the other one must have nothing to do with that.
    whole = source.create_snapshot().snapshot_id
    try:
        assert MARK in (server.newest_build(source.sandbox_id) / "memory.data").read_bytes()
        taken = keep_disk(source)
        sbx = create(template=taken)
        assert output(sbx, "cat kept; ls /dev/shm") == "1"
        assert memory_read_by(server, source) and not memory_read_by(server, sbx)
        sbx.commands.run("head -c 8M /dev/urandom > /dev/shm/own; md5sum /dev/shm/own > own")
        boot = boot_of(sbx)
        assert sbx.pause() is True
        build = server.newest_build(sbx.sandbox_id)
        assert MARK not in (build / "memory.data").read_bytes()
        # Whatever becomes of every other memory, its own is complete.
        assert source.kill() is True
    finally:
        Sandbox.delete_snapshot(whole, **server.sdk())
    Sandbox.delete_snapshot(taken, **server.sdk())
    with server.api(timeout=120) as api:
        answer = api.post(f"/v2/sandboxes/{sbx.sandbox_id}/connect", json={"timeout": 900})
    assert answer.status_code == 201 and HEADER not in answer.headers, (answer.text, answer.headers)
    assert (boot_of(sbx), output(sbx, "md5sum -c own; cat kept")) == (boot, "/dev/shm/own: OK\n1")
    assert memory_read_by(server, sbx) == {build.name}
    # And the next difference is one from that.
    sbx.commands.run("echo more > /dev/shm/more")
    assert sbx.pause() is True
    assert MARK not in (server.newest_build(sbx.sandbox_id) / "memory.data").read_bytes()
    sbx.connect(timeout=900)
    assert output(sbx, "cat /dev/shm/more; md5sum -c own") == "more\n/dev/shm/own: OK"


@pytest.mark.parametrize("order", ["memory-disk", "disk-memory", "disk-disk", "memory-disk-disk-memory-disk"])
def test_the_source_stays_whole_when_its_snapshots_are_gone(own: Server, make, order: str):
    """Its next build is a difference from the last snapshot's disk and from the memory of the last that had one."""
    sbx = make()
    boot, names = boot_of(sbx), []
    for number, kind in enumerate(order.split("-")):
        sbx.commands.run(
            f"head -c 3M /dev/urandom > {number}; head -c 3M /dev/urandom > /dev/shm/{number};"
            f"md5sum {number} /dev/shm/{number} >> sums"
        )
        names.append(sbx.create_snapshot(mode="full" if kind == "memory" else "filesystem").snapshot_id)
    sbx.commands.run("head -c 1M /dev/urandom > last; head -c 1M /dev/urandom > /dev/shm/last; md5sum last /dev/shm/last >> sums")
    for name in names:
        assert Sandbox.delete_snapshot(name, **own.sdk()) is True
    assert sbx.pause() is True
    own.kill_server()
    own.up()
    again = Sandbox.connect(sbx.sandbox_id, timeout=900, **own.sdk())
    assert boot_of(again) == boot
    assert "FAILED" not in output(again, "md5sum -c sums")


def test_it_outlives_its_source_and_the_server(own: Server, make, keep_disk):
    sbx = make()
    sbx.files.write("/home/user/mark", "kept")
    taken = keep_disk(sbx, "kept")
    assert sbx.kill() is True
    own.kill_server()
    own.up()
    first = make(template=taken)
    assert output(first, "cat mark") == "kept"
    assert Sandbox.delete_snapshot(taken, **own.sdk()) is True
    # What it has not read yet is still there.
    assert output(first, "cat /bin/* /usr/bin/* > /dev/null; echo read") == "read"
    boot = boot_of(first)
    assert first.pause() is True
    first.connect(timeout=900)
    assert (boot_of(first), output(first, "cat mark")) == (boot, "kept")


def test_a_client_that_leaves_finds_it_in_the_list(own: Server, make):
    sbx = make()
    path = f"{own.url}/sandboxes/{sbx.sandbox_id}/snapshots"
    body, headers = {"name": "left", "memory": False}, {"X-API-Key": own.key()}
    try:
        httpx.post(path, headers=headers, json=body, timeout=httpx.Timeout(10, read=0.02))
    except httpx.TimeoutException:
        pass
    listed = lambda: [one.snapshot_id for one in Sandbox.list_snapshots(**own.sdk()).next_items()]  # noqa: E731
    wait_until(lambda: listed() == ["e2e/left:default"], 30, "the snapshot to be listed")
    assert output(sbx, "echo alive > alive && sync alive && cat alive") == "alive"
    assert Sandbox.delete_snapshot("left", **own.sdk()) is True


@pytest.mark.parametrize("patience", [0.0, 0.1, 0.3, 0.6])
def test_a_sandbox_that_is_killed_meanwhile(own: Server, make, patience: float):
    sbx = make()

    def take() -> httpx.Response:
        with own.api(timeout=60) as api:
            return api.post(f"/sandboxes/{sbx.sandbox_id}/snapshots", json={"memory": False})

    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(take)
        time.sleep(patience)
        assert sbx.kill() is True
        answer = taking.result()
    assert answer.status_code in (201, 404, 409), answer.text
    if answer.status_code == 201:
        assert Sandbox.delete_snapshot(answer.json()["snapshotID"], **own.sdk()) is True
