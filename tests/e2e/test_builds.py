"""`coldframe build`: what builds hold, beside a server that works with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Iterator

import pytest
from e2b import Sandbox

from harness.damage import cut, delete, empty, flip, flip_every_page, put, swap
from harness.guest import output
from harness.server import Server

PAGE = 4096


def told(server: Server, *args: str, fails: bool = False) -> dict:
    done = server.cli("build", *args, "--json", check=False)
    assert done.returncode == int(fails), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def paused(server: Server) -> Iterator[Sandbox]:
    """A sandbox with a file more, a file less, another mode and another content than its template."""
    sbx = Sandbox.create(timeout=900, **server.sdk())
    output(
        sbx,
        """mkdir -p '/home/user/new dir' && head -c 300000 /dev/urandom > '/home/user/new dir/file' && ln -s nowhere /home/user/link
        rm /etc/motd && chmod 0600 /etc/fstab && echo more >> /etc/bash.bashrc && chown user /etc/issue
        touch '/home/user/\x1b[31mred'; head -c 3000000 /dev/urandom > /dev/shm/kept; sync""",
        user="root",
    )
    assert sbx.pause() is True
    yield sbx
    assert sbx.kill() is True


def test_inspect_says_where_pages_are(server: Server, paused: Sandbox):
    of = told(server, "inspect", paused.sandbox_id)
    manifest, (memory, disk) = of["manifest"], of["images"]
    assert manifest["owner"] == paused.sandbox_id and "problems" not in of
    assert (memory["kind"], memory["pages"] * PAGE) == ("memory", manifest["shape"]["memory"] << 20)
    assert (disk["kind"], disk["pages"] * PAGE) == ("disk", manifest["shape"]["disk"] << 20)
    base = told(server, "inspect", "base")["manifest"]
    assert base.get("owner") is None
    for image in of["images"]:
        assert sum(source["needed"] for source in image["sources"]) == image["stored"] <= image["pages"]
        own = next(source for source in image["sources"] if source["build"] == manifest["id"])
        assert own["pages"] * (PAGE + 4) == image["own_bytes"]
        assert own["needed"] > 50
        # What the template has is not stored again.
        assert own["pages"] < image["stored"] / 4
    # By its own name it is the same, with all pieces.
    with_ranges = told(server, "inspect", manifest["id"], "--ranges")
    assert with_ranges["manifest"] == manifest
    for image in with_ranges["images"]:
        assert len(image["ranges"]) == image["extents"]
        assert sum(piece["pages"] for piece in image["ranges"]) == image["stored"]
    text = server.cli("build", "inspect", paused.sandbox_id).stdout
    assert f"sandbox {paused.sandbox_id}" in text and "everything that was written is there" not in text


def test_nobody_is_found_by_a_name_that_is_none(server: Server):
    done = server.cli("build", "inspect", "nobody", check=False)
    assert done.returncode == 1 and "there is no build, paused sandbox or snapshot nobody" in done.stderr
    assert "coldframe storage" in done.stderr


def test_validate_finds_what_a_disk_does(server: Server, paused: Sandbox):
    assert told(server, "inspect", paused.sandbox_id, "--validate")["problems"] == []
    build = server.newest_build(paused.sandbox_id)
    for path in sorted(build.iterdir()):
        good = path.read_bytes()
        for damage in (delete, empty, cut, flip, swap) + ((flip_every_page,) if path.suffix == ".data" else ()):
            damage(path)
            problems = told(server, "inspect", build.name, "--validate", fails=True)["problems"]
            assert problems and all(path.name in problem for problem in problems), (path.name, damage.__name__, problems)
            put(path, good)
    text = server.cli("build", "inspect", build.name, "--validate").stdout
    assert "everything that was written is there" in text


def test_validate_reads_what_is_not_the_builds_own(server: Server, paused: Sandbox):
    of = told(server, "inspect", paused.sandbox_id)
    own = of["manifest"]["id"]
    other = next(source["build"] for source in of["images"][1]["sources"] if source["build"] != own)
    path = server.newest_build(paused.sandbox_id).parent / other / "disk.data"
    good = path.read_bytes()
    try:
        flip(path)
        (problem,) = told(server, "inspect", own, "--validate", fails=True)["problems"]
        assert f"disk.data of build {other}" in problem
    finally:
        put(path, good)


def test_diff_names_pages_and_files(server: Server, paused: Sandbox):
    of = told(server, "diff", "base", paused.sandbox_id, "--files", "--ranges")
    memory, disk = of["images"]
    for image in (memory, disk):
        assert sum(piece["pages"] for piece in image["ranges"]) == sum(image[how] for how in ("changed", "appeared", "vanished"))
    assert memory["changed"] + memory["appeared"] > 3_000_000 / PAGE
    assert disk["changed"] + disk["appeared"] > 300_000 / PAGE
    files = {one["path"]: one for one in of["files"]}
    expected = {
        "/home/user/new dir": "added",
        "/home/user/new dir/file": "added",
        "/home/user/link": "added",
        "/home/user/\\u{1b}[31mred": "added",
        "/etc/motd": "removed",
        "/etc/fstab": {"changed": ["mode"]},
        "/etc/bash.bashrc": {"changed": ["content"]},
        "/etc/issue": {"changed": ["owner"]},
    }
    assert {path: files[path]["change"] for path in expected} == expected
    assert files["/home/user/new dir/file"]["bytes"] == 300000
    # Little else happens in a sandbox that does nothing by itself.
    assert len(files) < len(expected) + 10, sorted(files)
    same = told(server, "diff", paused.sandbox_id, paused.sandbox_id, "--files")
    assert same["files"] == [] and all(image["pieces"] == 0 for image in same["images"])
    text = server.cli("build", "diff", "base", paused.sandbox_id, "--files").stdout
    assert "  - /etc/motd" in text and "\x1b" not in text


def test_builds_without_memory_are_told_of(server: Server, create: Callable[..., Sandbox], tmp_path: Path):
    sbx = create(timeout=900)
    assert sbx.pause(mode="filesystem") is True
    assert [image["kind"] for image in told(server, "inspect", sbx.sandbox_id, "--validate")["images"]] == ["disk"]
    assert [image["kind"] for image in told(server, "diff", "base", sbx.sandbox_id)["images"]] == ["disk"]
