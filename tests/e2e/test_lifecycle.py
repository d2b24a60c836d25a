"""From create to the end: what is known of a sandbox, lists of them, end times, metrics, logs."""

from __future__ import annotations

import datetime
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator

import httpx
import pytest
from e2b import (
    Sandbox,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxQuery,
    SandboxState,
)

from harness.server import Server
from harness.waiting import wait_until

SECOND = datetime.timedelta(seconds=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


# -- one sandbox ---------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_new_sandbox(create):
    before = now()
    sbx = create(timeout=120, metadata={"a": "b=c & d", "ключ": "значение 🙂"})
    info = sbx.get_info()
    assert info.sandbox_id == sbx.sandbox_id
    assert info.sandbox_id.isalnum() and info.sandbox_id == info.sandbox_id.lower()
    assert info.name == "base"
    assert info.metadata == {"a": "b=c & d", "ключ": "значение 🙂"}
    assert info.state == SandboxState.RUNNING
    assert info.cpu_count >= 1 and info.memory_mb >= 128
    assert info.envd_version == "0.6.13"
    assert before - SECOND <= info.started_at <= now()
    assert abs(info.end_at - info.started_at - datetime.timedelta(seconds=120)) < 30 * SECOND
    assert sbx.is_running()


def test_the_guest_has_the_size_that_is_told(sandbox: Sandbox):
    info = sandbox.get_info()
    cpus, kibibytes = sandbox.commands.run("nproc; awk '/MemTotal/{print $2}' /proc/meminfo").stdout.split()
    assert int(cpus) == info.cpu_count
    assert 0.8 * info.memory_mb <= int(kibibytes) / 1024 <= info.memory_mb


def test_the_template_can_be_named_by_id_and_by_alias(server: Server, sandbox: Sandbox, create):
    template = sandbox.get_info().template_id
    assert create(template=template).get_info().template_id == template
    with server.api() as api:
        alias = api.get("/templates/aliases/base").json()
        assert alias["templateID"] == template
        assert api.get("/templates/aliases/nobody-made-this").status_code == 404
        templates = api.get("/templates").json()
    mine = [one for one in templates if one["templateID"] == template]
    assert mine and "base" in mine[0]["aliases"]
    for field in ("buildID", "cpuCount", "memoryMB", "diskSizeMB", "public", "createdAt", "updatedAt", "spawnCount", "buildStatus"):
        assert field in mine[0], field


def test_killing_twice(create):
    sbx = create()
    assert sbx.kill() is True
    assert sbx.kill() is False
    assert sbx.is_running() is False
    with pytest.raises(SandboxNotFoundException):
        sbx.get_info()
    with pytest.raises(SandboxNotRunningException):
        sbx.commands.run("true")
    with pytest.raises(SandboxNotRunningException):
        sbx.files.read("/etc/hostname")
    with pytest.raises(SandboxNotFoundException):
        sbx.set_timeout(60)
    with pytest.raises(SandboxNotFoundException):
        sbx.connect()
    with pytest.raises(SandboxNotFoundException):
        sbx.get_metrics()


def test_killing_while_a_command_runs_ends_the_command(create):
    sbx = create()
    handle = sbx.commands.run("sleep 300", background=True)
    assert sbx.kill()
    with pytest.raises(SandboxNotRunningException):
        handle.wait()


def test_an_idempotency_key_makes_one_sandbox(server: Server):
    key = f"once-{time.time_ns()}"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: Sandbox.create(idempotency_key=key, timeout=120, **server.sdk("idempotent")), range(4)))
    try:
        assert len({sbx.sandbox_id for sbx in made}) == 1
        assert len(Sandbox.list(**server.sdk("idempotent")).next_items()) == 1
    finally:
        for sbx in made:
            sbx.kill()


def test_both_versions_of_create_and_connect(server: Server):
    with server.api() as api:
        made = []
        try:
            for path in ("/sandboxes", "/v2/sandboxes"):
                response = api.post(path, json={"templateID": "base", "timeout": 60, "unknownField": {"ignored": True}})
                assert response.status_code == 201, response.text
                made.append(response.json())
                for field in ("templateID", "sandboxID", "clientID", "envdVersion"):
                    assert made[-1][field]
            for path in ("/sandboxes", "/v2/sandboxes"):
                response = api.post(f"{path}/{made[0]['sandboxID']}/connect", json={"timeout": 60})
                assert response.status_code == 200, response.text
                assert response.json()["sandboxID"] == made[0]["sandboxID"]
            # An id may carry the client's id behind a dash.
            assert api.get(f"/sandboxes/{made[0]['sandboxID']}-{made[0]['clientID']}").status_code == 200
        finally:
            for one in made:
                assert api.delete(f"/sandboxes/{one['sandboxID']}").status_code == 204


def test_connecting_from_another_client_gives_the_same_sandbox(server: Server, sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/f", "from the first")
    other = Sandbox.connect(sandbox.sandbox_id, **server.sdk())
    assert other.files.read(f"{home}/f") == "from the first"


def test_connecting_to_what_does_not_exist(server: Server):
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect("idoesnotexist0000000", **server.sdk())
    assert Sandbox.kill("idoesnotexist0000000", **server.sdk()) is False


# -- lists ---------------------------------------------------------------------------------------------------------------

FIVE = 5


@pytest.fixture(scope="module")
def five(server: Server) -> Iterator[list[Sandbox]]:
    """Five sandboxes of a team that has no others, in the order of their start."""
    options = server.sdk("lists")
    with ThreadPoolExecutor(FIVE) as pool:
        made = list(
            pool.map(
                lambda i: Sandbox.create(timeout=900, metadata={"n": str(i), "odd": str(i % 2), "x": "a b&c=d%"}, **options),
                range(FIVE),
            )
        )
    started = {item.sandbox_id: item.started_at for item in Sandbox.list(**options).next_items()}
    yield sorted(made, key=lambda sbx: (started[sbx.sandbox_id], sbx.sandbox_id))
    for sbx in made:
        sbx.kill()


def ids(items) -> list[str]:
    return [item.sandbox_id for item in items]


def test_the_newest_comes_first(server: Server, five: list[Sandbox]):
    listed = Sandbox.list(**server.sdk("lists")).next_items()
    starts = [item.started_at for item in listed]
    assert starts == sorted(starts, reverse=True)
    assert set(ids(listed)) == set(ids(five))
    oldest = Sandbox.list(order="asc", **server.sdk("lists")).next_items()
    assert [item.started_at for item in oldest] == sorted(starts)


@pytest.mark.parametrize("order", [None, "asc", "desc"])
def test_pages(server: Server, five: list[Sandbox], order):
    whole = ids(Sandbox.list(order=order, **server.sdk("lists")).next_items())
    paginator = Sandbox.list(limit=2, order=order, **server.sdk("lists"))
    pages = []
    while paginator.has_next:
        pages.append(ids(paginator.next_items()))
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sum(pages, []) == whole
    exact = Sandbox.list(limit=FIVE, order=order, **server.sdk("lists"))
    assert len(exact.next_items()) == FIVE
    assert not exact.has_next


def test_a_page_is_stable_when_its_cursor_sandbox_is_killed(server: Server):
    options = server.sdk("stable")
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: Sandbox.create(timeout=300, **options), range(3)))
    try:
        whole = ids(Sandbox.list(**options).next_items())
        paginator = Sandbox.list(limit=1, **options)
        first = ids(paginator.next_items())
        Sandbox.kill(first[0], **options)
        rest = []
        while paginator.has_next:
            rest += ids(paginator.next_items())
        assert rest == whole[1:]
    finally:
        for sbx in made:
            sbx.kill()


def test_filters(server: Server, five: list[Sandbox]):
    def query(**wanted) -> set[str]:
        return set(ids(Sandbox.list(query=SandboxQuery(**wanted), **server.sdk("lists")).next_items()))

    by_number = {sbx.get_info().metadata["n"]: sbx.sandbox_id for sbx in five}
    assert query(metadata={"n": "3"}) == {by_number["3"]}
    assert query(metadata={"odd": "1"}) == {by_number["1"], by_number["3"]}
    assert query(metadata={"odd": "0", "n": "4"}) == {by_number["4"]}
    assert query(metadata={"odd": "1", "n": "4"}) == set()
    assert query(metadata={"x": "a b&c=d%"}) == set(by_number.values())
    assert query(state=[SandboxState.RUNNING]) == set(by_number.values())
    assert query(state=[SandboxState.PAUSED]) == set()
    assert query(state=[SandboxState.RUNNING, SandboxState.PAUSED]) == set(by_number.values())
    assert query(template="base") == set(by_number.values())
    assert query(template=five[0].get_info().template_id) == set(by_number.values())
    third = five[2].get_info().started_at
    assert query(started_after=third) >= {five[3].sandbox_id, five[4].sandbox_id}
    assert five[0].sandbox_id not in query(started_after=third)
    assert query(started_after=now() + 60 * SECOND) == set()


def test_headers_of_a_list(server: Server, five: list[Sandbox]):
    with server.api("lists") as api:
        page = api.get("/v2/sandboxes", params={"limit": 2, "state": "running"})
        assert page.headers["x-next-token"]
        assert page.headers["x-total-running"] == str(FIVE)
        assert "x-next-token" not in api.get("/v2/sandboxes").headers
        item = page.json()[0]
        for field in ("templateID", "sandboxID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB", "state", "envdVersion"):
            assert field in item, field
        assert "envdAccessToken" not in item


# -- the end -------------------------------------------------------------------------------------------------------------


def seconds_after_end(server: Server, sbx: Sandbox) -> Callable[[], float]:
    """Waits until the sandbox is gone and tells how long after its end time that was."""
    end = sbx.get_info().end_at

    def measure() -> float:
        with server.api() as api:
            path = f"/sandboxes/{sbx.sandbox_id}"
            wait_until(lambda: api.get(path).status_code == 404, (end - now()).total_seconds() + 10, "the sandbox to end", 0.02)
            return (now() - end).total_seconds()

    return measure


def test_sandboxes_end_within_a_second_of_their_end_time(server: Server, create):
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda seconds: create(timeout=seconds), (12, 14, 16)))
        measures = [seconds_after_end(server, sbx) for sbx in made]
        late = list(pool.map(lambda measure: measure(), measures))
    assert all(-0.05 <= seconds <= 1 for seconds in late), late
    for sbx in made:
        assert sbx.is_running() is False
        assert sbx.kill() is False


def test_the_end_time_can_be_moved_both_ways(server: Server, create):
    sbx = create(timeout=60)
    sbx.set_timeout(900)
    assert abs((sbx.get_info().end_at - now()).total_seconds() - 900) < 2
    sbx.set_timeout(2)
    assert abs(seconds_after_end(server, sbx)()) <= 1


def test_a_timeout_of_zero_ends_it_at_once(server: Server, create):
    sbx = create()
    sbx.set_timeout(0)
    wait_until(lambda: not server.is_listed(sbx.sandbox_id), 2, "the sandbox to end")


def test_connecting_extends_and_never_shortens(create):
    sbx = create(timeout=300)
    end = sbx.get_info().end_at
    sbx.connect(timeout=30)
    assert sbx.get_info().end_at == end
    sbx.connect(timeout=900)
    assert abs((sbx.get_info().end_at - now()).total_seconds() - 900) < 2


def test_a_refresh_extends(server: Server, create):
    sbx = create(timeout=60)
    with server.api() as api:
        assert api.post(f"/sandboxes/{sbx.sandbox_id}/refreshes", json={"duration": 600}).status_code == 204
    assert abs((sbx.get_info().end_at - now()).total_seconds() - 600) < 2


# -- metrics and logs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiet(server: Server) -> Iterator[Sandbox]:
    """A sandbox that logged little so far."""
    sbx = Sandbox.create(timeout=900, **server.sdk())
    yield sbx
    sbx.kill()


def test_metrics_are_there_within_half_a_minute(quiet: Sandbox):
    sbx = quiet
    metrics = wait_until(sbx.get_metrics, 30, "a first sample")
    first, info = metrics[0], sbx.get_info()
    assert first.cpu_count == info.cpu_count
    assert 0 <= first.cpu_used_pct <= 100 * first.cpu_count
    assert 0 < first.mem_used < first.mem_total <= info.memory_mb << 20
    assert 0 <= first.mem_cache < first.mem_total
    assert 0 < first.disk_used < first.disk_total
    assert info.started_at - SECOND <= first.timestamp <= now() + SECOND
    assert sbx.get_metrics(end=info.started_at - 60 * SECOND) == []
    assert sbx.get_metrics(start=info.started_at - 10 * SECOND, end=now() + 10 * SECOND) != []
    assert sbx.get_metrics(start=now() + 3600 * SECOND) == []


def test_metrics_are_sampled_every_five_seconds(sandbox: Sandbox):
    samples = wait_until(lambda: (m := sandbox.get_metrics()) and len(m) >= 3 and m, 40, "three samples")
    stamps = [sample.timestamp for sample in samples]
    assert stamps == sorted(stamps)
    gaps = [(b - a).total_seconds() for a, b in zip(stamps, stamps[1:])]
    assert 3 < sorted(gaps)[len(gaps) // 2] < 8, gaps


def test_logs_hold_what_processes_print_and_the_console(server: Server, quiet: Sandbox):
    sandbox = quiet
    marker = f"marker-{time.time_ns()}"
    sandbox.commands.run(f"echo {marker}-out; echo {marker}-err >&2")
    with server.api() as api:

        def v1() -> str:
            response = api.get(f"/sandboxes/{sandbox.sandbox_id}/logs")
            assert response.status_code == 200, response.text
            body = response.json()
            for entry in body["logs"]:
                line = json.loads(entry["line"])  # the CLI parses every line
                assert line["level"] and line["logger"]
                datetime.datetime.fromisoformat(entry["timestamp"])
            return response.text

        def v2(**query) -> list[dict]:
            response = api.get(f"/v2/sandboxes/{sandbox.sandbox_id}/logs", params=query)
            assert response.status_code == 200, response.text
            return response.json()["logs"]

        wanted = {f"{marker}-out", f"{marker}-err"}
        wait_until(lambda: wanted <= {entry["message"] for entry in v2(search=marker)}, 10, "the output in the logs")
        assert all(text in v1() for text in wanted)
        found = v2(search=marker)
        for entry in found:
            assert marker in entry["message"]
            assert entry["level"] in ("debug", "info", "warn", "error")
            assert isinstance(entry["fields"], dict)
        assert len(v2(limit=1)) == 1
        forward = [entry["timestamp"] for entry in v2(direction="forward")]
        assert forward == sorted(forward)
        backward = [entry["timestamp"] for entry in v2(direction="backward")]
        assert backward == sorted(backward, reverse=True)
        future = int((time.time() + 3600) * 1000)
        assert v2(cursor=future, direction="forward") == []
        sandbox.commands.run(f"echo {marker}-console > /dev/console", user="root")
        console = wait_until(lambda: v2(search=f"{marker}-console"), 10, "what was written to the console")
        assert any(entry["fields"]["logger"] == "console" for entry in console)

        # From a time on, as the CLI asks while it follows.
        since = int(time.time() * 1000)
        sandbox.commands.run(f"echo {marker}-later")
        later = wait_until(
            lambda: api.get(f"/sandboxes/{sandbox.sandbox_id}/logs", params={"start": since}).json()["logs"], 10, "later lines"
        )
        assert f"{marker}-out" not in json.dumps(later)


def test_the_surface_answers_health(server: Server):
    assert httpx.get(f"{server.url}/health").status_code in (200, 204)


def test_what_becomes_of_a_sandbox_at_its_end_time_is_told(sandbox: Sandbox, create):
    assert sandbox.get_info().lifecycle["on_timeout"] == "kill"
    assert create(lifecycle={"on_timeout": "pause"}).get_info().lifecycle["on_timeout"] == "pause"
