"""A program that verifies itself, and what it ought to hold."""

from __future__ import annotations

import copy
import hashlib
import random
from urllib.parse import quote

import httpx
from e2b import Sandbox

from .guest import start
from .server import Server

PORT = 8000
DIRECTORY = "/home/user/verified"
#: Bytes of each piece, unless a test wants another size.
SIZE = 256 << 10
#: Pieces that tests write.
PIECES = {"memory": 24, "file": 12}
ALL = [f"{kind}-{index}" for kind, count in PIECES.items() for index in range(count)]
#: How many of them a write replaces.
WRITTEN = 6


class Verified:
    """The verifier in a sandbox, and what it ought to hold."""

    def __init__(self, server: Server, sbx: Sandbox, size: int = SIZE) -> None:
        """Starts it. Each of the pieces that it verifies is of so many bytes."""
        self.server, self.sbx, self.size = server, sbx, size
        self.pid = start(sbx, "verifier.rs", DIRECTORY, PORT, size, *PIECES.values())
        #: The seed from which each piece follows.
        self.wanted = dict.fromkeys(ALL, "first")
        self.last = self.ask("GET", "/state")

    def moment(self) -> Verified:
        """What it is now, whatever becomes of it."""
        kept = copy.copy(self)
        kept.wanted = dict(self.wanted)
        return kept

    def at(self, sbx: Sandbox) -> Verified:
        """The same in a sandbox that goes on from here."""
        other = self.moment()
        other.sbx = sbx
        return other

    def ask(self, method: str, path: str) -> dict:
        headers = self.server.edge_headers(self.sbx.sandbox_id, PORT)
        response = httpx.request(method, self.server.url + path, headers=headers, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()

    def write(self, seed: str) -> None:
        """Writes and does not wait for anything to reach the disk."""
        seed, names = quote(seed, safe=""), random.Random(seed).sample(ALL, WRITTEN)
        self.wanted.update(dict.fromkeys(names, seed))
        self.seen(self.ask("POST", f"/write?{'&'.join([seed, *names])}"))

    def seen(self, told: dict) -> None:
        """It is the same program, found nothing wrong, and is not where it was before."""
        assert told["errors"] == []
        assert told["pid"] == self.pid
        assert told["checks"] >= self.last["checks"] and told["generation"] >= self.last["generation"]
        self.last = told

    def verify(self) -> None:
        self.verified(self.ask("GET", "/verify"))

    def verified(self, told: dict) -> None:
        """It says that it holds what it ought to."""
        self.seen(told)
        for name, seed in self.wanted.items():
            wanted = hashlib.shake_128(self.content(name, seed)).hexdigest(32)
            assert told["digests"][name] == wanted, f"{name} does not hold what {seed} wrote"

    def content(self, name: str, seed: str) -> bytes:
        """What a piece holds."""
        return hashlib.shake_128(f"{seed}/{name}".encode()).digest(self.size)

    def files_hold(self, sbx: Sandbox) -> None:
        """The files are there, whether the program is or not."""
        files = [name for name in self.wanted if name.startswith("file-")]
        lines = sbx.commands.run(f"cd {DIRECTORY} && sha256sum {' '.join(files)}", user="root", timeout=60).stdout.splitlines()
        found = {name: digest for digest, name in (line.split() for line in lines)}
        for name in files:
            wanted = hashlib.sha256(self.content(name, self.wanted[name])).hexdigest()
            assert found[name] == wanted, f"{name} does not hold what {self.wanted[name]} wrote"
