"""Test hosts: machines that exist only as network namespaces on this host, so that no packet leaves it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from typing import Iterator

#: Served by every test host.
GREETING = b"hello from a test host"

_SERVE = (
    "import http.server\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    f"        self.send_response(200); self.end_headers(); self.wfile.write({GREETING!r})\n"
    "    def log_message(self, *a): pass\n"
    "http.server.ThreadingHTTPServer(('0.0.0.0', 8099), H).serve_forever()\n"
)
#: Where a test host listens.
PORT = 8099


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def neighbour(addresses: list[str]) -> Iterator[None]:
    """A host behind a router that owns `addresses` and serves HTTP on each of them at port 8099.

    Host routes for exactly those addresses lead to it; nothing else of this machine's routing changes. Another worker may
    have the same host at the same time: whichever route is first, it leads to one that answers."""
    number = os.getpid() % 10**6
    tag, near_end, far_end = f"cfe{number:06d}", *(f"198.18.{number % 256}.{end}" for end in (1, 2))
    namespace, near, far = f"{tag}h", f"{tag}a", f"{tag}b"
    served: subprocess.Popen | None = None
    _ip("netns", "add", namespace)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", namespace)
        _ip("link", "set", near, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", far, "up")
        _ip("addr", "add", f"{near_end}/32", "peer", f"{far_end}/32", "dev", near)
        _ip("-n", namespace, "addr", "add", f"{far_end}/32", "peer", f"{near_end}/32", "dev", far)
        # Answers go back over the only wire there is.
        _ip("-n", namespace, "route", "add", "default", "via", near_end)
        for address in addresses:
            _ip("-n", namespace, "addr", "add", f"{address}/32", "dev", "lo")
            _ip("route", "add", f"{address}/32", "via", far_end, "metric", str(number))
        served = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-c", _SERVE], stdout=subprocess.DEVNULL
        )
        yield
    finally:
        if served:
            served.terminate()
            served.wait(10)
        subprocess.run(["ip", "link", "del", near], capture_output=True)
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


@contextlib.contextmanager
def host_service() -> Iterator[int]:
    """A service of this host on all of its addresses; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a service of the host")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def host_addresses() -> list[str]:
    """Every IPv4 address of this host that another machine could try."""
    text = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    found = [info["local"] for link in json.loads(text) for info in link["addr_info"]]
    return [address for address in found if not address.startswith("127.")]
