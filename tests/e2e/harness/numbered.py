"""Streams of numbered lines (guest/lines.py), of which none may be missing, repeated or changed."""

from __future__ import annotations

from guest.lines import HEARD, line

#: What is typed into a terminal begins with it, and so does its echo.
SAID = "said"
_NUMBER = 8


def numbers(output: bytes, from_the_start: bool) -> tuple[int, int]:
    """The first and the last number of a stream; one that was joined may begin in the middle of a line. (0, 0) when none
    is whole yet."""
    *lines, rest = output.decode().replace("\r", "").split("\n")
    first = last = 0
    for position, text in enumerate(lines):
        if text.startswith((HEARD, SAID)):
            continue
        if last == 0:
            if position == 0 and not from_the_start and not _is_whole(text):
                continue
            assert _is_whole(text), f"no line: {text!r}"
            first = last = int(text[:_NUMBER])
        else:
            last += 1
        assert text == line(last), f"instead of line {last}: {text!r}"
    if last and rest:
        assert f"{line(last + 1)}\n".startswith(rest), f"instead of line {last + 1}: {rest!r}"
    assert not from_the_start or first in (0, 1), f"the first line was {first}"
    return first, last


def _is_whole(text: str) -> bool:
    return text[:_NUMBER].isdigit() and len(text) >= _NUMBER and text == line(int(text[:_NUMBER]))
