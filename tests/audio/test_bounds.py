"""Few bytes must not become hours of audio, nor gather without end: each refused by name, honest ones taken."""

import pytest

from audio.recordings import PCM, chunk, encode, riff
from perch.audio.bounds import MAX_WAITING, Bounded
from perch.audio.containers import ContainerDecoder
from perch.audio.live import open_decoder
from perch.core.audio import BYTES_PER_SAMPLE, RATE, AudioFormat, Encoding
from perch.errors import BadAudio


class Inflating:
    """A decoder that makes ``factor`` bytes of each byte."""

    def __init__(self, factor: int) -> None:
        self._factor = factor

    def feed(self, data: bytes) -> bytes:
        return bytes(len(data) * self._factor)

    def flush(self) -> bytes:
        return b""


def test_bytes_that_become_more_audio_than_a_voice_is_coded_to_are_refused() -> None:
    bounded = Bounded(Inflating(10_000), 1)
    with pytest.raises(BadAudio, match="so few bytes"):
        bounded.feed(bytes(1_000))


def test_one_message_of_too_much_audio_is_refused_and_the_same_in_pieces_is_not() -> None:
    second = RATE * BYTES_PER_SAMPLE // 100
    with pytest.raises(BadAudio, match="smaller pieces"):
        Bounded(Inflating(100), 1).feed(bytes(121 * second))
    pieces = Bounded(Inflating(100), 1)
    assert sum(len(pieces.feed(bytes(second))) for _ in range(121)) == 121 * second * 100


def test_where_a_file_comes_at_once_only_its_ratio_is_bounded() -> None:
    """An engine is sent whole recordings by ``Recognize``."""
    second = RATE * BYTES_PER_SAMPLE // 100
    assert len(Bounded(Inflating(100), 1, at_once_s=None).feed(bytes(600 * second))) == 600 * second * 100
    long = encode("flac", PCM * 60)
    decoder = ContainerDecoder()
    assert len(decoder.feed(long) + decoder.flush()) == len(PCM) * 60


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_bytes_that_never_complete_a_frame_do_not_gather(kind: str) -> None:
    decoder = open_decoder(AudioFormat(Encoding.CONTAINER))
    decoder.decode(encode(kind)[:4_000])
    endless = (decoder.decode(bytes(50_000)) for _ in range(MAX_WAITING // 50_000 + 2))
    with pytest.raises(BadAudio):
        list(endless)


def test_a_wav_that_describes_its_format_over_and_over_is_refused() -> None:
    again = chunk(b"fmt ", bytes.fromhex("0100010080bb0000007701000200 1000".replace(" ", "")))
    with pytest.raises(BadAudio, match="twice"):
        open_decoder(AudioFormat(Encoding.CONTAINER)).decode(riff(PCM, before=again))
