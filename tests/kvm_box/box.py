"""A KVM host in a box: a Debian machine in which /dev/kvm works, run by QEMU without any.

QEMU's translator emulates a processor with AMD's virtualization, so a guest of it (the box) is a KVM host, and the
sandboxes of a Coldframe in the box are run by KVM: slowly, but through every line of the hardware path.

The box is made once and kept: a root image, and the state of the machine stopped at its prompt. A run starts from that
state with a fresh payload disk (the binary and its templates), speaks to the box over a serial line, and throws away
what it wrote.

    box.py make CACHE            make the box, unless it is there
    box.py run CACHE STATE BIN   run the smoke test in it, with the templates of the state directory STATE
"""

import hashlib
import inspect
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = [
    "linux-image-cloud-amd64", "initramfs-tools", "kmod", "qemu-system-x86", "iproute2", "nftables", "python3",
    "ca-certificates", "procps", "util-linux",
]
MEMORY_MIB = 3072
BOOT_PATIENCE = 180
# A run takes about half a minute, and the SDK waits two minutes at most for anything. A box that has said nothing by then
# hangs itself, as this kind of emulation does now and then (1 of 11 runs), and is started again from its saved state. What
# fails inside of it is a failure at once.
SMOKE_PATIENCE = 300
ATTEMPTS = 3


def log(text):
    print(f"kvm-box: {text}", flush=True)


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"kvm-box: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


class Hung(SystemExit):
    """The box did not say in time what was waited for."""


class Machine:
    """The box's QEMU, its serial line and its monitor."""

    def __init__(self, box, payload, extra=()):
        self.dir = tempfile.TemporaryDirectory(prefix="kvm-box-")
        sockets = {name: f"{self.dir.name}/{name}" for name in ("line", "qmp", "console")}
        self.log = open(f"{self.dir.name}/qemu.log", "w+")
        self.process = subprocess.Popen(
            [
                "qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "EPYC,+svm,+invtsc", "-smp", "2",
                "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot", "-no-user-config",
                "-kernel", f"{box}/vmlinuz", "-initrd", f"{box}/initrd",
                "-append", "console=ttyS0 root=/dev/vda rw init=/box-init tsc=reliable clocksource=tsc quiet panic=-1 "
                f"tsc_early_khz={tsc_khz()}",
                "-drive", f"file={box}/root.img,format=raw,if=virtio,snapshot=on",
                "-drive", f"file={payload},format=raw,if=virtio,cache=unsafe",
                "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
                "-chardev", f"file,id=console,path={sockets['console']}", "-serial", "chardev:console",
                "-chardev", f"socket,id=line,path={sockets['line']},server=on,wait=off", "-serial", "chardev:line",
                "-qmp", f"unix:{sockets['qmp']},server=on,wait=off", *extra,
            ],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
        )
        self.line = self.connect(sockets["line"])
        self.qmp = self.connect(sockets["qmp"]).makefile("rwb", buffering=0)
        self.qmp.readline()
        self.monitor("qmp_capabilities")
        self.seen = b""

    def connect(self, path):
        deadline = time.monotonic() + 20
        while True:
            try:
                line = socket.socket(socket.AF_UNIX)
                line.connect(path)
                return line
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.log.seek(0)
                    raise SystemExit(f"kvm-box: QEMU did not start: {self.log.read()}")
                time.sleep(0.01)

    def monitor(self, command, **arguments):
        self.qmp.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            reply = json.loads(self.qmp.readline())
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise SystemExit(f"kvm-box: {command}: {reply['error']}")

    def wait_migration(self):
        while (status := self.monitor("query-migrate").get("status")) not in ("completed", "failed"):
            time.sleep(0.02)
        if status == "failed":
            raise SystemExit("kvm-box: saving or loading the machine's state failed")

    def wait_running(self):
        """An incoming machine stays as it was saved, stopped, until it is told to go on."""
        while self.monitor("query-status")["status"] == "inmigrate":
            time.sleep(0.02)
        self.monitor("cont")

    def wait_for(self, marker, patience, echo=False):
        """Reads the serial line up to and with `marker`."""
        deadline = time.monotonic() + patience
        while marker not in self.seen:
            left = deadline - time.monotonic()
            if left <= 0 or self.process.poll() is not None:
                console = pathlib.Path(self.dir.name, "console").read_text(errors="replace")[-3000:]
                raise Hung(f"kvm-box: waited for {marker!r}, got {self.seen[-3000:]!r}\nconsole:\n{console}")
            self.line.settimeout(min(left, 1))
            try:
                got = self.line.recv(65536)
            except TimeoutError:
                continue
            if echo:
                sys.stdout.write(got.decode(errors="replace").replace("\r\n", "\n"))
                sys.stdout.flush()
            self.seen += got
        head, _, self.seen = self.seen.partition(marker)
        return head.decode(errors="replace").replace("\r\n", "\n")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.dir.cleanup()


def tsc_khz():
    for line in open("/proc/cpuinfo"):
        if line.startswith("cpu MHz"):
            return int(float(line.split(":")[1]) * 1000)
    raise SystemExit("kvm-box: /proc/cpuinfo names no frequency")


def box_of(cache):
    # What is frozen with the machine: the box is made anew when any of it changes.
    digest = hashlib.sha256((HERE / "box-init").read_bytes())
    for frozen in (make, Machine.__init__):
        digest.update(inspect.getsource(frozen).encode())
    digest.update(run("qemu-system-x86_64", "--version").encode())
    digest.update(" ".join(PACKAGES).encode())
    # The saved state holds the processor's frequency: another host needs another box.
    digest.update(str(tsc_khz() // 100_000).encode())
    return pathlib.Path(cache, digest.hexdigest()[:16])


def make(cache):
    box = box_of(cache)
    if (box / "warm.state").exists():
        return box
    log("making the box: a Debian machine with QEMU in it; some minutes, once")
    pathlib.Path(cache).mkdir(parents=True, exist_ok=True)
    for old in pathlib.Path(cache).iterdir():
        shutil.rmtree(old)
    work = pathlib.Path(tempfile.mkdtemp(prefix="making-", dir=cache))
    root = work / "root"
    run(
        "mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", "bookworm", str(root), *debian_sources(),
    )
    run(sys.executable, "-m", "pip", "install", "-q", "--target", f"{root}/opt/e2b", "e2b")
    shutil.copy(HERE / "box-init", root / "box-init")
    os.chmod(root / "box-init", 0o755)
    for name, target in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")):
        shutil.copy(sorted(root.glob(f"boot/{name}-*"))[-1], work / target)
    run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(work / "root.img"), "4G")
    shutil.rmtree(root)
    log("booting the box and saving it at its prompt")
    payload = work / "payload.img"
    payload.touch()
    os.truncate(payload, PAYLOAD_BYTES)
    machine = Machine(work, payload)
    try:
        machine.wait_for(b"BOX-PROMPT", BOOT_PATIENCE)
        machine.monitor("stop")
        machine.monitor("migrate", uri=f"exec:cat > {work}/warm.state")
        machine.wait_migration()
    finally:
        machine.close()
    payload.unlink()
    work.rename(box)
    return box


PAYLOAD_BYTES = 12 << 30


def debian_sources():
    """The apt sources of this machine, so that the registry it is set up for is used."""
    parts = [pathlib.Path("/etc/apt/sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("*.sources")]
    return [str(part) for part in parts if part.exists() and "deb" in part.read_text()]


def smoke(cache, state, binary):
    """Runs the SDK smoke test in the box; returns its exit code."""
    box = make(cache)
    with tempfile.TemporaryDirectory(prefix="payload-", dir=cache) as work:
        tree = pathlib.Path(work, "tree")
        tree.mkdir()
        shutil.copy(binary, tree / "coldframe")
        shutil.copy(HERE / "smoke.py", tree / "smoke.py")
        (tree / "state").mkdir()
        for part in ("kernels", "builds"):
            run("cp", "-a", "--sparse=always", f"{state}/{part}", str(tree / "state" / part))
        payload = pathlib.Path(work, "payload.img")
        for attempt in range(1, ATTEMPTS + 1):
            payload.unlink(missing_ok=True)
            run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(payload), str(PAYLOAD_BYTES // 1024) + "k")
            begun = time.monotonic()
            try:
                code = run_in(box, payload)
            except Hung as hung:
                log(f"attempt {attempt} of {ATTEMPTS}: the emulated host hung after {time.monotonic() - begun:.0f} s: {hung}")
                continue
            log(f"smoke test with accel=kvm ended with {code} after {time.monotonic() - begun:.0f} s")
            return code
        return 1


def run_in(box, payload):
    """One run of the smoke test, from the saved state of the box; its exit code."""
    machine = Machine(box, payload, ["-incoming", f"exec:cat {box}/warm.state"])
    try:
        machine.wait_running()
        machine.line.sendall(b"\n")
        machine.line.sendall(b"mkdir -p /payload; mount /dev/vdb /payload; python3 /payload/smoke.py; echo BOX-EXIT $?\n")
        machine.wait_for(b"BOX-EXIT ", SMOKE_PATIENCE, echo=True)
        return int(machine.wait_for(b"\n", 10).strip())
    finally:
        machine.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", cache]:
            print(make(cache))
        case ["run", cache, state, binary]:
            sys.exit(smoke(cache, state, binary))
        case _:
            sys.exit(__doc__)
