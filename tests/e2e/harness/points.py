"""The table of crashes: moments that have names, and who is killed at each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .dice import dice

#: Every row; otherwise so many, which others are in every run.
ALL = "COLDFRAME_E2E_CRASHES" in os.environ
SAMPLE = 14

#: Where a sandbox runs, anybody can die.
ANYBODY = ("supervisor", "vmm", "server", "everything")
#: Where none does.
SERVER = ("server", "everything")


@dataclass(frozen=True)
class Point:
    """A moment that has a name."""

    #: What is being done.
    during: str
    name: str
    #: Whose moment it is, and the call that it is about to do.
    of: str
    call: str
    nth: int = 1
    victims: tuple[str, ...] = ANYBODY


#: How a build is written, whatever for.
WRITING = (
    ("the processors are stopped", r'sendmsg .*"execute":"stop"'),
    ("the device state is read", r'sendmsg .*"execute":"migrate"'),
    ("the staging directory is made", r"mkdir .*/store/\.staging-"),
    ("the first memory is written", r"pwrite .*/\.staging-.*/memory\.data$"),
    ("the memory's header is written", r"write .*/\.staging-.*/memory\.header "),
    ("the disk's header is written", r"write .*/\.staging-.*/disk\.header "),
    ("the device state is written", r"write .*/\.staging-.*/device\.state "),
    ("the manifest is written", r"write .*/\.staging-.*/manifest\.json "),
    ("the first object is synced", r"fsync .*/\.staging-.*/memory\.data$"),
    ("the build is published", r"rename .*/\.staging-\S+ .*/store/[^/.]+$"),
    ("the build's name is synced", r"fsync .*/store$"),
)
#: The catalog's journal.
CATALOG = r".*/catalog\.db-wal$"
#: How builds that nobody needs end.
COLLECTION = (
    ("a build is taken away", r"rename .*/store/[^/.]+ .*/store/\.removed-", 1),
    ("its absence is synced", r"fsync .*/store$", 1),
    ("half of it is deleted", r"unlink .*/store/\.removed-.*/", 3),
    ("the last of it is deleted", r"unlink .*/store/\.removed-[^/]*$", 1),
)


def points(during: str, of: str, *named: tuple, victims: tuple[str, ...] = ANYBODY) -> list[Point]:
    return [Point(during, name, of, call, *nth, victims=victims) for name, call, *nth in named]


POINTS = [
    *points(
        "pause",
        "supervisor",
        *WRITING,
        ("the record is begun", r"open .*/paused\.new$"),
        ("the record is synced", r"fsync .*/paused\.new$"),
        ("the record counts", r"rename .*/paused\.new .*/paused\.json$"),
        ("the record's name is synced", r"fsync .*/sandboxes/[^/]+$"),
        ("the pause is answered", r"writev .* HTTP/1\.1 204"),
    ),
    *points(
        "pause",
        "server",
        ("the record is read", r"open .*/paused\.json$"),
        ("the catalog takes the record over", rf"pwrite {CATALOG}"),
        ("the catalog is synced", rf"fsync {CATALOG}"),
        ("the control group is removed", r"rmdir .*/coldframe-.*/supervisor$"),
        ("the socket is removed", r"unlink .*/control\.sock$"),
        ("the record is removed", r"unlink .*/paused\.json$"),
        victims=SERVER,
    ),
    *points(
        "snapshot",
        "supervisor",
        ("the new layer of the disk is made", r"open .*/disk\.cow$"),
        *WRITING,
        ("the processors go on", r'sendmsg .*"execute":"cont"'),
        ("the sandbox goes on from the build", r"open .*/store/[^/.]+/memory\.header$"),
    ),
    *points(
        "snapshot",
        "server",
        ("the build is looked at", r"open .*/store/[^/.]+/manifest\.json$"),
        ("the catalog takes the snapshot", rf"pwrite {CATALOG}"),
        ("its name is in the catalog", rf"fsync {CATALOG}"),
        ("the snapshot is answered", r"writev .* HTTP/1\.1 201"),
    ),
    *points(
        "fork",
        "server",
        ("the snapshot of the fork is made", r"open .*/store/[^/.]+/manifest\.json$"),
        ("the first fork gets a machine", r"writev .* POST /v1/assign", 1),
        ("the last fork gets a machine", r"writev .* POST /v1/assign", 2),
        ("the fork is answered", r"writev .* HTTP/1\.1 201"),
    ),
    *points("resume", "server", ("the machine gets its sandbox", r"writev .* POST /v1/assign")),
    *points("resume", "server", ("the machine gets its name", r"rename .*/sandboxes/mi"), victims=SERVER),
    *points(
        "resume",
        "machine",
        ("the manifest is opened", r"open .*/store/[^/.]+/manifest\.json$"),
        ("the memory's header is opened", r"open .*/store/[^/.]+/memory\.header$"),
        ("the device state is opened", r"open .*/store/[^/.]+/device\.state$"),
        ("the device state is loaded", r'sendmsg .*"execute":"migrate-incoming"'),
        ("the processors are started", r'sendmsg .*"execute":"cont"'),
        ("the guest daemon is told who it is", r"writev .* POST /init"),
    ),
    *points(
        "kill",
        "server",
        ("the supervisor is told", r"writev .* POST /v1/kill"),
        ("the absence of a record is synced", r"fsync .*/sandboxes$"),
        ("the catalog forgets", rf"pwrite {CATALOG}"),
        ("the directory is removed", r"unlink .*/control\.sock$"),
        victims=SERVER,
    ),
    *points("kill paused", "server", *COLLECTION, ("a second build is taken away", COLLECTION[0][1], 2), victims=SERVER),
    *points("delete", "server", ("the catalog forgets", rf"pwrite {CATALOG}"), *COLLECTION, victims=SERVER),
    *points(
        "compaction",
        "server",
        ("a build is begun again", r"^compaction: mkdir .*/store/\.staging-"),
        ("pages are copied", r"^compaction: pwrite .*/\.staging-.*/memory\.data$"),
        ("the copy is synced", r"^compaction: fsync .*/\.staging-.*/memory\.data$"),
        ("the copy is published", r"^compaction: rename .*/\.staging-\S+ .*/store/[^/.]+$"),
        ("the copied build is taken away", COLLECTION[0][1]),
        victims=SERVER,
    ),
    # No thread dies alone, but the page server ends its machine when it cannot do its work.
    *[
        Point(during, "a page cannot be read", of, r"^page-server: pread .*/memory\.data$", victims=("page server",))
        for during, of in (("resume", "machine"), ("pause", "supervisor"), ("snapshot", "supervisor"))
    ],
]


def rows() -> list[tuple[Point, str]]:
    every = [(point, victim) for point in POINTS for victim in point.victims]
    if ALL:
        return every
    # As chance has it: what writes or deletes a build is the same whatever it is for, and each victim has its turn.
    chance, by_name, chosen = dice("crashes"), {}, []
    for point in POINTS:
        by_name.setdefault(point.name, []).append(point)
    for number, named in enumerate(by_name.values()):
        point = chance.choice(named)
        chosen.append((point, point.victims[number % len(point.victims)]))
    return sorted(chance.sample(chosen, SAMPLE), key=chosen.index)


def name(row: tuple[Point, str]) -> str:
    point, victim = row
    return f"{point.during}: {point.name}: {victim}"
