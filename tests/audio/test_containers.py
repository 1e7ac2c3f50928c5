"""Files that arrive as streams: any cut, any header a client may send, and clear refusals."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.recordings import PCM, SENTENCE, chunk, encode, pieces, riff, samples_of
from perch.audio import g711, tones
from perch.audio.containers import ContainerDecoder
from perch.audio.sniff import sniff
from perch.core.audio import AudioFormat, Encoding
from perch.errors import BadAudio, PerchError

SIZES = st.lists(st.integers(1, 4_000), min_size=1, max_size=10)
FILES = {"wav": riff(PCM), "flac": encode("flac"), "ogg": encode("ogg")}
UNIT = samples_of(PCM).astype(np.float64) / 32_768


def decode(data: bytes, sizes: list[int] | None = None, raw: AudioFormat | None = None) -> bytes:
    decoder = ContainerDecoder(raw)
    pcm = b"".join(decoder.feed(piece) for piece in pieces(data, sizes or [1_000]))
    return pcm + decoder.flush()


def text(pcm: bytes) -> str:
    return " ".join(word.text for word in tones.read(pcm))


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_recognised_by_its_first_bytes(kind: str) -> None:
    assert sniff(FILES[kind][:12]) == kind


@pytest.mark.parametrize("head", [b"", b"RIFF", b"RIFF\0\0\0\0AVI ", b"ID3\x04", bytes(12), b"fLa"])
def test_other_bytes_are_no_container(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=15)
@given(sizes=SIZES)
def test_the_output_does_not_depend_on_how_a_file_was_cut(kind: str, sizes: list[int]) -> None:
    assert decode(FILES[kind], sizes) == decode(FILES[kind], [len(FILES[kind])])


@pytest.mark.parametrize("kind", FILES)
def test_a_streamed_file_has_its_words_and_its_length(kind: str) -> None:
    pcm = decode(FILES[kind])
    assert text(pcm) == SENTENCE
    assert 0 <= len(pcm) - len(PCM) < 640


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_lossless_files_come_out_as_they_were(kind: str) -> None:
    assert decode(FILES[kind]) == PCM


def test_words_of_an_opus_stream_stand_where_they_were() -> None:
    heard, spoken = tones.read(decode(FILES["ogg"])), tones.read(PCM)
    assert all(abs(one.start - other.start) < 80 for one, other in zip(heard, spoken, strict=True))


# --- WAV


@pytest.mark.parametrize(
    ("data", "code", "bits", "tolerance"),
    [
        (((samples_of(PCM) >> 8) + 128).astype(np.uint8).tobytes(), 1, 8, 256),
        ((samples_of(PCM).astype("<i4") << 8).astype("<i4").tobytes(), 1, 32, 128),
        (
            b"".join(
                int(sample).to_bytes(3, "little", signed=True) for sample in samples_of(PCM).astype(int) << 8
            ),
            1,
            24,
            0,
        ),
        (UNIT.astype("<f4").tobytes(), 3, 32, 0),
        (UNIT.astype("<f8").tobytes(), 3, 64, 0),
        (g711.compress(samples_of(PCM), g711.ALAW).tobytes(), 6, 8, 1_100),
        (g711.compress(samples_of(PCM), g711.MULAW).tobytes(), 7, 8, 1_100),
    ],
    ids=["pcm8", "pcm32", "pcm24", "float32", "float64", "alaw", "mulaw"],
)
@pytest.mark.parametrize("extensible", [False, True])
def test_every_kind_of_wav_sample_is_understood(
    data: bytes, code: int, bits: int, tolerance: int, *, extensible: bool
) -> None:
    if bits == 32 and code == 1:
        data = (samples_of(PCM).astype(np.int64) << 16).astype("<i4").tobytes()
    out = samples_of(decode(riff(data, code=code, bits=bits, extensible=extensible), [333]))
    assert len(out) == len(samples_of(PCM))
    assert np.abs(out.astype(int) - samples_of(PCM)).max() <= tolerance


def test_chunks_around_the_audio_are_skipped() -> None:
    before = chunk(b"LIST", b"INFOISFT" + bytes(14)) + chunk(b"odd ", bytes(70_001))
    wav = riff(PCM, before=before, after=chunk(b"LIST", bytes(range(200))))
    assert decode(wav, [7_777]) == PCM


def test_a_header_of_78_bytes_is_no_trouble() -> None:
    wav = riff(PCM, before=chunk(b"LIST", bytes(26)))
    assert wav.index(b"data") + 8 == 78
    assert decode(wav, [3_200]) == PCM


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_data_size_nobody_knew_means_until_the_end(size: int) -> None:
    assert decode(riff(PCM, data_size=size)) == PCM


def test_a_wav_cut_short_yields_what_came() -> None:
    assert decode(riff(PCM)[:10_001]) == PCM[: 10_001 - 44 - 1]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_wav_of_another_rate_is_converted(rate: int) -> None:
    wav = riff(bytes(2 * rate), rate=rate)
    assert len(decode(wav)) == 32_000


def test_a_stereo_wav_is_refused_with_its_channels() -> None:
    with pytest.raises(BadAudio, match=r"mono.* 2 channels"):
        decode(riff(PCM, channels=2))


def test_a_stereo_flac_is_refused_with_its_channels() -> None:
    with pytest.raises(BadAudio, match=r"mono.* 2 channels"):
        decode(encode("flac", layout="stereo"))


def test_a_stereo_opus_is_mixed_down() -> None:
    assert text(decode(encode("ogg", layout="stereo"))) == SENTENCE


@pytest.mark.parametrize(
    ("wav", "says"),
    [
        (riff(PCM, code=0x55), "0x0055"),
        (riff(PCM, rate=96_000), "96000 Hz"),
        (riff(PCM, bits=12), "12 bits"),
        (b"RIFF" + bytes(4) + b"WAVEdata" + struct.pack("<I", 4) + bytes(4), "before the description"),
        (b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<I", 4) + bytes(40), "has 4 bytes"),
    ],
)
def test_a_wav_that_cannot_be_decoded_is_refused_with_the_reason(wav: bytes, says: str) -> None:
    with pytest.raises(BadAudio, match=says):
        decode(wav)


# --- Ogg


def test_an_ogg_of_another_codec_is_refused() -> None:
    page = b"OggS\0\2" + bytes(8) + b"abcd" + bytes(8) + bytes([1, 30]) + b"\x01vorbis" + bytes(23)
    with pytest.raises(BadAudio, match="neither Opus nor FLAC"):
        decode(page)


def test_flac_in_ogg_is_decoded() -> None:
    assert decode(flac_in_ogg(FILES["flac"])) == PCM


def test_an_ogg_out_of_step_is_refused() -> None:
    broken = FILES["ogg"][:400] + b"x" + FILES["ogg"][400:]
    with pytest.raises(BadAudio, match="damaged"):
        decode(broken)


def test_another_stream_beside_the_audio_is_ignored() -> None:
    ogg = FILES["ogg"]
    second = ogg.index(b"OggS", 4)
    stranger = b"OggS\0\2" + bytes(8) + b"zzzz" + bytes(8) + bytes([1, 5]) + b"other"
    assert decode(ogg[:second] + stranger + ogg[second:]) == decode(ogg)


def flac_in_ogg(flac: bytes) -> bytes:
    """The pages of the FLAC-to-Ogg mapping, each with one packet, frames found by their sync code."""
    blocks_end = 4
    blocks = []
    is_last = False
    while not is_last:
        size = int.from_bytes(flac[blocks_end + 1 : blocks_end + 4], "big")
        is_last = bool(flac[blocks_end] & 0x80)
        blocks.append(flac[blocks_end : blocks_end + 4 + size])
        blocks_end += 4 + size
    sync = flac[blocks_end : blocks_end + 4]
    frames = [sync + frame for frame in flac[blocks_end:].split(sync)[1:]]
    mapping = b"\x7fFLAC\x01\0" + struct.pack(">H", len(blocks) - 1) + b"fLaC" + blocks[0]
    return b"".join(page(packet) for packet in [mapping, *blocks[1:], *frames])


def page(packet: bytes) -> bytes:
    whole, rest = divmod(len(packet), 255)
    lacing = bytes([255] * whole + [rest])
    return b"OggS\0\0" + b"\xff" * 8 + b"abcd" + bytes(8) + bytes([len(lacing)]) + lacing + packet


# --- Everything


def test_no_container_is_the_declared_format() -> None:
    codes = g711.compress(samples_of(PCM), g711.MULAW).tobytes()
    expected = g711.expand(np.frombuffer(codes, np.uint8), g711.MULAW).astype("<i2").tobytes()
    assert decode(codes, [160], AudioFormat(Encoding.MULAW)) == expected


def test_no_container_and_no_format_is_refused() -> None:
    with pytest.raises(BadAudio, match="neither WAV, FLAC nor Ogg"):
        decode(PCM)


@pytest.mark.parametrize("length", [0, 2, 10])
def test_a_stream_shorter_than_a_head_is_not_lost(length: int) -> None:
    assert decode(PCM[9_600 : 9_600 + length], raw=AudioFormat()) == PCM[9_600 : 9_600 + length]


@given(st.sampled_from(list(FILES)), st.data())
def test_a_damaged_file_gives_audio_or_a_coded_error(kind: str, data: st.DataObject) -> None:
    broken = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PerchError):
        assert len(decode(bytes(broken))) % 2 == 0


@given(st.sampled_from([b"RIFF....WAVE", b"fLaC", b"OggS", b""]), st.binary(max_size=300), SIZES)
def test_any_bytes_give_audio_or_a_coded_error(magic: bytes, noise: bytes, sizes: list[int]) -> None:
    with contextlib.suppress(PerchError):
        assert len(decode(magic + noise, sizes, AudioFormat(Encoding.ALAW))) % 2 == 0
