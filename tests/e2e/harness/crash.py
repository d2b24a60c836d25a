"""Has a process stand still at a moment that has a name, so that somebody can be killed exactly then.

A moment is a system call, told by the thread that does it, the call, and what it is done to: `tokio-rt-worker: fsync
/…/memory.data`. The process stands still when it is about to do it. Nothing in the product knows of this: a tracer, which is a
process of its own, watches by ptrace, and whatever it watches goes on when the tracer ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Callable

#: What a kernel without memory to spare says: of a call that fails, and of nothing that is lost.
FAILURE = errno.ENOMEM


class Moment:
    """One of some processes is to stand still, once, when it is about to do a call."""

    def __init__(self, pids: list[int], call: str, nth: int = 1, fails: bool = False) -> None:
        """Watches from now on for the `nth` call that has `call`, a regular expression, in it. With `fails` nobody stands
        still: that call, and every one like it from then on, fails."""
        who = ",".join(map(str, pids))
        command = [sys.executable, "-m", "harness.crash", who, call, str(nth), "fails" if fails else "stands still"]
        root = Path(__file__).resolve().parents[1]
        self.tracer = subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._told(20) == "watching", f"processes {who} cannot be watched"

    def __enter__(self) -> Moment:
        return self

    def __exit__(self, *_) -> None:
        self.let_go()

    def reached(self, deadline: float) -> bool:
        """Waits for the moment; false when it does not come in time, or the processes ended."""
        return self._told(deadline) == "reached"

    def let_go(self) -> None:
        """Everybody goes on who was not killed."""
        self.tracer.kill()
        self.tracer.wait()
        self.tracer.stdout.close()

    def _told(self, deadline: float) -> str:
        ready, _, _ = select.select([self.tracer.stdout], [], [], deadline)
        return self.tracer.stdout.readline().decode().strip() if ready else ""


# -- ptrace --------------------------------------------------------------------------------------------------------------

# From <linux/ptrace.h>: requests, options, and what GET_SYSCALL_INFO calls the beginning of a call.
_POKEUSER, _SYSCALL, _SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 6, 24, 0x4206, 0x4207, 0x420E
_TRACESYSGOOD, _TRACECLONE = 1, 1 << 3
_ENTRY = 1
_WALL = 0x40000000
#: Where the number of a call, and what it returns, are among the registers of x86-64. No call has the number -1.
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_NO_CALL = -1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> bool:
    """False when the thread was killed meanwhile: the next wait says so."""
    if _libc.ptrace(request, thread, address, data & (1 << 64) - 1) >= 0:
        return True
    error = ctypes.get_errno()
    if error != errno.ESRCH:
        raise OSError(error, f"ptrace request {request:#x} on {thread}: {os.strerror(error)}")
    return False


def _seize(pid: int) -> None:
    """Attaches to every thread. The kernel attaches to new ones."""
    seized: set[int] = set()
    while new := {int(thread) for thread in os.listdir(f"/proc/{pid}/task")} - seized:
        for thread in new:
            if _ptrace(_SEIZE, thread, 0, _TRACESYSGOOD | _TRACECLONE):
                _ptrace(_INTERRUPT, thread)
        seized |= new


# -- calls in words ------------------------------------------------------------------------------------------------------

#: The calls that are told, by their numbers on x86-64, and what each is done to: a descriptor, a path, a path in a directory,
#: or a descriptor and the beginning of what is written to it, which is given as a buffer, a vector or a message.
_CALLS = {
    1: ("write", "buffer"), 17: ("pread", "fd"), 18: ("pwrite", "fd"), 20: ("writev", "vector"), 44: ("send", "buffer"),
    46: ("sendmsg", "message"), 73: ("flock", "fd"), 74: ("fsync", "fd"), 75: ("fdatasync", "fd"), 82: ("rename", "path path"),
    83: ("mkdir", "path"), 84: ("rmdir", "path"), 87: ("unlink", "path"), 257: ("open", "at"), 258: ("mkdir", "at"),
    263: ("unlink", "at"), 264: ("rename", "at at"), 277: ("sync_file_range", "fd"), 316: ("rename", "at at"),
}  # fmt: skip
#: Bytes of what is written, in words.
_BEGINNING = 128


class _Call:
    """A call that a thread is about to do."""

    def __init__(self, thread: int, number: int, arguments: tuple[int, ...]) -> None:
        self.thread, self.arguments = thread, iter(arguments)
        self.name, self.kinds = _CALLS[number]

    def words(self) -> str:
        thread = Path(f"/proc/{self.thread}/comm").read_text().strip()
        return " ".join([f"{thread}:", self.name, *(getattr(self, f"_{kind}")() for kind in self.kinds.split())])

    def _memory(self, address: int, size: int) -> bytes:
        """At most `size` bytes: as far as something is mapped."""
        with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(size)

    def _fd(self) -> str:
        return os.readlink(f"/proc/{self.thread}/fd/{next(self.arguments)}")

    def _path(self) -> str:
        return self._memory(next(self.arguments), 4096).split(b"\0")[0].decode(errors="replace")

    def _at(self) -> str:
        directory, path = ctypes.c_int(next(self.arguments)).value, self._path()
        if directory < 0 or path.startswith("/"):
            return path
        return f"{os.readlink(f'/proc/{self.thread}/fd/{directory}')}/{path}"

    def _buffer(self) -> str:
        return f"{self._fd()} {self._beginning(next(self.arguments), next(self.arguments))}"

    def _vector(self) -> str:
        return f"{self._fd()} {self._first_of(next(self.arguments))}"

    def _message(self) -> str:
        to, message = self._fd(), next(self.arguments)
        (vector,) = struct.unpack("Q", self._memory(message + 16, 8))
        return f"{to} {self._first_of(vector)}"

    def _first_of(self, vector: int) -> str:
        return self._beginning(*struct.unpack("QQ", self._memory(vector, 16)))

    def _beginning(self, address: int, size: int) -> str:
        return self._memory(address, min(size, _BEGINNING)).decode("latin-1")


def _begun(thread: int) -> str:
    """What a thread that stands still is about to do; empty when that is nothing that is told."""
    info = ctypes.create_string_buffer(88)
    if not _ptrace(_GET_SYSCALL_INFO, thread, len(info), ctypes.addressof(info)) or info.raw[0] != _ENTRY:
        return ""
    number, *arguments = struct.unpack_from("7Q", info.raw, 24)
    if number not in _CALLS:
        return ""
    try:
        return _Call(thread, number, tuple(arguments)).words()
    except (OSError, struct.error):
        return ""  # it was killed meanwhile, or gave the kernel nonsense


# -- the tracer ----------------------------------------------------------------------------------------------------------


def _watch(pids: list[int], call: str, nth: int, fails: bool, tell: Callable[[str], None]) -> None:
    pattern, seen, failing = re.compile(call), 0, set()
    for pid in pids:
        _seize(pid)
    tell("watching")
    while True:
        try:
            thread, status = os.waitpid(-1, _WALL)
        except ChildProcessError:
            return  # all of them ended
        if not os.WIFSTOPPED(status):
            continue
        signal_to_deliver = 0
        if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
            if thread in failing:
                failing.discard(thread)
                _ptrace(_POKEUSER, thread, _RAX, -FAILURE)
            elif (words := _begun(thread)) and pattern.search(words):
                seen += 1
                if seen >= nth and fails:
                    failing.add(thread)
                    _ptrace(_POKEUSER, thread, _ORIG_RAX, _NO_CALL)
                if seen == nth:
                    tell("reached")
                    if not fails:
                        signal.pause()  # and so does the thread, until we are killed
        elif status >> 16 == 0:
            signal_to_deliver = os.WSTOPSIG(status)
        _ptrace(_SYSCALL, thread, 0, signal_to_deliver)


if __name__ == "__main__":
    _who, _pattern, _nth, _what = sys.argv[1:]
    _watch([int(pid) for pid in _who.split(",")], _pattern, int(_nth), _what == "fails", lambda word: print(word, flush=True))
