"""Sessions that send speech at its own pace, or a multiple, and what they must hear in the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from gateways import Gateway, Heard, cut, listen
from perch.audio.tones import Timing, layout, synthesise
from perch.audio.vocabulary import VOCABULARY

FRAME_BYTES = 3_200
FRAME_S = 0.1
SPOKEN = Timing(pause_s=0.9, tail_s=0.4)
DEADLINE_S = 90.0

Said = list[tuple[str, float, float]]
"""Words with their times, in seconds."""


def sentences(seed: int, count: int = 4) -> list[str]:
    """Sentences of tone words, never the same word twice in a row, so that a repetition is one."""
    dice = random.Random(seed)
    return [" ".join(dice.sample(VOCABULARY, dice.randint(2, 6))) for _ in range(count)]


def speech(spoken: Sequence[str]) -> bytes:
    return synthesise(spoken, SPOKEN)


def written(spoken: Sequence[str]) -> list[str]:
    """The words of ``speech``."""
    return [word.text for sentence in layout(spoken, SPOKEN) for word in sentence]


async def talk(
    at: Gateway, audio: bytes, *, speed: float = 1.0, after_s: float = 0.0, deadline_s: float = DEADLINE_S
) -> Heard:
    """A whole session: audio at ``speed`` times its own pace, stop, and all that is said back."""
    await asyncio.sleep(after_s)
    async with at.client.ws_connect(at.ws) as socket:
        listening = asyncio.create_task(listen(socket, deadline_s=deadline_s))
        try:
            with suppress(ConnectionError):  # what the server said before it closed is what counts
                await _send_paced(socket.send_bytes, audio, speed)
                await socket.send_json({"type": "stop"})
            return await listening
        finally:
            listening.cancel()


async def _send_paced(send: Callable[[bytes], Awaitable[None]], audio: bytes, speed: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    for frame in cut(audio, FRAME_BYTES):
        await send(frame)
        due += FRAME_S / speed
        await asyncio.sleep(max(0.0, due - loop.time()))


def words(heard: Heard) -> Said:
    """Every word of every final, with its times."""
    return [
        (word["word"], word["start"], word["end"]) for final in heard.of("final") for word in final["words"]
    ]


def assert_equal(heard: Heard, expected: Said) -> None:
    """The session ended well and said exactly what an undisturbed one says."""
    assert heard.error is None, heard.of("error")
    assert heard.close_code == 1000
    assert words(heard) == expected
    assert heard.events[-1]["type"] == "done"
    assert heard.events[-1]["text"] == heard.text == " ".join(word for word, _, _ in expected)
    assert not [notice for notice in heard.of("notice") if notice["code"] == "audio_lost"]
