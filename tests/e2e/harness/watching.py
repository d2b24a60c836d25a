"""Following the stream of a watched directory from the side; only the asynchronous SDK has one."""

from __future__ import annotations

import asyncio
import threading

from e2b import AsyncSandbox, FilesystemEvent


class Watching:
    """Collects the events of a directory, and how that ended. Returns when it is watched."""

    def __init__(self, sdk: dict[str, str], sandbox: str, directory: str) -> None:
        self.events: list[FilesystemEvent] = []
        #: The exception that ended it. None for one that ended without, and while it goes on.
        self.error: Exception | None = None
        self._watched = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(sdk, sandbox, directory), daemon=True)
        self._thread.start()
        assert self._watched.wait(30) and not self.error, f"{directory} is not watched: {self.error!r}"

    @property
    def goes_on(self) -> bool:
        """Whether the stream is still open."""
        return self._thread.is_alive()

    def ended(self, deadline: float = 20) -> None:
        """Waits until the stream ended."""
        self._thread.join(deadline)
        assert not self._thread.is_alive(), "the watch did not end"

    def _run(self, *where) -> None:
        try:
            self.error = asyncio.run(self._watch(*where))
        except Exception as error:  # handed to whoever waits
            self.error = error
        self._watched.set()

    async def _watch(self, sdk: dict[str, str], sandbox: str, directory: str) -> Exception | None:
        watched = await AsyncSandbox.connect(sandbox, timeout=900, **sdk)
        end: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        await watched.files.watch_dir(directory, on_event=self.events.append, on_exit=end.set_result, timeout=0)
        self._watched.set()
        return await end
