"""Recordings for tests, encoded on the spot: what a client's file would hold."""

import io
import struct

import av
import numpy as np
import numpy.typing as npt

from perch.audio.tones import synthesise

SENTENCE = "hello bird stop now"
PCM = synthesise(["hello bird", "stop now"])

CODECS = {
    "flac": ("flac", "flac", 16_000),
    "ogg": ("ogg", "libopus", 48_000),
    "mp3": ("mp3", "mp3", 16_000),
    "webm": ("webm", "libopus", 48_000),
    "m4a": ("ipod", "aac", 16_000),
    "mp4": ("mp4", "aac", 44_100),
}


def encode(kind: str, pcm: bytes = PCM, *, layout: str = "mono") -> bytes:
    """A file of ``kind`` (a key of ``CODECS``)."""
    container_format, codec, rate = CODECS[kind]
    out = io.BytesIO()
    with av.open(out, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        samples = np.frombuffer(pcm, dtype="<i2")[np.newaxis, :]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16_000
        converter = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        for piece in [*converter.resample(frame), *converter.resample(None), None]:
            container.mux(stream.encode(piece))
    return out.getvalue()


def riff(
    data: bytes,
    *,
    code: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    before: bytes = b"",
    after: bytes = b"",
    data_size: int | None = None,
    extensible: bool = False,
) -> bytes:
    """A WAV file, with chunks ``before`` and ``after`` its audio."""
    width = bits // 8 * channels
    description = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else code, channels, rate, rate * width, width, bits
    )
    if extensible:
        description += struct.pack("<HHIH", 22, bits, 0, code) + bytes.fromhex("000000001000800000aa00389b71")
    size = len(data) if data_size is None else data_size
    body = b"WAVE" + chunk(b"fmt ", description) + before + b"data" + struct.pack("<I", size) + data + after
    return b"RIFF" + struct.pack("<I", len(body) & 0xFFFFFFFF) + body


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def samples_of(pcm: bytes) -> npt.NDArray[np.int16]:
    return np.frombuffer(pcm, dtype="<i2")


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` cut into pieces of the given sizes, over and over."""
    out = []
    position = turn = 0
    while position < len(data):
        out.append(data[position : position + sizes[turn % len(sizes)]])
        position, turn = position + sizes[turn % len(sizes)], turn + 1
    return out
