"""What a sandbox may reach, and who may reach what in a sandbox."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator

import httpx
import pytest
import websockets.sync.client
from e2b import Sandbox

from harness import hosts
from harness.guest import WEB_PORT, install, serve
from harness.server import Server
from harness.waiting import wait_until

#: An address that is public as far as a policy can tell; here it belongs to a test host one hop away.
PUBLIC = "198.51.100.77"
#: Addresses that no sandbox may ever reach, owned by the same test host.
FORBIDDEN = ["10.1.77.2", "172.20.77.2", "192.168.77.2", "100.64.77.2", "169.254.169.254", "169.254.77.2"]


def reach(sbx: Sandbox, targets: list[str], timeout: float = 2) -> set[str]:
    """Which targets the sandbox can open a TCP connection to."""
    output = sbx.commands.run(f"python3 {install(sbx, 'reach.py')} {timeout} {' '.join(targets)}", timeout=90).stdout
    return set(json.loads(output))


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[Sandbox]:
    """A sandbox that serves on port 8000 and may use the internet."""
    sbx = Sandbox.create(timeout=900, **server.sdk())
    serve(sbx)
    yield sbx
    sbx.kill()


@pytest.fixture(scope="module")
def offline(server: Server) -> Iterator[Sandbox]:
    """A sandbox without internet access."""
    sbx = Sandbox.create(timeout=900, allow_internet_access=False, **server.sdk())
    yield sbx
    sbx.kill()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as one:
        yield one


# -- outbound ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def neighbour() -> Iterator[None]:
    with hosts.neighbour([PUBLIC, *FORBIDDEN]):

        def serves(address: str) -> bool:
            try:
                return httpx.get(f"http://{address}:{hosts.PORT}/", timeout=1, trust_env=False).content == hosts.GREETING
            except httpx.TransportError:
                return False

        for address in (PUBLIC, *FORBIDDEN):
            wait_until(lambda: serves(address), 10, f"the test host at {address}")
        yield


def test_the_internet_is_reachable_when_allowed(neighbour, web: Sandbox):
    output = web.commands.run(f"curl -sS --max-time 10 http://{PUBLIC}:{hosts.PORT}/").stdout
    assert output.encode() == hosts.GREETING


def test_nothing_is_reachable_without_internet_access(neighbour, offline: Sandbox):
    targets = [f"{address}:{hosts.PORT}" for address in (PUBLIC, *FORBIDDEN)]
    assert reach(offline, targets) == set()
    assert offline.get_info().allow_internet_access is False


def test_private_ranges_are_never_reachable(neighbour, web: Sandbox):
    assert reach(web, [f"{address}:{hosts.PORT}" for address in FORBIDDEN]) == set()


def test_udp_to_private_ranges_is_never_let_out(neighbour, web: Sandbox):
    """A datagram that the test host would count does not arrive there; one to a public address does."""

    def send(addresses: list[str]) -> None:
        script = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n" + "".join(
            f"try: s.sendto(b'x', ('{address}', 9))\nexcept OSError: pass\n" for address in addresses
        )
        web.files.write("/home/user/send.py", script)
        web.commands.run("python3 /home/user/send.py")

    before = _received_udp()
    send(FORBIDDEN)
    send([PUBLIC])
    def more() -> int:
        return sum(count - before.get(name, 0) for name, count in _received_udp().items())

    wait_until(lambda: more() > 0, 5, "the datagram to the public address")
    assert more() == 1


def _received_udp() -> dict[str, int]:
    """UDP datagrams (to closed ports) that each test host has seen: another worker may have one, too."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    found = {}
    for name in names:
        if name.startswith("cfe") and name.endswith("h"):
            snmp = ["ip", "netns", "exec", name, "cat", "/proc/net/snmp"]
            lines = subprocess.run(snmp, capture_output=True, text=True).stdout.splitlines()
            # One that is gone meanwhile says nothing.
            if udp := [line.split() for line in lines if line.startswith("Udp:")]:
                found[name] = int(udp[1][udp[0].index("NoPorts")])
    return found


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_services_of_the_host_are_never_reachable(server: Server, web: Sandbox, offline: Sandbox, kind: str):
    sbx = web if kind == "online" else offline
    gateway = sbx.commands.run("ip -4 route show default | awk '{print $3}'").stdout.split()
    addresses = {*hosts.host_addresses(), *gateway, "169.254.0.22"}
    with hosts.host_service() as port:
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        targets = [f"{address}:{p}" for address in addresses for p in (port, server.port, 22)]
        assert reach(sbx, targets) == set()


def test_other_sandboxes_are_never_reachable(server: Server, web: Sandbox, offline: Sandbox):
    """Neither by the addresses of their namespaces nor by the addresses that all guests share."""
    addresses = set()
    for name in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split():
        if name.startswith(f"cf{server.tag}-"):
            text = subprocess.run(["ip", "-n", name, "-j", "-4", "addr"], capture_output=True, text=True).stdout
            addresses |= {info["local"] for link in json.loads(text or "[]") for info in link["addr_info"]}
    targets = [f"{address}:{WEB_PORT}" for address in {*addresses, "169.254.0.21"} if not address.startswith("127.")]
    assert addresses
    assert reach(offline, targets) == set()
    other = Sandbox.create(timeout=120, **server.sdk())
    try:
        assert reach(other, targets) == set()
    finally:
        other.kill()


def test_the_guest_has_no_ipv6_way_out(web: Sandbox):
    assert web.commands.run("ip -6 route show default").stdout.strip() == ""


def test_name_servers_are_set(web: Sandbox):
    assert "nameserver" in web.files.read("/etc/resolv.conf")


def test_what_a_guest_sends_to_its_supervisor_does_no_harm(create):
    """The supervisor listens for the guest daemon; everything in the guest can talk to it."""
    sbx = create()
    sbx.commands.run(
        "cd /tmp; head -c 20000000 /dev/urandom > junk; u=http://169.254.0.22:80; "
        "for p in /v1/logs /v1/ready / /../../etc/passwd; do "
        "curl -s -o /dev/null --max-time 10 -X POST --data-binary @junk $u$p; "
        "curl -s -o /dev/null --max-time 10 -X POST -d '{\"version\":\"99.0.0\"}' $u$p; "
        "curl -s -o /dev/null --max-time 10 -X GET $u$p; done; "
        "for i in $(seq 200); do (exec 3<>/dev/tcp/169.254.0.22/80; echo junk >&3; sleep 3) & done; wait; true",
        timeout=150,
    )
    assert sbx.commands.run("echo alive").stdout == "alive\n"
    assert sbx.get_info().envd_version == "0.6.13"


# -- inbound: ports of a sandbox -----------------------------------------------------------------------------------------


def test_a_port_by_headers(server: Server, web: Sandbox, client: httpx.Client):
    answer = client.get("/some/path?q=1&r=%2F", headers=server.edge_headers(web.sandbox_id, WEB_PORT))
    assert answer.status_code == 200
    assert answer.json()["path"] == "/some/path?q=1&r=%2F"


@pytest.mark.parametrize("domain", ["sbx.test", "localhost", "e2b.app:8443"])
def test_a_port_by_host_name(web: Sandbox, client: httpx.Client, domain: str):
    answer = client.get("/by-host", headers={"Host": f"{WEB_PORT}-{web.sandbox_id}.{domain}"})
    assert answer.status_code == 200
    assert answer.json()["path"] == "/by-host"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_methods_and_bodies_pass(server: Server, web: Sandbox, client: httpx.Client, method: str):
    headers = server.edge_headers(web.sandbox_id, WEB_PORT)
    whole = b"body " * 100_000
    plain = client.request(method, "/echo", headers=headers, content=whole)
    assert (plain.content, plain.headers["x-method"]) == (whole, method)
    chunked = client.request(method, "/echo", headers=headers, content=(whole[i : i + 7777] for i in range(0, len(whole), 7777)))
    assert chunked.content == whole


def test_a_response_is_passed_on_while_it_is_made(server: Server, web: Sandbox, client: httpx.Client):
    arrived = []
    with client.stream("GET", "/stream", headers=server.edge_headers(web.sandbox_id, WEB_PORT)) as answer:
        for piece in answer.iter_raw():
            arrived.append((time.monotonic(), piece))
    assert b"".join(piece for _, piece in arrived) == b"".join(b"tick %d\n" % i for i in range(4))
    assert arrived[-1][0] - arrived[0][0] > 0.8


def test_a_large_response(server: Server, web: Sandbox, client: httpx.Client):
    answer = client.get("/big", headers=server.edge_headers(web.sandbox_id, WEB_PORT))
    assert answer.content == b"0123456789abcdef" * (1 << 20)


def test_a_websocket(server: Server, web: Sandbox):
    with websockets.sync.client.connect(
        f"ws://127.0.0.1:{server.port}/ws",
        additional_headers=server.edge_headers(web.sandbox_id, WEB_PORT),
        compression=None,
        max_size=None,
        proxy=None,
    ) as ws:
        for message in ("hello", "ünï 🙂", b"\0\1\2" * 1000, "x" * 300_000):
            ws.send(message)
            assert ws.recv(timeout=20) == message
        # It stays open while nobody says anything; the time is the point here.
        time.sleep(3)
        ws.send("still there")
        assert ws.recv(timeout=20) == "still there"


def test_a_websocket_by_host_name(server: Server, web: Sandbox):
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        with websockets.sync.client.connect(
            f"ws://{WEB_PORT}-{web.sandbox_id}.sbx.test/ws", sock=plain, compression=None, proxy=None
        ) as ws:
            ws.send("by name")
            assert ws.recv(timeout=20) == "by name"


def test_http2_without_tls(server: Server, web: Sandbox, sandbox: Sandbox):
    with httpx.Client(base_url=server.url, http1=False, http2=True, timeout=30) as h2:
        answer = h2.get("/h2", headers=server.edge_headers(web.sandbox_id, WEB_PORT))
        assert (answer.http_version, answer.status_code, answer.json()["path"]) == ("HTTP/2", 200, "/h2")
        assert h2.get("/v2/sandboxes", headers={"X-API-Key": server.key()}).status_code == 200
        assert h2.get("/health", headers=server.edge_headers(sandbox.sandbox_id)).status_code == 204
        body = b"two " * 100_000
        assert h2.post("/echo", headers=server.edge_headers(web.sandbox_id, WEB_PORT), content=body).content == body


def test_many_requests_at_once_do_not_mix(server: Server, web: Sandbox, client: httpx.Client):
    headers = server.edge_headers(web.sandbox_id, WEB_PORT)
    with ThreadPoolExecutor(40) as pool:
        answers = pool.map(lambda i: client.post("/echo", headers=headers, content=f"request {i}").text, range(200))
        assert list(answers) == [f"request {i}" for i in range(200)]


def test_a_closed_port_is_502(server: Server, web: Sandbox, client: httpx.Client):
    answer = client.get("/", headers=server.edge_headers(web.sandbox_id, 9))
    assert answer.status_code == 502
    assert answer.json() == {
        "sandboxId": web.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 9,
        "code": 502,
    }


def test_an_unknown_sandbox_is_502(server: Server, client: httpx.Client):
    for headers in (server.edge_headers("inobody0000000000000"), {"Host": "8000-inobody0000000000000.sbx.test"}):
        answer = client.get("/", headers=headers)
        assert answer.status_code == 502
        assert answer.json() == {"sandboxId": "inobody0000000000000", "message": "The sandbox was not found", "code": 502}


@pytest.mark.parametrize(
    "headers",
    [
        {"E2b-Sandbox-Id": "i1"},
        {"E2b-Sandbox-Port": "8000"},
        {"E2b-Sandbox-Id": "i1", "E2b-Sandbox-Port": "0"},
        {"E2b-Sandbox-Id": "i1", "E2b-Sandbox-Port": "65536"},
        {"E2b-Sandbox-Id": "i1", "E2b-Sandbox-Port": "eighty"},
        {"E2b-Sandbox-Id": "../../etc", "E2b-Sandbox-Port": "80"},
    ],
)
def test_routing_that_makes_no_sense_is_400(client: httpx.Client, headers: dict[str, str]):
    answer = client.get("/", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["code"] == 400 and answer.json()["message"]


def test_traffic_that_is_not_public_needs_the_token(server: Server, create, client: httpx.Client):
    sbx = create(network={"allow_public_traffic": False})
    serve(sbx)
    headers = server.edge_headers(sbx.sandbox_id, WEB_PORT)
    assert client.get("/", headers=headers).status_code == 403
    assert client.get("/", headers={**headers, "E2b-Traffic-Access-Token": "wrong"}).status_code == 403
    assert sbx.traffic_access_token
    allowed = client.get("/", headers={**headers, "E2b-Traffic-Access-Token": sbx.traffic_access_token})
    assert allowed.status_code == 200
    assert sbx.commands.run("echo the daemon needs no such token").exit_code == 0


def test_the_host_header_can_be_masked(server: Server, create, client: httpx.Client):
    sbx = create(network={"mask_request_host": "custom.example.com:${PORT}"})
    serve(sbx)
    seen = client.get("/", headers=server.edge_headers(sbx.sandbox_id, WEB_PORT)).json()["headers"]
    assert seen["host"] == f"custom.example.com:{WEB_PORT}"


# -- inbound: the guest daemon -------------------------------------------------------------------------------------------

RPC = "/process.Process/List"


def test_the_daemon_wants_its_token(server: Server, sandbox: Sandbox, client: httpx.Client):
    def call(token: str | None) -> httpx.Response:
        headers = {**server.edge_headers(sandbox.sandbox_id, token=token), "Content-Type": "application/json"}
        return client.post(RPC, headers=headers, content="{}")

    assert call(sandbox._envd_access_token).status_code == 200
    for wrong in (None, "wrong", sandbox._envd_access_token + "x", sandbox._envd_access_token[:-1]):
        answer = call(wrong)
        assert answer.status_code == 401
        assert answer.json()["code"] == 401 and "unauthorized" in answer.json()["message"]
    assert client.get("/envs", headers=server.edge_headers(sandbox.sandbox_id)).status_code == 401
    assert client.get("/metrics", headers=server.edge_headers(sandbox.sandbox_id)).status_code == 401
    assert client.get("/health", headers=server.edge_headers(sandbox.sandbox_id)).status_code == 204


def test_the_token_of_another_sandbox_does_not_help(server: Server, sandbox: Sandbox, web: Sandbox, client: httpx.Client):
    headers = {
        **server.edge_headers(sandbox.sandbox_id, token=web._envd_access_token),
        "Content-Type": "application/json",
    }
    assert client.post(RPC, headers=headers, content="{}").status_code == 401


@pytest.mark.parametrize("route", ["init", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade"])
def test_internal_routes_of_the_daemon_do_not_exist_outside(server: Server, sandbox: Sandbox, route: str):
    """However the path is written, and whichever way the request is routed."""
    by_header = server.edge_headers(sandbox.sandbox_id, token=sandbox._envd_access_token)
    by_host = {"Host": f"49983-{sandbox.sandbox_id}.sbx.test", "X-Access-Token": sandbox._envd_access_token}
    spellings = [f"/{route}", f"//{route}", f"/./{route}", f"/x/../{route}", f"/{route}/", f"/{route}?x=1", f"/%{ord(route[0]):02x}{route[1:]}", f"/{route};x"]
    for headers in (by_header, by_host):
        for spelling in spellings:
            answer = raw_post(server, spelling, {**headers, "Content-Type": "application/json"}, b'{"accessToken":"stolen"}')
            assert answer in (404, 400), f"{spelling} by {list(headers)[0]} answered {answer}"
    assert sandbox.commands.run("echo the token still works").exit_code == 0


def raw_post(server: Server, path: str, headers: dict[str, str], body: bytes) -> int:
    """Status of a POST whose path is sent exactly as given."""
    head = {"Host": f"127.0.0.1:{server.port}", "Content-Length": str(len(body)), "Connection": "close", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        return int(connection.makefile("rb").readline().split()[1])


# -- signed links --------------------------------------------------------------------------------------------------------


def follow(server: Server, sbx: Sandbox, url: str, method: str = "GET", **options) -> httpx.Response:
    """What the link gives when its host name leads here, as in an installation with a wildcard domain."""
    parts = urllib.parse.urlsplit(url)
    local = urllib.parse.urlunsplit(("http", f"127.0.0.1:{server.port}", parts.path, parts.query, ""))
    return httpx.request(method, local, headers={"Host": f"49983-{sbx.sandbox_id}.sbx.test"}, timeout=30, **options)


def test_a_signed_link_downloads_one_file(server: Server, sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/s p.txt", "signed")
    url = sandbox.download_url(f"{home}/s p.txt")
    answer = follow(server, sandbox, url)
    assert (answer.status_code, answer.text) == (200, "signed")
    assert "s p.txt" in urllib.parse.unquote(answer.headers["content-disposition"])
    assert follow(server, sandbox, url.replace("s%20p.txt", "other")).status_code == 401
    assert follow(server, sandbox, url.split("&signature")[0]).status_code == 401
    assert follow(server, sandbox, url, "POST", files={"file": b"x"}).status_code == 401
    missing = follow(server, sandbox, sandbox.download_url(f"{home}/missing"))
    assert missing.status_code == 404
    assert f"{home}/missing" in missing.json()["message"]


def test_a_signed_link_uploads_one_file(server: Server, sandbox: Sandbox, home: str):
    url = sandbox.upload_url(f"{home}/up.txt", user="user")
    answer = follow(server, sandbox, url, "POST", files={"file": ("ignored.txt", b"uploaded")})
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["path"] == f"{home}/up.txt"
    assert sandbox.files.read(f"{home}/up.txt") == "uploaded"
    assert follow(server, sandbox, url).status_code == 401


def test_a_signed_link_expires(server: Server, sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/f", "x")
    assert follow(server, sandbox, sandbox.download_url(f"{home}/f", use_signature_expiration=60)).status_code == 200
    old = follow(server, sandbox, sandbox.download_url(f"{home}/f", use_signature_expiration=-60))
    assert (old.status_code, old.json()) == (401, {"code": 401, "message": "signature is already expired"})
    url = sandbox.download_url(f"{home}/f", use_signature_expiration=60)
    stretched = follow(server, sandbox, url + "0")
    assert stretched.status_code == 401
