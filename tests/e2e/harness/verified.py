"""A program that verifies itself, and what it ought to hold."""

from __future__ import annotations

import copy

import httpx
from e2b import Sandbox

from guest import verifier

from .guest import start
from .server import Server

PORT = 8000
DIRECTORY = "/home/user/verified"


class Verified:
    """The verifier in a sandbox, and what it ought to hold."""

    def __init__(self, server: Server, sbx: Sandbox, size: int = verifier.SIZE) -> None:
        """Starts it. Each of the pieces that it verifies is of so many bytes."""
        self.server, self.sbx, self.size = server, sbx, size
        self.pid = start(sbx, "verifier.py", DIRECTORY, PORT, size)
        self.wanted: dict[tuple[str, int], str] = {}
        self.expect("first")
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

    def expect(self, seed: str) -> None:
        for kind, index in verifier.chosen(seed):
            self.wanted[kind, index] = seed

    def write(self, seed: str) -> None:
        """Writes and does not wait for anything to reach the disk."""
        self.expect(seed)
        self.seen(self.ask("POST", f"/write?seed={seed}"))

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
        for (kind, index), seed in self.wanted.items():
            wanted = self.digest(seed, kind, index)
            assert told["digests"][f"{kind} {index}"] == wanted, f"{kind} {index} does not hold what {seed} wrote"

    def digest(self, seed: str, kind: str, index: int) -> str:
        return verifier.digest(verifier.content(seed, kind, index, self.size))

    def files_hold(self, sbx: Sandbox) -> None:
        """The files are there, whether the program is or not."""
        names = [f"{DIRECTORY}/file-{index}" for kind, index in self.wanted if kind == "file"]
        lines = sbx.commands.run(f"sha256sum {' '.join(names)}", user="root", timeout=60).stdout.splitlines()
        found = {name: digest for digest, name in (line.split() for line in lines)}
        for (kind, index), seed in self.wanted.items():
            if kind == "file":
                wanted = self.digest(seed, kind, index)
                assert found[f"{DIRECTORY}/file-{index}"] == wanted, f"file {index} does not hold what {seed} wrote"
