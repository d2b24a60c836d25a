"""The asynchronous SDK: the same server seen through another client."""

from __future__ import annotations

import asyncio

import pytest
from e2b import AsyncSandbox, CommandExitException, PtySize, SandboxQuery

from harness.server import Server


def test_one_life_with_the_asynchronous_sdk(server: Server):
    async def scenario():
        sbx = await AsyncSandbox.create(timeout=300, metadata={"kind": "async"}, **server.sdk("async"))
        try:
            assert await sbx.is_running()
            pieces: list[str] = []
            result = await sbx.commands.run("echo one; sleep 0.5; echo two", on_stdout=pieces.append)
            assert result.stdout == "one\ntwo\n" == "".join(pieces)
            with pytest.raises(CommandExitException):
                await sbx.commands.run("exit 4")

            outputs = await asyncio.gather(*(sbx.commands.run(f"echo {i}") for i in range(20)))
            assert [output.stdout for output in outputs] == [f"{i}\n" for i in range(20)]

            await sbx.files.write_files([{"path": f"/home/user/d/{i}", "data": str(i)} for i in range(10)])
            contents = await asyncio.gather(*(sbx.files.read(f"/home/user/d/{i}") for i in range(10)))
            assert contents == [str(i) for i in range(10)]

            async def chunks():
                for i in range(16):
                    yield bytes([i]) * 65536

            await sbx.files.write("/home/user/streamed", chunks())
            size = 0
            async for chunk in await sbx.files.read("/home/user/streamed", format="stream"):
                size += len(chunk)
            assert size == 16 * 65536

            handle = await sbx.commands.run("cat", background=True, stdin=True)
            async with sbx.commands.stream_input(handle.pid) as stream:
                for i in range(5):
                    await stream.send(f"{i}\n")
            await handle.close_stdin()
            assert (await handle.wait()).stdout == "0\n1\n2\n3\n4\n"

            seen = bytearray()
            terminal = await sbx.pty.create(PtySize(24, 80), on_data=seen.extend)
            await sbx.pty.send_stdin(terminal.pid, b"echo pty-$((1+1)); exit\n")
            await terminal.wait()
            assert b"pty-2" in seen

            listed = await AsyncSandbox.list(query=SandboxQuery(metadata={"kind": "async"}), **server.sdk("async")).next_items()
            assert [item.sandbox_id for item in listed] == [sbx.sandbox_id]
            await sbx.set_timeout(600)
        finally:
            assert await sbx.kill()
        assert not await sbx.is_running()

    asyncio.run(scenario())


def test_cancelling_a_task_leaves_the_command_running(server: Server, sandbox):
    async def scenario():
        sbx = await AsyncSandbox.connect(sandbox.sandbox_id, **server.sdk())
        handle = await sbx.commands.run("sleep 60", background=True)
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await handle.disconnect()
        assert handle.pid in {process.pid for process in await sbx.commands.list()}
        assert await sbx.commands.kill(handle.pid)

    asyncio.run(scenario())


def test_what_a_sandbox_was_with_the_asynchronous_sdk(server: Server):
    """Pauses, snapshots and forks, with the memory and of the disk alone."""
    options, kept = server.sdk("async"), "cat kept; cat /dev/shm/kept 2> /dev/null || true"

    async def holds(sbx: AsyncSandbox, expected: str) -> None:
        assert (await sbx.commands.run(kept)).stdout.split() == expected.split()

    async def scenario():
        sbx = await AsyncSandbox.create(timeout=600, **options)
        made, names = [sbx], []
        try:
            await sbx.commands.run("echo disk > kept; echo memory > /dev/shm/kept")
            for mode, expected in (("full", "disk memory"), ("filesystem", "disk")):
                names.append((await sbx.create_snapshot(f"async:{mode}", mode=mode)).snapshot_id)
                made.append(await AsyncSandbox.create(names[-1], timeout=300, **options))
                await holds(made[-1], expected)
            paginator, pages = AsyncSandbox.list_snapshots(name="async", limit=1, **options), []
            while paginator.has_next:
                pages.append([item.snapshot_id for item in await paginator.next_items()])
            assert pages == [[names[1]], [names[0]]]
            forks = await sbx.fork(count=2, timeout=300)
            made += forks
            await asyncio.gather(*(holds(fork, "disk memory") for fork in forks))
            assert await sbx.pause() is True
            await holds(await sbx.connect(timeout=600), "disk memory")
            assert await sbx.pause(mode="filesystem") is True
            await holds(await sbx.connect(timeout=600), "disk")
        finally:
            for one in made:
                await one.kill()
            for name in names:
                assert await AsyncSandbox.delete_snapshot(name, **options) is True

    asyncio.run(scenario())
