"""From the samples a client declared to the one form used inside: 16 kHz 16-bit PCM."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from perch.audio import g711
from perch.audio.resample import Quality, Resampler, Signal
from perch.core.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, RATE, AudioFormat, Encoding
from perch.errors import BadAudio, BadConfig

Buffer = bytes | bytearray | memoryview

_FULL_SCALE = 32_768.0


class StreamDecoder:
    """Decodes one stream of headerless samples, frame by frame.

    Of several channels the samples stay interleaved, unless the format says to mix them.

    Every frame must hold a whole number of samples: a frame cut inside a sample is refused, because
    carrying half a sample on would turn one lost byte into noise for the rest of the stream.
    """

    def __init__(self, audio_format: AudioFormat, *, quality: Quality = Quality.LIVE) -> None:
        """Prepare for a stream in ``audio_format``.

        Raises:
            BadConfig: The format has too many channels, or a rate outside 8,000 to 48,000 per second.
        """
        _check(audio_format)
        self._format = audio_format
        self._channels = audio_format.channels
        self._read = _READERS[audio_format.encoding]
        self._resampler = _resampler(audio_format, quality)

    def decode(self, payload: Buffer) -> bytes:
        """The 16 kHz PCM that ``payload`` adds; it may be empty while the resampler fills.

        Raises:
            BadAudio: The payload is not whole samples, or has numbers that are not finite.
        """
        self._check_whole(payload)
        if self._format.is_native:
            return bytes(payload)  # bytes(bytes) is the same object: nothing is copied
        signal = self._read(payload)
        if self._channels > 1:
            signal = signal.reshape(-1, self._channels)
            if self._format.mix:
                signal = signal.mean(axis=1, dtype=np.float32)
        if self._resampler is not None:
            signal = self._resampler.resample(signal)
        return to_pcm16(signal)

    def flush(self) -> bytes:
        """What the resampler still holds, at the end of the stream."""
        return b"" if self._resampler is None else to_pcm16(self._resampler.flush())

    def _check_whole(self, payload: Buffer) -> None:
        size = len(payload)
        width = self._format.encoding.width * self._channels
        if size % width:
            raise BadAudio(
                f"An audio frame of {size} bytes is not a whole number of {self._format.encoding} samples "
                f"of {width} bytes: {size % width} too many. Send whole samples in every frame."
            )


def to_pcm16(signal: Signal) -> bytes:
    """A signal within -1 and 1 as 16-bit samples, channels interleaved; what is louder is clipped."""
    scaled = np.rint(np.clip(signal, -1.0, 1.0) * np.float32(_FULL_SCALE))
    pcm: bytes = np.minimum(scaled, np.float32(_FULL_SCALE - 1)).astype("<i2").tobytes()
    return pcm


def _check(audio_format: AudioFormat) -> None:
    if not 1 <= audio_format.channels <= MAX_CHANNELS:
        raise BadConfig(f"{audio_format.channels} channels are too many; send up to {MAX_CHANNELS}.")
    if audio_format.encoding not in _READERS:
        raise BadConfig(f"{audio_format.encoding} is not an encoding of headerless samples.")
    if not MIN_RATE <= audio_format.sample_rate <= MAX_RATE:
        raise BadConfig(
            f"A sample rate of {audio_format.sample_rate} Hz is not supported; "
            f"send from {MIN_RATE} to {MAX_RATE} Hz."
        )


def _resampler(audio_format: AudioFormat, quality: Quality) -> Resampler | None:
    if audio_format.sample_rate == RATE:
        return None
    return Resampler(audio_format.sample_rate, channels=audio_format.streams, quality=quality)


def _from_int16(samples: npt.NDArray[np.int16]) -> Signal:
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


def _read_pcm16(payload: Buffer) -> Signal:
    return _from_int16(np.frombuffer(payload, dtype="<i2"))


def _read_float32(payload: Buffer) -> Signal:
    signal = np.frombuffer(payload, dtype="<f4").astype(np.float32)
    if not np.isfinite(signal).all():
        raise BadAudio("The float32 audio has samples that are NaN or infinite; send numbers from -1 to 1.")
    return np.clip(signal, -1.0, 1.0)


def _read_mulaw(payload: Buffer) -> Signal:
    return _from_int16(g711.expand(np.frombuffer(payload, dtype=np.uint8), g711.MULAW))


def _read_alaw(payload: Buffer) -> Signal:
    return _from_int16(g711.expand(np.frombuffer(payload, dtype=np.uint8), g711.ALAW))


_READERS: dict[Encoding, Callable[[Buffer], Signal]] = {
    Encoding.PCM16: _read_pcm16,
    Encoding.FLOAT32: _read_float32,
    Encoding.MULAW: _read_mulaw,
    Encoding.ALAW: _read_alaw,
}
