"""Files of builds that a disk has damaged. Every file and every kind of damage is gone through where that takes no machine
(supervisor `origin::damage`, node `damage`); here is what their owners see of it."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest
from e2b import Sandbox

from harness.damage import cut, delete, empty, flip, flip_every_page, put, swap
from harness.guest import boot_of, output
from harness.processes import is_alive
from harness.reboots import HEADER, connect, counted
from harness.server import Server
from harness.waiting import wait_until

METADATA = {"a": "b=c & d"}


def says_what_is_wrong(text: str, named: str) -> bool:
    return named in text and ("expected" in text or "does not exist" in text or "damaged" in text)


# -- what a sandbox cannot do without ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "filesystem"])
@pytest.mark.parametrize("name", ["manifest.json", "disk.header", "disk.data"])
def test_without_its_disk_or_manifest_a_sandbox_stays_paused(server: Server, create: Callable[..., Sandbox], mode: str, name: str):
    sbx = create(timeout=900)
    sbx.commands.run("echo kept > /home/user/kept; echo kept > /dev/shm/kept; head -c 1M /dev/urandom > file")
    sbx.pause(mode=mode)
    path = server.newest_build(sbx.sandbox_id) / name
    good = path.read_bytes()
    for damage in (delete, empty, cut, flip, swap):
        damage(path)
        for memory in (True, False):
            text = connect(server, sbx, status=500, memory=memory).json()["message"]
            assert says_what_is_wrong(text, name), (damage.__name__, text)
        assert server.state_of(sbx.sandbox_id) == "paused"
        put(path, good)
    if mode == "full":
        # Nothing of it made anything worse.
        assert HEADER not in connect(server, sbx).headers
        assert output(sbx, "cat kept /dev/shm/kept") == "kept\nkept"
    else:
        delete(path)
    assert sbx.kill() is True
    assert server.state_of(sbx.sandbox_id) is None


def test_a_page_of_the_disk_that_turns_out_to_be_damaged_is_an_error_in_the_guest(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    sbx.commands.run("yes 'to be damaged' | head -c 64K > bad; yes 'to be kept' | head -c 64K > good; md5sum good > sum; sync")
    sbx.commands.run("echo 3 > /proc/sys/vm/drop_caches", user="root")
    sbx.pause()
    path = server.newest_build(sbx.sandbox_id) / "disk.data"
    content = path.read_bytes()
    at = content.find(b"to be damaged\n" * 100)
    assert at >= 0
    put(path, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert HEADER not in connect(server, sbx).headers
    assert output(sbx, "md5sum -c sum") == "good: OK"
    assert "Input/output error" in output(sbx, "cat bad 2>&1 >/dev/null || true")
    assert output(sbx, "cat bad 2>/dev/null | tr -d '\\n' | sed 's/to be damaged//g' | head -c 100 || true") in ("", "to be da")
    log = (server.state / "run" / "sandboxes" / sbx.sandbox_id / "supervisor.log").read_text()
    assert f"disk.data of build {path.parent.name}: the page at byte" in log, log


# -- what a sandbox can do without ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("memory.data", delete),
        ("memory.data", flip_every_page),
        ("memory.header", swap),
        ("device.state", cut),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_damaged_memory(server: Server, create: Callable[..., Sandbox], name: str, damage: Callable[[Path], None]):
    sbx = create(timeout=900, metadata=METADATA)
    boot = boot_of(sbx)
    sbx.files.write("/home/user/kept", "kept")
    sbx.pause()
    reboots = counted(server, "damaged")
    damage(server.newest_build(sbx.sandbox_id) / name)
    answer = connect(server, sbx)
    reason = answer.headers[HEADER]
    assert "memory is damaged" in reason and name in reason and len(reason) <= 300, reason
    assert answer.json()["envdAccessToken"] == sbx._envd_access_token
    assert counted(server, "damaged") == reboots + 1
    assert sbx.sandbox_id in server.log() and "booting from the disk" in server.log()
    assert boot_of(sbx) != boot
    assert (sbx.files.read("/home/user/kept"), sbx.get_info().metadata) == ("kept", METADATA)
    # And from here on everything is as ever.
    sbx.commands.run("echo again > /dev/shm/mark")
    sbx.pause()
    assert HEADER not in connect(server, sbx).headers
    assert output(sbx, "cat /dev/shm/mark") == "again"


# -- what others read from -----------------------------------------------------------------------------------------------


def test_of_an_earlier_pause_only_the_pages_are_needed(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    sbx.commands.run("head -c 8M /dev/urandom | tee file > /dev/shm/file; md5sum file /dev/shm/file > sums")
    sbx.pause()
    earlier = server.newest_build(sbx.sandbox_id)
    connect(server, sbx)
    sbx.pause()
    assert server.newest_build(sbx.sandbox_id) != earlier
    for name in ("manifest.json", "memory.header", "disk.header", "device.state"):
        delete(earlier / name)
    assert HEADER not in connect(server, sbx).headers
    assert output(sbx, "md5sum -c sums") == "file: OK\n/dev/shm/file: OK"
    sbx.pause()

    good = (earlier / "disk.data").read_bytes()
    cut(earlier / "disk.data")
    assert says_what_is_wrong(connect(server, sbx, status=500).json()["message"], f"disk.data of build {earlier.name}")
    put(earlier / "disk.data", good)
    cut(earlier / "memory.data")
    assert f"memory.data of build {earlier.name}" in connect(server, sbx).headers[HEADER]
    assert output(sbx, "head -1 sums | md5sum -c -") == "file: OK"


def test_a_damaged_snapshot_does_no_harm_to_its_source(server: Server, create: Callable[..., Sandbox]):
    sbx = create(timeout=900)
    sbx.commands.run("head -c 8M /dev/urandom > file; md5sum file > sum")
    snapshot = sbx.create_snapshot().snapshot_id
    build = server.newest_build(sbx.sandbox_id)
    for name in ("manifest.json", "disk.header", "disk.data"):
        good = (build / name).read_bytes()
        flip(build / name)
        with server.api(timeout=120) as api:
            answer = api.post("/v2/sandboxes", json={"templateID": snapshot, "timeout": 900})
        assert answer.status_code == 500 and says_what_is_wrong(answer.json()["message"], name), answer.text
        put(build / name, good)
    assert output(sbx, "md5sum -c sum") == "file: OK"
    made = create(template=snapshot)
    assert output(made, "md5sum -c sum") == "file: OK"
    flip(build / "disk.header")
    assert Sandbox.delete_snapshot(snapshot, **server.sdk()) is True
    assert output(sbx, "md5sum -c sum") == "file: OK"


# -- what a server finds when it starts ----------------------------------------------------------------------------------


def restart(own: Server, meanwhile: Callable[[], object]) -> None:
    own.kill_server()
    meanwhile()
    own.up()


def test_the_record_of_a_pause_that_no_server_has_seen(own: Server, make: Callable[..., Sandbox]):
    sbx = make(lifecycle={"on_timeout": "pause"})
    sbx.commands.run("echo kept > /dev/shm/kept")
    directory = own.state / "run" / "sandboxes" / sbx.sandbox_id
    aside = directory.with_suffix(".damaged")
    supervisor = own.supervisor_pid(sbx.sandbox_id)
    sbx.set_timeout(2)
    good = b""

    def damage() -> None:
        nonlocal good
        wait_until((directory / "paused.json").exists, 30, "the end time to pause it")
        wait_until(lambda: not is_alive(supervisor), 30, "its supervisor to be gone")
        good = (directory / "paused.json").read_bytes()
        flip(directory / "paused.json")

    restart(own, damage)
    assert own.state_of(sbx.sandbox_id) is None
    assert "the record of a paused sandbox cannot be read" in own.log() and aside.exists() and not directory.exists()
    restart(own, lambda: put(aside / "paused.json", good))
    assert own.state_of(sbx.sandbox_id) == "paused" and not aside.exists()
    assert HEADER not in connect(own, sbx).headers
    assert output(sbx, "cat /dev/shm/kept") == "kept"


def test_a_damaged_template_is_made_again_and_what_reads_from_it_comes_back(own: Server):
    sbx = Sandbox.create(timeout=900, **own.sdk())
    sbx.commands.run("echo kept > /dev/shm/kept")
    sbx.pause()
    before = own.snapshots()
    templates = before - {own.newest_build(sbx.sandbox_id).name}

    def damage() -> None:
        for template in templates:
            delete(own.state / "store" / template / "manifest.json")

    restart(own, damage)
    assert "the template's snapshot is damaged and made again" in own.log()
    assert len(own.snapshots() - before) == 2 and before <= own.snapshots()
    other = Sandbox.create(timeout=900, **own.sdk())
    assert HEADER not in connect(own, sbx).headers
    assert output(sbx, "cat /dev/shm/kept") == output(other, "echo kept") == "kept"
    assert sbx.kill() is True and other.kill() is True
    wait_until(lambda: not own.snapshots() & before, 20, "what nobody reads any more to be gone")
