"""Pausing and resuming as clients see it: the SDK's calls, the REST surface, end times that pause, traffic that resumes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator

import httpx
import pytest
from e2b import (
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxQuery,
    SandboxState,
)

from harness import hosts
from harness.guest import WEB_PORT, serve
from harness.server import Server
from harness.waiting import wait_until

#: An address of a test host that only a sandbox with internet access may reach.
PUBLIC = "198.51.100.78"
BOTH = {"on_timeout": "pause", "auto_resume": True}
METADATA = {"a": "b=c & d", "ключ": "значение 🙂"}
#: How many requests come for one sleeping sandbox.
CROWD = 20


@pytest.fixture(scope="module")
def kept(server: Server) -> Iterator[Sandbox]:
    """A sandbox with everything that a pause could lose, which sleeps on until somebody connects to it."""
    sbx = Sandbox.create(
        timeout=900,
        metadata=METADATA,
        envs={"MARK": "of the sandbox"},
        allow_internet_access=False,
        network={"allow_public_traffic": False},
        lifecycle={"on_timeout": "pause"},
        **server.sdk(),
    )
    yield sbx
    sbx.kill()


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[Sandbox]:
    """A sandbox that serves on port 8000, is paused at its end time, and resumed by requests."""
    sbx = Sandbox.create(timeout=900, lifecycle=BOTH, **server.sdk())
    serve(sbx)
    yield sbx
    sbx.kill()


@pytest.fixture(scope="module")
def neighbour() -> Iterator[None]:
    with hosts.neighbour([PUBLIC]):

        def serves() -> bool:
            try:
                return httpx.get(f"http://{PUBLIC}:{hosts.PORT}/", timeout=1, trust_env=False).content == hosts.GREETING
            except httpx.TransportError:
                return False

        wait_until(serves, 10, "the test host")
        yield


def running(sbx: Sandbox) -> Sandbox:
    """The same sandbox, running for a while, whatever the test before left."""
    return sbx.connect(timeout=900)


def paused(server: Server, sbx: Sandbox) -> None:
    """Pauses a sandbox unless it is paused."""
    sbx.pause()
    assert server.state_of(sbx.sandbox_id) == "paused"


def output(sbx: Sandbox, command: str, **options) -> str:
    return sbx.commands.run(command, **options).stdout.strip()


def can_reach_the_neighbour(sbx: Sandbox) -> bool:
    return output(sbx, f"curl -s --max-time 3 http://{PUBLIC}:{hosts.PORT}/ || true").encode() == hosts.GREETING


# -- what a pause is -----------------------------------------------------------------------------------------------------


def test_everything_is_there_again(server: Server, kept: Sandbox, neighbour):
    sbx = running(kept)
    sbx.files.write("/home/user/on-disk", "disk\n")
    sbx.commands.run("echo memory > /dev/shm/in-memory")
    process = sbx.commands.run("exec sleep 900", background=True, timeout=0)
    boot = output(sbx, "cat /proc/sys/kernel/random/boot_id")
    before = sbx.get_info()
    tokens = sbx._envd_access_token, sbx.traffic_access_token
    assert all(tokens)

    assert sbx.pause() is True
    info = sbx.get_info()
    assert info.state == SandboxState.PAUSED
    assert info.metadata == METADATA
    assert (info.template_id, info.name, info.started_at) == (before.template_id, before.name, before.started_at)
    assert info.lifecycle == {"on_timeout": "pause", "auto_resume": False}

    again = Sandbox.connect(sbx.sandbox_id, timeout=600, **server.sdk())
    assert again.sandbox_id == sbx.sandbox_id
    info = again.get_info()
    assert info.state == SandboxState.RUNNING
    assert info.metadata == METADATA
    assert info.started_at == before.started_at
    assert abs(info.end_at.timestamp() - time.time() - 600) < 5
    assert (again._envd_access_token, again.traffic_access_token) == tokens
    assert output(again, "cat /home/user/on-disk /dev/shm/in-memory") == "disk\nmemory"
    assert output(again, "cat /proc/sys/kernel/random/boot_id") == boot
    assert output(again, "echo $MARK") == "of the sandbox"
    assert process.pid in {one.pid for one in again.commands.list()}
    # The object from before the pause works on; and so do the rules of the network.
    assert output(sbx, "echo the same") == "the same"
    assert info.allow_internet_access is False
    assert not can_reach_the_neighbour(again)
    assert httpx.get(f"{server.url}/", headers=server.edge_headers(sbx.sandbox_id, WEB_PORT)).status_code == 403
    assert again.commands.kill(process.pid)


def test_pausing_and_connecting_by_id(server: Server, kept: Sandbox):
    running(kept)
    assert Sandbox.pause(kept.sandbox_id, **server.sdk()) is True
    assert Sandbox.get_info(kept.sandbox_id, **server.sdk()).state == SandboxState.PAUSED
    assert Sandbox.connect(kept.sandbox_id, **server.sdk()).is_running()
    assert kept.beta_pause() is True


def test_what_a_paused_sandbox_answers(server: Server, kept: Sandbox):
    paused(server, running(kept))
    assert kept.pause() is False
    assert kept.is_running() is False
    with pytest.raises(SandboxNotRunningException):
        kept.commands.run("true")
    with pytest.raises(SandboxException) as refused:
        kept.set_timeout(60)
    assert "paused" in str(refused.value)
    # Without auto-resume nothing that comes in resumes it.
    edge = httpx.get(f"{server.url}/health", headers=server.edge_headers(kept.sandbox_id))
    assert edge.status_code == 502, edge.text
    assert server.state_of(kept.sandbox_id) == "paused"


def test_the_rows_of_the_rest_surface(server: Server, kept: Sandbox):
    running(kept)
    sandbox = f"/sandboxes/{kept.sandbox_id}"
    with server.api() as api:

        def post(path: str, status: int, body: dict | None = None) -> dict:
            response = api.post(path, json=body if body is not None else {})
            assert response.status_code == status, (path, body, response.status_code, response.text)
            answer = response.json() if response.content else {}
            if status >= 400:
                assert answer["code"] == status and answer["message"]
            elif status != 204:
                assert answer["sandboxID"] == kept.sandbox_id
                assert answer["envdAccessToken"] == kept._envd_access_token
            return answer

        post(f"{sandbox}/resume", 409, {"timeout": 600})
        for resume, body in (
            (f"{sandbox}/connect", {"timeout": 600}),
            (f"/v2{sandbox}/connect", {}),
            (f"{sandbox}/resume", {"timeout": 600, "autoPause": True}),
        ):
            post(f"{sandbox}/pause", 204)
            post(f"{sandbox}/pause", 409)
            post(f"{sandbox}/timeout", 409, {"timeout": 600})
            post(f"{sandbox}/refreshes", 409, {"duration": 600})
            detail = api.get(sandbox).json()
            assert detail["state"] == "paused"
            for field in ("templateID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB", "envdVersion"):
                assert detail[field], field
            post(resume, 201, body)
            post(f"{sandbox}/connect", 200, {"timeout": 600})
            post(f"/v2{sandbox}/connect", 200, {})
            assert api.get(sandbox).json()["state"] == "running"
        for bad in ({"timeout": -1}, {"timeout": "x"}, {"timeout": 10**9}):
            post(f"{sandbox}/connect", 400, bad)
        missing = "/sandboxes/idoesnotexist0000000"
        for path in (f"{missing}/pause", f"{missing}/connect", f"{missing}/resume"):
            post(path, 404, {"timeout": 60})


def test_another_team_sees_nothing_of_it(server: Server, kept: Sandbox):
    paused(server, running(kept))
    with server.api("other") as api:
        path = f"/sandboxes/{kept.sandbox_id}"
        assert api.get(path).status_code == 404
        assert api.delete(path).status_code == 404
        for action in ("pause", "connect", "resume"):
            assert api.post(f"{path}/{action}", json={"timeout": 60}).status_code == 404, action
        assert kept.sandbox_id not in api.get("/v2/sandboxes").text
    assert server.state_of(kept.sandbox_id) == "paused"


def test_killing_a_paused_sandbox(server: Server, create):
    sbx = create()
    sbx.pause()
    # By its owner: other builds come and go meanwhile.
    made = server.newest_build(sbx.sandbox_id)
    assert sbx.kill() is True
    # Whoever reads from it in this moment, as compaction does, lets go of it soon.
    wait_until(lambda: not made.exists(), 10, "its build to be deleted")
    assert sbx.kill() is False
    with pytest.raises(SandboxNotFoundException):
        sbx.get_info()
    with pytest.raises(SandboxNotFoundException):
        sbx.connect()
    with pytest.raises(SandboxNotFoundException):
        sbx.pause()
    assert not server.is_listed(sbx.sandbox_id)


# -- who it is -----------------------------------------------------------------------------------------------------------


def clock_error(sbx: Sandbox) -> float:
    """How far the guest's clock is off, beyond the time that asking took."""
    asked = time.time()
    guest = float(output(sbx, "date +%s.%N"))
    return max(asked - guest, guest - time.time(), 0)


def test_the_clock_is_right_after_a_sleep(server: Server, kept: Sandbox):
    sbx = running(kept)
    assert clock_error(sbx) < 1
    paused(server, sbx)
    time.sleep(3)  # what the guest must not notice
    assert clock_error(running(sbx)) < 1


def test_its_name_is_its_own(server: Server, kept: Sandbox, web: Sandbox):
    for sbx in (running(kept), running(web)):
        assert output(sbx, "hostname; cat /proc/sys/kernel/hostname") == f"{sbx.sandbox_id}\n{sbx.sandbox_id}"
        assert output(sbx, f"getent ahostsv4 {sbx.sandbox_id}")


#: Each line is drawn anew; none may ever appear twice, anywhere.
DRAW = """head -c 16 /dev/urandom | od -An -tx1 -w16
python3 -c 'import random, uuid; print(random.getrandbits(128)); print(uuid.uuid4())'
cat /proc/sys/kernel/random/uuid"""


def test_no_two_draw_the_same_random_numbers(server: Server, create):
    """Neither two sandboxes that started from the same memory, nor one sandbox after each of its resumes."""
    options = server.sdk()
    with ThreadPoolExecutor(2) as pool:
        pair = list(pool.map(lambda _: create(), range(2)))
        drawn = [line for text in pool.map(lambda sbx: output(sbx, DRAW), pair) for line in text.splitlines()]
    sbx = pair[0]
    sbx.pause()
    drawn += output(Sandbox.connect(sbx.sandbox_id, **options), DRAW).splitlines()
    assert len(drawn) == 12
    assert len(set(drawn)) == len(drawn), drawn


# -- lists ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(server: Server) -> Iterator[list[Sandbox]]:
    """Three sandboxes of a team that has no others, in the order of their start; the first and the last are paused."""
    options = server.sdk("naps")
    made = [Sandbox.create(timeout=900, metadata={"n": str(i)}, **options) for i in range(3)]
    made[0].pause()
    made[2].pause()
    yield made
    for sbx in made:
        sbx.kill()


def test_lists_of_states(server: Server, three: list[Sandbox]):
    options = server.sdk("naps")
    first, second, third = (sbx.sandbox_id for sbx in three)

    def ids(order: str | None = None, limit: int | None = None, **wanted) -> list[str]:
        paginator = Sandbox.list(query=SandboxQuery(**wanted), order=order, limit=limit, **options)
        found, pages = [], 0
        while paginator.has_next:
            found += [item.sandbox_id for item in paginator.next_items()]
            pages += 1
        assert limit is None or pages == max(1, -(-len(found) // limit))
        return found

    both = [SandboxState.RUNNING, SandboxState.PAUSED]
    assert ids() == ids(state=both) == [third, second, first]
    assert ids(order="asc") == [first, second, third]
    assert ids(state=[SandboxState.PAUSED]) == [third, first]
    assert ids(state=[SandboxState.RUNNING]) == [second]
    assert ids(state=[SandboxState.PAUSED], metadata={"n": "2"}) == [third]
    assert ids(state=[SandboxState.PAUSED], metadata={"n": "1"}) == []
    # Page by page.
    assert ids(limit=1) == [third, second, first]
    assert ids(limit=2, order="asc") == [first, second, third]
    assert ids(limit=1, state=[SandboxState.PAUSED]) == [third, first]
    states = {item.sandbox_id: item.state for item in Sandbox.list(**options).next_items()}
    assert states == {first: SandboxState.PAUSED, second: SandboxState.RUNNING, third: SandboxState.PAUSED}


def test_a_page_goes_on_after_its_last_sandbox_was_resumed(server: Server, three: list[Sandbox]):
    options = server.sdk("naps")
    paginator = Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED]), limit=1, **options)
    assert [item.sandbox_id for item in paginator.next_items()] == [three[2].sandbox_id]
    three[2].connect(timeout=900)
    assert [item.sandbox_id for item in paginator.next_items()] == [three[0].sandbox_id]
    assert not paginator.has_next
    with server.api("naps") as api:
        assert api.get("/v2/sandboxes").headers["x-total-running"] == "2"
        assert {item["sandboxID"] for item in api.get("/sandboxes").json()} == {three[1].sandbox_id, three[2].sandbox_id}
    three[2].pause()


# -- end times and traffic -----------------------------------------------------------------------------------------------


def paused_by_its_end_time(server: Server, sbx: Sandbox, seconds: int = 1) -> None:
    sbx.set_timeout(seconds)
    wait_until(lambda: server.state_of(sbx.sandbox_id) == "paused", seconds + 20, "the end time to pause it")


def starts(server: Server) -> int:
    """How many sandboxes were started or resumed so far."""
    with server.api() as api:
        lines = api.get("/metrics").text.splitlines()
    return int(float(next(line.split()[-1] for line in lines if line.startswith("coldframe_sandboxes_started"))))


def test_an_end_time_pauses_and_a_request_resumes(server: Server, web: Sandbox, neighbour):
    sbx = running(web)
    boot = output(sbx, "cat /proc/sys/kernel/random/boot_id")
    assert can_reach_the_neighbour(sbx)
    paused_by_its_end_time(server, sbx)
    info = sbx.get_info()
    assert info.lifecycle == {"on_timeout": "pause", "auto_resume": True}
    assert sbx.pause() is False

    answer = httpx.get(f"{server.url}/hello", headers=server.edge_headers(sbx.sandbox_id, WEB_PORT), timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["path"] == "/hello"
    info = sbx.get_info()
    assert info.state == SandboxState.RUNNING
    assert info.end_at.timestamp() - time.time() > 200
    assert output(sbx, "cat /proc/sys/kernel/random/boot_id") == boot
    assert can_reach_the_neighbour(sbx)


def test_a_call_of_the_sdk_is_traffic_too(server: Server, web: Sandbox):
    paused(server, running(web))
    assert output(web, "echo awake") == "awake"


def test_a_request_with_a_body_is_held_until_it_can_be_delivered(server: Server, web: Sandbox):
    paused(server, running(web))
    body = bytes(range(256)) * 4096
    headers = server.edge_headers(web.sandbox_id, WEB_PORT)
    assert httpx.post(f"{server.url}/", content=body, headers=headers, timeout=60).content == body


def test_many_requests_resume_it_once(server: Server, web: Sandbox):
    paused_by_its_end_time(server, running(web), seconds=0)
    before = starts(server)

    def ask(number: int) -> str:
        headers = server.edge_headers(web.sandbox_id, WEB_PORT)
        response = httpx.get(f"{server.url}/{number}", headers=headers, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()["path"]

    with ThreadPoolExecutor(CROWD) as pool:
        assert list(pool.map(ask, range(CROWD))) == [f"/{number}" for number in range(CROWD)]
    assert starts(server) == before + 1
    server.vmm_pid(web.sandbox_id)  # there is exactly one


def test_many_connects_resume_it_once(server: Server, web: Sandbox):
    paused(server, running(web))
    before = starts(server)
    with ThreadPoolExecutor(5) as pool, server.api() as api:
        path = f"/v2/sandboxes/{web.sandbox_id}/connect"
        statuses = sorted(pool.map(lambda _: api.post(path, json={"timeout": 900}).status_code, range(5)))
    assert statuses == [200, 200, 200, 200, 201]
    assert starts(server) == before + 1


def test_who_may_not_reach_a_sandbox_does_not_wake_it(server: Server, create):
    sbx = create(lifecycle=BOTH, network={"allow_public_traffic": False})
    serve(sbx)
    paused(server, sbx)
    headers = server.edge_headers(sbx.sandbox_id, WEB_PORT)
    assert httpx.get(server.url, headers=headers).status_code == 403
    assert httpx.get(server.url, headers={**headers, "E2b-Traffic-Access-Token": "wrong"}).status_code == 403
    assert server.state_of(sbx.sandbox_id) == "paused"
    allowed = {**headers, "E2b-Traffic-Access-Token": sbx.traffic_access_token}
    assert httpx.get(server.url, headers=allowed, timeout=60).status_code == 200


def test_a_life_after_the_first_ends_in_a_pause_again(server: Server, web: Sandbox):
    for _ in range(2):
        sbx = running(web)
        paused_by_its_end_time(server, sbx, seconds=0)
    assert output(running(web), "echo still here") == "still here"
