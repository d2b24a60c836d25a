"""`coldframe build resume`: a build goes on in a machine of its own, beside a server, and leaves nothing behind."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Iterator

import pytest
from e2b import Sandbox

from harness.damage import flip
from harness.guest import output
from harness.kernel import FAULT, KCORE, agrees_with
from harness.processes import is_alive, processes
from harness.registry import OCI, layer, registry
from harness.server import Server, binary, free_port, sibling, state_root
from harness.waiting import wait_until
from harness.workshops import PLACES, Command, held, tag, wait_until_gone

#: gdb reads half a gigabyte of symbols, the first time slowly.
PATIENCE = 240
#: Several machines, one after the other, some of which boot.
LONG = 400
#: Until somebody says go.
WAIT = "until test -p /home/user/go; do sleep 0.1; done; read -r _ < /home/user/go; cat /home/user/mine"


def resume(server: Server, *args: str, patience: float = 120, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = server.cli("build", "resume", *args, timeout=patience, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(autouse=True)
def nothing_left(server: Server) -> Iterator[None]:
    yield
    Command.kill_all()
    for number in PLACES:
        wait_until_gone(server, number)


def test_a_command_runs_in_it_and_its_status_is_ours(server: Server):
    done = resume(server, "base", "--cmd", "echo out; echo err >&2; whoami; pwd; exit 7", status=7)
    assert done.stdout.split() == ["out", "user", "/home/user"]
    for what in ("err", "build     ", "machine   qemu", "ports     http://127.0.0.1:", "sandbox   i"):
        assert what in done.stderr, done.stderr
    assert resume(server, "base", "--user", "root", "--cmd", "whoami").stdout == "root\n"


def test_a_shell_reads_what_comes_in(server: Server):
    command = Command(server, "base")
    command.tell("echo $((6 * 7))\n")
    command.tell("exit 9\n")
    assert command.end() == (9, "42\n")


def test_a_shell_has_the_terminal(server: Server):
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", "91", "rows", "37"], stdin=theirs, check=True)
    command = [str(binary()), "build", "resume", "base", "--state", str(server.state)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    said = b""

    def until(wanted: bytes) -> bytes:
        """What comes up to that, which is not looked at again."""
        nonlocal said
        while wanted not in said:
            assert select.select([ours], [], [], 60)[0], said
            said += os.read(ours, 4096)
        come, said = said.split(wanted, 1)
        return come

    until(b"$ ")
    os.write(ours, b"tty; stty size; echo e''nd\r")
    come = until(b"end\r")
    assert b"/dev/pts/" in come and b"37 91" in come
    until(b"$ ")
    # What is typed to interrupt is for the guest. Typed before the program runs, or followed by more before the shell asks, it
    # makes a shell of this machine, too, look for `cho`.
    os.write(ours, b"sh -c 'echo ru''ns; exec sleep 1000'\r")
    until(b"runs\r")
    os.write(ours, b"\x03")
    until(b"$ ")
    os.write(ours, b"echo $?, go''es on\r")
    assert until(b", goes on").endswith(b"130")
    until(b"$ ")
    os.write(ours, b"exit 3\r")
    assert process.wait(30) == 3
    # The terminal is what it was.
    assert b"-echo " not in subprocess.run(["stty", "-a"], stdin=theirs, capture_output=True, check=True).stdout
    os.close(ours)
    os.close(theirs)


@pytest.mark.timeout(LONG)
def test_its_phases_are_measured(server: Server):
    told = resume(server, "base", "--iterations", "3").stdout
    names = ("processors run", "of that: launch", "of that: load", "of that: run", "daemon takes its identity", "resumed")
    for name in names:
        assert re.search(rf"^ *{name} +p50 .* p95 .* p99 .* n=3$", told, re.M), told
    cold = resume(server, "base", "--iterations", "2", "--cold", "--no-prefetch").stdout
    assert "n=2" in cold
    booted = resume(server, "base", "--iterations", "1", "--reboot", patience=200).stdout
    assert "resumed" in booted and "of that: load" not in booted


@pytest.mark.timeout(LONG)
def test_what_it_becomes_is_a_snapshot_like_any_other(server: Server):
    done = resume(server, "base", "--cmd", "echo kept > /home/user/kept; echo here > /dev/shm/here", "--pause", "--name", "by-hand")
    build = done.stdout.strip()
    assert (server.state / "store" / build / "manifest.json").exists()
    # Whoever reads it next, without a server or with one.
    assert resume(server, build, "--cmd", "cat /home/user/kept /dev/shm/here").stdout == "kept\nhere\n"
    disk = resume(server, build, "--pause", "--fs-only").stdout.strip()
    booted = resume(server, disk, "--cmd", "cat /home/user/kept; ls /dev/shm", patience=200)
    assert booted.stdout == "kept\n" and "booted from its disk: its memory was not kept" in booted.stderr
    team = {**server.sdk(), "api_key": server.env()["E2B_API_KEY"]}
    sbx = Sandbox.create("by-hand", **team)
    assert output(sbx, "cat /home/user/kept /dev/shm/here") == "kept\nhere"
    assert sbx.kill() is True
    # A command that failed has made nothing worth keeping.
    before = server.snapshots()
    assert resume(server, "base", "--cmd", "exit 2", "--pause", status=2).stdout == ""
    assert server.snapshots() == before
    names = {snapshot.snapshot_id for snapshot in Sandbox.list_snapshots(**team).next_items()}
    assert any("by-hand" in name for name in names)
    for name in names:
        Sandbox.delete_snapshot(name, **team)


@pytest.mark.timeout(LONG)
def test_a_copy_needs_nothing_of_where_it_came_from(server: Server, tmp_path: Path):
    kept = resume(server, "base", "--cmd", "echo far > /home/user/kept; echo away > /dev/shm/here; sync", "--pause").stdout.strip()
    # Where there is nothing else. The paths of sockets are short, and so has to be the directory's.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cf-") as place:
        Path(place).chmod(0o755)
        bare = Server(Path(place) / "s", free_port())
        copied = server.cli("build", "copy", kept, "--to", str(bare.state), timeout=300)
        assert copied.stdout == f"{kept}\n"
        again = server.cli("build", "copy", kept, "--to", str(bare.state))
        assert again.stdout == copied.stdout and "copying" not in again.stderr
        renamed = server.cli("build", "copy", kept, "--to", str(bare.state), "--name", "other", check=False)
        assert renamed.returncode == 1 and f"build {kept} is called " in renamed.stderr
        assert {path.name for path in (bare.state / "store").iterdir()} == {kept}
        problems = json.loads(bare.cli("build", "inspect", kept, "--validate", "--json", timeout=120).stdout)
        assert problems["problems"] == []
        assert str(bare.state.resolve()) in problems["manifest"]["boot"]["kernel"]
        read = ("--cmd", "cat /home/user/kept /dev/shm/here")
        done = resume(bare, kept, *read)
        assert done.stdout == "far\naway\n" and f"initrd    {bare.state.resolve()}/kernels/" in done.stderr
        assert resume(bare, kept, "--reboot", "--cmd", "cat /home/user/kept", patience=200).stdout == "far\n"
        # And back to a server, by a name.
        other = sibling(state_root(), state_root().with_name(f"{state_root().name}.d") / f"copies-{os.getpid()}")
        server.cli("build", "copy", kept, "--to", str(other.state), "--name", "from-afar", timeout=300)
        other.up()
        try:
            team = {**other.sdk(), "api_key": other.env()["E2B_API_KEY"]}
            sbx = Sandbox.create("from-afar", **team)
            assert output(sbx, "cat /home/user/kept /dev/shm/here") == "far\naway"
            assert sbx.kill() is True
            Sandbox.delete_snapshot("from-afar", **team)
            assert kept not in other.snapshots()
        finally:
            other.down()
            shutil.rmtree(other.state)
        flip(bare.state / "store" / kept / "memory.data")
        elsewhere = Path(place) / "t"
        done = bare.cli("build", "copy", kept, "--to", str(elsewhere), check=False, timeout=300)
        assert done.returncode == 1 and f"memory.data of build {kept}" in done.stderr, done.stderr
        assert list((elsewhere / "store").iterdir()) == []
        assert "--to names another" in bare.cli("build", "copy", kept, "--to", str(bare.state), check=False).stderr
    assert server.cli("build", "copy", "nothing", "--to", "/var/tmp/cf-none", check=False).returncode == 1
    shutil.rmtree("/var/tmp/cf-none")


def create(server: Server, *args: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = server.cli("build", "create", *args, timeout=200, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.timeout(LONG)
def test_one_is_made_of_another_with_what_runs_in_it(server: Server):
    started = "echo starting; i=0; while true; do echo $i > /tmp/counts; i=$((i + 1)); sleep 0.2; done"
    done = create(
        server, "--from", "base", "--setup-cmd", "echo $(whoami) sets up; echo mine > ~/mine", "--start-cmd", started,
        "--ready-cmd", "test -s /tmp/counts && test $(cat /tmp/counts) -ge 3", "--name", "counting",
    )
    build = done.stdout.strip()
    assert "user sets up" in done.stderr and "starting" in done.stderr and "snapshot  default/counting:default" in done.stderr
    team = {**server.sdk(), "api_key": server.env()["E2B_API_KEY"]}
    sbx = Sandbox.create("counting", **team)
    first = int(output(sbx, "cat /tmp/counts"))
    assert first >= 3 and output(sbx, "cat ~/mine") == "mine"
    wait_until(lambda: int(output(sbx, "cat /tmp/counts") or 0) > first, 20, "what was started to go on")
    assert sbx.kill() is True
    # Of that one, another one.
    more = create(server, "--from", build, "--setup-cmd", "echo more >> ~/mine").stdout.strip()
    assert resume(server, more, "--cmd", "cat ~/mine").stdout == "mine\nmore\n"
    for wrong, why in [
        (("--setup-cmd", "exit 5"), "the setup command ended with status 5"),
        (("--start-cmd", "exit 6", "--ready-cmd", "false"), "the start command ended with status 6 before it was ready"),
        (("--start-cmd", "sleep 100", "--ready-cmd", "false", "--timeout", "4"), "it was not ready within 4s"),
        (("--setup-cmd", "sudo poweroff -f || echo o | sudo tee /proc/sysrq-trigger; sleep 30"), "the machine has ended"),
    ]:
        before = server.snapshots()
        assert why in create(server, "--from", "base", *wrong, status=1).stderr
        assert server.snapshots() == before
    Sandbox.delete_snapshot("counting", **team)


@pytest.mark.timeout(LONG)
def test_one_is_made_of_a_directory(server: Server, tmp_path: Path):
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "cat", "echo", "grep", "mkdir", "chown", "test", "whoami", "uname", "nproc", "df", "stat", "sleep"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "root").mkdir(mode=0o700)
    (root / "etc/of-somebody").write_text("here")
    os.chown(root / "etc/of-somebody", 1234, 99)
    shape = ("--vcpus", "1", "--memory", "256", "--size", "256")
    told = "whoami > /tmp/who; cat /etc/of-somebody; stat -c %u:%g /etc/of-somebody; echo $(whoami) in $HOME"
    done = create(server, "--from-dir", str(root), *shape, "--setup-cmd", told)
    assert all(what in done.stderr for what in ("here", "1234:99", "user in /home/user")), done.stderr
    build = done.stdout.strip()
    inspected = json.loads(server.cli("build", "inspect", build, "--validate", "--json").stdout)
    assert inspected["problems"] == []
    assert inspected["manifest"]["shape"] == {"vcpus": 1, "memory": 256, "disk": 256}, inspected["manifest"]["shape"]
    # There is no bash in it, which `--cmd` is for.
    again = create(server, "--from", build, "--setup-cmd", "cat /tmp/who; cat /proc/meminfo")
    assert "user" in again.stderr and re.search(r"MemTotal: +2\d{5} kB", again.stderr), again.stderr
    kernel = Path(inspected["manifest"]["boot"]["kernel"]).parent.name
    create(server, "--from-dir", str(root), *shape, "--kernel", kernel, "--user", "root", "--setup-cmd", "test $(whoami) = root")
    assert "it is no kernel" in create(server, "--from-dir", str(root), "--kernel", "no", status=1).stderr
    assert "it is no kernel" in create(server, "--from-dir", str(root), "--kernel", "../kernels", status=1).stderr
    assert "mke2fs could not make an image" in create(server, "--from-dir", "/usr", "--size", "64", status=1).stderr
    assert "No such file" in create(server, "--from-dir", str(tmp_path / "no"), status=1).stderr
    for wrong in ((), ("--from", "base", "--from-dir", "/"), ("--from", "base", "--memory", "512"), ("--from", "base", "--start-cmd", "x")):
        create(server, *wrong, status=2)


@pytest.mark.timeout(LONG)
def test_one_is_made_of_an_image(server: Server, tmp_path: Path):
    tools = ("sh", "cat", "echo", "grep", "mkdir", "chown", "test", "whoami", "stat", "sleep", "ls")
    system = layer(
        ("bin", None), ("bin/busybox", Path("/bin/busybox").read_bytes()), *((f"bin/{name}", "busybox") for name in tools),
        ("etc", None), ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", b"root:x:0:\n"), ("root", None),
        ("etc/profile", b"for f in /etc/profile.d/*.sh; do . $f; done\n"), ("data", None), ("data/old", b"old"), ("data/gone", b"gone"),
    )
    ours = layer(("data/old", b"new"), ("data/.wh.gone", b""), ("data/mine", b"of 1234"), owner=1234)
    small = ("--memory", "256", "--size", "256")
    told = "cat /data/old; echo; stat -c %u /data/mine; ls /data; echo $GREETING; whoami"
    with registry(tmp_path / "open") as images:
        described = images.push("some/image", "1", [system, ours], {"Env": ["GREETING=it's an image", "PATH=/bin"]})
        done = create(server, "--from-image", f"{images.host}/some/image:1", *small, "--setup-cmd", told, "--name", "from-image")
        assert f"image     {images.host}/some/image:1 ({described['digest']})" in done.stderr
        said = done.stderr.splitlines()
        at = said.index("new")
        assert said[at : at + 6] == ["new", "1234", "mine", "old", "it's an image", "user"], done.stderr
        assert resume(server, done.stdout.strip(), "--reboot", "--iterations", "1", patience=200)
        # By its digest, and as one of several.
        create(server, "--from-image", f"{images.host}/some/image@{described['digest']}", *small)
        choices = [{**described, "platform": {"os": "linux", "architecture": name}} for name in ("s390x", "amd64")]
        choices[0]["digest"] = images.push("some/image", "other", [layer(("x", b"other"))], {})["digest"]
        images.put_manifest("some/image", "several", f"{OCI}.index.v1+json", {"manifests": choices})
        several = create(server, "--from-image", f"{images.host}/some/image:several", *small, "--setup-cmd", "cat /data/old")
        assert described["digest"] in several.stderr
        # What is not there, and what leads out.
        before = server.snapshots()
        for name, why in [
            (f"{images.host}/some/none:1", "MANIFEST_UNKNOWN"),
            (f"{images.host}/some/image@sha256:{'0' * 64}", "MANIFEST_UNKNOWN"),
            ("some/image:1", "no registry"),
            ("127.0.0.1:1/x", "Connection refused"),
        ]:
            refused = create(server, "--from-image", name, *small, status=1).stderr
            assert why in refused or why.replace("_", " ").lower() in refused.lower(), refused
        victim = tmp_path / "victim"
        victim.write_text("untouched")
        for number, bad in enumerate([
            layer(("../../../../../../../../../.." + str(victim), b"touched")),
            layer(("out", str(tmp_path)), ("out/victim", b"touched")),
            layer(("out", str(tmp_path)), ("out/.wh.victim", b"")),
            layer(("etc", "/"), ("etc/profile.d", "/root")),
        ]):
            images.push("some/image", f"bad{number}", [system, bad], {"Env": ["A=1"]})
            server.cli("build", "create", "--from-image", f"{images.host}/some/image:bad{number}", *small, check=False, timeout=200)
            assert victim.read_text() == "untouched" and sorted(os.listdir(tmp_path)) == ["open", "victim"]
        images.push("some/image", "large", [system, layer(("zeros", bytes(300 << 20)))], {})
        large = create(server, "--from-image", f"{images.host}/some/image:large", *small, status=1).stderr
        assert "holds more than" in large and "cannot be unpacked" in large, large
    with registry(tmp_path / "closed", "secret") as images:
        images.push("mine", "latest", [system], {})
        name = f"{images.host}/mine"
        assert f"`docker login {images.host}`" in create(server, "--from-image", name, *small, status=1).stderr
        config = tmp_path / "login"
        config.mkdir()
        known = {"auths": {images.host: {"auth": base64.b64encode(b"me:secret").decode()}}}
        (config / "config.json").write_text(json.dumps(known))
        command = [str(binary()), "build", "create", "--from-image", name, *small, "--state", str(server.state)]
        done = subprocess.run(command, env={**os.environ, "DOCKER_CONFIG": str(config)}, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0 and "secret" not in done.stderr, done.stderr


@pytest.mark.timeout(LONG)
def test_several_and_a_server_at_once_do_not_see_each_other(server: Server):
    sbx = Sandbox.create(timeout=600, **server.sdk())
    port = free_port()
    commands = [
        Command(server, "base", "--cmd", WAIT),
        Command(server, "base", "--cmd", WAIT, PROXY_PORT=str(port)),
        Command(server, "base", "--workshop", "7", "--cmd", WAIT, PROXY_PORT="no port"),
    ]
    for number, command in enumerate(commands):
        command.wait_for(r"^sandbox +(\S+)")
        command.run(f"echo {number} > /home/user/mine; mkfifo /home/user/go")
    urls = [command.wait_for(r"^ports +(\S+)") for command in commands]
    assert len(set(urls)) == 3 and urls[1] == f"http://127.0.0.1:{port}"
    assert "PROXY_PORT is \"no port\", which is no port" in commands[2].said
    places = {command.place() for command in commands}
    assert len(places) == 3 and 7 in places
    taken = resume(server, "base", "--workshop", "7", "--cmd", "true", status=1)
    assert "number 7 in" in taken.stderr and "is in use" in taken.stderr
    assert resume(server, "base", "--workshop", "64", status=2)
    # Neither of them is the server's, and nobody else's is here.
    listed = {sandbox.sandbox_id for sandbox in Sandbox.list(**server.sdk()).next_items()}
    ours = {command.wait_for(r"^sandbox +(\S+)") for command in commands}
    assert sbx.sandbox_id in listed and not ours & listed
    assert output(sbx, "ls -A /home/user | grep -c mine || true") == "0"
    # The server is another one by then, and collects what nobody needs.
    server.kill_server()
    server.up()
    for number, command in enumerate(commands):
        command.run("echo > /home/user/go")
        assert command.end() == (0, f"{number}\n"), command.said
    assert output(sbx, "echo it runs") == "it runs"
    assert sbx.kill() is True


@pytest.mark.parametrize("victim", ["command", "keeper", "supervisor", "everybody"])
def test_whoever_is_killed_nothing_is_left(server: Server, victim: str):
    command = Command(server, "base", "--cmd", "sleep 1000")
    command.wait_for(r"^sandbox +(\S+)")
    number, children = command.place(), command.children()
    assert held(server, number).keys() >= {"processes", "groups", "namespaces", "links", "filters", "files"}
    if victim == "everybody":
        # Nobody is left to remove it; the next one does.
        os.kill(children["keeper"], signal.SIGSTOP)
        command.kill()
        command.kill(children["keeper"])
        assert held(server, number)
        resume(server, "base", "--cmd", "true")
    else:
        command.kill(None if victim == "command" else children[victim])
        if victim != "command":
            status, _ = command.end()
            assert status == 1, command.said
            assert ("the keeper of the workshop was killed" if victim == "keeper" else "coldframe: ") in command.said
    wait_until_gone(server, number)


@pytest.mark.parametrize("way, status", [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_an_interrupted_one_is_gone_when_it_returns(server: Server, way: signal.Signals, status: int):
    command = Command(server, "base", "--cmd", "sleep 1000")
    command.wait_for(r"^sandbox +(\S+)")
    number = command.place()
    command.process.send_signal(way)
    assert command.end(20)[0] == status
    assert not held(server, number)


@pytest.mark.timeout(PATIENCE + 60)
def test_gdb_sees_a_machine_from_its_first_instruction(server: Server, tmp_path: Path):
    symbols = resume(server, "base", "--gdb", "--gdb-exec", "quit", patience=PATIENCE)
    assert re.search(r"^symbols +(\S+)", symbols.stderr, re.M)
    done = tmp_path / "done"
    executed = ("fc-curr 0", "fc-regions", "fc-va 0x100000", "fc-faults 3", "hbreak do_sys_openat2", "continue", "detach")
    told = [word for text in (*executed, f"shell while ! test -e {done}; do sleep 0.1; done", "quit 4") for word in ("--gdb-exec", text)]
    command = Command(server, "base", "--gdb", *told)
    for what in ("build", "machine", "initrd", "coldframe", "kernel", "symbols", "socket", "by hand"):
        command.wait_for(rf"^({what}) ", PATIENCE)
    # It is let go when gdb leaves it, and runs on while gdb is still there.
    names: dict[str, str] = {}

    def runs() -> bool:
        try:
            listed = command.run("ps -A -o pid= -o comm=")
        except (AssertionError, OSError):
            return False
        names.update(line.split(maxsplit=1) for line in listed.splitlines())
        return bool(names)

    wait_until(runs, PATIENCE, "the guest to run on", interval=0.5)
    kcore = command.run(KCORE.replace("python3 -c", "python3 -I -c"))
    egress = command.run("timeout 5 bash -c 'echo > /dev/tcp/1.1.1.1/53' 2>&1 || echo cut off")
    done.touch()
    status, said = command.end(PATIENCE)
    assert status == 4, said + command.said
    agrees_with(said, kcore)
    assert egress.endswith("cut off")
    current = re.search(r"^task=0x[0-9a-f]{16} comm=(\S+) pid=(\d+) tgid=\d+ mm=0x[0-9a-f]+$", said, re.M)
    assert current, said
    # The idle task is in no list, and names of kernel threads say what they are at.
    assert current[2] == "0" or names.get(current[2], "").startswith(current[1]), (current, names)
    faults = FAULT.findall(said)
    assert len(faults) == 3, said
    for comm, pid, address, start, end in faults:
        assert int(start, 16) <= int(address, 16) < int(end, 16)
        assert names.get(pid) == comm, (faults, names)
    assert re.search(r"Breakpoint \d+, do_sys_openat2 \(.*\) at fs/open\.c:\d+", said), said


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("victim", ["command", "gdb", "keeper", "terminated"])
def test_a_debugged_machine_is_gone_whoever_is_killed(server: Server, victim: str):
    command = Command(server, "base", "--gdb", "--gdb-exec", "shell sleep 1000")
    command.wait_for(r"^(by hand)", PATIENCE)
    command.wait_for_gdb(30)
    number, children = command.place(), command.children()
    if victim == "terminated":
        command.process.terminate()
        assert command.end(20)[0] == 1 and "terminated; its machine is gone" in command.said
        assert not held(server, number)
        return
    command.kill(None if victim == "command" else children[victim])
    if victim != "command":
        status, _ = command.end()
        wanted = "gdb was ended by signal 9; its machine is gone" if victim == "gdb" else "the keeper of the workshop was killed"
        assert status == 1 and wanted in command.said, command.said
    wait_until_gone(server, number)
    wait_until(lambda: not is_alive(children["gdb"]), 20, "gdb to be gone")


@pytest.mark.timeout(PATIENCE)
def test_a_session_asks_for_commands_and_an_interrupt_ends_what_gdb_is_at(server: Server):
    asking = Command(server, "base", "--gdb")
    asking.wait_for_gdb(60)
    asking.tell("print nr_cpu_ids\nquit 6\n")
    status, said = asking.end(PATIENCE)
    assert status == 6 and "$1 = 1" in said, said
    # As a terminal does it: everybody in the foreground hears it.
    told = Command(server, "base", "--gdb", "--gdb-exec", "shell echo at it; sleep 1000", apart=True)
    told.wait_for_gdb(60)
    number = told.place()
    assert told.process.stdout.readline() and wait_until(lambda: "at it" in told.process.stdout.readline(), 60)
    os.killpg(told.process.pid, signal.SIGINT)
    told.end(20)
    assert not held(server, number)


@pytest.mark.timeout(PATIENCE)
def test_memory_is_brought_ahead_unless_that_is_not_wanted(server: Server):
    def guest_memory(*options: str) -> int:
        command = Command(server, "base", "--gdb", "--gdb-exec", "shell sleep 1000", *options)
        command.wait_for_gdb(60)
        group = f"/coldframe-{tag(server, command.place())}/"
        vmm = next(p.pid for p in processes() if group in p.cgroup and p.name.startswith("qemu"))
        files = [path for path in Path(f"/proc/{vmm}/fd").iterdir() if "guest-memory" in os.readlink(path)]
        held_bytes = max(os.stat(path).st_blocks * 512 for path in files)
        command.kill()
        return held_bytes

    # It has not run yet: what is there was brought.
    ahead, not_ahead = guest_memory(), guest_memory("--no-prefetch")
    assert ahead > 4 * not_ahead, (ahead, not_ahead)


@pytest.mark.timeout(PATIENCE)
def test_macros_of_a_file_take_the_place_of_ours(server: Server, tmp_path: Path):
    macros, script = tmp_path / "macros.gdb", tmp_path / "script.gdb"
    macros.write_text("define fc-mine\necho mine\\n\nend\n")
    script.write_text("fc-mine\n")
    told = ("base", "--gdb", "--gdb-macros", str(macros), "--gdb-script", str(script))
    assert "mine\n" in resume(server, *told, patience=PATIENCE).stdout
    assert "Undefined command" in server.cli("build", "resume", *told, "--gdb-exec", "fc-curr", check=False, timeout=PATIENCE).stderr


@pytest.mark.timeout(PATIENCE)
def test_another_vmm_takes_over_when_it_is_of_the_same_version(server: Server):
    usual = Path(shutil.which("qemu-system-x86_64"))
    # Where the user of a VMM may go.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cf-") as place:
        Path(place).chmod(0o755)
        # It looks for its parts beside where it is.
        (Path(place) / "bin").mkdir()
        for name in ("lib", "share"):
            (Path(place) / name).symlink_to(usual.parents[1] / name)
        same, other = Path(place) / "bin" / "vmm", Path(place) / "bin" / "other"
        shutil.copy(usual, same)
        command = Command(server, "base", "--gdb", "--gdb-vmm", str(same), "--gdb-exec", "shell sleep 1000")
        command.wait_for_gdb(60)
        group = f"/coldframe-{tag(server, command.place())}/"
        assert "vmm" in {process.name for process in processes() if group in process.cgroup}
        command.kill()
        # The part of its version that is a text.
        version = re.search(rb"\((.*)\)", subprocess.run([usual, "--version"], capture_output=True, check=True).stdout)[1]
        other.write_bytes(same.read_bytes().replace(version, version[:-1] + b"x"))
        other.chmod(0o755)
        said = resume(server, "base", "--gdb", "--gdb-vmm", str(other), "--gdb-exec", "quit", status=1).stderr
        assert "was written by another kind of machine" in said, said
        assert str(Path(place) / "none") in resume(server, "base", "--gdb", "--gdb-vmm", f"{place}/none", "--gdb-exec", "quit", status=1).stderr


def test_what_does_not_go_together_is_refused_by_name(server: Server, tmp_path: Path):
    for option in (("--pause",), ("--cmd", "true"), ("--iterations", "3"), ("--reboot",)):
        done = server.cli("build", "resume", "base", "--gdb", *option, check=False)
        assert done.returncode == 2 and "'--gdb'" in done.stderr and option[0] in done.stderr
    for option in (("--gdb-exec", "quit"), ("--gdb-script", "x"), ("--gdb-symbols", "x"), ("--gdb-macros", "x"), ("--gdb-vmm", "x")):
        assert f"{option[0]} is for --gdb" in resume(server, "base", *option, status=1).stderr
    assert "--pause" in resume(server, "base", "--fs-only", status=2).stderr
    assert "--pause" in resume(server, "base", "--name", "x", status=2).stderr
    for option in (("--pause",), ("--cmd", "true")):
        assert option[0] in resume(server, "base", "--iterations", "2", *option, status=2).stderr
    assert "there is no build" in resume(server, "nothing", status=1).stderr
    assert "No such file" in resume(server, "base", "--gdb", "--gdb-symbols", str(tmp_path / "nothing"), status=1).stderr
    assert "--name base" in resume(server, "base", "--pause", "--name", "Not a name!", status=1).stderr.replace("Not a name!", "base")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"listening on 127.0.0.1:{port}" in resume(server, "base", "--cmd", "true", "--proxy-port", port, status=1).stderr


class Hidden:
    """A kernel without its symbols, as commands see it that run apart from everybody else."""

    def __init__(self, server: Server, place: Path) -> None:
        said = resume(server, "base", "--gdb", "--gdb-exec", "quit", patience=PATIENCE).stderr
        self.build_id = re.search(r"^kernel .*build id (\w+)", said, re.M)[1]
        self.symbols = Path(re.search(r"^symbols +(\S+)", said, re.M)[1])
        self.server, self.upper, self.work = server, place / "upper", place / "work"
        #: Where what such a command writes is found.
        self.kept = self.upper / self.symbols.relative_to(state_root())

    def command(self) -> list[str]:
        for directory in (self.upper, self.work):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        root = state_root()
        mount = f"mount -t overlay none -o lowerdir={root},upperdir={self.upper},workdir={self.work} {root}"
        ours = f"{binary()} build resume base --gdb --gdb-exec quit --state {self.server.state}"
        return ["unshare", "--mount", "--propagation", "private", "bash", "-c", f"{mount} && rm {self.symbols} && exec {ours}"]

    def resume(self, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "COLDFRAME_DEBUG_ARTIFACTS_URL": url, **environment}
        return subprocess.run(self.command(), env=environ, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for this machine with its key, and of the authority that gave it."""
    openssl = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    authority, own = tmp_path / "authority.pem", tmp_path / "own.pem"
    subprocess.run(
        [*openssl, "-subj", "/CN=authority", "-keyout", tmp_path / "authority.key", "-out", authority], check=True, capture_output=True
    )
    signed = ["-CA", authority, "-CAkey", tmp_path / "authority.key", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run([*openssl, "-subj", "/CN=own", *signed, "-keyout", own, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    own.write_text(own.read_text() + (tmp_path / "cert.pem").read_text())
    return own, authority


@pytest.fixture
def artifacts(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[tuple[Path, str]]:
    """A directory that is served over TLS, and its URL."""
    directory = tmp_path / "artifacts"
    directory.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[0])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory))) as serving:
        serving.socket = context.wrap_socket(serving.socket, server_side=True)
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield directory, f"https://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


@pytest.mark.timeout(PATIENCE + 60)
def test_symbols_come_from_where_an_operator_keeps_them(
    server: Server, tmp_path: Path, certificate: tuple[Path, Path], artifacts: tuple[Path, str]
):
    hidden, (directory, url), trusted = Hidden(server, tmp_path), artifacts, {"SSL_CERT_FILE": str(certificate[1])}
    name = f"vmlinux-{hidden.build_id}.debug"
    shutil.copyfile(hidden.symbols, directory / name)
    sum_file = directory / f"{name}.sha256"
    done = hidden.resume(url)
    assert done.returncode == 1 and url in done.stderr and "certificate" in done.stderr, done.stderr
    done = hidden.resume(url, **trusted)
    assert done.returncode == 1 and f"there is no {url}/{sum_file.name}" in done.stderr, done.stderr
    sum_file.write_text(f"{'0' * 64}  {name}\n")
    done = hidden.resume(url, **trusted)
    assert done.returncode == 1 and f"{url}/{name} is damaged" in done.stderr, done.stderr
    assert not hidden.kept.is_file()
    sum_file.write_text(subprocess.run(["sha256sum", directory / name], capture_output=True, text=True, check=True).stdout)
    for place in (url, f"file://{directory}"):
        done = hidden.resume(place, **trusted)
        assert done.returncode == 0 and "(from the URL of debug artifacts)" in done.stderr, done.stderr
        assert hidden.kept.is_file()
    # What is not there is looked for elsewhere, and that is said.
    (directory / name).unlink()
    environ = {**os.environ, "COLDFRAME_DEBUG_ARTIFACTS_URL": url, **trusted}
    looking = subprocess.Popen(hidden.command(), env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert looking.stderr.readline() == f"coldframe: there is no {url}/{name}; trying Debian's package\n"
    os.killpg(looking.pid, signal.SIGKILL)
    looking.wait()
    # Each is half a gigabyte, and what tests leave stays for a while.
    shutil.rmtree(directory)
    shutil.rmtree(hidden.upper)
