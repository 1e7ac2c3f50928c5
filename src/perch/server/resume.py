"""Sessions that can be taken up again: those of this process, and those another process hands over.

A session without a socket is parked for ``ttl_s`` and then ended. On a machine with several gateway processes
the client may come back to another one: that one asks the others, and the one that has the session writes it
to a file (``handoff.py``) and lets go of it.
"""

import asyncio
import secrets
from collections.abc import Callable

import structlog

from perch import errors
from perch.core.messages import ResumeOffer
from perch.server.config import ResumeConfig
from perch.server.handoff import Handoff
from perch.server.live import Exported, LiveSession

log = structlog.get_logger(__name__)

Restore = Callable[[Exported, LiveSession, str], LiveSession]
"""Makes a session of what was exported, with the principal and the lease of the one in whose place it comes."""

_UNKNOWN = "There is no session to resume with this token; start a new one."


class Resumption:
    """Every session of this process that may be resumed, by token."""

    def __init__(self, config: ResumeConfig, handoff: Handoff, restore: Restore) -> None:
        self._config = config
        self._handoff = handoff
        self._restore = restore
        self._live: dict[str, LiveSession] = {}
        self._parked: dict[str, asyncio.Task[None]] = {}  # the longest parked first
        self._exports: dict[str, asyncio.Task[bool]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._leaving = False

    def __len__(self) -> int:
        """Sessions that are parked."""
        return len(self._parked)

    def offer(self) -> ResumeOffer | None:
        """A token for a new session, unless sessions are not kept."""
        if self._config.ttl_s <= 0:
            return None
        return ResumeOffer(secrets.token_urlsafe(24), self._config.ttl_s)

    def add(self, live: LiveSession) -> None:
        """``live`` has begun and may be resumed until it is removed."""
        if live.token:
            self._live[live.token] = live

    def remove(self, live: LiveSession) -> None:
        if self._live.get(live.token) is live:
            del self._live[live.token]

    # --- leaving and coming back ---------------------------------------------------------------------

    async def park(self, live: LiveSession) -> bool:
        """Keep ``live``, which has lost its socket; False if it is not one to be kept."""
        if not self._is_kept(live):
            return False
        live.detach()
        if self._leaving:
            await self.export(live)
            return False
        live.lease.park()
        self._parked[live.token] = asyncio.create_task(self._expire(live), name="parked session")
        while len(self._parked) > self._config.max_parked:
            self._end(next(iter(self._parked)))
        log.info("session_parked", stream_id=live.stream_id, parked=len(self._parked))
        return True

    async def claim(self, token: str, new: LiveSession) -> LiveSession:
        """The session of ``token``, wherever it is, for a client that opened ``new``.

        Raises:
            ResumeUnknown: There is none, or it is not this caller's.
        """
        live = self._find(token, new.principal)
        if live is None:
            return await self._fetch(token, new)
        self._unpark(token)
        return live

    async def _fetch(self, token: str, new: LiveSession) -> LiveSession:
        exported = None
        if self._config.ttl_s > 0:
            exported = await self._handoff.fetch(token, new.principal)
        if exported is None:
            raise errors.ResumeUnknown(_UNKNOWN)
        live = self._restore(exported, new, token)
        self.add(live)
        return live

    def _find(self, token: str, principal: str) -> LiveSession | None:
        live = self._live.get(token)
        return live if live is not None and live.principal == principal else None

    def _is_kept(self, live: LiveSession) -> bool:
        return live.failure is None and live.token in self._live and live.session.resumable

    def _unpark(self, token: str) -> None:
        expiry = self._parked.pop(token, None)
        if expiry is not None:
            expiry.cancel()
            self._live[token].lease.unpark()

    # --- handing over --------------------------------------------------------------------------------

    async def give(self, token: str, principal: str) -> bool:
        """Another process wants this session; True if it is in its file now."""
        if token in self._exports:
            return await asyncio.shield(self._exports[token])
        live = self._find(token, principal)
        if live is None or not self._is_kept(live):
            return False
        live.attach(live.detach, live.detach)  # whoever is attached hears that the session is gone
        return await self.export(live)

    async def export(self, live: LiveSession) -> bool:
        """Write ``live`` where another process finds it; it cannot go on here afterwards."""
        token = live.token
        if not self._is_kept(live):
            return False
        self._unpark(token)
        self.remove(live)
        writing = asyncio.create_task(self._write(token, live))
        self._exports[token] = writing
        writing.add_done_callback(lambda _: self._exports.pop(token, None))
        return await asyncio.shield(writing)

    async def _write(self, token: str, live: LiveSession) -> bool:
        try:
            await self._handoff.write(token, live.principal, await live.freeze())
        except OSError as error:
            log.warning("session_not_kept", stream_id=live.stream_id, problem=str(error))
            return False
        finally:
            await live.aclose("going_away")
        return True

    async def leave(self) -> None:
        """The process stops: keep what is parked, and what will be, for another process."""
        self._leaving = True
        for token in tuple(self._parked):
            await self.export(self._live[token])

    # --- the end -------------------------------------------------------------------------------------

    async def _expire(self, live: LiveSession) -> None:
        await asyncio.sleep(self._config.ttl_s)
        self._end(live.token)

    def _end(self, token: str) -> None:
        """Nobody came back for it in time, or there is no room."""
        live = self._live[token]
        self._unpark(token)
        self.remove(live)
        ending = asyncio.create_task(live.aclose("client_gone"))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def aclose(self) -> None:
        """End whatever is parked."""
        for token in tuple(self._parked):
            self._end(token)
        tasks = {*self._ending, *self._exports.values()}
        if tasks:
            await asyncio.wait(tasks)
