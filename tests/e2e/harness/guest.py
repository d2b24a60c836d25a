"""What runs inside a sandbox: commands, and programs of this suite."""

from __future__ import annotations

from pathlib import Path

from e2b import Sandbox

GUEST = Path(__file__).resolve().parents[1] / "guest"
#: Where the guest's servers listen, unless a test wants another port.
WEB_PORT = 8000


def output(sbx: Sandbox, command: str, **options) -> str:
    """What a command says."""
    return sbx.commands.run(command, **options).stdout.strip()


def boot_of(sbx: Sandbox) -> str:
    """Another one after every boot of a kernel."""
    return output(sbx, "cat /proc/sys/kernel/random/boot_id")


def install(sbx: Sandbox, script: str) -> str:
    """Puts one of the guest scripts into the sandbox."""
    path = f"/home/user/{script}"
    sbx.files.write(path, (GUEST / script).read_text())
    return path


def start(sbx: Sandbox, script: str, *args: object, **options) -> int:
    """Starts one of the guest scripts that serve, and returns its process when it listens."""
    command = " ".join(["exec python3", install(sbx, script), *map(str, args)])
    handle = sbx.commands.run(command, background=True, timeout=0, **options)
    for stdout, _, _ in handle:
        if stdout and "listening" in stdout:
            return handle.pid
    raise AssertionError(f"{script} in the sandbox did not start")


def serve(sbx: Sandbox, port: int = WEB_PORT, host: str = "0.0.0.0") -> int:
    """Starts the web server in the sandbox and returns its process when it listens."""
    return start(sbx, "web.py", host, port)
