"""`coldframe sandbox debug`: gdb in the kernel of a sandbox that runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest
from e2b import Sandbox, SandboxException

from harness.guest import output
from harness.kernel import FAULT, KCORE, agrees_with
from harness.processes import is_alive
from harness.server import Server, binary
from harness.waiting import wait_until

#: gdb reads half a gigabyte of symbols, the first time slowly.
PATIENCE = 240
#: A program that has pages faulted in all the time, and opens files.
BUSY = """python3 -c 'import mmap, time
while True:
    memory = mmap.mmap(-1, 65536); memory[0] = memory[8192] = 1; memory.close()
    open("/proc/uptime").close(); time.sleep(0.02)'"""


def debug(server: Server, sbx: Sandbox, *commands: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    executed = [word for command in commands for word in ("--gdb-exec", command)]
    return server.cli("sandbox", "debug", sbx.sandbox_id, *options, *executed, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module")
def busy(server: Server) -> Iterator[Sandbox]:
    sbx = Sandbox.create(timeout=1800, **server.sdk())
    sbx.commands.run(BUSY, background=True, timeout=0)
    yield sbx
    assert sbx.kill() is True


class Interactive:
    """A session that waits for commands."""

    def __init__(self, server: Server, sbx: Sandbox) -> None:
        command = [str(binary()), "sandbox", "debug", sbx.sandbox_id, "--state", str(server.state)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        self.tell("echo here\\n", "here")

    def tell(self, command: str, wanted: str) -> str:
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        said = ""
        while wanted not in said:
            more = self.process.stdout.readline()
            assert more, said
            said += more
        return said

    def gdb(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if "gdb" in Path(f"/proc/{pid}/comm").read_text())

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def session(server: Server) -> Iterator[Callable[[Sandbox], Interactive]]:
    sessions: list[Interactive] = []

    def begin(sbx: Sandbox) -> Interactive:
        sessions.append(Interactive(server, sbx))
        return sessions[-1]

    yield begin
    for one in sessions:
        one.process.kill()
        one.process.communicate()


def runs(sbx: Sandbox) -> bool:
    return output(sbx, "echo it runs") == "it runs"


@pytest.mark.timeout(PATIENCE + 60)
def test_it_sees_what_the_guest_says_of_itself(server: Server, busy: Sandbox):
    done = debug(
        server,
        busy,
        "fc-curr 0",
        "fc-curr 7",
        "fc-task &init_task",
        "fc-task",
        "fc-regions",
        "fc-va 0x100000",
        "fc-faults 3",
        "hbreak do_sys_openat2",
        "continue",
        "info breakpoints",
        "detach",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    # What it is told first.
    release = output(busy, "uname -r")
    for what in (f"sandbox   {busy.sandbox_id}", "build id", release, "gdb.sock", "gdb -x"):
        assert what in done.stderr
    # Tasks.
    current = re.search(r"^task=0x[0-9a-f]{16} comm=(\S+) pid=(\d+) tgid=\d+ mm=0x[0-9a-f]+$", said, re.M)
    assert current, said
    assert "comm=swapper/0 pid=0 tgid=0 mm=0x0" in said
    assert "there is no processor 7: they are 0 to 0" in said and "usage: fc-task ADDRESS" in said
    # Memory: /proc/kcore says where the kernel has which physical address.
    agrees_with(said, output(busy, KCORE, user="root"))
    # Faults of processes that there are.
    faults = FAULT.findall(said)
    assert len(faults) == 3, said
    for _, _, address, start, end in faults:
        assert int(start, 16) <= int(address, 16) < int(end, 16)
    names = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in output(busy, "ps -A -o pid= -o comm=").splitlines()}
    assert any(names.get(pid) == comm for comm, pid, *_ in faults), (faults, names)
    # A breakpoint of the processor, with its line.
    assert re.search(r"Breakpoint \d+, do_sys_openat2 \(.*\) at fs/open\.c:\d+", said), said
    assert "hw breakpoint" in said
    assert runs(busy)


@pytest.mark.timeout(PATIENCE)
def test_its_exit_status_and_its_script_are_gdbs(server: Server, busy: Sandbox, tmp_path: Path):
    script = tmp_path / "script.gdb"
    script.write_text("printf \"from the script\\n\"\nprint nr_cpu_ids\n")
    done = debug(server, busy, "echo afterwards\\n", "quit 7", options=("--gdb-script", str(script)))
    assert done.returncode == 7, done.stdout + done.stderr
    assert re.search(r"from the script\n\$1 = 1\nafterwards", done.stdout), done.stdout
    assert runs(busy)


@pytest.mark.timeout(PATIENCE)
def test_what_it_cannot_do_it_says(server: Server, busy: Sandbox, create: Callable[..., Sandbox], tmp_path: Path):
    def refused(sbx: Sandbox, *options: str) -> str:
        done = debug(server, sbx, "quit", options=options)
        assert done.returncode == 1
        return done.stderr

    assert "has the symbols of another kernel: its build id is" in refused(busy, "--gdb-symbols", str(binary()))
    kernel = next((server.state / "kernels").glob("*/vmlinux"))
    assert "is the right kernel, without debug symbols" in refused(busy, "--gdb-symbols", str(kernel))
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("no ELF file")
    assert str(nonsense) in refused(busy, "--gdb-symbols", str(nonsense))
    assert "No such file" in refused(busy, "--gdb-symbols", str(tmp_path / "nothing"))
    paused = create(timeout=900)
    assert paused.pause() is True
    # Whoever ran it may be about to go.
    assert "does not run" in refused(paused)


@pytest.mark.timeout(PATIENCE)
def test_it_is_neither_paused_nor_entered_twice_meanwhile(server: Server, create: Callable[..., Sandbox], session: Callable[[Sandbox], Interactive]):
    sbx = create(timeout=900)
    first = session(sbx)
    with pytest.raises(SandboxException, match="a debugger is in the machine"):
        sbx.pause()
    with pytest.raises(SandboxException, match="a debugger is in the machine"):
        sbx.create_snapshot()
    done = debug(server, sbx, "quit")
    assert done.returncode == 1 and "another debugger is under way" in done.stderr
    first.process.stdin.write("quit\n")
    first.process.stdin.flush()
    assert first.end()[0] == 0
    assert runs(sbx)
    assert sbx.pause() is True
    sbx.connect(timeout=900)
    assert runs(sbx)


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("victim", ["coldframe", "gdb", "sandbox"])
def test_whoever_dies_the_sandbox_is_what_it_was(
    server: Server, create: Callable[..., Sandbox], session: Callable[[Sandbox], Interactive], victim: str
):
    sbx = create(timeout=900)
    one = session(sbx)
    gdb = one.gdb()
    # It stands still in the kernel.
    assert "0x" in one.tell("output/x $pc\necho \\nasked\\n", "asked")
    if victim == "coldframe":
        one.process.kill()
    elif victim == "gdb":
        os.kill(gdb, signal.SIGKILL)
        code, said = one.end()
        assert code == 1 and "gdb was ended by signal 9; the sandbox runs on" in said
    else:
        assert sbx.kill() is True
        code, said = one.end()
        assert code == 1 and f"sandbox {sbx.sandbox_id} has ended" in said
    wait_until(lambda: not is_alive(gdb), 20, "gdb to be gone")
    if victim != "sandbox":
        assert runs(sbx)
        socket = server.state / "run" / "sandboxes" / sbx.sandbox_id / "gdb.sock"
        wait_until(lambda: not socket.exists(), 20, "the socket to be gone")
        assert sbx.pause() is True
