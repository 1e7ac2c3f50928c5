"""Whole recordings, in any common container, to 16 kHz mono PCM in bounded memory."""

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from perch.audio.frames import FrameConverter
from perch.audio.resample import Quality
from perch.core.audio import RATE, bytes_to_samples, samples_to_bytes
from perch.errors import BadAudio

Source = str | Path | bytes | BinaryIO

MAX_SECONDS = 4 * 3600.0

# Playlists and scripts are containers to FFmpeg too, and name other files and hosts to open: an
# upload must never be one. So only these formats, and only from an open file, never from a name.
_OPTIONS = {
    "format_whitelist": "wav,w64,flac,mp3,mov,mp4,m4a,3gp,ogg,matroska,webm,aac,amr,aiff,au,caf",
    "protocol_whitelist": "none",
}


def decode_file(
    source: Source,
    *,
    chunk: int = RATE,
    max_seconds: float = MAX_SECONDS,
    quality: Quality = Quality.FILE,
    channels: int | None = None,
) -> Generator[bytes, None, None]:
    """The 16 kHz PCM of a recording, in chunks of ``chunk`` samples (the last may be shorter).

    Channels are mixed down, or interleaved if ``channels`` says how many there are. A recording that breaks
    off, or has broken pieces, yields what it holds.

    Args:
        source: A path, the bytes of a file, or an open binary file. An open file is read, not closed.
        chunk: Samples per chunk.
        max_seconds: Refuse longer recordings, once so much has been decoded.
        quality: How to convert the sample rate.
        channels: How many channels the recording has, to keep them; None mixes them.

    Raises:
        BadAudio: It is empty, no audio, damaged beyond use, or too long.
        OSError: The path cannot be read.
    """
    pending = bytearray()
    size = samples_to_bytes(chunk) * (channels or 1)
    for pcm in _bounded(_decode(source, quality, channels), max_seconds * (channels or 1)):
        pending += pcm
        while len(pending) >= size:
            yield bytes(pending[:size])
            del pending[:size]
    if pending:
        yield bytes(pending)


def channels_of(source: Source) -> int:
    """How many channels a recording has by what its header says; raises as ``probe``."""
    with _opened(source) as container:
        return int(container.streams.audio[0].codec_context.channels)


def probe(source: Source) -> float | None:
    """Seconds a recording lasts by what its header says, or None if it does not say.

    Raises:
        BadAudio: It is empty or holds no audio.
        OSError: The path cannot be read.
    """
    with _opened(source) as container:
        if container.duration is None:
            return None
        return container.duration / av.time_base


def _bounded(pieces: Iterator[bytes], max_seconds: float) -> Iterator[bytes]:
    samples = 0
    for pcm in pieces:
        samples += bytes_to_samples(len(pcm))
        if samples > max_seconds * RATE:
            raise BadAudio(f"The recording is longer than the limit of {max_seconds:g} seconds.")
        yield pcm


def _decode(source: Source, quality: Quality, channels: int | None) -> Iterator[bytes]:
    converter = FrameConverter(quality, channels)
    with _opened(source) as container:
        for frame in _frames(container):
            yield converter.convert(frame)
    yield converter.flush()


def _frames(container: InputContainer) -> Iterator[av.AudioFrame]:
    heard = False
    broken: av.FFmpegError | None = None
    packets = container.demux(container.streams.audio[0])
    while True:
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except av.FFmpegError as error:  # a broken piece: players go on with the next, so do we
            broken = error
            continue
        if packet is None:
            break
        for frame in frames:
            if isinstance(frame, av.AudioFrame):
                heard = True
                yield frame
    if broken is not None and not heard:
        raise BadAudio("The recording is damaged: none of it can be decoded.") from broken


@contextmanager
def _opened(source: Source) -> Iterator[InputContainer]:
    with _file(source) as file:
        _refuse_empty(file)
        try:
            container = av.open(file, mode="r", options=_OPTIONS, metadata_errors="replace")
        except av.FFmpegError as error:
            raise BadAudio(
                "This is no audio in a known format (wav, flac, mp3, m4a, mp4, ogg, webm)."
            ) from error
        with closing(container):
            if not container.streams.audio:
                raise BadAudio("The file holds no audio track.")
            yield container


def _file(source: Source) -> AbstractContextManager[BinaryIO]:
    if isinstance(source, bytes):
        return BytesIO(source)
    if isinstance(source, str | Path):
        return Path(source).open("rb")
    return nullcontext(source)


def _refuse_empty(file: BinaryIO) -> None:
    if not file.seekable():
        return
    start = file.tell()
    size = file.seek(0, SEEK_END) - start
    file.seek(start)
    if not size:
        raise BadAudio("The recording is empty (0 bytes).")
