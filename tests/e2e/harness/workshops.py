"""Places for the machines of commands, and what they have on the host."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import ClassVar

import httpx

from .processes import is_alive, processes
from .server import Server, binary
from .waiting import wait_until

#: More than are ever used here.
PLACES = range(8)


def tag(server: Server, number: int) -> str:
    """What keeps the names of a place apart from those of others."""
    path = os.fsencode(server.state.resolve())
    return hashlib.sha256(number.to_bytes(2, "big") + path).hexdigest()[:4]


def held(server: Server, number: int) -> dict[str, list[str]]:
    """Everything that a place has on the host, by kind; nothing once it is gone."""
    name, directory = tag(server, number), str(server.state / "run" / "workshops" / str(number))
    rules = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    routes = subprocess.run(["ip", "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    groups = [Path(root) / f"coldframe-{name}" for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
    found = {
        "processes": [str(p) for p in processes() if f"/coldframe-{name}/" in p.cgroup or any(directory in arg for arg in p.args)],
        "groups": [str(group) for group in groups if group.exists()],
        "namespaces": [path.name for path in Path("/run/netns").glob(f"cf{name}-*")],
        "links": [link["ifname"] for link in links if link["ifname"].startswith(f"cf{name}")],
        "routes": [line for line in routes.splitlines() if f"cf{name}" in line],
        "filters": re.findall(rf"coldframe-{name}\b", rules),
        "files": [directory] if Path(directory).exists() else [],
    }
    return {kind: what for kind, what in found.items() if what}


def wait_until_gone(server: Server, number: int, patience: float = 20) -> None:
    """Returns when nothing of a place is left."""
    wait_until(lambda: not held(server, number), patience, lambda: f"nothing to be left: {held(server, number)}")


class Command:
    """`coldframe build resume` while it runs."""

    _all: ClassVar[list[Command]] = []

    def __init__(self, server: Server, *args: str, apart: bool = False, **environment: str) -> None:
        command = [str(binary()), "build", "resume", *args, "--state", str(server.state)]
        pipe = subprocess.PIPE
        self.server = server
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}, start_new_session=apart
        )
        self.said = ""
        self._all.append(self)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said += line

    def wait_for(self, pattern: str, patience: float = 60) -> str:
        """What it says on its standard error, once it does."""
        def find() -> str | None:
            found = re.search(pattern, self.said, re.M)
            assert found or self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said}"
            return found and found[1]

        return wait_until(find, patience, lambda: f"{pattern} in {self.said}")

    @classmethod
    def kill_all(cls) -> None:
        """Ends those that a test has left."""
        for command in cls._all:
            command.process.kill()
            command.process.wait()
        cls._all.clear()

    def tell(self, text: str) -> None:
        """Types."""
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self, patience: float = 60) -> tuple[int, str]:
        """Its status and what it printed, when it has ended."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        printed = self.process.stdout.read()
        self.process.wait(patience)
        self._listener.join(patience)
        return self.process.returncode, printed

    def children(self) -> dict[str, int]:
        """Its children by what they are."""
        pids = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = {}
        for pid in (int(pid) for children in pids for pid in children.read_text().split()):
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            for kind, word in (("keeper", "keep"), ("supervisor", "supervisor"), ("gdb", "gdb")):
                if word in arguments[:4]:
                    found[kind] = pid
        return found

    def wait_for_gdb(self, patience: float) -> None:
        """Returns when gdb is there."""

        def there() -> bool:
            return self.process.poll() is None and "gdb" in self.children()

        wait_until(there, patience, lambda: f"gdb to be there: {self.said}")

    def place(self) -> int:
        """The number of the place that it uses."""
        # It is a child of a thread, and of another one when that is gone.
        pid = wait_until(lambda: self.children().get("supervisor"), 10, "its supervisor")
        supervisor = Path(f"/proc/{pid}/cmdline").read_text()
        return int(re.search(r"/run/workshops/(\d+)/", supervisor)[1])

    def run(self, command: str, user: str = "root", sandbox: str = "") -> str:
        """What a command in its guest prints, asked for over the port that it serves."""
        url = self.wait_for(r"^ports +(\S+)")
        sandbox = sandbox or self.wait_for(r"^sandbox +(\S+)")
        request = json.dumps({"process": {"cmd": "/bin/bash", "args": ["-c", command]}, "stdin": False}).encode()
        basic = base64.b64encode(f"{user}:".encode()).decode()
        headers = {**self.server.edge_headers(sandbox), "Content-Type": "application/connect+json", "Authorization": f"Basic {basic}"}
        answer = httpx.post(
            f"{url}/process.Process/Start", content=b"\0" + len(request).to_bytes(4, "big") + request, headers=headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
        printed, rest = b"", answer.content
        while rest:
            length = int.from_bytes(rest[1:5], "big")
            data = json.loads(rest[5 : 5 + length]).get("event", {}).get("data", {})
            printed += base64.b64decode(data.get("stdout", ""))
            rest = rest[5 + length :]
        return printed.decode().strip()

    def kill(self, pid: int | None = None) -> None:
        """`kill -9` of the command, or of one of its children."""
        os.kill(pid or self.process.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid or self.process.pid), 10, "it to be gone")
