"""What clients stream, live: every encoding by its words, any cut, channels apart, and hostile bytes."""

import io
import random
from collections.abc import Iterable
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.recordings import PCM, SENTENCE, encode, pieces, riff, samples_of
from perch.audio import tones
from perch.audio.live import open_decoder
from perch.core.audio import MAX_CHANNELS, AudioFormat, Encoding
from perch.errors import BadAudio, BadConfig, PerchError

OTHER = tones.synthesise(["stop bird", "hello"])
CONTAINER = AudioFormat(Encoding.CONTAINER)
SIZES = st.lists(st.integers(1, 4_000), min_size=1, max_size=10)


def adts() -> bytes:
    """AAC in frames that each have a header, as radio streams and phones send it."""
    out = io.BytesIO()
    with av.open(out, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples_of(PCM)[np.newaxis, :], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for piece in [*av.AudioResampler(format=stream.format, rate=16_000).resample(frame), None]:
            container.mux(stream.encode(piece))
    return out.getvalue()


FILES = {kind: encode(kind) for kind in ("flac", "ogg", "mp3", "webm")} | {"wav": riff(PCM), "aac": adts()}


def decode(audio_format: AudioFormat, frames: Iterable[bytes]) -> list[bytes]:
    decoder = open_decoder(audio_format)
    channels: list[list[bytes]] = [[] for _ in range(decoder.channels)]
    for piece in [*map(decoder.decode, frames), decoder.flush()]:
        assert len({len(pcm) for pcm in piece}) == 1, "channels have one clock"
        for channel, pcm in zip(channels, piece, strict=True):
            channel.append(pcm)
    return [b"".join(channel) for channel in channels]


def text(pcm: bytes) -> str:
    return " ".join(word.text for word in tones.read(pcm))


def interleaved(*signals: bytes) -> bytes:
    shortest = min(len(signal) for signal in signals) // 2
    return np.stack([samples_of(signal)[:shortest] for signal in signals], axis=1).tobytes()


def opus_packets(pcm: bytes, layout: str = "mono") -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, layout, "s16"
    encoder.open()
    frame = av.AudioFrame.from_ndarray(samples_of(pcm)[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate = 16_000
    converter = av.AudioResampler(format="s16", layout=layout, rate=48_000, frame_size=960)
    frames = [*converter.resample(frame), *converter.resample(None), None]
    return [bytes(packet) for piece in frames for packet in encoder.encode(piece)]


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_understood_as_it_grows(kind: str) -> None:
    [pcm] = decode(CONTAINER, pieces(FILES[kind], [700]))
    assert text(pcm) == SENTENCE


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=12)
@given(sizes=SIZES)
def test_it_does_not_matter_where_a_file_is_cut(kind: str, sizes: list[int]) -> None:
    assert decode(CONTAINER, pieces(FILES[kind], sizes)) == decode(CONTAINER, [FILES[kind]])


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_bare_opus_packets_are_understood(layout: str) -> None:
    channels = 1 if layout == "mono" else 2
    audio_format = AudioFormat(Encoding.OPUS, 48_000, channels, mix=True)
    [pcm] = decode(audio_format, opus_packets(PCM, layout))
    assert text(pcm) == SENTENCE


@pytest.mark.parametrize("encoding", [Encoding.PCM16, Encoding.FLOAT32])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_channels_come_out_apart(encoding: Encoding, rate: int) -> None:
    left, right = PCM, OTHER
    audio = samples_of(interleaved(left, right)).reshape(-1, 2)
    if rate == 48_000:
        audio = np.repeat(audio, 3, axis=0)
    raw = audio.tobytes() if encoding is Encoding.PCM16 else (audio / 32_768).astype("<f4").tobytes()
    size = 480 * 2 * encoding.width
    heard = decode(AudioFormat(encoding, rate, 2), pieces(raw, [size]))
    assert text(heard[0]).startswith("hello bird")
    assert text(heard[1]).startswith("stop bird")


def test_channels_are_mixed_where_that_is_wanted() -> None:
    silence = bytes(len(PCM))
    [pcm] = decode(AudioFormat(channels=2, mix=True), [interleaved(PCM, silence)])
    assert text(pcm) == SENTENCE


@pytest.mark.parametrize("channels", [1, 2])
def test_the_channels_of_a_file_are_mixed_or_come_out_apart(channels: int) -> None:
    file = riff(interleaved(PCM, OTHER), channels=2)
    heard = decode(replace(CONTAINER, channels=channels), pieces(file, [999]))
    assert len(heard) == channels
    if channels == 2:
        assert [text(pcm).split()[0] for pcm in heard] == ["hello", "stop"]


def test_a_file_of_other_channels_than_declared_is_refused() -> None:
    with pytest.raises(BadAudio, match="1 channels, and 2 were declared"):
        decode(replace(CONTAINER, channels=2), [riff(PCM)])


@pytest.mark.parametrize(
    "audio_format", [AudioFormat(channels=MAX_CHANNELS + 1), AudioFormat(Encoding.OPUS, channels=3)]
)
def test_too_many_channels_are_refused_before_any_audio(audio_format: AudioFormat) -> None:
    with pytest.raises(BadConfig, match="channel"):
        open_decoder(audio_format)


def test_what_is_no_file_is_refused_with_what_would_be() -> None:
    with pytest.raises(BadAudio, match="WebM with Opus"):
        decode(CONTAINER, [bytes(100)])


def test_a_webm_of_unknown_sizes_is_understood() -> None:
    """MediaRecorder knows no size of a segment or a cluster when it begins one."""
    data = bytearray(FILES["webm"])
    for identifier in (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"):
        at = data.find(identifier)
        while at >= 0:
            width = 9 - data[at + 4].bit_length()
            data[at + 4 : at + 4 + width] = bytes([(0x1FF >> width) & 0xFF]) + b"\xff" * (width - 1)
            at = data.find(identifier, at + 4)
    [pcm] = decode(CONTAINER, pieces(bytes(data), [500]))
    assert text(pcm) == SENTENCE


def mutated(data: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    out = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        at = chance.randrange(len(out))
        match chance.randrange(4):
            case 0:
                out[at] = chance.randrange(256)
            case 1:
                del out[at : at + chance.randint(1, 50)]
            case 2:
                out[at:at] = chance.randbytes(chance.randint(1, 50))
            case _:
                out[at : at + 8] = b"\xff" * 8
        if not out:
            break
    return bytes(out)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_damaged_files_give_bounded_audio_or_a_coded_error(kind: str, seed: int) -> None:
    data = mutated(FILES[kind], seed)
    decoder = open_decoder(CONTAINER)
    made = 0
    try:
        for piece in pieces(data, [1_000]):
            [pcm] = decoder.decode(piece)
            made += len(pcm)
        made += len(decoder.flush()[0])
    except PerchError as error:
        if error.code not in {"bad_audio", "bad_config"}:
            raise
    assert made <= 60 * len(PCM), "a few bytes must not become minutes"


@settings(max_examples=200)
@given(packets=st.lists(st.binary(max_size=300), max_size=10))
def test_any_opus_packets_give_bounded_audio_or_a_coded_error(packets: list[bytes]) -> None:
    decoder = open_decoder(AudioFormat(Encoding.OPUS, 48_000))
    for packet in packets:
        try:
            [pcm] = decoder.decode(packet)
        except BadAudio:
            return
        assert len(pcm) <= 16_000 * 2 * 0.2
