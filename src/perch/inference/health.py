"""Whether a recogniser is well, and somebody to wake when that changes for the worse."""

import asyncio


class Health:
    """``problem`` is None while all is well."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.losses = 0
        """How often health was lost: unchanged means that a repair was not overtaken by a new loss."""
        self._event = asyncio.Event()
        self._well = asyncio.Event()
        self._well.set()
        self._reason = ""

    def lose(self, reason: str) -> None:
        self.problem = self._reason = reason
        self.losses += 1
        self._well.clear()
        self._event.set()

    def regain(self) -> None:
        self.problem = None
        self._event.clear()
        self._well.set()

    async def lost(self) -> str:
        await self._event.wait()
        return self._reason

    async def regained(self) -> None:
        """Return as soon as all is well; at once if it is."""
        await self._well.wait()
