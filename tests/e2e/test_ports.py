"""Ports of a sandbox, whatever address they are bound to."""

from __future__ import annotations

import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator

import httpx
import pytest
import websockets.sync.client
from e2b import Sandbox

from harness.guest import output, serve, start
from harness.server import Server
from harness.waiting import wait_until

EVERYWHERE = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]", "127.0.0.2"]


@pytest.fixture(scope="module")
def sbx(server: Server) -> Iterator[Sandbox]:
    one = Sandbox.create(timeout=900, **server.sdk())
    yield one
    one.kill()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as one:
        yield one


class Ports:
    """Asks ports of one sandbox."""

    def __init__(self, server: Server, client: httpx.Client, sbx: Sandbox):
        self.server, self.client, self.id = server, client, sbx.sandbox_id

    def get(self, port: int, path: str = "/") -> httpx.Response:
        return self.client.get(path, headers=self.server.edge_headers(self.id, port))

    def where(self, port: int, path: str = "/") -> tuple[str, float]:
        """Which address answered, and how long after it was bound, by the guest's clock, the connection was there."""
        answer = self.get(port, path)
        assert answer.status_code == 200, answer.text
        address, after = answer.text.split()
        return address, float(after)

    def is_closed(self, port: int) -> bool:
        answer = self.get(port)
        return answer.status_code == 502 and answer.json()["message"] == "The sandbox is running but port is not open"


@pytest.fixture
def ports(server: Server, client: httpx.Client, sbx: Sandbox) -> Ports:
    return Ports(server, client, sbx)


@pytest.mark.parametrize("port, address", list(enumerate(EVERYWHERE, 3210)))
def test_the_first_request_after_binding_is_answered(sbx: Sandbox, ports: Ports, port: int, address: str):
    assert ports.is_closed(port)
    start(sbx, "ports.py", f"{address}:{port}")
    assert ports.where(port)[0] == f"{address}:{port}"


@pytest.mark.parametrize("port, address", [(3310, "127.0.0.1"), (3311, "[::1]"), (3312, "0.0.0.0")])
def test_a_port_is_reachable_within_a_tenth_of_a_second(sbx: Sandbox, ports: Ports, port: int, address: str):
    """By the guest's clock, from its bind to the first connection of somebody who asks again and again. What an emulator adds
    to the time that a request takes is not what is promised, so it may be added here."""
    rounds = 10
    start(sbx, "ports.py", *[f"{address}:{port}"] * rounds)
    took, afters = [], []
    for _ in range(rounds - 1):
        begun = time.monotonic()
        ports.where(port, "/next")
        # Bound again by now or in a moment; nobody waits for it to say so.
        while (answer := ports.get(port)).status_code == 502:
            pass
        took.append(time.monotonic() - begun)
        afters.append(float(answer.text.split()[1]))
    request = statistics.median(took)
    print(f"{address}: from bind to the connection {[round(after * 1000, 1) for after in afters]} ms, of the guest's time")
    assert statistics.median(afters) < 0.1 + request, (afters, took)


def test_a_port_may_move_between_addresses(sbx: Sandbox, ports: Ports):
    """As a development server does that is restarted with another host. One process, one port: all of it works each time."""
    hosts = ["127.0.0.1", "0.0.0.0", "127.0.0.1", "127.0.0.1", "[::1]", "0.0.0.0", "[::1]", "127.0.0.1"]
    start(sbx, "ports.py", *(f"{host}:3400" for host in hosts))
    for host in hosts:
        wait_until(lambda: not ports.is_closed(3400), 30, f"the bind to {host}")
        assert ports.where(3400)[0] == f"{host}:3400"
        assert ports.where(3400, "/next")[0] == f"{host}:3400"
    assert ports.is_closed(3400)


def test_a_closed_port_is_told_at_once(ports: Ports, sbx: Sandbox):
    took = []
    for _ in range(10):
        begun = time.monotonic()
        answer = ports.get(9)
        took.append(time.monotonic() - begun)
        assert answer.status_code == 502
        assert answer.json() == {
            "sandboxId": sbx.sandbox_id,
            "message": "The sandbox is running but port is not open",
            "port": 9,
            "code": 502,
        }
    print(f"a closed port: {[round(one * 1000, 1) for one in took]} ms")
    assert statistics.median(took) < 1


def test_all_that_http_does_passes_through_loopback(server: Server, client: httpx.Client, sbx: Sandbox, ports: Ports):
    serve(sbx, 3500, "127.0.0.1")
    headers = server.edge_headers(sbx.sandbox_id, 3500)
    whole = b"body " * 100_000
    assert client.post("/echo", headers=headers, content=whole).content == whole
    assert ports.get(3500, "/big").content == b"0123456789abcdef" * (1 << 20)
    arrived = []
    with client.stream("GET", "/stream", headers=headers) as answer:
        for piece in answer.iter_raw():
            arrived.append((time.monotonic(), piece))
    assert b"".join(piece for _, piece in arrived) == b"".join(b"tick %d\n" % i for i in range(4))
    assert arrived[-1][0] - arrived[0][0] > 0.8
    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(lambda i: client.post("/echo", headers=headers, content=f"request {i}").text, range(100))
        assert list(answers) == [f"request {i}" for i in range(100)]
    with websockets.sync.client.connect(
        f"ws://127.0.0.1:{server.port}/ws", additional_headers=headers, compression=None, max_size=None, proxy=None
    ) as ws:
        for message in ("hello", b"\0\1\2" * 1000, "x" * 300_000):
            ws.send(message)
            assert ws.recv(timeout=20) == message
        # It stays open while nobody says anything; the time is the point here.
        time.sleep(3)
        ws.send("still there")
        assert ws.recv(timeout=20) == "still there"


def test_a_program_that_is_started_again_is_reached_again(sbx: Sandbox, ports: Ports):
    for _ in range(2):
        pid = start(sbx, "ports.py", "127.0.0.1:3600")
        assert ports.where(3600)[0] == "127.0.0.1:3600"
        sbx.commands.kill(pid)
        wait_until(lambda: ports.is_closed(3600), 30, "the end of the program")


def test_ports_on_loopback_outlive_a_pause(server: Server, create, client: httpx.Client):
    """And connections from before it leave nothing behind in the guest."""
    sbx = create()
    serve(sbx, 3700, "127.0.0.1")
    start(sbx, "ports.py", "[::1]:3701")
    ports = Ports(server, client, sbx)
    with ThreadPoolExecutor(20) as pool:
        assert all(answer.status_code == 200 for answer in pool.map(lambda _: ports.get(3700), range(40)))
    for _ in range(2):
        sbx.pause()
        sbx.connect()
        assert ports.get(3700).status_code == 200
        assert ports.where(3701)[0] == "[::1]:3701"

    def connections() -> int:
        """Those over loopback to the port: the daemon's ends and the program's."""
        return int(output(sbx, "grep '0100007F:0E74' /proc/net/tcp | awk '$4 == \"01\"' | wc -l"))

    # What is idle is closed by the edge after a while; what was cut by the pause, by the daemon at once.
    wait_until(lambda: connections() <= 4, 30, "the end of connections from before the pause")


def test_clients_cannot_ask_the_daemon_for_ports(server: Server, sbx: Sandbox, ports: Ports):
    """The daemon leads the host on to ports without a token; the host lets nobody else ask."""
    start(sbx, "ports.py", "127.0.0.1:3800")
    for routing in (f"E2b-Sandbox-Id: {sbx.sandbox_id}\r\nE2b-Sandbox-Port: 49983\r\n", ""):
        host = "x" if routing else f"49983-{sbx.sandbox_id}.sbx.test"
        for target in ("localhost:3800", "http://localhost:3800/", f"49983-{sbx.sandbox_id}.sbx.test:3800"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
                plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n{routing}\r\nGET / HTTP/1.0\r\n\r\n".encode())
                assert b" 200 " not in plain.recv(4096).split(b"\r\n")[0], target
    # Nor does anybody inside, who has no address that the daemon takes for the host's.
    for address in ("127.0.0.1", "169.254.0.21"):
        said = output(
            sbx,
            f"exec 3<>/dev/tcp/{address}/49983; printf 'CONNECT localhost:3800 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; head -1 <&3",
        )
        assert said.startswith("HTTP/1.1 403"), said
