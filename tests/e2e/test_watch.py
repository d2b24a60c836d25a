"""Watching directories: by asking for events (sync SDK) and by a stream of them (async SDK)."""

from __future__ import annotations

import asyncio

import pytest
from e2b import (
    AsyncSandbox,
    FileNotFoundException,
    FilesystemEvent,
    FilesystemEventType as Type,
    InvalidArgumentException,
    Sandbox,
    SandboxException,
)

from harness.waiting import wait_until


def kinds(events: list[FilesystemEvent], name: str) -> list[Type]:
    return [event.type for event in events if event.name == name]


def collect(handle, until, deadline: float = 10) -> list[FilesystemEvent]:
    """Events until `until(events)` holds."""
    events: list[FilesystemEvent] = []

    def enough():
        events.extend(handle.get_new_events())
        return until(events)

    wait_until(enough, deadline, lambda: f"events; got {events}")
    return events


# -- asking --------------------------------------------------------------------------------------------------------------


def test_a_write_is_known_the_moment_it_returned(sandbox: Sandbox, home: str):
    handle = sandbox.files.watch_dir(home)
    assert handle.get_new_events() == []
    sandbox.files.write(f"{home}/new.txt", "x")
    events = handle.get_new_events()
    assert kinds(events, "new.txt")[0] == Type.CREATE
    assert Type.WRITE in kinds(events, "new.txt")
    assert handle.get_new_events() == []
    handle.stop()


def test_each_kind_of_change(sandbox: Sandbox, home: str):
    sandbox.files.write(f"{home}/f", "x")
    handle = sandbox.files.watch_dir(home)
    sandbox.files.write(f"{home}/f", "longer")
    assert Type.WRITE in kinds(handle.get_new_events(), "f")
    sandbox.commands.run(f"chmod 600 {home}/f")
    assert kinds(handle.get_new_events(), "f") == [Type.CHMOD]
    sandbox.files.rename(f"{home}/f", f"{home}/g")
    events = handle.get_new_events()
    assert kinds(events, "f") == [Type.RENAME]
    assert kinds(events, "g") == [Type.CREATE]
    sandbox.files.remove(f"{home}/g")
    assert Type.REMOVE in kinds(handle.get_new_events(), "g")
    sandbox.files.make_dir(f"{home}/d")
    assert Type.CREATE in kinds(handle.get_new_events(), "d")
    handle.stop()


def test_subdirectories_are_not_watched_unless_asked_for(sandbox: Sandbox, home: str):
    sandbox.files.make_dir(f"{home}/sub")
    handle = sandbox.files.watch_dir(home)
    sandbox.files.write(f"{home}/sub/deep.txt", "x")
    assert [event for event in handle.get_new_events() if "deep" in event.name] == []
    handle.stop()


def test_recursively_with_directories_that_come_later(sandbox: Sandbox, home: str):
    sandbox.files.make_dir(f"{home}/existing/below")
    handle = sandbox.files.watch_dir(home, recursive=True)
    sandbox.files.write(f"{home}/existing/below/a.txt", "x")
    assert Type.CREATE in kinds(handle.get_new_events(), "existing/below/a.txt")
    sandbox.commands.run(f"mkdir -p {home}/x/y/z && echo hi > {home}/x/y/z/b.txt")
    events = collect(handle, lambda seen: Type.CREATE in kinds(seen, "x/y/z/b.txt"))
    for name in ("x", "x/y", "x/y/z"):
        assert Type.CREATE in kinds(events, name), name
    sandbox.files.write(f"{home}/x/y/z/c.txt", "later")
    collect(handle, lambda seen: Type.CREATE in kinds(seen, "x/y/z/c.txt"))
    handle.stop()


def test_the_entry_comes_with_the_event_when_asked_for(sandbox: Sandbox, home: str):
    handle = sandbox.files.watch_dir(home, include_entry=True)
    sandbox.files.write(f"{home}/e.txt", "12345")
    created = [event for event in handle.get_new_events() if event.type == Type.CREATE]
    assert created[0].entry is not None
    assert (created[0].entry.name, created[0].entry.path, created[0].entry.owner) == ("e.txt", f"{home}/e.txt", "user")
    sandbox.files.remove(f"{home}/e.txt")
    assert all(event.entry is None for event in handle.get_new_events() if event.type == Type.REMOVE)
    handle.stop()


def test_several_watchers_each_see_everything(sandbox: Sandbox, home: str):
    handles = [sandbox.files.watch_dir(home) for _ in range(5)]
    sandbox.files.write(f"{home}/f", "x")
    for handle in handles:
        assert Type.CREATE in kinds(handle.get_new_events(), "f")
        handle.stop()


def test_a_stopped_watcher_is_gone(sandbox: Sandbox, home: str):
    handle = sandbox.files.watch_dir(home)
    handle.stop()
    with pytest.raises(SandboxException):
        handle.get_new_events()


def test_what_cannot_be_watched(sandbox: Sandbox, home: str):
    with pytest.raises(FileNotFoundException):
        sandbox.files.watch_dir(f"{home}/nothing")
    sandbox.files.write(f"{home}/file", "")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.watch_dir(f"{home}/file")


# -- a stream ------------------------------------------------------------------------------------------------------------


async def _until(condition, deadline: float, what) -> None:
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


def test_events_arrive_by_themselves(server, sandbox: Sandbox, home: str):
    async def scenario():
        watched = await AsyncSandbox.connect(sandbox.sandbox_id, **server.sdk())
        events: list[FilesystemEvent] = []
        exits: list[Exception | None] = []
        handle = await watched.files.watch_dir(
            home, on_event=events.append, on_exit=exits.append, recursive=True, include_entry=True
        )
        await watched.files.write(f"{home}/deep/s.txt", "x")
        await _until(lambda: Type.CREATE in kinds(events, "deep/s.txt"), 10, events)
        await watched.files.remove(f"{home}/deep/s.txt")
        await _until(lambda: Type.REMOVE in kinds(events, "deep/s.txt"), 10, events)
        await handle.stop()
        assert exits == [None]

    asyncio.run(scenario())


def test_a_stream_ends_at_its_deadline(server, sandbox: Sandbox, home: str):
    async def scenario():
        watched = await AsyncSandbox.connect(sandbox.sandbox_id, **server.sdk())
        exits: list[Exception | None] = []
        await watched.files.watch_dir(home, on_event=lambda _: None, on_exit=exits.append, timeout=1)
        await _until(lambda: exits, 15, "the watch to end")
        assert isinstance(exits[0], SandboxException)

    asyncio.run(scenario())


def test_a_burst_of_changes_is_complete(server, sandbox: Sandbox, home: str):
    async def scenario():
        watched = await AsyncSandbox.connect(sandbox.sandbox_id, **server.sdk())
        events: list[FilesystemEvent] = []
        handle = await watched.files.watch_dir(home, on_event=events.append)
        await watched.commands.run(f"cd {home} && seq -f 'f%03g' 500 | xargs touch")
        wanted = {f"f{i:03}" for i in range(1, 501)}
        await _until(lambda: {e.name for e in events if e.type == Type.CREATE} >= wanted, 20, "all to be created")
        await handle.stop()

    asyncio.run(scenario())
