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
