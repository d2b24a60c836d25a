"""Running commands: output, exit codes, users, environment, stdin, background, timeouts."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    TimeoutException,
)

from harness.waiting import wait_until

MIB = 1 << 20


def test_output_and_exit_code_of_a_simple_command(sandbox: Sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ("out\n", "err\n", 0, None)


def test_it_is_a_virtual_machine_with_its_own_kernel(sandbox: Sandbox):
    guest = sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
    with open("/proc/sys/kernel/random/boot_id") as host:
        assert guest != host.read().strip()
    assert sandbox.commands.run("hostname").stdout.strip() == sandbox.sandbox_id


@pytest.mark.parametrize("code", [1, 2, 42, 126, 255])
def test_exit_code_is_passed_on(sandbox: Sandbox, code: int):
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run(f"echo before; echo why >&2; exit {code}")
    assert raised.value.exit_code == code
    assert raised.value.stdout == "before\n"
    assert raised.value.stderr == "why\n"
    assert raised.value.error == f"exit status {code}"


def test_missing_command_is_exit_code_127(sandbox: Sandbox):
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run("no-such-command-here")
    assert raised.value.exit_code == 127
    assert "not found" in raised.value.stderr


def test_death_by_a_signal_is_reported_as_such(sandbox: Sandbox):
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run("kill -KILL $$")
    assert raised.value.exit_code == -1
    assert raised.value.error == "signal: killed"


# -- who, where, with what -----------------------------------------------------------------------------------------------


def test_the_default_user_is_user_in_its_home(sandbox: Sandbox):
    result = sandbox.commands.run("id -un; id -u; pwd; echo $HOME; echo $USER; echo $LOGNAME")
    assert result.stdout.split() == ["user", "1000", "/home/user", "/home/user", "user", "user"]


def test_root_is_root_in_its_home(sandbox: Sandbox):
    result = sandbox.commands.run("id -u; pwd; echo $HOME", user="root")
    assert result.stdout.split() == ["0", "/root", "/root"]


def test_the_user_may_sudo_without_a_password(sandbox: Sandbox):
    assert sandbox.commands.run("sudo -n id -u").stdout.strip() == "0"


def test_supplementary_groups_are_set(sandbox: Sandbox):
    sandbox.commands.run("groupadd -f crowd && usermod -aG crowd user", user="root")
    assert "crowd" in sandbox.commands.run("id -Gn").stdout.split()


def test_an_unknown_user_is_refused(sandbox: Sandbox):
    with pytest.raises(AuthenticationException, match="invalid username: 'ghost'"):
        sandbox.commands.run("true", user="ghost")


def test_a_user_made_inside_can_be_used(sandbox: Sandbox):
    sandbox.commands.run("id guest7 2>/dev/null || useradd -m guest7", user="root")
    assert sandbox.commands.run("id -un; pwd", user="guest7").stdout.split() == ["guest7", "/home/guest7"]


def test_environment_of_one_command(sandbox: Sandbox):
    tricky = "line one\nline two = 'quoted' \"too\" $HOME é 🙂"
    result = sandbox.commands.run('printf %s "$TRICKY"; printf "|%s" "$EMPTY"', envs={"TRICKY": tricky, "EMPTY": ""})
    assert result.stdout == tricky + "|"
    assert sandbox.commands.run('printf %s "${TRICKY-unset}"').stdout == "unset"


def test_every_command_knows_that_it_is_in_a_sandbox(sandbox: Sandbox):
    result = sandbox.commands.run("echo $E2B_SANDBOX $E2B_SANDBOX_ID; command -v python3 git curl node sudo ps ip")
    assert result.stdout.startswith(f"true {sandbox.sandbox_id}\n")
    # So do programs that it did not start: the files are there a moment after the sandbox.
    read = "for i in $(seq 100); do cat /run/e2b/.E2B_SANDBOX_ID && break; sleep 0.1; done"
    assert sandbox.commands.run(read).stdout == sandbox.sandbox_id


def test_environment_given_at_creation_reaches_every_command_and_can_be_overridden(create):
    sbx = create(envs={"FROM_CREATE": "one", "BOTH": "create"})
    result = sbx.commands.run("echo $FROM_CREATE $BOTH", envs={"BOTH": "command"})
    assert result.stdout == "one command\n"
    assert sbx.commands.run("echo $FROM_CREATE $BOTH", user="root").stdout == "one create\n"


@pytest.mark.parametrize(
    ("cwd", "expected"),
    [("/tmp", "/tmp"), ("/usr/share", "/usr/share"), ("~", "/home/user"), (".", "/home/user")],
)
def test_working_directory(sandbox: Sandbox, cwd: str, expected: str):
    assert sandbox.commands.run("pwd", cwd=cwd).stdout.strip() == expected


def test_a_working_directory_that_does_not_exist_is_an_error(sandbox: Sandbox):
    with pytest.raises(InvalidArgumentException, match="/no/such/place"):
        sandbox.commands.run("pwd", cwd="/no/such/place")


def test_a_working_directory_that_the_user_may_not_enter_is_an_error(sandbox: Sandbox):
    with pytest.raises(InvalidArgumentException):
        sandbox.commands.run("pwd", cwd="/root")


# -- output --------------------------------------------------------------------------------------------------------------


def test_ten_mebibytes_of_output_arrive_intact(sandbox: Sandbox, home: str):
    made = sandbox.commands.run(
        f"head -c {10 * MIB * 3 // 4} /dev/urandom | base64 -w0 > {home}/text; sha256sum < {home}/text; stat -c %s {home}/text"
    )
    digest, _, size = made.stdout.split()
    assert int(size) == 10 * MIB
    output = sandbox.commands.run(f"cat {home}/text", timeout=120).stdout
    assert len(output) == 10 * MIB
    assert hashlib.sha256(output.encode()).hexdigest() == digest


def test_both_streams_at_once_stay_apart_and_in_order(sandbox: Sandbox):
    seen: dict[str, list[str]] = {"out": [], "err": []}
    result = sandbox.commands.run(
        "python3 -c '\nimport sys\nfor i in range(20000):\n print(\"o%d\" % i)\n print(\"e%d\" % i, file=sys.stderr)'",
        on_stdout=seen["out"].append,
        on_stderr=seen["err"].append,
        timeout=150,
    )
    assert result.stdout == "".join(f"o{i}\n" for i in range(20000)) == "".join(seen["out"])
    assert result.stderr == "".join(f"e{i}\n" for i in range(20000)) == "".join(seen["err"])


def test_output_arrives_while_the_command_runs(sandbox: Sandbox):
    arrived: list[float] = []
    sandbox.commands.run("echo a; sleep 1; echo b", on_stdout=lambda _: arrived.append(time.monotonic()))
    assert len(arrived) == 2
    assert arrived[1] - arrived[0] > 0.5


def test_a_character_split_between_two_writes_is_put_together(sandbox: Sandbox):
    result = sandbox.commands.run(r"printf '\xf0\x9f'; sleep 0.3; printf '\x98\x80'; sleep 0.3; printf '\xe2'; sleep 0.1; printf '\x82\xac'")
    assert result.stdout == "😀€"


def test_characters_across_every_chunk_boundary(sandbox: Sandbox):
    expected = "x" + "😀é€ß" * 40000
    code = f"import sys; sys.stdout.buffer.write(('x' + '😀é€ß' * 40000).encode())"
    assert sandbox.commands.run(f'python3 -c "{code}"').stdout == expected


def test_bytes_that_are_no_text_become_replacement_characters(sandbox: Sandbox):
    assert sandbox.commands.run(r"printf 'a\xff\xfeb\xe2\x82'").stdout == "a��b�"


def test_output_need_not_be_retained(sandbox: Sandbox):
    pieces: list[str] = []
    result = sandbox.commands.run("echo seen", on_stdout=pieces.append, retain_output=False)
    assert result.stdout is None and result.stderr is None
    assert "".join(pieces) == "seen\n"


def test_what_a_grandchild_prints_belongs_to_the_output(sandbox: Sandbox):
    assert sandbox.commands.run("(sleep 1; echo late) & echo early").stdout == "early\nlate\n"


def test_a_long_command_line(sandbox: Sandbox):
    text = "y" * 100_000
    assert sandbox.commands.run(f"printf %s {text} | wc -c").stdout.strip() == "100000"


def test_many_commands_at_once_do_not_mix(sandbox: Sandbox):
    with ThreadPoolExecutor(15) as pool:
        results = pool.map(lambda i: sandbox.commands.run(f"echo begin-{i}; sleep 0.2; echo end-{i}"), range(30))
        for i, result in enumerate(results):
            assert result.stdout == f"begin-{i}\nend-{i}\n"


# -- stdin ---------------------------------------------------------------------------------------------------------------


def test_stdin_is_empty_unless_asked_for(sandbox: Sandbox):
    assert sandbox.commands.run("cat; echo done").stdout == "done\n"


def test_stdin_reaches_the_command_until_it_is_closed(sandbox: Sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "hello ")
    handle.send_stdin("wörld\n".encode())
    handle.close_stdin()
    handle.close_stdin()  # twice is fine
    assert handle.wait().stdout == "hello wörld\n"


def test_megabytes_of_stdin_arrive_intact(sandbox: Sandbox):
    data = bytes(range(256)) * (4 * MIB // 256)
    handle = sandbox.commands.run("sha256sum", background=True, stdin=True)
    for start in range(0, len(data), MIB):
        handle.send_stdin(data[start : start + MIB])
    handle.close_stdin()
    assert handle.wait().stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_stdin_as_one_stream(sandbox: Sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, (f"piece {i}\n" for i in range(100)))
    handle.close_stdin()
    assert handle.wait().stdout == "".join(f"piece {i}\n" for i in range(100))


def test_stdin_of_a_process_that_does_not_exist(sandbox: Sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.send_stdin(999_999, "lost")


# -- background ----------------------------------------------------------------------------------------------------------


def test_a_background_command_is_listed_and_can_be_waited_for(sandbox: Sandbox):
    handle = sandbox.commands.run("sleep 2; echo done", background=True, envs={"MARK": "yes"}, cwd="/tmp")
    listed = {process.pid: process for process in sandbox.commands.list()}
    assert handle.pid in listed
    mine = listed[handle.pid]
    assert mine.cmd == "/bin/bash"
    assert mine.args == ["-l", "-c", "sleep 2; echo done"]
    assert mine.envs == {"MARK": "yes"}
    assert mine.cwd == "/tmp"
    assert handle.wait().stdout == "done\n"
    wait_until(lambda: handle.pid not in {p.pid for p in sandbox.commands.list()}, 5, "the command to leave the list")


def test_a_second_client_joins_a_running_command(sandbox: Sandbox, home: str):
    first = sandbox.commands.run(
        f"echo started; until [ -e {home}/go ]; do sleep 0.1; done; echo finished; exit 3", background=True
    )
    second = sandbox.commands.connect(first.pid)
    sandbox.files.write(f"{home}/go", "")
    for handle in (first, second):
        with pytest.raises(CommandExitException) as raised:
            handle.wait()
        assert raised.value.exit_code == 3
        assert raised.value.stdout.endswith("finished\n")


def test_a_command_outlives_its_client_and_can_be_rejoined(server, sandbox: Sandbox, home: str):
    first = sandbox.commands.run(
        f"until [ -e {home}/go ]; do sleep 0.1; done; echo still here", background=True
    )
    first.disconnect()
    elsewhere = Sandbox.connect(sandbox.sandbox_id, **server.sdk())
    assert first.pid in {process.pid for process in elsewhere.commands.list()}
    again = elsewhere.commands.connect(first.pid)
    elsewhere.files.write(f"{home}/go", "")
    assert again.wait().stdout == "still here\n"


def test_a_command_without_listeners_is_not_held_up_by_its_output(sandbox: Sandbox, home: str):
    handle = sandbox.commands.run(f"head -c {4 * MIB} /dev/zero; echo done > {home}/mark", background=True)
    handle.disconnect()
    wait_until(lambda: sandbox.files.exists(f"{home}/mark"), 30, "the command to get to its end")


def test_the_exit_code_can_be_asked_for_shortly_after_the_end(sandbox: Sandbox, home: str):
    handle = sandbox.commands.run(f"echo > {home}/ended; exit 9", background=True)
    handle.disconnect()
    wait_until(lambda: handle.pid not in {p.pid for p in sandbox.commands.list()}, 10, "the command to end")
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.connect(handle.pid).wait()
    assert raised.value.exit_code == 9


def test_joining_a_process_that_never_was(sandbox: Sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(999_998)


def test_killing_a_command(sandbox: Sandbox):
    handle = sandbox.commands.run("sleep 300", background=True)
    assert handle.kill() is True
    with pytest.raises(CommandExitException) as raised:
        handle.wait()
    assert raised.value.exit_code == -1
    assert raised.value.error == "signal: killed"
    wait_until(lambda: sandbox.commands.kill(handle.pid) is False, 5, "the second kill to find nothing")


def test_killing_what_does_not_exist(sandbox: Sandbox):
    assert sandbox.commands.kill(999_997) is False


def test_killing_by_pid_from_another_client(server, sandbox: Sandbox):
    handle = sandbox.commands.run("sleep 300", background=True)
    assert Sandbox.connect(sandbox.sandbox_id, **server.sdk()).commands.kill(handle.pid) is True
    with pytest.raises(CommandExitException):
        handle.wait()


def test_a_daemon_started_by_a_command_stays(sandbox: Sandbox):
    sandbox.commands.run("nohup setsid sleep 301 >/dev/null 2>&1 </dev/null &")
    assert sandbox.commands.run("pgrep -fx 'sleep 301'").stdout.strip()
    sandbox.commands.run("pkill -fx 'sleep 301'")


def test_orphans_are_reaped(sandbox: Sandbox):
    sandbox.commands.run("for i in $(seq 20); do (setsid sleep 0.1 >/dev/null 2>&1 &) ; done")
    wait_until(
        lambda: sandbox.commands.run("ps -eo stat= | grep -c ^Z || true").stdout.strip() == "0", 10, "no zombie to be left"
    )


# -- time ----------------------------------------------------------------------------------------------------------------


def test_a_command_that_takes_too_long_is_ended(sandbox: Sandbox):
    started = time.monotonic()
    with pytest.raises(TimeoutException):
        sandbox.commands.run("exec sleep 302", timeout=1)
    assert time.monotonic() - started < 10
    wait_until(
        lambda: sandbox.commands.run("pgrep -fx 'sleep 302' || true").stdout == "", 10, "the command to be killed at its deadline"
    )


def test_a_timeout_of_zero_is_no_limit(sandbox: Sandbox):
    assert sandbox.commands.run("sleep 1; echo ok", timeout=0).stdout == "ok\n"


def test_a_slow_reader_loses_nothing(sandbox: Sandbox):
    handle = sandbox.commands.run(f"head -c {2 * MIB} /dev/zero | tr '\\0' z", background=True)
    total = 0
    for stdout, _, _ in handle:
        total += len(stdout or "")
        if total < 200_000:
            time.sleep(0.05)  # the semantics under test is a reader that takes its time
    assert total == 2 * MIB


def test_a_reader_that_stopped_reading_does_not_disturb_others(sandbox: Sandbox):
    stuck = sandbox.commands.run("yes", background=True)
    try:
        results: list[str] = []
        other = threading.Thread(target=lambda: results.append(sandbox.commands.run("echo fine").stdout))
        other.start()
        other.join(20)
        assert results == ["fine\n"]
    finally:
        assert sandbox.commands.kill(stuck.pid)
