"""The newest `@e2b/cli`: sandbox create, list, exec, logs, metrics, connect, kill."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from e2b import Sandbox

from harness.server import Server
from harness.waiting import wait_until

TEAM = "cli"


@pytest.fixture(scope="module")
def environment(server: Server, tmp_path_factory) -> dict[str, str]:
    """A home without any configuration of the CLI."""
    home = tmp_path_factory.mktemp("cli-home")
    return {**os.environ, **server.environ(TEAM), "HOME": str(home), "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def e2b(environment: dict[str, str], node: str, node_modules: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the CLI."""
    program = node_modules / ".bin" / "e2b"

    def run(*args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [node, str(program), *args],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}),
        )
        assert not check or done.returncode == 0, f"e2b {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def made(e2b, server: Server) -> Iterator[str]:
    """A sandbox that `e2b sandbox create` made."""
    sandbox = e2b("sandbox", "create", "--detach", "base").stdout.split()[-1]
    Sandbox.set_timeout(sandbox, 600, **server.sdk(TEAM))
    yield sandbox
    Sandbox.kill(sandbox, **server.sdk(TEAM))


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\a]*\a", "", text)


def test_create_prints_the_id_of_a_running_sandbox(server: Server, made: str):
    assert Sandbox.get_info(made, **server.sdk(TEAM)).state.value == "running"


def test_list(e2b, made: str):
    listed = json.loads(e2b("sandbox", "list", "--format", "json").stdout)
    assert made in [item["sandboxId"] for item in listed]
    assert made in plain(e2b("sandbox", "list").stdout)
    assert json.loads(e2b("sandbox", "list", "--format", "json", "--metadata", "no=such").stdout) == []


def test_info(e2b, made: str):
    assert made in plain(e2b("sandbox", "info", made).stdout)


def test_exec(e2b, made: str):
    done = e2b("sandbox", "exec", made, "echo", "it works", "$HOME")
    assert done.stdout == "it works $HOME\n"
    done = e2b("sandbox", "exec", "-u", "root", "-c", "/tmp", "-e", "A=b", made, "id -u; pwd; echo $A >&2")
    assert (done.stdout, done.stderr) == ("0\n/tmp\n", "b\n")


def test_exec_passes_the_exit_code_on(e2b, made: str):
    assert e2b("sandbox", "exec", made, "exit 42", check=False).returncode == 42


def test_exec_passes_stdin_on(e2b, made: str):
    text = "".join(f"line {i} {'x' * 1000}\n" for i in range(300))
    assert e2b("sandbox", "exec", made, "cat", stdin=text).stdout == text


def test_exec_in_the_background(e2b, server: Server, made: str):
    pid = int(e2b("sandbox", "exec", "--background", made, "sleep 300").stderr.split()[-1])
    sandbox = Sandbox.connect(made, **server.sdk(TEAM))
    assert pid in {process.pid for process in sandbox.commands.list()}
    assert sandbox.commands.kill(pid)


def test_logs(e2b, made: str):
    marker = f"marker-{time.time_ns()}"
    e2b("sandbox", "exec", made, f"echo {marker}")
    wait_until(lambda: marker in e2b("sandbox", "logs", "--level", "DEBUG", "--format", "json", made).stdout, 30, "the line in the logs", 0.5)
    assert marker in plain(e2b("sandbox", "logs", "--level", "DEBUG", made).stdout)


def test_metrics(e2b, made: str):
    def first() -> dict | None:
        lines = e2b("sandbox", "metrics", "--format", "json", made).stdout.split("\n")
        samples = [json.loads(line) for line in lines if line.startswith("{")]
        return samples[0] if samples else None

    sample = wait_until(first, 40, "a sample", 0.5)
    assert sample["cpuCount"] >= 1 and sample["memTotal"] > 0 and sample["diskTotal"] > 0
    assert "Memory" in plain(e2b("sandbox", "metrics", made).stdout)


class AttachedCli:
    """The CLI in a terminal of its own, as a person uses it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, {**environment, "TERM": "xterm"})
        self.output = ""

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def expect(self, pattern: str, deadline: float = 60) -> re.Match[str]:
        end = time.monotonic() + deadline
        while not (found := re.search(pattern, plain(self.output))):
            assert time.monotonic() < end, f"{pattern!r} did not appear: {self.output[-1000:]!r}"
            if select.select([self.terminal], [], [], 0.2)[0]:
                try:
                    self.output += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:
                    pass
        return found

    def ended(self, deadline: float = 60) -> int:
        end = time.monotonic() + deadline
        while True:
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:
                    pass  # the other side is closed
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                os.close(self.terminal)
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, f"it did not end: {self.output[-1000:]!r}"


def test_create_with_a_terminal(environment, node: str, node_modules: Path, server: Server):
    cli = AttachedCli([node, str(node_modules / ".bin" / "e2b"), "sandbox", "create"], environment)
    sandbox = cli.expect(r"sandbox ID (\w+)").group(1)
    cli.expect(r"[$#] ")
    cli.type("echo sum-$((40+2))\r")
    cli.expect("sum-42")
    cli.type("exit\r")
    assert cli.ended() == 0
    # Having left, it shortens the sandbox's life to one second.
    wait_until(lambda: not server.is_listed(sandbox, TEAM), 10, "the sandbox to end")


def test_connect_with_a_terminal(environment, node: str, node_modules: Path, made: str):
    cli = AttachedCli([node, str(node_modules / ".bin" / "e2b"), "sandbox", "connect", made], environment)
    cli.expect(r"[$#] ")
    cli.type("hostname; exit\r")
    cli.expect(made + r"\r\n")
    assert cli.ended() == 0


def test_kill(e2b, server: Server):
    one = e2b("sandbox", "create", "--detach").stdout.split()[-1]
    assert "has been killed" in plain(e2b("sandbox", "kill", one).stdout)
    assert "wasn't found" in plain(e2b("sandbox", "kill", one).stderr)
    assert one not in e2b("sandbox", "list", "--format", "json").stdout


def test_a_wrong_key_is_told(e2b, environment: dict[str, str], node: str, node_modules: Path):
    done = subprocess.run(
        [node, str(node_modules / ".bin" / "e2b"), "sandbox", "list"],
        env={**environment, "E2B_API_KEY": "e2b_" + "1" * 40},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "401" in done.stdout + done.stderr or "nauthorized" in done.stdout + done.stderr
