"""The guest's daemon, paused at any instant of hard work: what its clients hear, and what it holds afterwards.

Eight processes and a terminal print numbered lines, four clients upload, two watch, one runs commands, ports come and go,
and at random instants the machine is paused and resumed, or copied while it runs (a checkpoint). A pause ends all streams,
each with an error and after a part in which nothing is missing; a checkpoint is noticed by nobody."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import random
import time
from operator import gt
from typing import Callable

import httpx
import pytest
from connectrpc.errors import ConnectError
from e2b import FilesystemEvent, FilesystemEventType as Type, PtySize, Sandbox, SandboxException

from harness.background import Background
from harness.dice import SEED, dice
from harness.following import Following
from harness.guest import install, output, start
from harness.numbered import SAID, numbers
from harness.server import Server
from harness.terminal import Terminal
from harness.waiting import wait_until
from harness.watching import Watching

#: How often it is paused or copied. A thorough run has 200, and takes the better part of an hour on a busy host without
#: hardware virtualization.
INSTANTS = int(os.environ.get("COLDFRAME_E2E_INSTANTS", "3"))
#: Of three instants, these.
KINDS = ("pause", "pause", "checkpoint")
PRINTERS = 8
UPLOADERS = 4
#: An upload is sent in so many pieces.
PIECES, PIECE = 16, 32 << 10
#: Seconds between two requests of one client.
REST = 0.1
#: Seconds of work before an instant, at most.
WORK = 1.0

LINES, FILES = "/home/user/lines", "/home/user/files"
QUIET = f"{LINES}/quiet"
CONTROL_PORT, CHURNED = 8100, range(20_000, 20_004)

#: Why a port does not answer: it is closed, the sandbox is paused, or one of the two came to pass in between.
REFUSALS = ("port is not open", "was not found", "ended without a valid answer")

#: Every printer and the terminal, a watch, an upload of each, and one each for commands, ports and the test itself.
CONNECTIONS = PRINTERS + 1 + 1 + UPLOADERS + 3
#: The watch whose events are streamed and the one that is asked for them.
WATCHES = 2
#: The daemon has one thread, and more for what may wait for a disk, each until it had nothing to do for ten seconds.
THREADS = 32
#: Bytes by which what is resident may differ, beside a tenth of it. What the daemon has allocated is the same after 400 resumes
#: as after 60 (counted by a library that wraps the C library's allocator: 0.5 to 0.9 MB, with no trend); but there are more
#: pages of the heap that are in use in part, and 20 KiB of stack for each thread that there ever was at the same time, which
#: the C library keeps. Of both there is less and less to come.
RESIDENT_SLACK = 1 << 20
#: What a connection may hold that waits for the next request, as after a checkpoint: what it reads requests into.
WAITING_CONNECTION = 417 << 10


def is_clear(error: BaseException | None) -> bool:
    """Whether it tells a client that something was cut off. For a stream that just ends, the SDK has an
    `Exception` that says no more than that."""
    return isinstance(error, (SandboxException, ConnectError, httpx.HTTPError))


def created(events: list[FilesystemEvent]) -> set[str]:
    return {event.name for event in events if event.type == Type.CREATE}


class Prints:
    """One process that prints, and the stream of it."""

    def __init__(self, name: str, stream: Following, join: Callable[[int], Following]) -> None:
        self.name, self.stream, self._join = name, stream, join
        self.pid = stream.handle.pid
        #: The last line of the streams before this one; None for the first stream.
        self.before: int | None = None

    def check(self) -> int:
        """Nothing is missing, repeated or old. The last line."""
        first, last = numbers(self.stream.output, from_the_start=self.before is None)
        assert last == 0 or first > (self.before or 0), f"{self.name}: line {first} after line {self.before}"
        return max(last, self.before or 0)

    def cut(self) -> Exception | None:
        """It was ended by a pause. Says with what."""
        self.stream.ended()
        assert self.stream.result is None and is_clear(self.stream.error), f"{self.name}: {self.stream.error!r}"
        self.before = self.check()
        return self.stream.error

    def join(self) -> None:
        """Another stream, of what comes from now on."""
        self.stream = self._join(self.pid)


class Uploads:
    """One client that uploads a file after the other."""

    def __init__(self, sbx: Sandbox, name: str) -> None:
        self.sbx, self.name = sbx, name
        #: What was acknowledged: digests by path.
        self.stored: dict[str, str] = {}
        self.last = ""
        self.background = Background(self.one, REST)

    def one(self, number: int) -> None:
        self.last = f"{FILES}/{self.name}-{number}"
        data = random.Random(f"{SEED}/{self.last}").randbytes(PIECES * PIECE)
        self.sbx.files.write(self.last, (data[at : at + PIECE] for at in range(0, len(data), PIECE)))
        self.stored[self.last] = hashlib.sha256(data).hexdigest()

    def again(self) -> None:
        """The file that failed can be uploaded."""
        self.one(int(self.last.rsplit("-", 1)[1]))


class Daemon:
    """One sandbox whose daemon has much to do."""

    def __init__(self, server: Server, sbx: Sandbox) -> None:
        self.server, self.sbx, self.dice = server, sbx, dice("instants")
        self.heard: collections.Counter[str] = collections.Counter()
        self.times: dict[str, list[float]] = collections.defaultdict(list)
        output(sbx, f"mkdir -p {LINES} {FILES} && touch {QUIET}")
        self.census_program = install(sbx, "daemon.py")
        start(sbx, "churn.py", CONTROL_PORT, CHURNED.start, len(CHURNED))
        self.program = install(sbx, "lines.py")
        self.prints = [self.printer(f"printer-{number}") for number in range(PRINTERS)]
        self.terminal = self.printing_terminal()
        self.prints.append(self.terminal)
        for one in self.prints:
            one.stream.expect("heard nothing yet\r?\n", deadline=60)
        # What the shell says is no line.
        self.terminal.stream.output = b""
        self.polled = sbx.files.watch_dir(FILES)
        self.watching = self.watch()
        self.first: dict | None = None
        self.resident: list[int] = []

    # -- what works ------------------------------------------------------------------------------------------------------

    def printer(self, name: str) -> Prints:
        command = f"exec python3 -IS {self.program} {LINES} {name}"
        stream = Following(self.sbx.commands.run(command, background=True, timeout=0))
        return Prints(name, stream, lambda pid: Following(self.sbx.commands.connect(pid, timeout=0)))

    def printing_terminal(self) -> Prints:
        terminal = Terminal(self.sbx, self.sbx.pty.create(PtySize(rows=24, cols=200), timeout=0))
        terminal.expect(r"[$#] ")
        terminal.type(f"exec python3 -IS {self.program} {LINES} terminal\n")
        return Prints("terminal", terminal, lambda pid: Terminal(self.sbx, self.sbx.pty.connect(pid, timeout=0)))

    def watch(self) -> Watching:
        return Watching(self.server.sdk(), self.sbx.sandbox_id, FILES)

    def port(self, port: int) -> httpx.Response:
        return httpx.get(self.server.url, headers=self.server.edge_headers(self.sbx.sandbox_id, port), timeout=30)

    def ask_ports(self, number: int) -> None:
        """One of the ports that come and go answers with its number, or is closed."""
        port = CHURNED[number % len(CHURNED)]
        answer = self.port(port)
        if answer.status_code == 502:
            assert any(why in answer.text for why in REFUSALS), answer.text
        else:
            assert (answer.status_code, answer.text) == (200, str(port))

    def command(self, number: int) -> None:
        assert output(self.sbx, f"echo command-{number}") == f"command-{number}"

    # -- an instant ------------------------------------------------------------------------------------------------------

    def instant(self, number: int, kind: str) -> None:
        uploads = [Uploads(self.sbx, f"{number}-{name}") for name in range(UPLOADERS)]
        others = {"a command": Background(self.command, REST), "a port": Background(self.ask_ports, REST)}
        works = {"an upload": [one.background for one in uploads], **{name: [one] for name, one in others.items()}}
        self.sbx.files.remove(QUIET)
        time.sleep(self.dice.random() * WORK)

        begun = time.monotonic()
        if kind == "pause":
            self.pause()
        else:
            self.checkpoint()
        self.times[kind].append(time.monotonic() - begun)
        last = [one.check() for one in self.prints]
        wait_until(lambda: all(map(gt, (one.check() for one in self.prints), last)), 30, "all processes to print on")

        self.sbx.files.write(QUIET, "")
        for what, workers in works.items():
            for worker in workers:
                worker.stop()
                if worker.error is not None:
                    assert kind == "pause" and is_clear(worker.error), f"{what} at a {kind}: {worker.error!r}"
                    self.hear(what, worker.error)
        self.nothing_is_lost()
        self.files_are_whole(uploads)
        self.watches_saw(uploads, number, all_by_stream=kind == "checkpoint")
        self.terminal_answers(number)
        bound = int(self.port(CONTROL_PORT).text)
        assert self.port(bound).text == str(bound)
        output(self.sbx, f"rm -f {FILES}/*")
        self.polled.get_new_events()
        self.holds_what_it_held()

    def pause(self) -> None:
        """All streams end with an error, and can be had again."""
        assert self.sbx.pause() is True
        self.sbx.connect(timeout=900)
        for one in self.prints:
            self.hear(one.name.rstrip("-0123456789"), one.cut())
        self.watching.ended()
        assert is_clear(self.watching.error), f"the watch: {self.watching.error!r}"
        self.hear("a watch", self.watching.error)
        self.watching = self.watch()
        for one in self.prints:
            one.join()

    def checkpoint(self) -> None:
        """All streams go on, now and when the copy is made."""
        self.rest()
        for one in self.prints:
            assert one.stream.goes_on, f"{one.name}: {one.stream.error!r}"
        assert self.watching.goes_on, f"the watch: {self.watching.error!r}"

    def hear(self, what: str, error: BaseException | None) -> None:
        self.heard[f"{what}: {type(error).__name__}: {str(error)[:160]}"] += 1

    # -- afterwards ------------------------------------------------------------------------------------------------------

    def counted(self) -> dict[str, int]:
        """How many lines each printed."""
        found = output(self.sbx, f"cd {LINES}; grep . p* t*").split()
        return {name: int(number) for name, number in (line.split(":") for line in found)}

    def nothing_is_lost(self) -> None:
        """Everybody has read everything, to the last line."""

        def all_read() -> bool:
            counted = self.counted()
            assert {one.name: one.check() for one in self.prints} == counted
            return True

        wait_until(all_read, 20, "all that was printed to be read")

    def files_are_whole(self, uploads: list[Uploads]) -> None:
        for one in uploads:
            if one.background.error is not None:
                one.again()
        stored = {path: digest for one in uploads for path, digest in one.stored.items()}
        assert stored, "nothing was uploaded"
        lines = output(self.sbx, f"sha256sum {' '.join(stored)}").splitlines()
        assert {path: digest for digest, path in (line.split() for line in lines)} == stored

    def watches_saw(self, uploads: list[Uploads], number: int, all_by_stream: bool) -> None:
        """The watch that is asked saw all files; the stream as well, unless it began after some of them."""
        last = f"after-{number}"
        self.sbx.files.write(f"{FILES}/{last}", "")
        names = {os.path.basename(path) for one in uploads for path in one.stored} | {last}
        missed = names - created(self.polled.get_new_events())
        assert not missed, f"asked for events, missed {missed}"
        wanted = names if all_by_stream else {last}
        wait_until(
            lambda: wanted <= created(self.watching.events),
            20,
            lambda: f"the stream of events to tell of {wanted - created(self.watching.events)}",
        )

    def terminal_answers(self, number: int) -> None:
        stream = self.terminal.stream
        assert isinstance(stream, Terminal)
        stream.type(f"{SAID} {number}\n")
        stream.expect(rf"{SAID} {number}\r\nheard {SAID} {number}\r\n")

    # -- what the daemon holds -------------------------------------------------------------------------------------------

    def census(self) -> dict:
        return json.loads(output(self.sbx, f"python3 -IS {self.census_program}", user="root"))

    def holds_what_it_held(self) -> None:
        """After the first instant and after every other: the same descriptors, the same children, the same memory."""
        first = self.first = self.first or wait_until(self.settled, 30, "connections from before a pause to end", interval=0.5)

        def same() -> bool:
            self.rest()
            now = self.census()
            assert now["pid"] == first["pid"]
            assert now["fds"] == first["fds"]
            assert now["children"] == {"alive": len(self.prints) + 1}
            assert now["served"] <= CONNECTIONS, now
            assert now["threads"] <= THREADS, now
            waiting = max(0, now["served"] - first["served"]) * WAITING_CONNECTION
            assert now["resident"] <= first["resident"] * 1.1 + RESIDENT_SLACK + waiting, (now, first)
            self.resident.append(now["resident"])
            return True

        wait_until(same, 30, "the daemon to hold what it held", interval=0.5)

    def settled(self) -> dict | None:
        """What it holds, once it holds nothing of the streams that a pause ended: it has some seconds for that."""
        self.rest()
        now = self.census()
        return now if now["fds"]["anon_inode:inotify"] == WATCHES else None

    def rest(self) -> None:
        """Freed memory goes back to the kernel when it comes to rest for a snapshot, not after each request."""
        snapshot = self.sbx.create_snapshot().snapshot_id
        assert Sandbox.delete_snapshot(snapshot, **self.server.sdk()) is True

    def report(self) -> None:
        for kind, times in self.times.items():
            print(f"{kind}: {len(times)}, {min(times):.2f} s to {max(times):.2f} s until all was followed again")
        for what, count in sorted(self.heard.items()):
            print(f"{count} x {what}")
        print(f"held after the first: {self.first}\nresident, in KiB: {' '.join(str(one >> 10) for one in self.resident)}")


@pytest.mark.timeout(120 + 30 * INSTANTS)
def test_nothing_is_lost_or_left_at_any_instant(server: Server, create: Callable[..., Sandbox]):
    daemon = Daemon(server, create(timeout=900))
    kinds = (KINDS * INSTANTS)[:INSTANTS]
    for number, kind in enumerate(daemon.dice.sample(kinds, len(kinds))):
        daemon.instant(number, kind)
    daemon.report()
