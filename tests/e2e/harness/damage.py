"""What a failing disk does to a file. The file is always a new one: the old one may be another instance's, too."""

from __future__ import annotations

from pathlib import Path

PAGE = 4096


def put(path: Path, content: bytes) -> None:
    """Has a file hold something else than what was written."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    put(path, b"")


def cut(path: Path) -> None:
    put(path, path.read_bytes()[:-5])


def flip(path: Path) -> None:
    """One bit, where the checksums of pages are when there are some."""
    content = bytearray(path.read_bytes())
    content[-len(content) // 2048 - 1] ^= 1
    put(path, bytes(content))


def swap(path: Path) -> None:
    """The same object of another build."""
    others = (build / path.name for build in sorted(path.parents[1].iterdir()) if build != path.parent)
    put(path, next(other for other in others if other.exists()).read_bytes())


def flip_every_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(0, len(content) // (PAGE + 4) * PAGE, PAGE):
        content[at + 7] ^= 0x40
    put(path, bytes(content))
