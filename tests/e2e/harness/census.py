"""Counts everything that an instance holds on the host, so that two moments can be compared."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
from pathlib import Path

from .server import Server
from .waiting import wait_until

#: Files that grow or rotate by themselves and hold nothing.
_IGNORED_FILES = re.compile(r"\.log(\.\d+)?$|catalog\.db(-wal|-shm|-journal)?$|/server\.json$")


def census(server: Server, server_fds: bool = True) -> dict[str, object]:
    """Processes, control groups, namespaces, links, mounts, sockets, files, snapshots, and the server's descriptors."""
    counted: dict[str, object] = {
        "processes": _processes(server),
        "cgroups": _without_machines(_cgroups(server)),
        "namespaces": _without_numbers(server, _namespaces(server)),
        "links": _without_numbers(server, _links(server)),
        "mounts": _without_numbers(server, _mounts(server)),
        "sockets": _without_machines(_unix_sockets(server)),
        "files": _without_machines(_files(server)),
        "snapshots": sorted(server.snapshots()),
        "firewall": _firewall(server),
        "routes": _without_numbers(server, _routes(server)),
        "shared memory": sorted(name for name in os.listdir("/dev/shm") if "coldframe" in name),
    }
    if server_fds:
        counted["server descriptors"] = _descriptors(server.server_pid())
    return counted


def _without_numbers(server: Server, names: list[str]) -> list[str]:
    """Slots are interchangeable: which numbers are in use does not matter, how many does."""
    slots = (re.sub(rf"cf{server.tag}-\d+", f"cf{server.tag}-*", name) for name in names)
    return sorted(re.sub(r"\b10(\.\d+){3}\b", "10.*", name) for name in slots)


def _without_machines(names: list[str]) -> list[str]:
    """So are machines that stand by: how many there are matters, not what they are called."""
    return sorted(re.sub(r"\bmi[a-z0-9]{20}\b", "m*", name) for name in names)


def difference(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    """What differs, per kind; empty when the two are equal."""
    return {
        kind: {"before": before.get(kind), "after": after.get(kind)}
        for kind in before.keys() | after.keys()
        if before.get(kind) != after.get(kind)
    }


def settled(server: Server, deadline: float = 30) -> dict[str, object]:
    """A census that does not change any more."""
    last = census(server)

    def same():
        nonlocal last
        before, last = last, census(server)
        return not difference(before, last)

    wait_until(same, deadline, "the census to settle", interval=1)
    return last


def back_to(server: Server, before: dict[str, object], apart_from: tuple[str, ...] = ()) -> None:
    """Waits until the census is what it was; descriptors apart, which depend on the connections of clients."""

    def clean():
        now = difference(before, census(server))
        for kind in ("server descriptors", *apart_from):
            now.pop(kind, None)
        assert not now, now
        return True

    wait_until(clean, 20, "the census to be what it was", interval=0.2)


def assert_no_sandbox_left(server: Server, sandbox: str) -> None:
    """Nothing on the host carries the sandbox's name any more."""
    mine = [p for p in server.own_processes() if sandbox in p.cgroup or sandbox in " ".join(p.args)]
    assert not mine, f"processes left: {mine}"
    assert not [g for g in _cgroups(server) if sandbox in g], "a control group is left"
    assert not [s for s in _unix_sockets(server) if sandbox in s], "a unix socket is left"
    assert not (server.state / "run" / "sandboxes" / sandbox).exists(), "the private directory is left"


def wait_for_no_sandbox_left(server: Server, sandbox: str) -> None:
    """The same for one that was paused: that is acknowledged when nothing can be lost any more, and released then."""

    def gone() -> bool:
        assert_no_sandbox_left(server, sandbox)
        return True

    wait_until(gone, 5, f"nothing of {sandbox} to be left")


def _processes(server: Server) -> list[str]:
    return sorted(f"{p.name} {p.args[1] if len(p.args) > 1 else ''}".strip() for p in server.own_processes())


#: What is below a directory, where directories may go away meanwhile: unlike `Path.rglob` it passes over those.
_walk = os.walk


def _cgroups(server: Server) -> list[str]:
    found = []
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        for at, groups, _ in _walk(f"{root}/coldframe-{server.tag}"):
            found += [os.path.relpath(f"{at}/{group}", root) for group in groups]
    return sorted(set(found))


def _namespaces(server: Server) -> list[str]:
    base = Path("/run/netns")
    return sorted(path.name for path in base.glob(f"cf{server.tag}-*")) if base.exists() else []


def _links(server: Server) -> list[str]:
    text = subprocess.run(["ip", "-j", "link", "show"], capture_output=True, text=True, check=True).stdout
    return sorted(link["ifname"] for link in json.loads(text) if link["ifname"].startswith(f"cf{server.tag}"))


def _routes(server: Server) -> list[str]:
    text = subprocess.run(["ip", "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    return sorted(line.strip() for line in text.splitlines() if f"cf{server.tag}" in line)


def _firewall(server: Server) -> list[str]:
    done = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, text=True)
    text = re.sub(r"counter packets \d+ bytes \d+", "counter", done.stdout)
    return sorted(line.strip() for line in text.splitlines() if server.tag in line)


def _mounts(server: Server) -> list[str]:
    state = str(server.state.resolve())
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(line.split()[4] for line in lines if state in line or f"/cf{server.tag}-" in line)


def _unix_sockets(server: Server) -> list[str]:
    state = str(server.state.resolve())
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sorted({line.split()[-1] for line in lines if state in line})


def _files(server: Server) -> list[str]:
    names = (
        os.path.relpath(f"{at}/{name}", server.state)
        for at, directories, files in _walk(server.state / "run")
        for name in directories + files
    )
    temporary = (f"/tmp/{name}" for name in os.listdir("/tmp") if name.startswith(("coldframe-", "cf" + server.tag)))
    return sorted(name for name in (*names, *temporary) if not _IGNORED_FILES.search("/" + name))


def _descriptors(pid: int) -> dict[str, int]:
    """How many descriptors of each kind a process has."""
    kinds: collections.Counter[str] = collections.Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        kinds[re.sub(r"\[?\d+\]?$", "", target.removesuffix(" (deleted)"))] += 1
    return dict(sorted(kinds.items()))
