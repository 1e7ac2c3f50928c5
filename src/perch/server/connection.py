"""The pump: one WebSocket ↔ protocol ↔ live session.

The only file that knows both a socket and a session. Everything with a rule in it is a call into a pure
object; here are three waits in one group: for the client, for the end of the session, and for whatever ends
the connection from outside (idle time, drain, the same client on a newer socket).
"""

import asyncio
import time

import structlog
from aiohttp import WSMsgType

from perch import errors
from perch.core.messages import Audio, Command, Finalize, Resume, Stop
from perch.core.session import State
from perch.protocols.base import WireProtocol
from perch.server.live import BROKEN, LiveSession
from perch.server.outgoing import ClientWriter
from perch.server.resume import Resumption
from perch.server.socket import Socket

log = structlog.get_logger(__name__)

_CLOSE_TIMEOUT_S = 5.0
_PATIENCE_S = 600.0
"""What a client may wait for an engine, beside as long as the audio is that no engine has taken. Longer than
the stream itself looks for an engine that finishes, so that its error comes first."""
_CLOSE_NORMAL = 1000
_DELIBERATE = {1000, 1001}
"""Close codes of a client that will not come back: it is done, or its page was left."""
_UNANSWERED = {None, 1006}


class _ClientGone(Exception):
    """The socket closed without ``stop``."""

    def __init__(self, *, deliberately: bool) -> None:
        super().__init__()
        self.deliberately = deliberately


class _TakenOver(Exception):
    """The client has come back on another socket."""


class Connection:
    """One socket, and the session that is on it for now. Make it, ``await run()``, forget it."""

    def __init__(
        self,
        socket: Socket,
        transport: asyncio.Transport,
        *,
        live: LiveSession,
        protocol: WireProtocol,
        resumption: Resumption,
        start_grace_s: float,
        idle_timeout_s: float,
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._live = live
        self._protocol = protocol
        self._resumption = resumption
        self._start_grace_s = start_grace_s
        self._idle_timeout_s = protocol.idle_timeout_s or idle_timeout_s
        self._awaited_until: float | None = None
        """How long the client may be silent because it waits for the engine."""
        self._writer = ClientWriter(socket, transport, live.session.outbox, protocol, live.sent)
        self._aborted: asyncio.Future[errors.PerchError] = asyncio.get_running_loop().create_future()
        self._explained: errors.PerchError | None = None
        self._taken = False
        self._grace: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve the session for as long as it is on this socket; only cancellation is raised."""
        self._socket.before_close = self._explain_close
        self._live.attach(self._writer.flush, self._give_up)
        self._give_grace()
        outcome: str | None = "cancelled"
        try:
            outcome = await self._until_outcome()
        finally:
            self._end_grace()
            self._writer.cancel()
            self._aborted.cancel()
            if outcome is not None and not self._taken:
                self._resumption.remove(self._live)
                await self._live.aclose(outcome)

    def notify(self, code: str, message: str) -> None:
        """Tell the client something it need not act on."""
        if self._live.session.state is not State.CLOSED:
            self._live.session.receive_notice(code, message)
            self._writer.flush()

    def abort(self, error: errors.PerchError) -> None:
        """End the connection from outside; a session that can go on elsewhere is kept for it (``GoingAway``)."""
        if not self._aborted.done():
            self._aborted.set_result(error)

    def check_idle(self) -> None:
        """End the connection if nothing came for too long.

        A client that waits for the engine is not idle: its time begins anew when it has its answer, or when
        the engine has had time enough.
        """
        now, live, limit = time.monotonic(), self._live, self._idle_timeout_s
        if not live.is_awaited:
            self._awaited_until = None
        elif self._awaited_until is None:
            self._awaited_until = now + _PATIENCE_S + live.lag_s
        if self._awaited_until is not None and now < self._awaited_until:
            live.last_heard = now
        elif live.last_heard < now - limit:
            self.abort(errors.IdleTimeout(f"Nothing was received for {limit:g} s; connect again."))

    # --- the three waits -----------------------------------------------------------------------------

    async def _until_outcome(self) -> str | None:
        """How the session ended, or None if it did not end with this connection."""
        try:
            await self._serve()
        except _TakenOver:
            return None
        except _ClientGone as gone:
            return await self._lost(gone)
        except errors.GoingAway as error:
            return await self._leave(error)
        except errors.PerchError as error:
            self._live.fail(error)
        except Exception:
            log.exception("session_broke", stream_id=self._live.stream_id)
            self._live.fail(errors.InternalError(BROKEN))
        return await self._finish()

    async def _serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                from_client = tasks.create_task(self._from_client())
                from_outside = tasks.create_task(self._from_outside())
                await self._until_over()
                from_client.cancel()
                from_outside.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _from_client(self) -> None:
        for command in self._protocol.opening():
            self._receive(command)
        self._socket.hand_over(self._take)
        while True:
            message = await self._socket.receive()
            if self._taken:
                raise _TakenOver
            self._live.last_heard = time.monotonic()
            if message.type is WSMsgType.BINARY:
                for command in self._protocol.decode_binary(message.data):
                    self._receive(command)
            elif message.type is WSMsgType.TEXT:
                await self._receive_text(message.data)
            else:
                raise _ClientGone(
                    deliberately=message.type is WSMsgType.CLOSE and message.data in _DELIBERATE
                )

    def _take(self, frame: bytes) -> bool:
        """Audio of a session that is going on, in the call that received it; anything else waits its turn."""
        live = self._live
        if live.session.state is not State.STREAMING or self._taken:
            return False
        if self._aborted.done():
            return True  # it has failed, or goes elsewhere: what was not accepted is sent again
        live.last_heard = time.monotonic()
        try:
            for command in self._protocol.decode_binary(frame):
                live.receive(command)
        except errors.PerchError as error:
            self.abort(error)
        except Exception:
            log.exception("session_broke", stream_id=live.stream_id)
            self.abort(errors.InternalError(BROKEN))
        return True

    async def _until_over(self) -> None:
        """Until the session is; it may not be the one the connection began with."""
        live: LiveSession | None = None
        while live is not self._live:
            live = self._live
            await live.over.wait()

    async def _from_outside(self) -> None:
        error = await self._aborted
        raise _TakenOver if self._taken else error

    # --- client → session ----------------------------------------------------------------------------

    async def _receive_text(self, frame: str) -> None:
        for command in self._protocol.decode_text(frame):
            if isinstance(command, Resume):
                await self._resume(command)
            else:
                self._receive(command)

    def _receive(self, command: Command) -> None:
        live = self._live
        if live.session.state is State.NEW:
            if not live.has_begun:
                live.lease.confirm()
                live.begin()
                self._resumption.add(live)
            if isinstance(command, Audio | Finalize | Stop):
                live.receive(self._protocol.implicit_start())
        live.receive(command)

    def _give_grace(self) -> None:
        """Let the client say first how it wants its session; one that waits for ``ready`` says nothing."""
        self._grace = asyncio.get_running_loop().call_later(self._start_grace_s, self._start_by_default)

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()

    def _start_by_default(self) -> None:
        if self._live.session.state is not State.NEW:
            return
        if self._socket.has_unread:  # where this process was busy, it may be that which the client asks for
            self._give_grace()
            return
        try:
            self._receive(self._protocol.implicit_start())
        except errors.PerchError as error:
            self.abort(error)

    async def _resume(self, command: Resume) -> None:
        """Put another session, which the client was on before, in the place of the new one."""
        new = self._live
        if not new.session.is_untouched:
            raise errors.BadMessage("resume must be the first message; open another connection for it.")
        self._end_grace()
        live = await self._resumption.claim(command.token, new)
        self._live = live
        if new.has_begun:
            self._resumption.remove(new)
            await new.aclose("cancelled")
        else:
            new.drop()
        self._protocol.resumed(live.stream_id, live.session.config)
        self._writer.switch(live.session.outbox, live.sent)
        live.attach(self._writer.flush, self._give_up)
        live.resume(command.last_seq)
        self._writer.flush()

    # --- the end -------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        """The session is on another socket now; this one is most likely dead."""
        self._taken = True
        self.abort(errors.ResumeUnknown("The session goes on in another connection."))
        self._transport.abort()

    async def _finish(self) -> str | None:
        """Say how it ended and close; a client that did not hear of it may come back for the end."""
        failure = self._live.failure
        if failure is not None:
            await self._close(self._protocol.close_code(failure), failure.code)
            return failure.code
        await self._close(_CLOSE_NORMAL)
        if self._socket.close_code not in _UNANSWERED or self._taken:
            return "done"
        return None if await self._resumption.park(self._live) else "done"

    async def _lost(self, gone: _ClientGone) -> str | None:
        if self._explained is not None:
            return self._explained.code
        if gone.deliberately or self._live.session.is_untouched:
            return "client_gone"
        return None if await self._resumption.park(self._live) else "client_gone"

    async def _leave(self, error: errors.GoingAway) -> str | None:
        """Keep the session for another process, then tell the client to go there."""
        live = self._live
        told_all = await self._drained()
        if live.session.is_untouched or not await self._resumption.export(live):
            live.fail(error)
        elif told_all:
            live.session.receive_failure(error)
            self._writer.flush()
        await self._close(self._protocol.close_code(error), error.code)
        return error.code

    async def _drained(self) -> bool:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S / 2):
                await self._writer.drained()
        except TimeoutError:
            return False
        return True

    async def _close(self, code: int, reason: str = "") -> None:
        """Let the client have everything that is queued, then close."""
        self._socket.before_close = None
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._writer.drained()
                await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            log.info("client_did_not_read")

    def _explain_close(self, code: int) -> None:
        """Aiohttp closes by itself over a frame it cannot take; say why first."""
        if code == 1009:
            error: errors.PerchError = errors.MessageTooBig(
                "The message is larger than ready.limits.max_message_bytes; send smaller frames."
            )
        elif code in {1002, 1007}:
            error = errors.BadMessage("The WebSocket frame is malformed.")
        else:
            return
        self._explained = error
        self._live.session.receive_failure(error)
        self._writer.flush()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the session; what followed from it is kept as its context."""
    failures = list(_leaves(group))
    perch = [failure for failure in failures if isinstance(failure, errors.PerchError)]
    return (perch or failures)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
