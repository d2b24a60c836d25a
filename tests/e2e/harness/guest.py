"""What runs inside a sandbox: commands, and programs of this suite."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from e2b import Sandbox

from .server import state_root

GUEST = Path(__file__).resolve().parents[1] / "guest"
#: For the guest's processors, whatever those of this machine are.
TARGET = "x86_64-unknown-linux-gnu"
CODE = ("opt-level=3", "panic=abort", "strip=symbols", "target-feature=+crt-static")
RUSTC = ("rustc", "--edition", "2024", "--target", TARGET, *(word for option in CODE for word in ("-C", option)))
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


def start(sbx: Sandbox, name: str, *args: object, **options) -> int:
    """Starts one of the guest's scripts or programs that serve, and returns its process when it listens."""
    if name.endswith(".rs"):
        program = f"/home/user/{name.removesuffix('.rs')}"
        sbx.files.write(program, compiled(GUEST / name).read_bytes())
        command = f"chmod +x {program} && exec {program}"
    else:
        command = f"exec python3 {install(sbx, name)}"
    handle = sbx.commands.run(" ".join([command, *map(str, args)]), background=True, timeout=0, **options)
    for stdout, _, _ in handle:
        if stdout and "listening" in stdout:
            return handle.pid
    raise AssertionError(f"{name} in the sandbox did not start")


def compiled(source: Path) -> Path:
    """A program of one file, which needs nothing of the machine that it runs on."""
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = state_root().with_name(f"{state_root().name}.d") / "programs" / f"{source.stem}-{version}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as place:
            made = Path(place) / source.stem
            subprocess.run([*RUSTC, source, "-o", made], check=True)
            made.rename(program)
    return program


def serve(sbx: Sandbox, port: int = WEB_PORT, host: str = "0.0.0.0") -> int:
    """Starts the web server in the sandbox and returns its process when it listens."""
    return start(sbx, "web.py", host, port)
