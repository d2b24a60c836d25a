"""What gdb says of a guest's kernel, and what the guest says."""

from __future__ import annotations

import re

FAULT = re.compile(r"^FAULT comm=(\S+) pid=(\d+) addr=0x([0-9a-f]+) vma=0x([0-9a-f]+)-0x([0-9a-f]+) flags=0x[0-9a-f]+$", re.M)
#: The kernel's own map of its memory, as an ELF header: where physical addresses are.
KCORE = """python3 -c '
import struct
file = open("/proc/kcore", "rb"); head = file.read(64)
at, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
for number in range(count):
    file.seek(at + number * size); kind, _, _, virtual, physical, length = struct.unpack("<IIQQQQ", file.read(40))
    if kind == 1: print(f"{physical:x} {virtual:x} {length:x}")'"""


def agrees_with(said: str, kcore: str) -> None:
    """Whether `fc-regions` and `fc-va 0x100000` said what the guest's /proc/kcore says."""
    found = dict(re.findall(r"^(\w+_base) = 0x([0-9a-f]{16})$", said, re.M))
    assert found.keys() == {"page_offset_base", "vmemmap_base", "vmalloc_base"}, said
    maps = [[int(number, 16) for number in line.split()] for line in kcore.splitlines()]
    virtual = int(re.search(r"^__va\(0x100000\) = 0x([0-9a-f]+)$", said, re.M)[1], 16)
    assert virtual == int(found["page_offset_base"], 16) + 0x100000
    assert any(base <= virtual < base + length and virtual - base == 0x100000 - physical for physical, base, length in maps), maps
    assert any(int(found["vmalloc_base"], 16) == base for _, base, _ in maps), maps
