"""The host's memory: what a sandbox holds of it, and what nobody holds any more."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from .processes import status_bytes

#: What the memory of a guest is called.
_GUEST = "/memfd:guest-memory"


@dataclass(frozen=True)
class Held:
    """Bytes that a sandbox holds, and that are free again only when it gives them back.

    That is anonymous memory, memfds once, whoever mapped them, and what waits for the disk. A sum of resident sets would
    count the guest's memory once for each process that maps it, and text that all sandboxes share. A control group's own
    figure would count the page cache of what a pause writes, all of it, though the host may drop what is written, and
    exists only where cgroup v2 has the memory controller."""

    #: What the guest touched: the pages of its memfd that exist.
    guest: int
    #: What its processes took for themselves.
    own: int
    #: Page cache of the whole host that is not on its disks yet. Nobody can drop that.
    unwritten: int

    @property
    def total(self) -> int:
        return self.guest + self.own + self.unwritten


def held(group: Path) -> Held:
    """What the processes of a control group and of those below it hold."""
    own, files = 0, {}
    for process in _members(group):
        try:
            own += status_bytes(process, "RssAnon")
            files |= _memfds(process)
        except OSError:
            continue  # gone meanwhile
    guest = sum(size for name, size in files.values() if name.startswith(_GUEST))
    return Held(guest, own + sum(size for _, size in files.values()) - guest, unwritten())


def unwritten() -> int:
    return _meminfo("Dirty") + _meminfo("Writeback")


def watch(group: Path, deadline: float) -> list[Held]:
    """What a control group holds, every two milliseconds until it is removed."""
    end, seen = time.monotonic() + deadline, []
    while group.exists():
        assert time.monotonic() < end, f"{group} is still there after {deadline} s"
        seen.append(held(group))
        time.sleep(0.002)
    return seen


def translated_code(group: Path) -> int:
    """Bytes of machine code that emulators in a control group made of their guests' code; none with hardware virtualization.

    They keep up to 256 MiB of it, according to what the guest ran: it is the only memory that can be written and executed."""
    code = 0
    for process in _members(group):
        executable = False
        for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
            name, value, *_ = line.split()
            if not name.endswith(":"):
                executable = value.startswith("rwx")
            elif executable and name == "Anonymous:":
                code += int(value) * 1024
    return code


def memory_files(group: Path) -> set[int]:
    """The memfds of a control group, by their inode."""
    return {inode for process in _members(group) for inode in _memfds(process)}


def shared_memory_apart_from_others(mine: set[int]) -> int:
    """Shared memory of the host without the memfds that some process has open, `mine` apart.

    It shows memory that a process still holds, and memory that only the kernel does; other sandboxes do not matter."""
    files = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            files |= _memfds(int(entry))
        except OSError:
            continue  # gone meanwhile
    others = sum(size for inode, (_, size) in files.items() if inode not in mine)
    return _meminfo("Shmem") - others


def _meminfo(name: str) -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _members(group: Path) -> Iterator[int]:
    for directory, _, _ in os.walk(group):
        try:
            yield from map(int, Path(directory, "cgroup.procs").read_text().split())
        except OSError:
            continue  # removed meanwhile


def _memfds(pid: int) -> dict[int, tuple[str, int]]:
    """Name and allocated bytes of each memfd that a process has open, by inode. Opens none of them, for that would keep it."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        try:
            name = os.readlink(path)
            if name.startswith("/memfd:"):
                stat = os.stat(path)
                found[stat.st_ino] = (name, stat.st_blocks * 512)
        except OSError:
            continue  # closed meanwhile
    return found
