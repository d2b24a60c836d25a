"""`coldframe sandbox`: sandboxes from the command line of whoever runs the server."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Callable, Iterator

import pytest
from e2b import Sandbox

from harness.guest import boot_of, output
from harness.server import Server

UNKNOWN = "i000000000000000000"


@pytest.fixture
def options(server: Server) -> dict[str, str]:
    """Arguments of the SDK, with the key that `coldframe env` prints."""
    return {**server.sdk(), "api_key": server.env()["E2B_API_KEY"]}


@pytest.fixture
def sbx(options: dict[str, str]) -> Iterator[Sandbox]:
    made = Sandbox.create(timeout=900, **options)
    yield made
    made.kill()


@pytest.fixture
def run(server: Server) -> Callable[..., str]:
    """Runs `coldframe sandbox`; what it prints."""

    def command(*args: str) -> str:
        return server.cli("sandbox", *args, timeout=120).stdout

    return command


def refused(server: Server, *args: str) -> str:
    """What it says when it fails."""
    done = server.cli("sandbox", *args, timeout=120, check=False)
    assert done.returncode != 0 and done.stdout == "", done
    return done.stderr


def state_of(run: Callable[..., str], sbx: Sandbox) -> str | None:
    """The state in the list, which is the same in both kinds."""
    listed = {item["sandboxID"]: item for item in json.loads(run("list", "--json"))}
    lines = {line.split()[0]: line.split() for line in run("list").splitlines()[1:]}
    assert lines.keys() == listed.keys()
    if sbx.sandbox_id not in listed:
        return None
    _, state, template, cpus, memory, *_ = lines[sbx.sandbox_id]
    item = listed[sbx.sandbox_id]
    assert (state, template, int(cpus), int(memory)) == (item["state"], "base", item["cpuCount"], item["memoryMB"])
    return state


def test_a_pause_and_the_way_back(server: Server, run, sbx: Sandbox):
    assert state_of(run, sbx) == "running"
    boot = boot_of(sbx)
    sbx.commands.run("echo disk > kept; echo memory > /dev/shm/kept")
    assert run("pause", sbx.sandbox_id) == f"paused {sbx.sandbox_id}\n"
    assert state_of(run, sbx) == "paused"
    assert "paused" in refused(server, "pause", sbx.sandbox_id)
    assert run("resume", sbx.sandbox_id, "--timeout", "800") == f"resumed {sbx.sandbox_id}\n"
    assert (boot_of(sbx), output(sbx, "cat kept /dev/shm/kept")) == (boot, "disk\nmemory")
    assert state_of(run, sbx) == "running"
    assert "is running already" in refused(server, "resume", sbx.sandbox_id, "--reboot")

    run("pause", sbx.sandbox_id)
    said = run("resume", sbx.sandbox_id, "--reboot")
    assert said == f"booted {sbx.sandbox_id} from its disk: a reboot was asked for\n"
    second = boot_of(sbx)
    assert second != boot and output(sbx, "cat kept; ls /dev/shm") == "disk"
    run("pause", sbx.sandbox_id, "--disk-only")
    assert "memory was not kept" in run("resume", sbx.sandbox_id)
    assert boot_of(sbx) != second and output(sbx, "cat kept") == "disk"
    assert run("kill", sbx.sandbox_id) == f"killed {sbx.sandbox_id}\n"
    assert state_of(run, sbx) is None


def test_snapshots(server: Server, run, sbx: Sandbox, options: dict[str, str]):
    sbx.commands.run("echo disk > kept; echo memory > /dev/shm/kept")
    boot, names = boot_of(sbx), []
    try:
        names.append(run("snapshot", sbx.sandbox_id).strip())
        names.append(run("snapshot", sbx.sandbox_id, "--name", "operator", "--disk-only").strip())
        assert names[1] == "default/operator:default"
        listed = [item.snapshot_id for item in sbx.list_snapshots().next_items()]
        assert listed == names[::-1]
        for name, expected in zip(names, ("disk\nmemory", "disk")):
            made = Sandbox.create(name, timeout=300, **options)
            assert output(made, "cat kept /dev/shm/kept 2> /dev/null || true") == expected
            assert (boot_of(made) == boot) == (expected != "disk")
            run("kill", made.sandbox_id)
        assert "'base' is a template" in refused(server, "snapshot", sbx.sandbox_id, "--name", "base")
    finally:
        for name in names:
            Sandbox.delete_snapshot(name, **options)


@pytest.mark.parametrize("command", ["pause", "resume", "snapshot", "kill"])
def test_what_is_not_there(server: Server, create, command: str):
    # One of another team is none.
    for name in (UNKNOWN, create().sandbox_id):
        text = refused(server, command, name)
        assert f'Sandbox "{name}" doesn\'t exist' in text and "`coldframe sandbox list`" in text, text
    assert "../x" in refused(server, command, "../x")


def test_no_server():
    # Shorter than a path of pytest's, which is too long for the sockets below it.
    with tempfile.TemporaryDirectory() as state:
        done = Server(Path(state), 0).cli("sandbox", "list", check=False)
    assert done.returncode == 1 and "start one with `coldframe up`" in done.stderr, done
