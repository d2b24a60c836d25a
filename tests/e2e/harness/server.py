"""A Coldframe instance under test: its state directory, its address, its keys, its processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from .processes import Process, is_alive, processes
from .waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
#: What every sandbox starts from; made once, shared by all instances under test.
SHARED_BUILDS = ("kernels", "builds", "cache")


def binary() -> Path:
    """The server's program: COLDFRAME_BIN, else the release build of this repository."""
    path = Path(os.environ.get("COLDFRAME_BIN", REPOSITORY / "target" / "release" / "coldframe"))
    if not path.exists():
        raise RuntimeError(f"{path} does not exist; build it with `cargo xtask up` or set COLDFRAME_BIN")
    return path


def state_root() -> Path:
    """The state directory whose template is reused from run to run."""
    return Path(os.environ.get("COLDFRAME_E2E_STATE", "/var/cache/coldframe/e2e-state"))


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """One instance, driven by its own command line."""

    state: Path
    port: int
    keys: dict[str, str] = field(default_factory=dict)

    # -- command line ------------------------------------------------------------------------------------------------

    def cli(self, *args: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `coldframe ARGS --state STATE`."""
        command = [str(binary()), *args, "--state", str(self.state)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def make_template(self) -> None:
        """Makes the base template and the snapshot that sandboxes start from, unless they are there; slow the first time."""
        self.cli("template", "base", timeout=1800)
        if not self.serves():
            self.up()
            self.down()

    def serves(self) -> bool:
        """Whether its server runs."""
        return (self.state / "run" / "server.json").exists() and is_alive(self.server_pid())

    def up(self) -> None:
        """Starts the server and returns when it serves."""
        self.cli("up", "--detach", "--listen", f"127.0.0.1:{self.port}", timeout=320)
        self.cli("env", "--wait", "60", timeout=90)

    def down(self) -> None:
        """Stops everything of this instance."""
        self.cli("down", timeout=120)

    def env(self) -> dict[str, str]:
        """The variables that `coldframe env` exports."""
        text = self.cli("env", "--wait", "60", timeout=90).stdout
        return dict(re.findall(r"^export ([A-Z0-9_]+)=[\"']?([^\"'\n]*)", text, re.M))

    def key(self, team: str = "e2e") -> str:
        """The API key of a team; team and key are made when first asked for."""
        if team not in self.keys:
            found = re.search(r"e2b_[0-9a-f]{40}", self.cli("key", "create", "--team", team).stdout)
            assert found, "coldframe key create printed no key"
            self.keys[team] = found.group()
        return self.keys[team]

    # -- clients -----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where API and data plane are served."""
        return f"http://127.0.0.1:{self.port}"

    def sdk(self, team: str = "e2e") -> dict[str, str]:
        """Keyword arguments that point the SDK at this instance."""
        return {"api_key": self.key(team), "api_url": self.url, "sandbox_url": self.url}

    def environ(self, team: str = "e2e") -> dict[str, str]:
        """Environment variables that point SDK and CLI at this instance."""
        return {"E2B_API_KEY": self.key(team), "E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url}

    def api(self, team: str | None = "e2e", **options) -> httpx.Client:
        """A plain HTTP client of the REST surface."""
        headers = {"X-API-Key": self.key(team)} if team else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=options.pop("timeout", 60), **options)

    # -- processes ---------------------------------------------------------------------------------------------------

    @property
    def tag(self) -> str:
        """What keeps this instance's names apart from those of others on the host."""
        return hashlib.sha256(os.fsencode(self.state.resolve())).hexdigest()[:4]

    def own_processes(self) -> list[Process]:
        """Every process of this instance: in its control groups, or this program working on its state directory."""
        state, group = str(self.state.resolve()), f"/coldframe-{self.tag}/"
        return [
            process
            for process in processes()
            if group in process.cgroup
            or (process.name.startswith(("coldframe", "qemu-system")) and any(state in arg for arg in process.args))
        ]

    def server_pid(self) -> int:
        """The process that serves."""
        return json.loads((self.state / "run" / "server.json").read_text())["pid"]

    def supervisor_pid(self, sandbox: str) -> int:
        """The supervisor of a sandbox."""
        return self._process_of(sandbox, lambda process: "supervisor" in process.args[1:3])

    def vmm_pid(self, sandbox: str) -> int:
        """The virtual machine monitor of a sandbox."""
        return self._process_of(sandbox, lambda process: process.name.startswith("qemu-system"))

    def group(self, sandbox: str) -> Path:
        """The control group of a sandbox."""
        unified = Path("/sys/fs/cgroup/unified")
        return (unified if unified.exists() else unified.parent) / self._group_name(sandbox)

    def _group_name(self, sandbox: str) -> str:
        # A machine that stood by keeps the group of its own name when it becomes a sandbox's.
        return json.loads((self.state / "run" / "sandboxes" / sandbox / "launch.json").read_text())["cgroup"]

    def _process_of(self, sandbox: str, wanted) -> int:
        group = f"/{self._group_name(sandbox)}/"
        found = [process for process in self.own_processes() if wanted(process) and group in process.cgroup + "/"]
        assert len(found) == 1, f"expected one process of {sandbox}, found {found}"
        return found[0].pid

    def kill_server(self) -> None:
        """`kill -9` of the serving process; returns when it is gone."""
        self.kill_process(self.server_pid())

    @staticmethod
    def kill_process(pid: int) -> None:
        """`kill -9`; returns when the process is gone."""
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), 10, f"process {pid} to be gone")

    def log(self) -> str:
        """What the server logged so far."""
        path = self.state / "run" / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def directories(self) -> set[str]:
        """The sandboxes that hold something on this host. Machines that stand by are nobody's."""
        names = {path.name for path in (self.state / "run" / "sandboxes").iterdir()}
        return {name for name in names if not name.startswith("mi")}

    def snapshots(self) -> set[str]:
        """What is in the instance's store: templates' snapshots, paused sandboxes, and whatever should not be there."""
        store = self.state / "store"
        return set(os.listdir(store)) if store.exists() else set()

    def newest_build(self, sandbox: str) -> Path:
        """The newest build that was made of a sandbox."""
        found = []
        for build in (self.state / "store").iterdir():
            try:
                content = json.loads((build / "manifest.json").read_text())["manifest"]
            except (FileNotFoundError, NotADirectoryError):
                continue  # Being made, or collected meanwhile.
            if content.get("owner") == sandbox:
                found.append((content["created_at"], build))
        return max(found)[1]

    # -- requests ----------------------------------------------------------------------------------------------------

    def state_of(self, sandbox: str, team: str = "e2e") -> str | None:
        """`running`, `paused`, or None when there is no such sandbox."""
        with self.api(team) as api:
            response = api.get(f"/sandboxes/{sandbox}")
        assert response.status_code in (200, 404), response.text
        return response.json()["state"] if response.status_code == 200 else None

    def is_listed(self, sandbox: str, team: str = "e2e") -> bool:
        """Whether the REST surface knows the sandbox, by id and in the list."""
        with self.api(team) as api:
            one = api.get(f"/sandboxes/{sandbox}").status_code
            listed = any(item["sandboxID"] == sandbox for item in api.get("/v2/sandboxes").json())
        assert one in (200, 404), one
        return one == 200 or listed

    def edge_headers(self, sandbox: str, port: int = 49983, token: str | None = None) -> dict[str, str]:
        """Headers that route a request to a port of a sandbox."""
        headers = {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": str(port)}
        if token:
            headers["X-Access-Token"] = token
        return headers


def sibling(template_of: Path, state: Path) -> Server:
    """A new instance that starts from the kernel and builds of another state directory."""
    unmount_below(state)
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    for name in SHARED_BUILDS:
        if (template_of / name).exists():
            (state / name).symlink_to(template_of / name)
    if (template_of / "store").exists():
        share_snapshots(template_of / "store", state / "store")
    # Which accelerator works was found out when the template was made; it holds for the whole host.
    if (template_of / "accel.json").exists():
        shutil.copy(template_of / "accel.json", state)
    return Server(state, free_port())


def unmount_below(state: Path) -> None:
    """Takes away what a run that was cut off had mounted below a state directory."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in reversed([path for path in mounted if path.startswith(f"{state.resolve()}/")]):
        subprocess.run(["umount", "--lazy", path], check=True)


def share_snapshots(source: Path, target: Path) -> None:
    """Gives an instance snapshots by names of its own: what it adds or deletes is nobody else's."""
    shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
