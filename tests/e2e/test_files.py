"""Reading, writing, listing and changing files."""

from __future__ import annotations

import datetime
import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from e2b import (
    AuthenticationException,
    FileNotFoundException,
    FileType,
    InvalidArgumentException,
    Sandbox,
    SandboxException,
)

MIB = 1 << 20


def blocks(count: int, size: int = MIB):
    """A reproducible stream of `count` different blocks."""
    for i in range(count):
        yield hashlib.sha256(str(i).encode()).digest() * (size // 32)


# -- content -------------------------------------------------------------------------------------------------------------


def test_text_comes_back_as_it_was_written(sandbox: Sandbox, home: str):
    text = "line one\nzwei äöü\n三 🙂\r\n\ttabs\0nul"
    written = sandbox.files.write(f"{home}/text.txt", text)
    assert (written.name, written.path, written.type) == ("text.txt", f"{home}/text.txt", FileType.FILE)
    assert sandbox.files.read(f"{home}/text.txt") == text


@pytest.mark.parametrize("octet", [True, False])
def test_bytes_come_back_as_they_were_written(sandbox: Sandbox, home: str, octet: bool):
    data = bytes(range(256)) * 4096
    sandbox.files.write(f"{home}/bytes", data, use_octet_stream=octet)
    assert bytes(sandbox.files.read(f"{home}/bytes", format="bytes")) == data
    assert b"".join(sandbox.files.read(f"{home}/bytes", format="stream")) == data


def test_gzip_on_the_way_in_and_out(sandbox: Sandbox, home: str):
    text = "compress me, " * 50_000
    sandbox.files.write(f"{home}/zip", text, gzip=True)
    assert sandbox.commands.run(f"stat -c %s {home}/zip").stdout.strip() == str(len(text))
    assert sandbox.files.read(f"{home}/zip", gzip=True) == text
    assert sandbox.files.read(f"{home}/zip") == text


def test_writing_from_a_file_object_and_from_an_iterator(sandbox: Sandbox, home: str):
    data = b"".join(blocks(3))
    sandbox.files.write(f"{home}/object", io.BytesIO(data))
    sandbox.files.write(f"{home}/text-object", io.StringIO("grüße"))
    sandbox.files.write(f"{home}/iterator", blocks(3))
    assert bytes(sandbox.files.read(f"{home}/object", format="bytes")) == data
    assert sandbox.files.read(f"{home}/text-object") == "grüße"
    assert bytes(sandbox.files.read(f"{home}/iterator", format="bytes")) == data


def test_a_hundred_mebibytes_both_ways(sandbox: Sandbox, home: str):
    expected = hashlib.sha256()
    for block in blocks(100):
        expected.update(block)
    sandbox.files.write(f"{home}/big", blocks(100))
    inside = sandbox.commands.run(f"sha256sum {home}/big; stat -c %s {home}/big", timeout=120).stdout.split()
    assert inside[0] == expected.hexdigest()
    assert inside[2] == str(100 * MIB)
    received, size = hashlib.sha256(), 0
    with sandbox.files.read(f"{home}/big", format="stream") as stream:
        for chunk in stream:
            received.update(chunk)
            size += len(chunk)
    assert size == 100 * MIB
    assert received.hexdigest() == expected.hexdigest()


def test_an_empty_file(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/empty", "")
    assert sandbox.files.read(f"{home}/empty") == ""
    assert bytes(sandbox.files.read(f"{home}/empty", format="bytes")) == b""
    assert b"".join(sandbox.files.read(f"{home}/empty", format="stream")) == b""
    assert sandbox.files.get_info(f"{home}/empty").size == 0


def test_overwriting_shortens_the_file(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/f", "a long first version")
    sandbox.files.write(f"{home}/f", "short")
    assert sandbox.files.read(f"{home}/f") == "short"


def test_writing_keeps_owner_and_mode_of_an_existing_file(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/script", "echo old")
    sandbox.commands.run(f"chmod 755 {home}/script")
    sandbox.files.write(f"{home}/script", "echo new")
    assert sandbox.files.get_info(f"{home}/script").mode == 0o755
    assert sandbox.commands.run(f"{home}/script").stdout == "new\n"


def test_files_of_proc_have_content_although_their_size_is_zero(sandbox: Sandbox):
    boot_id = sandbox.files.read("/proc/sys/kernel/random/boot_id")
    assert boot_id == sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    assert len(boot_id.strip()) == 36
    assert "MemTotal" in sandbox.files.read("/proc/meminfo", gzip=True)


def test_part_of_a_file(server, sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/range", "0123456789")
    headers = server.edge_headers(sandbox.sandbox_id, token=sandbox._envd_access_token)

    def get(value: str) -> httpx.Response:
        return httpx.get(f"{server.url}/files", params={"path": f"{home}/range"}, headers={**headers, "Range": value})

    middle = get("bytes=2-4")
    assert (middle.status_code, middle.content) == (206, b"234")
    assert middle.headers["content-range"] == "bytes 2-4/10"
    assert get("bytes=7-").content == b"789"
    assert get("bytes=-2").content == b"89"
    assert get("bytes=20-").status_code == 416


def test_files_become_one(server, sandbox: Sandbox, home: str):
    """The daemon's own route, which no SDK has."""
    parts = [f"{home}/parts/{i}" for i in range(3)]
    for number, part in enumerate(parts):
        sandbox.files.write(part, f"part {number}\n")
    headers = server.edge_headers(sandbox.sandbox_id, token=sandbox._envd_access_token)
    body = {"source_paths": parts, "destination": f"{home}/whole", "username": "user"}
    answer = httpx.post(f"{server.url}/files/compose", json=body, headers=headers)
    assert (answer.status_code, answer.json()["path"]) == (200, f"{home}/whole"), answer.text
    assert sandbox.files.read(f"{home}/whole") == "part 0\npart 1\npart 2\n"
    assert sandbox.files.get_info(f"{home}/whole").owner == "user"
    assert sandbox.files.list(f"{home}/parts") == []
    assert httpx.post(f"{server.url}/files/compose", json=body, headers=headers).status_code == 404


# -- many files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("octet", [True, False])
def test_a_batch_of_files_in_one_call(sandbox: Sandbox, home: str, octet: bool):
    entries = [{"path": f"{home}/deep/{i}/file{i}.txt", "data": f"content {i}"} for i in range(20)]
    written = sandbox.files.write_files(entries, use_octet_stream=octet)
    assert sorted(info.path for info in written) == sorted(entry["path"] for entry in entries)
    for entry in entries:
        assert sandbox.files.read(entry["path"]) == entry["data"]


def test_an_empty_batch(sandbox: Sandbox):
    assert sandbox.files.write_files([]) == []


def test_parallel_writes_into_a_new_nested_directory(sandbox: Sandbox, home: str):
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: sandbox.files.write(f"{home}/a/b/c/{i}", str(i) * 1000), range(48)))
        contents = list(pool.map(lambda i: sandbox.files.read(f"{home}/a/b/c/{i}"), range(48)))
    assert contents == [str(i) * 1000 for i in range(48)]
    assert sandbox.files.get_info(f"{home}/a/b").owner == "user"


# -- names and paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["with space", "ünïcödé", "日本語🙂", "quo'te\"s", "a&b=c?d#e%20f+g", "-dash", ".hidden", "semi;colon", "tab\tname", "x" * 255],
)
def test_unusual_file_names(sandbox: Sandbox, home: str, name: str):
    path = f"{home}/{name}"
    sandbox.files.write(path, name)
    assert sandbox.files.read(path) == name
    assert [entry.name for entry in sandbox.files.list(home)] == [name]
    assert sandbox.files.get_info(path).path == path
    sandbox.files.remove(path)
    assert not sandbox.files.exists(path)


def test_relative_paths_start_at_the_users_home(sandbox: Sandbox, home: str):
    relative = home.removeprefix("/home/user/")
    assert sandbox.files.write(f"{relative}/r", "relative").path == f"{home}/r"
    assert sandbox.files.read(f"~/{relative}/r") == "relative"
    assert sandbox.files.exists(f"{relative}/r")
    assert not sandbox.files.exists(f"{relative}/r", user="root")


# -- ownership -----------------------------------------------------------------------------------------------------------


def test_new_files_and_directories_belong_to_the_user_of_the_request(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/mine/file", "x")
    sandbox.files.write(f"{home}/roots/file", "x", user="root")
    for path in ("mine", "mine/file"):
        info = sandbox.files.get_info(f"{home}/{path}")
        assert (info.owner, info.group) == ("user", "user")
    for path in ("roots", "roots/file"):
        info = sandbox.files.get_info(f"{home}/{path}")
        assert (info.owner, info.group) == ("root", "root")


def test_an_unknown_user_is_refused(sandbox: Sandbox):
    with pytest.raises(AuthenticationException, match="ghost"):
        sandbox.files.read("/etc/hostname", user="ghost")
    with pytest.raises(AuthenticationException, match="ghost"):
        sandbox.files.list("/", user="ghost")


# -- directories ---------------------------------------------------------------------------------------------------------


def test_making_directories(sandbox: Sandbox, home: str):
    assert sandbox.files.make_dir(f"{home}/one/two/three") is True
    assert sandbox.files.make_dir(f"{home}/one/two/three") is False
    assert sandbox.files.get_info(f"{home}/one/two").type == FileType.DIR
    sandbox.files.write(f"{home}/file", "")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.make_dir(f"{home}/file")


def test_listing_to_a_depth(sandbox: Sandbox, home: str):
    sandbox.files.write_files([{"path": f"{home}/{p}", "data": p} for p in ("top", "d1/one", "d1/d2/two", "d1/d2/d3/three")])

    def names(depth: int) -> list[str]:
        return [entry.path.removeprefix(home + "/") for entry in sandbox.files.list(home, depth=depth)]

    assert names(1) == ["d1", "top"]
    assert names(2) == ["d1", "d1/d2", "d1/one", "top"]
    assert names(3) == ["d1", "d1/d2", "d1/d2/d3", "d1/d2/two", "d1/one", "top"]
    assert names(9) == ["d1", "d1/d2", "d1/d2/d3", "d1/d2/d3/three", "d1/d2/two", "d1/one", "top"]


def test_a_directory_of_two_thousand_files(sandbox: Sandbox, home: str):
    sandbox.commands.run(f"mkdir {home}/many && cd {home}/many && seq -f 'f%04g' 2000 | xargs touch")
    assert [entry.name for entry in sandbox.files.list(f"{home}/many")] == [f"f{i:04}" for i in range(1, 2001)]


def test_listing_what_is_not_a_directory(sandbox: Sandbox, home: str):
    with pytest.raises(FileNotFoundException):
        sandbox.files.list(f"{home}/nothing")
    sandbox.files.write(f"{home}/file", "")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list(f"{home}/file")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list(home, depth=0)


# -- what is known of an entry -----------------------------------------------------------------------------------------


def test_facts_of_a_file(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/facts.txt", "thirteen char")
    sandbox.commands.run(f"chmod 644 {home}/facts.txt")
    info = sandbox.files.get_info(f"{home}/facts.txt")
    assert (info.name, info.type, info.path) == ("facts.txt", FileType.FILE, f"{home}/facts.txt")
    assert (info.size, info.mode, info.permissions) == (13, 0o644, "-rw-r--r--")
    assert (info.owner, info.group, info.symlink_target, info.metadata) == ("user", "user", None, None)
    age = datetime.datetime.now(datetime.timezone.utc) - info.modified_time
    assert abs(age.total_seconds()) < 60


def test_facts_of_a_directory(sandbox: Sandbox, home: str):
    sandbox.commands.run(f"mkdir -m 750 {home}/dir && mkdir -m 1777 {home}/sticky")
    info = sandbox.files.get_info(f"{home}/dir")
    assert (info.type, info.mode & 0o777, info.permissions) == (FileType.DIR, 0o750, "drwxr-x---")
    assert sandbox.files.get_info(f"{home}/sticky").permissions == "dtrwxrwxrwx"


def test_facts_of_symbolic_links(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/target", "content")
    sandbox.commands.run(f"cd {home} && ln -s target link && ln -s nowhere broken && mkdir d && ln -s d dirlink")
    link = sandbox.files.get_info(f"{home}/link")
    assert link.type == FileType.SYMLINK
    assert link.symlink_target == f"{home}/target"
    assert sandbox.files.read(f"{home}/link") == "content"
    assert sandbox.files.get_info(f"{home}/dirlink").symlink_target == f"{home}/d"
    assert sandbox.files.exists(f"{home}/broken")
    assert {entry.name for entry in sandbox.files.list(home)} >= {"target", "link", "d", "dirlink"}


def test_facts_of_what_does_not_exist(sandbox: Sandbox, home: str):
    assert sandbox.files.exists(f"{home}/nothing") is False
    with pytest.raises(FileNotFoundException):
        sandbox.files.get_info(f"{home}/nothing")


def test_metadata_stays_with_the_file(sandbox: Sandbox, home: str):
    wrote = sandbox.files.write(f"{home}/m", "x", metadata={"Author": "me", "purpose": "test = 1"})
    assert wrote.metadata == {"author": "me", "purpose": "test = 1"}
    assert sandbox.files.get_info(f"{home}/m").metadata == {"author": "me", "purpose": "test = 1"}
    assert sandbox.files.list(home)[0].metadata == {"author": "me", "purpose": "test = 1"}
    assert sandbox.files.rename(f"{home}/m", f"{home}/n").metadata == {"author": "me", "purpose": "test = 1"}
    sandbox.files.write(f"{home}/n", "y")
    assert sandbox.files.get_info(f"{home}/n").metadata is None


def test_too_much_metadata_is_refused(sandbox: Sandbox, home: str):
    with pytest.raises((InvalidArgumentException, SandboxException)):
        sandbox.files.write(f"{home}/m", "x", metadata={"big": "v" * 5000})


# -- moving and removing -------------------------------------------------------------------------------------------------


def test_renaming(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/old", "content")
    moved = sandbox.files.rename(f"{home}/old", f"{home}/new/place")
    assert (moved.name, moved.path, moved.size) == ("place", f"{home}/new/place", 7)
    assert not sandbox.files.exists(f"{home}/old")
    assert sandbox.files.read(f"{home}/new/place") == "content"
    sandbox.files.write(f"{home}/other", "loser")
    sandbox.files.rename(f"{home}/new/place", f"{home}/other")
    assert sandbox.files.read(f"{home}/other") == "content"
    with pytest.raises(FileNotFoundException):
        sandbox.files.rename(f"{home}/nothing", f"{home}/anything")


def test_removing(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/dir/sub/file", "x")
    sandbox.files.remove(f"{home}/dir")
    assert not sandbox.files.exists(f"{home}/dir")
    sandbox.files.remove(f"{home}/dir")  # what is not there is removed already


def test_removing_a_link_leaves_its_target(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/keep/file", "x")
    sandbox.commands.run(f"ln -s {home}/keep {home}/link")
    sandbox.files.remove(f"{home}/link")
    assert sandbox.files.read(f"{home}/keep/file") == "x"


# -- errors --------------------------------------------------------------------------------------------------------------


def test_reading_what_cannot_be_read(sandbox: Sandbox, home: str):
    with pytest.raises(FileNotFoundException, match=f"{home}/nothing"):
        sandbox.files.read(f"{home}/nothing")
    with pytest.raises(FileNotFoundException):
        sandbox.files.read(f"{home}/nothing", format="stream")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read(home)


def test_writing_where_a_directory_is(sandbox: Sandbox, home: str):
    with pytest.raises(InvalidArgumentException):
        sandbox.files.write(home, "x")


def test_writing_below_a_file(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/file", "x")
    with pytest.raises(SandboxException):
        sandbox.files.write(f"{home}/file/below", "y")
    assert sandbox.files.read(f"{home}/file") == "x"


def test_reading_while_it_is_written(sandbox: Sandbox, home: str):
    """Whatever a reader gets, it is the beginning of what is written, and the daemon survives it."""
    whole = b"".join(blocks(4))
    sandbox.files.write(f"{home}/f", b"")
    writer = threading.Thread(target=lambda: sandbox.files.write(f"{home}/f", whole))
    writer.start()
    while writer.is_alive():
        assert whole.startswith(bytes(sandbox.files.read(f"{home}/f", format="bytes")))
    writer.join()
    assert bytes(sandbox.files.read(f"{home}/f", format="bytes")) == whole
