"""Whatever dies: what should live on does, what is dead is told to be dead, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from e2b import Sandbox, SandboxNotFoundException

from harness.census import assert_no_sandbox_left, back_to, census
from harness.processes import is_alive
from harness.server import Server
from harness.waiting import wait_until

#: How soon a sandbox must be told to be dead after something of it died, in seconds.
TOLD_WITHIN = 1.0


def two(make) -> tuple[Sandbox, Sandbox]:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: make(), range(2))
    return first, second


def told_dead(server: Server, sandbox: str, since: float) -> float:
    """Waits until API, list and data plane call the sandbox dead; gives the seconds since `since`."""
    with server.api() as api, httpx.Client(base_url=server.url) as edge:

        def dead() -> bool:
            one = api.get(f"/sandboxes/{sandbox}").status_code
            listed = sandbox in api.get("/v2/sandboxes").text
            reached = edge.get("/health", headers=server.edge_headers(sandbox)).status_code
            return one == 404 and not listed and reached == 502

        wait_until(dead, 10, f"{sandbox} to be told dead", interval=0.02)
    return time.monotonic() - since


# -- the server ----------------------------------------------------------------------------------------------------------


def test_sandboxes_outlive_a_killed_server(own: Server, make):
    first, second = two(make)
    ends = {sbx.sandbox_id: sbx.get_info().end_at for sbx in (first, second)}
    started = {sbx.sandbox_id: sbx.get_info().started_at for sbx in (first, second)}
    process = first.commands.run("echo begun > /tmp/mark; exec sleep 600", background=True, timeout=0)
    first.files.write("/home/user/kept", "kept")
    vmms = [own.vmm_pid(sbx.sandbox_id) for sbx in (first, second)]

    own.kill_server()
    assert all(is_alive(pid) for pid in vmms)
    own.up()

    listed = {item.sandbox_id: item for item in Sandbox.list(**own.sdk()).next_items()}
    assert listed.keys() == ends.keys()
    for sandbox, item in listed.items():
        assert item.end_at == ends[sandbox]
        assert item.started_at == started[sandbox]
    assert [own.vmm_pid(sbx.sandbox_id) for sbx in (first, second)] == vmms
    again = Sandbox.connect(first.sandbox_id, **own.sdk())
    assert again.files.read("/home/user/kept") == "kept"
    assert process.pid in {p.pid for p in again.commands.list()}
    assert again.commands.kill(process.pid)
    # Everything else works on an adopted sandbox, too.
    again.set_timeout(900)
    assert wait_until(again.get_metrics, 30, "metrics of an adopted sandbox")
    assert second.commands.run("echo fine").stdout == "fine\n"
    assert second.kill() is True


def test_an_end_time_that_was_moved_is_kept_and_honoured(own: Server, make):
    sbx = make(timeout=600)
    sbx.set_timeout(20)
    end = sbx.get_info().end_at
    own.kill_server()
    own.up()
    info = Sandbox.get_info(sbx.sandbox_id, **own.sdk())
    assert info.end_at == end
    wait_until(lambda: not own.is_listed(sbx.sandbox_id), 30, "the sandbox to end")
    assert abs(time.time() - end.timestamp()) <= 1


def test_an_end_time_that_comes_while_no_server_runs_is_honoured(own: Server, make):
    sbx = make(timeout=600)
    vmm = own.vmm_pid(sbx.sandbox_id)
    sbx.set_timeout(4)
    end = sbx.get_info().end_at.timestamp()
    own.kill_server()
    wait_until(lambda: not is_alive(vmm), 10, "the VMM to end by itself", interval=0.02)
    assert abs(time.time() - end) <= 1
    own.up()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.get_info(sbx.sandbox_id, **own.sdk())


def test_a_server_that_is_asked_to_stop_leaves_its_sandboxes_running(own: Server, make):
    sbx = make()
    os.kill(own.server_pid(), signal.SIGTERM)
    wait_until(lambda: not (own.state / "run" / "server.json").exists(), 60, "the server to stop")
    own.up()
    assert sbx.commands.run("echo still here").stdout == "still here\n"


def test_killed_while_a_sandbox_starts(own: Server, empty):
    """A start that nobody waits for any more is finished or undone, never half of both."""
    with ThreadPoolExecutor(1) as pool:
        create = pool.submit(Sandbox.create, timeout=300, retries=0, request_timeout=60, **own.sdk())
        wait_until(own.directories, 20, "the start to begin", interval=0.01)
        own.kill_server()
        with pytest.raises(Exception):
            create.result()
    own.up()

    def listed() -> set[str]:
        return {item.sandbox_id for item in Sandbox.list(**own.sdk()).next_items()}

    wait_until(lambda: own.directories() == listed(), 60, "the start to be finished or undone")
    for sandbox in listed():
        sbx = Sandbox.connect(sandbox, **own.sdk())
        assert sbx.commands.run("echo whole").stdout == "whole\n"
        sbx.kill()
    back_to(own, empty)


# -- one sandbox ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["vmm", "supervisor"])
def test_a_killed_part_is_the_end_of_that_sandbox_only(own: Server, make, victim: str):
    doomed, other = two(make)
    handle = other.commands.run("sleep 3; echo undisturbed", background=True)
    vmm, supervisor = own.vmm_pid(doomed.sandbox_id), own.supervisor_pid(doomed.sandbox_id)
    since = time.monotonic()
    os.kill(vmm if victim == "vmm" else supervisor, signal.SIGKILL)
    assert told_dead(own, doomed.sandbox_id, since) <= TOLD_WITHIN
    wait_until(lambda: not is_alive(vmm) and not is_alive(supervisor), 5, "both processes to be gone")

    def released():
        assert_no_sandbox_left(own, doomed.sandbox_id)
        return True

    wait_until(released, 5, "everything to be released")
    assert doomed.kill() is False
    assert handle.wait().stdout == "undisturbed\n"
    assert other.commands.run("echo fine").stdout == "fine\n"


def test_a_killed_part_while_no_server_runs(own: Server, make):
    doomed, other = two(make)
    supervisor = own.supervisor_pid(doomed.sandbox_id)
    vmm = own.vmm_pid(doomed.sandbox_id)
    own.kill_server()
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not is_alive(vmm), 5, "the VMM to follow its supervisor")
    own.up()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.get_info(doomed.sandbox_id, **own.sdk())
    assert_no_sandbox_left(own, doomed.sandbox_id)
    assert other.commands.run("echo fine").stdout == "fine\n"


def test_a_guest_that_powers_itself_off(own: Server, make):
    sbx = make()
    since = time.monotonic()
    sbx.commands.run("nohup setsid sh -c 'sleep 0.2; echo o > /proc/sysrq-trigger' >/dev/null 2>&1 &", user="root")
    told_dead(own, sbx.sandbox_id, since)
    wait_until(lambda: not (own.state / "run" / "sandboxes" / sbx.sandbox_id).exists(), 5, "its directory to be removed")
    assert_no_sandbox_left(own, sbx.sandbox_id)


def test_a_guest_whose_kernel_panics(own: Server, make):
    sbx = make()
    since = time.monotonic()
    sbx.commands.run("nohup setsid sh -c 'sleep 0.2; echo c > /proc/sysrq-trigger' >/dev/null 2>&1 &", user="root")
    told_dead(own, sbx.sandbox_id, since)


def test_the_guest_daemon_is_started_again(own: Server, make):
    sbx = make()
    sbx.files.write("/home/user/kept", "kept")
    kill_daemon(sbx)

    def answers():
        try:
            return sbx.commands.run("cat /home/user/kept", timeout=5).stdout == "kept"
        except Exception as error:
            raise AssertionError(error) from error

    wait_until(answers, 30, "the guest daemon to be back with its token", interval=0.3)


def kill_daemon(sbx: Sandbox) -> None:
    """Kills the guest daemon from inside; the call that does it has nobody left to answer it."""
    try:
        sbx.commands.run("pkill -KILL envd", user="root", timeout=5)
    except Exception:
        pass


def test_a_guest_that_fills_its_memory_hurts_nobody_else(own: Server, make):
    hungry, other = two(make)
    try:
        hungry.commands.run("python3 -c 'b=bytearray(1<<40)' ; tail /dev/zero", timeout=60)
    except Exception:
        pass  # however it ends
    assert other.commands.run("echo fine").stdout == "fine\n"


# -- everything ----------------------------------------------------------------------------------------------------------


def test_what_a_crash_of_everything_left_is_reclaimed_at_the_next_start(own: Server, make):
    made = two(make)
    before_crash = own.own_processes()
    assert len(before_crash) >= 5
    for _ in range(3):
        for process in own.own_processes():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    wait_until(lambda: not own.own_processes(), 10, "every process to be gone")
    # What such a crash can leave: directories, sockets, groups, namespaces, links; add debris that nobody owns.
    assert len(own.directories()) == 2
    stray = own.state / "run" / "sandboxes" / "istray00000000000000"
    stray.mkdir()
    (stray / "launch.json").write_text("{ not json")
    own.up()
    assert Sandbox.list(**own.sdk()).next_items() == []
    for sbx in made:
        assert_no_sandbox_left(own, sbx.sandbox_id)
    assert not stray.exists()
    new = make()
    assert new.commands.run("echo works again").stdout == "works again\n"


def test_down_leaves_nothing(own: Server, make):
    make()
    own.down()
    left = {kind: found for kind, found in census(own, server_fds=False).items() if found}
    left.pop("files", None)
    left.pop("snapshots", None)  # of the template
    assert left == {}
    assert list((own.state / "run" / "sandboxes").iterdir()) == []
    own.up()
