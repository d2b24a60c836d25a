"""Runs inside a sandbox: keeps checksummed buffers in memory and files on disk, and verifies them without end.

A writer replaces some of them all the time, so that a pause finds one half written. What a test wrote is reported by its
digests, so that the test can compare it with what it asked for: an older state that is consistent in itself is a loss, too.

    verifier.py DIRECTORY PORT [SIZE]

    GET  /state             what was found so far
    GET  /verify            the same after a full pass, with the digest of everything that a test wrote
    POST /write?seed=SEED   replaces some of it; what and by what follows from the seed
"""

import hashlib
import http.server
import json
import os
import random
import sys
import threading
import time
import urllib.parse

#: Bytes of each piece, unless it is told otherwise.
SIZE = 256 << 10
#: Pieces of each kind that tests write.
PIECES = {"memory": 24, "file": 12}
#: Pieces that the writer replaces by itself, half of them files.
CHURNED = 6


def content(seed: str, kind: str, index: int, size: int = SIZE) -> bytes:
    """What a piece holds after a write with this seed."""
    return random.Random(f"{seed}/{kind}/{index}").randbytes(size)


def chosen(seed: str) -> list[tuple[str, int]]:
    """Which pieces a write with this seed replaces: all the first time, then some."""
    everything = [(kind, index) for kind, count in PIECES.items() for index in range(count)]
    return everything if seed == "first" else random.Random(seed).sample(everything, 6)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Memory:
    """A buffer that is overwritten in place."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def write(self, data: bytes) -> None:
        part = len(data) // 16
        for at in range(0, len(data), part):
            self.data[at : at + part] = data[at : at + part]

    def read(self) -> bytes:
        return bytes(self.data)


class File:
    """A file that stays open. Every other one is flushed after a write and read back from the disk."""

    def __init__(self, path: str, flushed: bool, data: bytes) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.flushed, self.size = flushed, len(data)
        self.write(data)

    def write(self, data: bytes) -> None:
        part = len(data) // 16
        for at in range(0, len(data), part):
            os.pwrite(self.fd, data[at : at + part], at)
        if self.flushed:
            os.fdatasync(self.fd)

    def read(self) -> bytes:
        if self.flushed:
            os.posix_fadvise(self.fd, 0, self.size, os.POSIX_FADV_DONTNEED)
        return os.pread(self.fd, self.size, 0)


class Keeper:
    """All pieces and what they ought to hold."""

    def __init__(self, directory: str, size: int = SIZE) -> None:
        os.makedirs(directory, exist_ok=True)
        self.directory, self.size = directory, size
        self.lock = threading.Lock()
        self.pieces = {}
        self.digests = {}
        self.errors = []
        self.checks = self.generation = 0
        for kind, index in chosen("first"):
            self.put(kind, index, self.content("first", kind, index))
        for at in range(CHURNED):
            self.put(f"churned {('memory', 'file')[at % 2]}", at, self.content("churn", "", at))

    def content(self, seed, kind, index):
        return content(seed, kind, index, self.size)

    def put(self, kind, index, data):
        key = (kind, index)
        if key in self.pieces:
            self.pieces[key].write(data)
        elif "file" in kind:
            self.pieces[key] = File(f"{self.directory}/{kind.replace(' ', '-')}-{index}", index % 2 == 0, data)
        else:
            self.pieces[key] = Memory(data)
        self.digests[key] = digest(data)

    def check(self, key):
        found = digest(self.pieces[key].read())
        self.checks += 1
        if found != self.digests[key]:
            self.errors.append(f"{key} holds {found}, not {self.digests[key]}, after {self.checks} checks")

    def write(self, seed):
        for kind, index in chosen(seed):
            with self.lock:
                self.put(kind, index, self.content(seed, kind, index))

    def verify_all(self):
        for key in list(self.pieces):
            with self.lock:
                self.check(key)

    def verify_without_end(self):
        while True:
            for key in list(self.pieces):
                with self.lock:
                    self.check(key)
                time.sleep(0.15)

    def churn_without_end(self):
        keys = [key for key in self.pieces if key[0].startswith("churned")]
        while True:
            with self.lock:
                self.generation += 1
                kind, index = keys[self.generation % len(keys)]
                self.put(kind, index, self.content(f"churn {self.generation}", kind, index))
            time.sleep(0.15)

    def state(self):
        return {"pid": os.getpid(), "errors": self.errors, "checks": self.checks, "generation": self.generation}


def serve(keeper, port):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/verify":
                keeper.verify_all()
                digests = {f"{kind} {index}": value for (kind, index), value in keeper.digests.items() if kind in PIECES}
                return self.reply({**keeper.state(), "digests": digests})
            self.reply(keeper.state())

        def do_POST(self):
            keeper.write(urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["seed"][0])
            self.reply(keeper.state())

        def reply(self, what):
            body = json.dumps(what).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    KEEPER = Keeper(sys.argv[1], *map(int, sys.argv[3:]))
    threading.Thread(target=KEEPER.verify_without_end, daemon=True).start()
    threading.Thread(target=KEEPER.churn_without_end, daemon=True).start()
    serve(KEEPER, int(sys.argv[2]))
