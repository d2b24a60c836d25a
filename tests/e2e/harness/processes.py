"""Reading /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of this host."""

    pid: int
    args: tuple[str, ...]
    cgroup: str
    #: Base name of what it executes.
    name: str


def processes() -> list[Process]:
    """Every process with a command line that is not a zombie."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            raw = Path(f"/proc/{entry}/cmdline").read_bytes()
            group = Path(f"/proc/{entry}/cgroup").read_text()
            name = os.path.basename(os.readlink(f"/proc/{entry}/exe")).removesuffix(" (deleted)")
        except OSError:
            continue  # gone meanwhile
        args = tuple(part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0"))
        if raw:
            found.append(Process(int(entry), args, group, name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] not in ("Z", "X")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return status_bytes(pid, "VmRSS")


def status_bytes(pid: int, field: str) -> int:
    """One of the amounts of memory in a process's status; a zombie has none."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
