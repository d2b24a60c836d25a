"""Snapshots and forks: sandboxes that go on from what another one was."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator

import httpx
import pytest
from e2b import (
    InvalidArgumentException,
    RateLimitException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxState,
)
from e2b.sandbox.sandbox_api import SnapshotInfo

from harness.guest import output, start
from harness.server import Server
from harness.waiting import wait_until

PORT = 8000
#: The catalog keeps who a key belongs to for half a second.
LIMITS_KNOWN = 1.0


@pytest.fixture(scope="module")
def source(server: Server) -> Iterator[Sandbox]:
    """A sandbox in which much lives. Tests leave it running and its program alone."""
    sbx = Sandbox.create(timeout=1800, metadata={"a": "b"}, envs={"MARK": "of the source"}, **server.sdk())
    start(sbx, "living.py", "/home/user/living", PORT)
    yield sbx
    sbx.kill()


@pytest.fixture
def snapshot() -> Iterator[Callable[..., SnapshotInfo]]:
    """Makes snapshots that are deleted after the test."""
    made: list[tuple[Sandbox, str]] = []

    def take(sbx: Sandbox, name: str | None = None) -> SnapshotInfo:
        taken = sbx.create_snapshot(name)
        made.append((sbx, taken.snapshot_id))
        return taken

    yield take
    for sbx, name in made:
        Sandbox.delete_snapshot(name, **sbx.connection_config.get_api_params())


@pytest.fixture
def fork() -> Iterator[Callable[..., list[Sandbox | Exception]]]:
    """Forks sandboxes; what comes of it is killed after the test."""
    made: list[Sandbox] = []

    def more(sbx: Sandbox, **options) -> list[Sandbox | Exception]:
        results = sbx.fork(**options)
        made.extend(one for one in results if isinstance(one, Sandbox))
        return results

    yield more
    for one in made:
        one.kill()


def life(server: Server, sbx: Sandbox, path: str = "/") -> dict:
    """What the program in a sandbox tells of itself; it found nothing wrong."""
    response = httpx.get(server.url + path, headers=server.edge_headers(sbx.sandbox_id, PORT), timeout=60)
    assert response.status_code == 200, response.text
    told = response.json()
    assert told["errors"] == []
    return told


def goes_on(server: Server, sbx: Sandbox, before: dict) -> None:
    """It is the same program, with its connections, files and memory, and it went on from where it was."""
    told = life(server, sbx, "/files")
    assert told["pids"] == before["pids"]
    assert told["counter"] >= before["counter"]
    assert all(told["said"][name] >= before["said"][name] for name in ("tcp", "unix"))

    def moving() -> bool:
        now = life(server, sbx)
        talks = all(now["said"][name] > told["said"][name] for name in ("tcp", "unix"))
        return talks and now["counter"] > told["counter"]

    wait_until(moving, 15, "the program to go on")


def listed(paginator) -> list[str]:
    """What is on all pages."""
    found: list[str] = []
    while paginator.has_next:
        found += [item.snapshot_id for item in paginator.next_items()]
    return found


# -- what a snapshot is --------------------------------------------------------------------------------------------------


def test_sandboxes_start_from_what_another_one_was(server: Server, source: Sandbox, create, snapshot):
    source.files.write("/home/user/on-disk", "disk\n")
    source.commands.run("echo memory > /dev/shm/in-memory")
    process = source.commands.run("exec sleep 1700", background=True, timeout=0)
    boot = output(source, "cat /proc/sys/kernel/random/boot_id")
    before, end = life(server, source, "/files"), source.get_info().end_at
    taken = snapshot(source, "rose")
    assert taken.snapshot_id == "e2e/rose:default"
    assert taken.names == ["e2e/rose:default"]

    # It runs on, and what it does since is its own affair.
    source.files.write("/home/user/on-disk", "changed\n")
    source.commands.run("echo changed > /dev/shm/in-memory")
    assert source.commands.kill(process.pid)

    with ThreadPoolExecutor(2) as pool:
        options = ({"template": taken.snapshot_id, "envs": {"MARK": "of the child"}}, {"template": "rose"})
        children = list(pool.map(lambda one: create(**one), options))
    for child in children:
        assert output(child, "cat /home/user/on-disk /dev/shm/in-memory") == "disk\nmemory"
        assert output(child, "cat /proc/sys/kernel/random/boot_id") == boot
        assert process.pid in {one.pid for one in child.commands.list()}
        goes_on(server, child, before)
        info = child.get_info()
        assert info.metadata == {}
        assert abs(info.end_at.timestamp() - time.time() - 600) < 60
    assert output(children[0], "echo $MARK") == "of the child"

    # Neither do they change it, nor each other.
    children[0].files.write("/home/user/on-disk", "of the first\n")
    assert output(children[1], "cat /home/user/on-disk") == "disk"
    assert output(source, "cat /home/user/on-disk /dev/shm/in-memory") == "changed\nchanged"
    assert process.pid not in {one.pid for one in source.commands.list()}
    goes_on(server, source, before)
    info = source.get_info()
    assert (info.state, info.end_at) == (SandboxState.RUNNING, end)


def test_a_snapshot_survives_its_source_and_its_sandboxes(server: Server, create, snapshot):
    sbx = create()
    sbx.files.write("/home/user/mark", "still there")
    taken = snapshot(sbx)
    assert taken.names == []
    assert taken.snapshot_id.endswith(":default")
    first = create(template=taken.snapshot_id)
    assert sbx.kill() is True
    assert first.files.read("/home/user/mark") == "still there"
    first.files.write("/home/user/mark", "changed")
    assert first.kill() is True
    again = create(template=taken.snapshot_id)
    assert again.files.read("/home/user/mark") == "still there"
    # One of one: what a sandbox of a snapshot is can be kept, too.
    again.files.write("/home/user/more", " and more")
    second = snapshot(again)
    assert again.kill() is True
    both = create(template=second.snapshot_id)
    assert output(both, "cat /home/user/mark /home/user/more") == "still there and more"


#: Each line is drawn anew; none may ever appear twice, anywhere.
DRAW = """head -c 16 /dev/urandom | od -An -tx1 -w16
python3 -c 'import os, random; print(random.getrandbits(128)); print(os.urandom(16).hex())'
cat /proc/sys/kernel/random/uuid"""


def test_each_has_its_own_identity(server: Server, create, snapshot, fork):
    sbx = create(network={"allow_public_traffic": False})
    taken = snapshot(sbx)
    with ThreadPoolExecutor(2) as pool:
        options = {"template": taken.snapshot_id, "network": {"allow_public_traffic": False}}
        pair = list(pool.map(lambda _: create(**options), range(2)))
    all_of_them = [sbx, *pair, *fork(sbx)]
    for own in (
        lambda one: one.sandbox_id,
        lambda one: one._envd_access_token,
        lambda one: one.traffic_access_token,
        lambda one: output(one, "hostname"),
    ):
        values = [own(one) for one in all_of_them]
        assert all(values) and len(set(values)) == len(values), values
    for one in all_of_them:
        assert output(one, "hostname; cat /proc/sys/kernel/hostname") == f"{one.sandbox_id}\n{one.sandbox_id}"
        assert output(one, "echo $E2B_SANDBOX_ID") == one.sandbox_id
        assert output(one, f"getent ahostsv4 {one.sandbox_id}")
    drawn = [line for one in all_of_them for line in output(one, DRAW).splitlines()]
    assert len(drawn) == 4 * len(all_of_them)
    assert len(set(drawn)) == len(drawn), drawn
    # No token of one opens another.
    with httpx.Client(base_url=server.url) as edge:
        for one in all_of_them:
            for other in all_of_them:
                headers = server.edge_headers(one.sandbox_id, token=other._envd_access_token)
                status = edge.get("/files", params={"path": "/etc/passwd"}, headers=headers).status_code
                assert status == (200 if one is other else 401), (status, one.sandbox_id, other.sandbox_id)


def test_the_clock_is_right_however_old_the_snapshot_is(create, snapshot):
    taken = snapshot(create())
    time.sleep(3)  # what the guest must not notice
    child = create(template=taken.snapshot_id)
    asked = time.time()
    guest = float(output(child, "date +%s.%N"))
    assert asked - 1 < guest < time.time() + 1


# -- names and lists -----------------------------------------------------------------------------------------------------


def test_lists_and_deletions(server: Server, snapshot):
    options = server.sdk("shelf")
    first, second = (Sandbox.create(timeout=600, **options) for _ in range(2))
    try:
        unnamed = snapshot(first).snapshot_id
        lily = snapshot(first, "Lily").snapshot_id
        tagged = snapshot(second, "shelf/lily:v1").snapshot_id
        assert (lily, tagged) == ("shelf/lily:default", "shelf/lily:v1")

        everything = [tagged, lily, unnamed]
        assert listed(Sandbox.list_snapshots(**options)) == everything
        assert listed(first.list_snapshots()) == [lily, unnamed]
        assert listed(Sandbox.list_snapshots(sandbox_id=second.sandbox_id, **options)) == [tagged]
        assert listed(Sandbox.list_snapshots(name="lily", **options)) == [tagged, lily]
        assert listed(Sandbox.list_snapshots(name="shelf/lily:v1", **options)) == [tagged]
        assert listed(Sandbox.list_snapshots(name=unnamed, **options)) == [unnamed]
        assert listed(Sandbox.list_snapshots(name="nothing", **options)) == []
        assert unnamed not in listed(Sandbox.list_snapshots(**server.sdk("other")))
        paginator = Sandbox.list_snapshots(limit=2, **options)
        assert [item.snapshot_id for item in paginator.next_items()] == [tagged, lily]
        assert paginator.has_next and paginator.next_token
        assert [item.snapshot_id for item in paginator.next_items()] == [unnamed]
        assert not paginator.has_next

        with server.api("shelf") as api:
            templates = api.get("/templates").json()
            assert [one["templateID"] for one in templates] == ["base"]

        assert Sandbox.delete_snapshot(unnamed, **server.sdk("other")) is False
        assert Sandbox.delete_snapshot(unnamed, **options) is True
        assert Sandbox.delete_snapshot(unnamed, **options) is False
        with pytest.raises(SandboxException) as refused:
            Sandbox.create(unnamed, **options)
        assert refused.value.status_code == 404
        assert Sandbox.delete_snapshot(tagged, **options) is True
        assert listed(Sandbox.list_snapshots(**options)) == [lily]
        with pytest.raises(SandboxException) as refused:
            Sandbox.delete_snapshot("base", **options)
        assert refused.value.status_code == 403
    finally:
        first.kill()
        second.kill()


def test_a_name_means_the_newest_of_its_snapshots(server: Server, create, snapshot):
    sbx = create()
    for text in ("first", "second"):
        sbx.files.write("/home/user/mark", text)
        taken = snapshot(sbx, "twice")
        assert taken.snapshot_id == "e2e/twice:default"
    assert listed(sbx.list_snapshots()) == ["e2e/twice:default"]
    assert create(template="twice").files.read("/home/user/mark") == "second"
    assert Sandbox.delete_snapshot("twice", **server.sdk()) is True
    assert Sandbox.delete_snapshot("twice", **server.sdk()) is False


def test_the_rows_of_the_rest_surface(server: Server, source: Sandbox, create):
    sandbox, missing = f"/sandboxes/{source.sandbox_id}", "/sandboxes/idoesnotexist0000000"
    asleep = create()
    asleep.pause()
    with server.api() as api, server.api("other") as stranger:

        def row(client: httpx.Client, method: str, path: str, status: int, body: dict | None = None):
            response = client.request(method, path, **({"json": body} if body is not None else {}))
            assert response.status_code == status, (path, body, response.status_code, response.text)
            answer = response.json() if response.content else None
            if status >= 400:
                assert answer["code"] == status and answer["message"]
            return answer

        for body in ({"memory": "no"}, {"name": "a/b/c"}, {"name": ""}, {"name": "other/x"}, {"name": 1}):
            row(api, "POST", f"{sandbox}/snapshots", 400, body)
        row(api, "POST", f"{sandbox}/snapshots", 409, {"name": "base"})
        for body in ({"count": 0}, {"count": 101}, {"count": "x"}, {"timeout": 0}, {"timeout": 10**9}):
            row(api, "POST", f"{sandbox}/fork", 400, body)
        for action in ("snapshots", "fork"):
            row(api, "POST", f"{missing}/{action}", 404, {})
            row(stranger, "POST", f"{sandbox}/{action}", 404, {})
            row(api, "POST", f"/sandboxes/{asleep.sandbox_id}/{action}", 409, {})
        for query in ("limit=0", "limit=101", "nextToken=x", "name=a%2Fb%2Fc"):
            row(api, "GET", f"/snapshots?{query}", 400)
        row(api, "DELETE", "/templates/base", 403)
        row(api, "DELETE", "/templates/no-such-thing", 404)

        made = row(api, "POST", f"{sandbox}/snapshots", 201, {"name": "row:v.1"})
        assert made == {"snapshotID": "e2e/row:v.1", "names": ["e2e/row:v.1"]}
        assert row(api, "GET", "/snapshots?name=row", 200) == [made]
        row(stranger, "DELETE", "/templates/e2e%2Frow%3Av.1", 404)
        row(api, "DELETE", "/templates/e2e%2Frow%3Av.1", 204)
        row(api, "DELETE", "/templates/e2e%2Frow%3Av.1", 404)
        (entry,) = row(api, "POST", f"{sandbox}/fork", 201)
        assert list(entry) == ["sandbox"]
        assert entry["sandbox"]["envdAccessToken"] != source._envd_access_token
        row(api, "DELETE", f"/sandboxes/{entry['sandbox']['sandboxID']}", 204)


def test_what_cannot_be_snapshotted(server: Server, create):
    sbx = create()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.create_snapshot(sbx.sandbox_id, **server.sdk("other"))
    sbx.pause()
    for mode in ("full", "filesystem"):
        with pytest.raises(SandboxException) as refused:
            sbx.create_snapshot(mode=mode)
        assert refused.value.status_code == 409
    assert sbx.connect(timeout=600).is_running()
    sbx.kill()
    with pytest.raises(SandboxNotFoundException):
        sbx.create_snapshot()
    assert listed(Sandbox.list_snapshots(sandbox_id=sbx.sandbox_id, **server.sdk())) == []


# -- forks ---------------------------------------------------------------------------------------------------------------


def test_three_forks_go_on_each_by_itself(server: Server, source: Sandbox, fork):
    source.files.write("/home/user/state", "before")
    before, end = life(server, source, "/files"), source.get_info().end_at
    forks = fork(source, count=3, timeout=700)
    assert all(isinstance(one, Sandbox) for one in forks), forks
    family = [source, *forks]
    assert len({one.sandbox_id for one in family}) == 4
    for number, one in enumerate(family):
        assert output(one, "cat /home/user/state; echo $MARK") == "beforeof the source"
        one.files.write("/home/user/state", f"of {number}")
    for number, one in enumerate(family):
        goes_on(server, one, before)
        assert one.files.read("/home/user/state") == f"of {number}"
    for one in forks:
        info = one.get_info()
        assert info.metadata == {"a": "b"}
        assert (info.template_id, info.name) == ("base", "base")
        assert abs(info.end_at.timestamp() - time.time() - 700) < 60
    info = source.get_info()
    assert (info.state, info.end_at) == (SandboxState.RUNNING, end)
    # What they came from has no name and is in no list.
    assert listed(source.list_snapshots()) == []


def test_a_fork_is_a_sandbox_like_any_other(server: Server, create, fork, snapshot):
    sbx = create()
    sbx.commands.run("echo memory > /dev/shm/in-memory")
    (child,) = Sandbox.fork(sbx.sandbox_id, **server.sdk())
    try:
        assert sbx.kill() is True
        assert child.pause() is True
        assert output(child.connect(timeout=600), "cat /dev/shm/in-memory") == "memory"
        (grandchild,) = fork(child)
        assert output(grandchild, "cat /dev/shm/in-memory") == "memory"
        taken = snapshot(grandchild)
        assert output(create(template=taken.snapshot_id), "cat /dev/shm/in-memory") == "memory"
    finally:
        child.kill()


def test_what_cannot_be_forked(server: Server, create):
    sbx = create()
    for count in (0, 21):
        with pytest.raises(InvalidArgumentException):
            sbx.fork(count=count)
    with pytest.raises(SandboxNotFoundException):
        Sandbox.fork(sbx.sandbox_id, **server.sdk("other"))
    sbx.pause()
    with pytest.raises(SandboxException) as refused:
        sbx.fork()
    assert refused.value.status_code == 409
    assert "paused" in str(refused.value)
    assert server.state_of(sbx.sandbox_id) == "paused"
    sbx.kill()
    with pytest.raises(SandboxNotFoundException):
        sbx.fork()


def limit(server: Server, team: str, sandboxes: int) -> None:
    """What a team may have at once; there is no command for it yet."""
    server.key(team)
    with sqlite3.connect(server.state / "catalog.db", timeout=10) as catalog:
        changed = catalog.execute("UPDATE teams SET max_sandboxes = ? WHERE slug = ?", (sandboxes, team))
        assert changed.rowcount == 1
    catalog.close()
    time.sleep(LIMITS_KNOWN)


def test_the_limit_of_a_team(server: Server, fork, snapshot):
    limit(server, "few", 3)
    options = server.sdk("few")
    sbx = Sandbox.create(timeout=600, **options)
    try:
        results = fork(sbx, count=3)
        assert [isinstance(one, Sandbox) for one in results] == [True, True, False]
        assert isinstance(results[2], RateLimitException)
        assert "limit of 3 sandboxes" in str(results[2])
        assert [type(one) for one in fork(sbx, count=2)] == [RateLimitException] * 2
        # A snapshot is no sandbox; one that starts from it is.
        taken = snapshot(sbx)
        with pytest.raises(RateLimitException):
            Sandbox.create(taken.snapshot_id, **options)
        results[0].kill()
        child = Sandbox.create(taken.snapshot_id, timeout=60, **options)
        assert child.kill() is True
    finally:
        sbx.kill()


# -- what is kept, and for how long --------------------------------------------------------------------------------------


def test_sandboxes_outlive_the_snapshot_that_they_came_from(own: Server, make, snapshot):
    sbx = make()
    sbx.commands.run("head -c 4M /dev/urandom > /home/user/file; cp /home/user/file /dev/shm/file")
    look = "md5sum < /home/user/file; md5sum < /dev/shm/file"
    seen = output(sbx, look)
    taken = snapshot(sbx)
    child, sleeper = make(template=taken.snapshot_id), make(template=taken.snapshot_id)
    assert sleeper.pause() is True
    assert Sandbox.delete_snapshot(taken.snapshot_id, **own.sdk()) is True
    assert sbx.kill() is True
    # What they have not read yet is still there, whatever is paused, resumed or started again.
    assert output(child, look) == seen
    assert child.pause() is True
    own.kill_server()
    own.up()
    for one in (child, sleeper):
        assert output(Sandbox.connect(one.sandbox_id, timeout=600, **own.sdk()), look) == seen


def test_snapshots_and_forks_outlive_the_server(own: Server, make, snapshot, fork):
    sbx = make()
    sbx.files.write("/home/user/mark", "kept")
    taken = snapshot(sbx, "kept")
    (child,) = fork(sbx)
    own.kill_server()
    own.up()
    assert listed(Sandbox.list_snapshots(**own.sdk())) == ["e2e/kept:default"]
    assert output(make(template="kept"), "cat /home/user/mark") == "kept"
    assert child.files.read("/home/user/mark") == "kept"
    assert child.pause() is True
    own.down()
    own.up()
    assert output(make(template=taken.snapshot_id), "cat /home/user/mark") == "kept"
    again = Sandbox.connect(child.sandbox_id, timeout=600, **own.sdk())
    assert again.files.read("/home/user/mark") == "kept"


@pytest.mark.parametrize("patience", [0.01, 0.1, 0.5])
def test_a_client_that_leaves_in_the_middle_of_a_fork(own: Server, make, patience: float):
    """What it would have got is ended; `make` sees that nothing is left."""
    sbx = make()
    try:
        answer = httpx.post(
            f"{own.url}/sandboxes/{sbx.sandbox_id}/fork",
            headers={"X-API-Key": own.key()},
            json={"count": 3, "timeout": 900},
            timeout=httpx.Timeout(10, read=patience),
        )
        # A fast host: these have somebody who knows of them.
        for entry in answer.json():
            Sandbox.kill(entry["sandbox"]["sandboxID"], **own.sdk())
    except httpx.TimeoutException:
        pass
    quiet = 0

    def stays_alone() -> bool:
        # What was on its way may not have begun yet: it is alone only if it stays so.
        nonlocal quiet
        names = {item.sandbox_id for item in Sandbox.list(**own.sdk()).next_items()}
        quiet = quiet + 1 if names == own.directories() == {sbx.sandbox_id} else 0
        return quiet > 20

    wait_until(stays_alone, 120, "every fork to be ended", interval=0.1)
    assert output(sbx, "echo alive") == "alive"
