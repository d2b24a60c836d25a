"""Runs inside a sandbox: processes that hold what is easily lost, and tell of it over HTTP.

Two peers talk without end to their parent, one through TCP and one through a unix socket, over a single connection each;
another process counts; the parent holds an open file, a deleted one and a mapped one, and a pipe with something in it.
"""

import hashlib
import http.server
import json
import mmap
import os
import socket
import sys
import threading
import time

DIRECTORY, PORT = sys.argv[1], int(sys.argv[2])
#: In the pipe, unread, until the end.
IN_THE_PIPE = b"nobody reads this " * 100


def peer(kind, address):
    """Answers each number with itself and how many have come: a new connection, or a lost message, would show."""
    with socket.socket(kind) as connection:
        connection.connect(address)
        stream = connection.makefile("rw")
        for count, line in enumerate(stream, 1):
            stream.write(f"{line.strip()} {count}\n")
            stream.flush()


def counting(page):
    while True:
        page[:8] = (int.from_bytes(page[:8], "little") + 1).to_bytes(8, "little")
        time.sleep(0.01)


def child(work, *args):
    pid = os.fork()
    if pid == 0:
        try:
            work(*args)
        finally:
            os._exit(0)
    return pid


class Talk:
    """One connection to a peer that is never made again."""

    def __init__(self, kind, address):
        listener = socket.socket(kind)
        listener.bind(address)
        listener.listen()
        self.pid = child(peer, kind, listener.getsockname())
        self.connection, _ = listener.accept()
        listener.close()
        self.said = 0
        self.error = None

    def without_end(self):
        stream = self.connection.makefile("rw")
        try:
            while True:
                number = self.said + 1
                stream.write(f"{number}\n")
                stream.flush()
                answer = stream.readline()
                if answer != f"{number} {number}\n":
                    raise ValueError(f"said {number}, was answered {answer!r}")
                self.said = number
                time.sleep(0.01)
        except Exception as error:
            self.error = repr(error)


class Held:
    """Open files of three kinds and a pipe."""

    def __init__(self):
        self.opened = open(f"{DIRECTORY}/opened", "w+")
        self.lines = 0
        self.deleted = open(f"{DIRECTORY}/deleted", "w+b")
        os.unlink(f"{DIRECTORY}/deleted")
        self.deleted_hash = hashlib.sha256()
        with open(f"{DIRECTORY}/mapped", "w+b") as file:
            file.truncate(1 << 20)
            self.mapped = mmap.mmap(file.fileno(), 1 << 20)
        self.mapped_hash = None
        self.pipe, writer = os.pipe()
        os.write(writer, IN_THE_PIPE)
        self.writer = writer

    def look_and_go_on(self):
        """Checks everything, then writes to it."""
        wrong = []
        self.opened.seek(0)
        lines = self.opened.read()
        if lines != "".join(f"line {i}\n" for i in range(self.lines)):
            wrong.append(f"the open file holds {lines!r}")
        self.deleted.seek(0)
        if hashlib.sha256(self.deleted.read()).digest() != self.deleted_hash.digest():
            wrong.append("the deleted file changed")
        if os.path.exists(f"{DIRECTORY}/deleted"):
            wrong.append("the deleted file is back")
        if self.mapped_hash and hashlib.sha256(self.mapped).digest() != self.mapped_hash:
            wrong.append("the mapped file changed")
        self.opened.write(f"line {self.lines}\n")
        self.lines += 1
        more = os.urandom(100_000)
        self.deleted.write(more)
        self.deleted_hash.update(more)
        self.mapped[:] = os.urandom(1 << 20)
        self.mapped_hash = hashlib.sha256(self.mapped).digest()
        return wrong

    def empty_the_pipe(self):
        return os.read(self.pipe, 2 * len(IN_THE_PIPE)) == IN_THE_PIPE


os.makedirs(DIRECTORY, exist_ok=True)
TALKS = {"tcp": Talk(socket.AF_INET, ("127.0.0.1", 0)), "unix": Talk(socket.AF_UNIX, f"{DIRECTORY}/socket")}
PAGE = mmap.mmap(-1, 4096)
COUNTER = child(counting, PAGE)
HELD = Held()
for TALK in TALKS.values():
    threading.Thread(target=TALK.without_end, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        told = {
            "pids": [os.getpid(), COUNTER, *(talk.pid for talk in TALKS.values())],
            "counter": int.from_bytes(PAGE[:8], "little"),
            "said": {name: talk.said for name, talk in TALKS.items()},
            "errors": [talk.error for talk in TALKS.values() if talk.error],
        }
        if self.path == "/files":
            told["errors"] += HELD.look_and_go_on()
        if self.path == "/pipe":
            told["pipe"] = HELD.empty_the_pipe()
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


SERVER = http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
print("listening", flush=True)
SERVER.serve_forever()
