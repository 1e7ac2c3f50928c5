"""The WebSocket that hands audio over: whatever the queue does, in the order in which it was sent."""

import asyncio
import struct

from aiohttp._websocket.reader import WebSocketReader
from aiohttp.base_protocol import BaseProtocol

from perch.server.socket import _Queue


def frame(payload: bytes) -> bytes:
    """A whole binary message as clients send it, masked with zeros (RFC 6455, 5.2)."""
    return struct.pack(">BBH", 0x82, 0x80 | 126, len(payload)) + bytes(4) + payload


async def test_what_is_received_while_a_message_is_read_comes_after_those_before_it() -> None:
    """A full queue holds the parser back; taking a message out lets it go on, in that very call."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol._upgraded = True
    queue = _Queue(protocol, 1 << 16, loop=loop)
    reader = WebSocketReader(queue, 0, compress=False, decode_text=True)
    sent = [number.to_bytes(4, "little") * 40 for number in range(2_000)]
    heard: list[bytes] = []

    def take(data: bytes) -> bool:
        heard.append(bytes(data))
        return True

    queue.take = take
    reader.feed_data(b"".join(map(frame, sent)))
    async with asyncio.timeout(30):
        while len(heard) < len(sent):
            heard.append(bytes((await queue.read()).data))
    assert heard == sent
