"""aiohttp's WebSocket with two additions: a word before it closes by itself, and audio without a detour.

In aiohttp every message goes into a queue and wakes a task, which costs as much as all Perch does with a frame of
audio. While that task waits for the next message and there is none before it, a binary one is handed over in the
very call that received it. The queue is not part of aiohttp's public interface: with a version of it that was not
tried, every message takes the usual way.
"""

from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader

_CLOSE_NORMAL = 1000
_TRIED = ("3.14.",)
_QUEUE_LIMIT = 1 << 16

Take = Callable[[bytes], bool]
"""Takes a binary message; False leaves it to whoever waits for the next one. It must not raise."""


class _Queue(WebSocketDataQueue):
    """Hands binary messages over while its reader waits for one."""

    take: Take | None = None
    is_awaited = False
    """Whether the reader waits, and everything that came before has been read. Taking a message out of a full queue
    has more of them received in that very call: they are for its end."""
    unread = 0

    def feed_data(self, data: Any, size: int) -> None:
        if self.is_awaited and data[0] is WSMsgType.BINARY and self.take is not None and self.take(data[1]):
            return
        self.is_awaited = False
        self.unread += 1
        super().feed_data(data, size)

    async def read(self) -> Any:
        self.is_awaited = not self.unread
        try:
            message = await super().read()
        finally:
            self.is_awaited = False
        self.unread -= 1
        return message


class Socket(web.WebSocketResponse):
    """One WebSocket of a client."""

    before_close: Callable[[int], None] | None = None
    """Called with the code before aiohttp closes over a frame it cannot take."""
    _direct: _Queue | None = None

    @property
    def has_unread(self) -> bool:
        """Whether a message has come that ``receive`` has not returned yet."""
        return self._direct is not None and self._direct.unread > 0

    def hand_over(self, take: Take) -> None:
        """Give binary messages to ``take`` while ``receive`` waits for one."""
        if self._direct is not None:
            self._direct.take = take

    async def close(self, *, code: int = _CLOSE_NORMAL, message: bytes = b"", drain: bool = True) -> bool:
        if self.before_close is not None:
            tell, self.before_close = self.before_close, None
            tell(code)
        return await super().close(code=code, message=message, drain=drain)

    def _post_start(self, request: Any, protocol: str | None, writer: Any) -> None:
        if not aiohttp.__version__.startswith(_TRIED):
            super()._post_start(request, protocol, writer)
            return
        self._ws_protocol = protocol
        self._writer = writer
        self._reset_heartbeat()
        assert self._loop is not None
        self._reader = self._direct = _Queue(request.protocol, _QUEUE_LIMIT, loop=self._loop)
        self._parser = WebSocketReader(self._direct, self._max_msg_size, compress=False, decode_text=True)
        heard = None if self._heartbeat is None else self._heard
        request.protocol.set_parser(self._parser, data_received_cb=heard)
        request.protocol.keep_alive(False)  # noqa: FBT003 - as aiohttp has it

    def _heard(self) -> None:
        """Put the next ping off; aiohttp would schedule a call for that with every frame."""
        if self._heartbeat_cb is None or self._pong_response_cb is not None:
            self._reset_heartbeat()
        elif self._loop is not None and self._heartbeat is not None:
            self._heartbeat_when = self._loop.time() + self._heartbeat
