"""Nothing is lost by a pause: memory, files, processes, connections, however often and whoever asks for it."""

from __future__ import annotations

import re
from typing import Callable, Iterator

import httpx
import pytest
from e2b import PtySize, Sandbox

from harness.dice import SEED, dice
from harness.guest import start
from harness.server import Server
from harness.terminal import Terminal
from harness.verified import PORT, Verified
from harness.waiting import wait_until

#: How often a sandbox with much in its memory is paused, and how often one with a program that verifies itself.
FULL_CYCLES = 10
RANDOM_CYCLES = 20
#: How much of the free memory the file takes, in percent.
SHARE = 60


# -- much memory ---------------------------------------------------------------------------------------------------------

_FILL = f"""mkdir -p /mnt/full && mount -t tmpfs -o size=100% full /mnt/full
mib=$(awk '/MemAvailable/ {{print int($2 * {SHARE} / 100 / 1024)}}' /proc/meminfo)
head -c ${{mib}}M /dev/urandom > /mnt/full/file && stat -c %s /mnt/full/file"""
#: Other pages each time, so that every pause has something to add and something to leave as it is.
_REPLACE = "rm -f /mnt/full/other && head -c 4M /dev/urandom > /mnt/full/other && md5sum < /mnt/full/other"
#: The fastest digest that the guest's programs have; nobody forges anything here.
_LOOK = "md5sum < /mnt/full/file; md5sum < /mnt/full/other"


@pytest.mark.timeout(300)
def test_a_memory_full_of_data_stays_what_it_is(create: Callable[..., Sandbox]):
    sbx = create(timeout=900)

    def run(command: str) -> list[str]:
        return sbx.commands.run(command, user="root", timeout=120).stdout.splitlines()

    assert int(run(_FILL)[0]) > 100 << 20
    (file,) = run("md5sum < /mnt/full/file")
    for cycle in range(FULL_CYCLES):
        (other,) = run(_REPLACE)
        assert sbx.pause() is True
        sbx.connect(timeout=900)
        assert run(_LOOK) == [file, other], f"cycle {cycle}"


# -- a program that verifies itself --------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_program_that_verifies_itself_finds_nothing(server: Server, create: Callable[..., Sandbox]):
    chance = dice("integrity")
    sbx = create(timeout=900, lifecycle={"on_timeout": "pause", "auto_resume": True})
    verified = Verified(server, sbx)
    # Every pair twice at least, whatever the dice say.
    pairs = [(pause, resume) for pause in ("manual", "timer") for resume in ("connect", "traffic")]
    cycles = pairs * 2 + [chance.choice(pairs) for _ in range(RANDOM_CYCLES - 2 * len(pairs))]
    chance.shuffle(cycles)
    for number, (pause, resume) in enumerate(cycles):
        if chance.random() < 0.8:
            verified.write(f"{SEED}-{number}")
        if pause == "manual":
            assert sbx.pause() is True
        else:
            sbx.set_timeout(chance.choice([0, 1]))
            wait_until(lambda: server.state_of(sbx.sandbox_id) == "paused", 20, "the timer to pause it")
        if resume == "connect":
            sbx.connect(timeout=900)
        verified.seen(verified.ask("GET", "/state"))
        # A part is read at once, and the rest only after some later pause.
        if chance.random() < 0.3:
            verified.verify()
    verified.verify()


# -- everything that lives in a guest ------------------------------------------------------------------------------------


@pytest.fixture
def lively(own: Server) -> Iterator[Sandbox]:
    sbx = Sandbox.create(timeout=900, **own.sdk())
    yield sbx
    Sandbox.kill(sbx.sandbox_id, **own.sdk())


class Living:
    """The program with connections and open files, a terminal with a job, and a command, in one sandbox."""

    def __init__(self, own: Server, sbx: Sandbox) -> None:
        self.own, self.sandbox = own, sbx.sandbox_id
        self.program = start(sbx, "living.py", "/home/user/living", PORT)
        self.command = sbx.commands.run(
            "i=0; while :; do i=$((i + 1)); echo tick-$i; sleep 0.1; done", background=True, timeout=0
        ).pid
        terminal = Terminal(sbx, sbx.pty.create(PtySize(rows=24, cols=80), timeout=0))
        terminal.type("held=$$-$((40 + 2)); cd /tmp; echo set-$((1 + 1))\n")
        terminal.expect("set-2")
        terminal.type("while read line; do echo got-$line-$held; done\n")
        self.terminal, self.ticks = terminal.handle.pid, 0
        self.last = self.ask("/files")

    def ask(self, path: str) -> dict:
        headers = self.own.edge_headers(self.sandbox, PORT)
        response = httpx.get(self.own.url + path, headers=headers, timeout=30)
        assert response.status_code == 200, response.text
        assert response.json()["errors"] == []
        return response.json()

    def check(self) -> None:
        """Everything is there and goes on from where it was."""
        sbx = Sandbox.connect(self.sandbox, timeout=900, **self.own.sdk())
        told = self.ask("/files")
        assert told["pids"] == self.last["pids"]
        assert told["counter"] > self.last["counter"]
        assert all(told["said"][name] > self.last["said"][name] for name in ("tcp", "unix"))
        self.last = told

        def moving() -> bool:
            said = self.ask("/")["said"]
            return all(said[name] > told["said"][name] for name in ("tcp", "unix"))

        wait_until(moving, 10, "the connections to go on")

        assert {self.program, self.command, self.terminal} <= {process.pid for process in sbx.commands.list()}
        for stdout, _, _ in sbx.commands.connect(self.command):
            if stdout and (tick := re.search(r"tick-(\d+)\n", stdout)):
                assert int(tick.group(1)) > self.ticks
                self.ticks = int(tick.group(1))
                break
        terminal = Terminal(sbx, sbx.pty.connect(self.terminal))
        terminal.type(f"line{self.ticks}\n")
        terminal.expect(rf"got-line{self.ticks}-\d+-42")


@pytest.mark.timeout(240)
def test_everything_that_lived_goes_on(own: Server, lively: Sandbox):
    """Twice, and the first time with another server after every step."""
    living = Living(own, lively)

    def restart() -> None:
        own.kill_server()
        own.up()

    restart()
    living.check()
    restart()
    assert Sandbox.pause(living.sandbox, **own.sdk()) is True
    restart()
    assert own.state_of(living.sandbox) == "paused"
    Sandbox.connect(living.sandbox, timeout=900, **own.sdk())
    restart()
    living.check()

    assert Sandbox.pause(living.sandbox, **own.sdk()) is True
    living.check()
    assert living.ask("/pipe")["pipe"] is True
