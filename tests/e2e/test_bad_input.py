"""Bad input of every kind: a clear 4xx or 5xx, nothing leaks, nothing is lost."""

from __future__ import annotations

import json
import socket
import time
import uuid
from pathlib import Path
from typing import Iterator

import httpx
import pytest
from e2b import (
    AuthenticationException,
    NotEnoughSpaceException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
)

from harness.server import Server
from harness.waiting import wait_until

MIB = 1 << 20
CREATE = ["/sandboxes", "/v2/sandboxes"]
SOMEBODY = "/sandboxes/{id}"


def assert_error(answer: httpx.Response, *statuses: int) -> dict:
    """An error of the agreed form, with one of the statuses."""
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text[:300]}"
    body = answer.json()
    assert body["code"] == answer.status_code
    assert isinstance(body["message"], str) and body["message"]
    return body


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[httpx.Client]:
    with server.api() as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_is_made(server: Server, api: httpx.Client) -> Iterator[None]:
    """Whatever is refused leaves no sandbox behind."""
    before = {item["sandboxID"] for item in api.get("/v2/sandboxes").json()}
    yield
    after = {item["sandboxID"] for item in api.get("/v2/sandboxes").json()}
    assert after <= before


# -- bodies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CREATE)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"base"',
        b'{"templateID":"base"',
        b'{"templateID":"base",}',
        b'{"templateID":5}',
        b'{"timeout":60}',
        b'{"templateID":"base","timeout":"60"}',
        b'{"templateID":"base","timeout":1.5}',
        b'{"templateID":"base","timeout":1e999}',
        b'{"templateID":"base","metadata":[]}',
        b'{"templateID":"base","metadata":{"a":1}}',
        b'{"templateID":"base","envVars":{"a":null}}',
        b'{"templateID":"ba\xffse"}',
        b"\x00\x01\x02",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_a_body_that_is_not_what_was_asked_for(api: httpx.Client, path: str, body: bytes):
    assert_error(api.post(path, content=body, headers={"Content-Type": "application/json"}), 400, 422)


@pytest.mark.parametrize("path", CREATE)
@pytest.mark.parametrize("timeout", [0, -1, -(2**31), 86_400 * 365, 2**31 - 1, 2**31, 2**63, 10**30])
def test_a_timeout_out_of_range(api: httpx.Client, path: str, timeout: int):
    body = json.dumps({"templateID": "base", "timeout": timeout})
    assert_error(api.post(path, content=body, headers={"Content-Type": "application/json"}), 400, 422)


@pytest.mark.parametrize("timeout", [-1, 86_400 * 365, 2**63, "soon", None, 1.5])
def test_moving_the_end_time_out_of_range(server: Server, sandbox: Sandbox, api: httpx.Client, timeout):
    end = sandbox.get_info().end_at
    for action in ("timeout", "connect"):
        if timeout is None and action == "connect":
            continue  # it may be left out there
        assert_error(api.post(f"/sandboxes/{sandbox.sandbox_id}/{action}", json={"timeout": timeout}), 400, 422)
    assert sandbox.get_info().end_at == end


@pytest.mark.parametrize("path", CREATE)
@pytest.mark.parametrize("field", ["metadata", "envVars"])
def test_a_mebibyte_of_metadata(api: httpx.Client, path: str, field: str):
    assert_error(api.post(path, json={"templateID": "base", field: {"big": "m" * MIB}}), 400, 413, 422)
    many = {f"key{i}": "v" * 100 for i in range(10_000)}
    assert_error(api.post(path, json={"templateID": "base", field: many}), 400, 413, 422)


def test_a_hundred_mebibytes_of_body(api: httpx.Client):
    """It is refused without being kept: the answer comes, or the connection is closed while the client still sends."""
    pieces = (b" " * MIB for _ in range(100))
    try:
        answer = api.post("/v2/sandboxes", content=pieces, headers={"Content-Type": "application/json"})
    except httpx.TransportError:
        return
    assert_error(answer, 400, 413, 422)


@pytest.mark.parametrize(
    "name",
    ["no-such-template", "base:no-such-tag", "other-team/base", "", "../../etc/passwd", "base\u0000", "x" * 100_000, "🙂"],
    ids=lambda text: repr(text[:20]),
)
def test_an_unknown_template(api: httpx.Client, name: str):
    assert_error(api.post("/v2/sandboxes", json={"templateID": name}), 400, 403, 404)


def test_an_unknown_template_through_the_sdk(server: Server):
    with pytest.raises(SandboxException, match="no-such-template") as raised:
        Sandbox.create(template="no-such-template", **server.sdk())
    assert raised.value.status_code == 404


@pytest.mark.parametrize("key", ["UPPER", "white space", "x" * 256])
def test_a_bad_idempotency_key(api: httpx.Client, key: str):
    assert_error(api.post("/v2/sandboxes", json={"templateID": "base"}, headers={"Idempotency-Key": key}), 400, 422)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": -1},
        {"limit": "many"},
        {"nextToken": "not a token"},
        {"nextToken": "AAAA"},
        {"order": "sideways"},
        {"state": "asleep"},
        {"startedAfter": "yesterday"},
    ],
    ids=str,
)
def test_a_list_that_cannot_be_made(api: httpx.Client, query: dict):
    assert_error(api.get("/v2/sandboxes", params=query), 400, 422)


def test_a_cursor_of_the_other_order(server: Server, api: httpx.Client, sandbox: Sandbox, create):
    create()
    token = api.get("/v2/sandboxes", params={"limit": 1}).headers["x-next-token"]
    assert_error(api.get("/v2/sandboxes", params={"nextToken": token, "order": "asc"}), 400)


# -- keys and teams ------------------------------------------------------------------------------------------------------


EVERY_ROUTE = [
    ("GET", "/v2/sandboxes"),
    ("POST", "/sandboxes"),
    ("POST", "/v2/sandboxes"),
    ("GET", "/sandboxes/{id}"),
    ("DELETE", "/sandboxes/{id}"),
    ("POST", "/sandboxes/{id}/timeout"),
    ("POST", "/sandboxes/{id}/connect"),
    ("POST", "/v2/sandboxes/{id}/connect"),
    ("POST", "/sandboxes/{id}/refreshes"),
    ("GET", "/sandboxes/{id}/metrics"),
    ("GET", "/sandboxes/{id}/logs"),
    ("GET", "/v2/sandboxes/{id}/logs"),
    ("GET", "/templates"),
    ("GET", "/templates/aliases/base"),
]


@pytest.mark.parametrize(("method", "route"), EVERY_ROUTE)
def test_a_wrong_or_missing_key(server: Server, sandbox: Sandbox, method: str, route: str):
    wrong = [
        None,
        "",
        "e2b_" + "0" * 40,
        server.key()[:-1] + ("0" if server.key()[-1] != "0" else "1"),
        server.key().upper(),
        server.key() + " x",
        "'; DROP TABLE keys; --",
        "e2b_" + "f" * 10_000,
    ]
    with httpx.Client(base_url=server.url, timeout=30) as nobody:
        for key in wrong:
            headers = {} if key is None else {"X-API-Key": key}
            answer = nobody.request(method, route.format(id=sandbox.sandbox_id), headers=headers, json={"templateID": "base", "timeout": 60})
            assert_error(answer, 401)
    assert sandbox.is_running()


def test_a_wrong_key_through_the_sdk(server: Server):
    with pytest.raises(AuthenticationException):
        Sandbox.create(**{**server.sdk(), "api_key": "e2b_" + "1" * 40})


def test_the_sandbox_of_another_team(server: Server, sandbox: Sandbox):
    end = sandbox.get_info().end_at
    with server.api("other") as stranger:
        for method, route in EVERY_ROUTE:
            if "{id}" in route:
                answer = stranger.request(method, route.format(id=sandbox.sandbox_id), json={"timeout": 60, "duration": 60})
                body = assert_error(answer, 404)
                assert sandbox.sandbox_id in body["message"]
        assert stranger.get("/v2/sandboxes").json() == []
    assert sandbox.get_info().end_at == end
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(sandbox.sandbox_id, **server.sdk("other"))
    assert Sandbox.kill(sandbox.sandbox_id, **server.sdk("other")) is False
    assert sandbox.is_running()


@pytest.mark.parametrize(
    "name",
    ["iunknown000000000000", "I" * 20, "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%00b", "x" * 5000, "%F0%9F%99%82", "%ff", "-", "i1-"],
    ids=lambda text: repr(text[:24]),
)
def test_an_unknown_sandbox(server: Server, name: str):
    for method, route in EVERY_ROUTE:
        if "{id}" in route:
            status, body = raw(server, method, route.format(id=name), {"X-API-Key": server.key()}, b'{"timeout":60}')
            assert 400 <= status < 500, f"{method} {route} {name}: {status}"
            if body:
                told = json.loads(body)
                assert told["code"] == status and told["message"]


def test_routes_and_methods_that_do_not_exist(server: Server, api: httpx.Client):
    for path in ("/", "/nothing", "/v9/sandboxes", "/sandboxes/", "/metrics/../x"):
        assert_error(api.get(path), 404, 405)
    assert_error(api.put("/v2/sandboxes"), 404, 405)
    assert_error(api.patch("/templates"), 404, 405)


# -- files ---------------------------------------------------------------------------------------------------------------


def test_path_traversal_stays_inside_the_sandbox(server: Server, sandbox: Sandbox, home: str):
    secret = f"host-file-{uuid.uuid4().hex}"
    outside = Path("/tmp") / secret
    outside.write_text("the content of a file of the host")
    headers = server.edge_headers(sandbox.sandbox_id, token=sandbox._envd_access_token)
    try:
        for prefix in ("", "/", "../" * 20, "/../" * 20, "/proc/self/root/", "/proc/1/root/", "~/../../"):
            answer = httpx.get(f"{server.url}/files", params={"path": f"{prefix}tmp/{secret}"}, headers=headers)
            assert answer.status_code in (400, 404), f"{prefix}: {answer.status_code}"
        # As the name of an uploaded part, too: it lands in the guest's own tree.
        upload = httpx.post(
            f"{server.url}/files", headers=headers, files={"file": (f"{'../' * 20}tmp/{secret}-up", b"upload")}
        )
        assert upload.status_code in (200, 400)
        assert not Path(f"/tmp/{secret}-up").exists()
        # The server's own paths give nothing either.
        for path in (f"/../../tmp/{secret}", f"/sandboxes/../../../tmp/{secret}", f"/%2e%2e/%2e%2e/tmp/{secret}"):
            status, body = raw(server, "GET", path, {"X-API-Key": server.key()})
            assert 400 <= status < 500 and b"content of a file" not in body
    finally:
        outside.unlink()


def test_an_upload_larger_than_the_disk(create):
    sbx = create()
    sbx.commands.run(
        "free=$(df --output=avail -B1 / | tail -1); fallocate -l $((free - 40*1024*1024)) /filler && df -h /", user="root"
    )

    def too_much():
        for _ in range(120):
            yield b"\xa5" * MIB

    with pytest.raises(NotEnoughSpaceException):
        sbx.files.write("/root/huge", too_much(), user="root")
    assert sbx.commands.run("echo alive").stdout == "alive\n"
    sbx.commands.run("rm -f /filler /root/huge", user="root")
    sbx.files.write("/home/user/after", "there is room again")
    assert sbx.files.read("/home/user/after") == "there is room again"


def test_uploads_that_make_no_sense(server: Server, sandbox: Sandbox):
    url, headers = f"{server.url}/files", server.edge_headers(sandbox.sandbox_id, token=sandbox._envd_access_token)

    def post(content: bytes, kind: str, **params) -> int:
        return httpx.post(url, params=params, content=content, headers={**headers, "Content-Type": kind}).status_code

    assert post(b"x", "application/octet-stream") == 400  # no path
    assert post(b"x", "text/plain", path="/tmp/x") == 400
    assert post(b"not multipart", "multipart/form-data; boundary=b", path="/tmp/x") in (400, 500)
    assert post(b"not multipart", "multipart/form-data", path="/tmp/x") == 400
    assert post(b"x", "application/octet-stream", path="/tmp/a\0b") in (400, 500)
    assert post(b"x", "application/octet-stream", path="/tmp/" + "n" * 300) in (400, 500)
    broken = httpx.post(
        url,
        params={"path": "/tmp/x"},
        content=b"not gzip at all",
        headers={**headers, "Content-Type": "application/octet-stream", "Content-Encoding": "gzip"},
    )
    assert broken.status_code in (400, 500)
    assert sandbox.commands.run("echo alive").stdout == "alive\n"


def test_calls_that_make_no_sense(server: Server, sandbox: Sandbox):
    headers = server.edge_headers(sandbox.sandbox_id, token=sandbox._envd_access_token)

    def post(path: str, content: bytes, kind: str = "application/json") -> httpx.Response:
        return httpx.post(f"{server.url}{path}", content=content, headers={**headers, "Content-Type": kind})

    assert post("/process.Process/List", b"{").status_code == 400
    assert post("/process.Process/List", b"{}", "text/html").status_code == 415
    assert post("/process.Process/NoSuchMethod", b"{}").status_code in (404, 501)
    assert post("/no.Service/List", b"{}").status_code == 404
    assert post("/filesystem.Filesystem/Stat", b'{"path":"\\u0000"}').status_code in (400, 404, 500)
    assert post("/filesystem.Filesystem/Stat", b"[" * 100_000).status_code == 400
    assert post("/process.Process/SendSignal", b'{"process":{"pid":1},"signal":"SIGNAL_SIGKILL"}').status_code == 404
    # A stream whose envelope promises more than it brings, and one that promises absurdly much.
    for envelope in (b"\0\0\0\0\x40{}", b"\0\xff\xff\xff\xff{}", b"\xff", b""):
        answer = post("/process.Process/Start", envelope, "application/connect+json")
        assert answer.status_code in (200, 400, 413, 415)
        if answer.status_code == 200:
            assert b'"error"' in answer.content
    assert sandbox.commands.run("echo alive").stdout == "alive\n"


# -- the wire ------------------------------------------------------------------------------------------------------------


def raw(server: Server, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> tuple[int, bytes]:
    """A request whose path is sent exactly as given."""
    head = {"Host": f"127.0.0.1:{server.port}", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    answer = send(server, "\r\n".join(lines).encode() + body)
    status = int(answer.split(b" ", 2)[1])
    return status, answer.partition(b"\r\n\r\n")[2]


def send(server: Server, data: bytes, timeout: float = 30) -> bytes:
    """Sends bytes and reads until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        answer = b""
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            pass
        return answer


def test_a_chunked_body_is_accepted(server: Server, api: httpx.Client):
    pieces = (piece for piece in (b'{"templateID":', b'"no-such-', b'template"}'))
    answer = api.post("/v2/sandboxes", content=pieces, headers={"Content-Type": "application/json"})
    assert "no-such-template" in assert_error(answer, 404)["message"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2_000_000 + b"\r\n\r\n",
        b"GET /" + b"p" * 2_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
    ids=lambda data: repr(data[:36]),
)
def test_what_is_no_http(server: Server, request_bytes: bytes):
    answer = send(server, request_bytes)
    if answer:
        status = int(answer.split(b" ", 2)[1])
        assert 400 <= status < 600, answer[:100]
    assert httpx.get(f"{server.url}/health").is_success


def test_a_request_cannot_hide_another_in_its_body(server: Server, sandbox: Sandbox):
    """Both a length and chunks: refused, or read one way by everybody; never a second request."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    attack = (
        b"POST /files?path=/tmp/smuggle HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: "
        + sandbox.sandbox_id.encode()
        + b"\r\nE2b-Sandbox-Port: 49983\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
        + hidden
    )
    answer = send(server, attack)
    assert answer.count(b"HTTP/1.1 ") <= 1


def test_clients_that_leave_in_the_middle(server: Server, sandbox: Sandbox, home: str):
    sandbox.commands.run(f"head -c {20 * MIB} /dev/urandom > {home}/big")
    token = sandbox._envd_access_token.encode()
    route = b"Host: x\r\nE2b-Sandbox-Id: " + sandbox.sandbox_id.encode() + b"\r\nE2b-Sandbox-Port: 49983\r\nX-Access-Token: " + token + b"\r\n"
    halves = [
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: " + server.key().encode() + b'\r\nContent-Length: 500\r\n\r\n{"templateID":"ba',
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n{",
        b"POST /v2/sand",
        b"POST /files?path=" + home.encode() + b"/half HTTP/1.1\r\n" + route + b"Content-Type: application/octet-stream\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 3_000_000,
        b"GET /files?path=" + home.encode() + b"/big HTTP/1.1\r\n" + route + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00",
    ]
    for _ in range(10):
        for half in halves:
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                connection.sendall(half)
                if half.startswith(b"GET"):
                    connection.recv(1000)
                # Abortive close: what was not read is thrown away.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert sandbox.commands.run("echo alive").stdout == "alive\n"
    assert httpx.get(f"{server.url}/health").is_success
    # The daemon let go of the files as well.
    wait_until(
        lambda: sandbox.commands.run(f"sudo ls -l /proc/*/fd 2>/dev/null | grep -c {home} || true").stdout.strip() == "0",
        20,
        "the guest daemon to close the files of clients that left",
    )


@pytest.fixture(scope="module", autouse=True)
def slow(server: Server) -> Iterator[tuple[socket.socket, float]]:
    """A client that begins a request when this file's tests begin, and never finishes its headers."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=90) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        yield connection, time.monotonic()


def test_a_client_that_never_finishes_its_headers_is_let_go(slow: tuple[socket.socket, float]):
    """Last in this file, so that the time until then is not waited for in vain."""
    connection, since = slow
    connection.settimeout(max(1.0, since + 75 - time.monotonic()))
    try:
        answer = connection.recv(1000)
    except ConnectionError:
        answer = b""
    assert answer == b"" or b" 408 " in answer.split(b"\r\n")[0] or b" 400 " in answer.split(b"\r\n")[0]
