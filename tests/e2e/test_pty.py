"""Terminals."""

from __future__ import annotations

import time
from typing import Iterator

import pytest
from e2b import CommandExitException, NotFoundException, PtySize, Sandbox, TimeoutException

from harness.terminal import Terminal


@pytest.fixture
def terminal(sandbox: Sandbox) -> Iterator[Terminal]:
    opened = Terminal(sandbox, sandbox.pty.create(PtySize(rows=24, cols=80), timeout=120))
    yield opened
    sandbox.pty.kill(opened.handle.pid)
    opened.ended()


def test_a_prompt_appears_and_commands_run(terminal: Terminal):
    terminal.expect(r"[$#] ")  # nothing of the first bytes is lost
    terminal.type("echo sum-$((40 + 2)) \"$USER\" \"$TERM\" \"$LANG\"\n")
    terminal.expect(r"sum-42 user xterm-256color C.UTF-8")


def test_it_is_a_terminal_of_the_given_size(terminal: Terminal):
    terminal.type("tty; stty size\n")
    terminal.expect(r"/dev/pts/\d+\r\n24 80\r\n")


def test_resizing_tells_the_program(sandbox: Sandbox, terminal: Terminal):
    terminal.type("trap 'echo winch-$(stty size)' WINCH; echo ready-$((1+1))\n")
    terminal.expect("ready-2")
    sandbox.pty.resize(terminal.handle.pid, PtySize(rows=40, cols=133))
    terminal.type("\n")
    terminal.expect("winch-40 133")


def test_control_characters_reach_the_foreground_job(terminal: Terminal):
    terminal.expect(r"[$#] ")
    terminal.type("sh -c 'echo up-$((1+1)); exec sleep 300'\n")
    terminal.expect("up-2")
    terminal.type("\x03")
    terminal.type("echo status-$?\n")
    terminal.expect("status-130")
    terminal.type("cat\n")
    terminal.expect("cat\r\n")
    terminal.type("typed line\n")
    terminal.expect(r"typed line\r\ntyped line\r\n")
    terminal.type("\x04")
    terminal.type("echo after-$((3+4))\n")
    terminal.expect("after-7")


def test_unicode_both_ways(terminal: Terminal):
    terminal.type("printf '<%s>' 'grüße 🙂'\n")
    terminal.expect("<grüße 🙂>")


def test_the_terminal_can_be_opened_again_by_its_user(terminal: Terminal):
    terminal.type("echo re-opened > $(tty) && echo ok-$((5+5))\n")
    terminal.expect("ok-10")


def test_the_shells_exit_code_is_passed_on(sandbox: Sandbox):
    terminal = Terminal(sandbox, sandbox.pty.create(PtySize(24, 80)))
    terminal.type("exit 7\n")
    terminal.ended()
    assert isinstance(terminal.error, CommandExitException)
    assert terminal.error.exit_code == 7


def test_killing_a_terminal(sandbox: Sandbox):
    terminal = Terminal(sandbox, sandbox.pty.create(PtySize(24, 80)))
    terminal.expect(r"[$#] ")
    assert terminal.handle.pid in {process.pid for process in sandbox.commands.list()}
    assert sandbox.pty.kill(terminal.handle.pid) is True
    terminal.ended()
    assert isinstance(terminal.error, CommandExitException)
    assert (terminal.error.exit_code, terminal.error.error) == (-1, "signal: killed")


def test_user_directory_and_environment(sandbox: Sandbox):
    terminal = Terminal(
        sandbox, sandbox.pty.create(PtySize(24, 80), user="root", cwd="/tmp", envs={"MARK": "yes", "TERM": "dumb"})
    )
    terminal.type("echo $(id -u) $PWD $MARK $TERM; exit\n")
    terminal.expect("0 /tmp yes dumb")
    terminal.ended()
    assert terminal.error is None


def test_a_second_client_sees_the_same_terminal(server, sandbox: Sandbox, terminal: Terminal):
    terminal.expect(r"[$#] ")
    elsewhere = Sandbox.connect(sandbox.sandbox_id, **server.sdk())
    second = Terminal(elsewhere, elsewhere.pty.connect(terminal.handle.pid))
    second.type("echo shared-$((6*7))\n")
    second.expect("shared-42")
    terminal.expect("shared-42")


def test_input_as_one_stream(sandbox: Sandbox, terminal: Terminal):
    terminal.expect(r"[$#] ")
    sandbox.pty.stream_input(terminal.handle.pid, (c.encode() for c in "echo streamed-$((2*4))\n"))
    terminal.expect("streamed-8")


def test_much_output_arrives_completely(terminal: Terminal):
    terminal.expect(r"[$#] ")
    terminal.type("stty -onlcr; seq 20000; echo end-$((1+2))\n")
    terminal.expect("end-3", deadline=60)
    assert "".join(f"{i}\n" for i in range(1, 20001)).encode() in terminal.output


def test_a_terminal_ends_at_its_deadline(sandbox: Sandbox):
    started = time.monotonic()
    terminal = Terminal(sandbox, sandbox.pty.create(PtySize(24, 80), timeout=1))
    terminal.ended()
    assert isinstance(terminal.error, TimeoutException)
    assert time.monotonic() - started < 15


def test_what_is_no_terminal(sandbox: Sandbox):
    with pytest.raises(NotFoundException):
        sandbox.pty.resize(999_996, PtySize(24, 80))
    assert sandbox.pty.kill(999_996) is False
