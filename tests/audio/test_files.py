"""Whole recordings: every container, bounded output, clear refusals."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.recordings import CODECS, PCM, SENTENCE, encode, riff, samples_of
from perch.audio import tones
from perch.audio.files import Source, decode_file, probe
from perch.errors import BadAudio

SECONDS = len(PCM) / 32_000


def text(pcm: bytes) -> str:
    return " ".join(word.text for word in tones.read(pcm))


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_every_container_gives_its_words_and_its_length(kind: str, layout: str) -> None:
    pcm = b"".join(decode_file(encode(kind, layout=layout)))
    assert text(pcm) == SENTENCE
    assert len(pcm) / 32_000 == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("kind", CODECS)
def test_a_header_says_how_long_a_recording_is(kind: str) -> None:
    assert probe(encode(kind)) == pytest.approx(SECONDS, abs=0.15)


def test_a_wav_comes_out_as_it_was() -> None:
    assert b"".join(decode_file(riff(PCM))) == PCM


def test_stereo_is_mixed_down_in_equal_parts() -> None:
    left, right = np.full(16_000, 8_000), np.full(16_000, -2_000)
    stereo = np.stack([left, right], axis=1).astype("<i2").tobytes()
    mono = samples_of(b"".join(decode_file(riff(stereo, channels=2))))
    assert len(mono) == 16_000
    assert np.abs(mono.astype(int) - 3_000).max() <= 1


def test_chunks_have_the_size_asked_for() -> None:
    chunks = list(decode_file(encode("flac"), chunk=1_600))
    assert {len(chunk) for chunk in chunks[:-1]} == {3_200}
    assert 0 < len(chunks[-1]) <= 3_200
    assert b"".join(chunks) == PCM


def test_a_path_a_name_bytes_and_an_open_file_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(PCM))
    with path.open("rb") as file:
        sources: list[Source] = [path, str(path), riff(PCM), io.BytesIO(riff(PCM)), file]
        assert all(b"".join(decode_file(source)) == PCM for source in sources)
        assert not file.closed


def test_a_recording_over_the_limit_is_refused() -> None:
    with pytest.raises(BadAudio, match="limit of 2 seconds"):
        list(decode_file(riff(PCM), max_seconds=2))


def test_the_limit_stops_the_work_instead_of_measuring_it() -> None:
    hour = encode("flac", bytes(32_000 * 600))
    chunks = decode_file(hour, max_seconds=5)
    heard: list[bytes] = []
    with pytest.raises(BadAudio, match="limit"):
        heard.extend(chunks)
    assert len(b"".join(heard)) <= 5 * 32_000


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    for source in (b"", tmp_path / "empty.wav", io.BytesIO()):
        with pytest.raises(BadAudio, match="empty"):
            list(decode_file(source))


@pytest.mark.parametrize(
    "garbage", [b"\0" * 5_000, b"hello world " * 400, bytes(range(256)) * 40, b"RIFF", b"x"]
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(BadAudio, match="no audio"):
        list(decode_file(garbage))
    with pytest.raises(BadAudio, match="no audio"):
        probe(garbage)


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {path}\n",
        "ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.wav'\n",
    ],
)
def test_a_playlist_cannot_make_us_open_another_file(playlist: str, tmp_path: Path) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(riff(PCM))
    with pytest.raises(BadAudio, match="no audio"):
        list(decode_file(playlist.format(path=path).encode()))


def test_a_file_name_is_never_a_url_or_a_filter() -> None:
    with pytest.raises(FileNotFoundError):
        list(decode_file("concat:a.wav|b.wav"))


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(decode_file(tmp_path / "missing.wav"))


@pytest.mark.parametrize("kind", ["flac", "mp3", "ogg"])
def test_a_recording_that_breaks_off_yields_what_it_holds(kind: str) -> None:
    data = encode(kind)
    pcm = b"".join(decode_file(data[: len(data) * 2 // 3]))
    assert text(pcm).startswith("hello")
    assert len(pcm) < len(PCM)


def test_a_damaged_piece_does_not_cost_the_rest() -> None:
    data = bytearray(encode("mp3"))
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    heard = text(b"".join(decode_file(bytes(data))))
    assert heard.startswith("hello bird")
    assert heard.endswith("now")


def test_a_recording_of_nothing_is_nothing() -> None:
    assert list(decode_file(riff(b"", data_size=0))) == []


def test_a_pipe_can_be_read() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, offset: int, whence: int = 0) -> int:
            raise io.UnsupportedOperation(f"seek to {offset} from {whence}")

    assert text(b"".join(decode_file(Pipe(encode("webm"))))) == SENTENCE


def test_a_header_that_claims_too_many_channels_is_refused() -> None:
    with pytest.raises(BadAudio, match="17 channels"):
        list(decode_file(riff(bytes(34_000), channels=17)))


def test_a_header_that_claims_one_sample_per_second_is_refused() -> None:
    with pytest.raises(BadAudio, match="claims 1 samples per second"):
        list(decode_file(riff(bytes(8_000), rate=1)))


def test_a_recording_joined_from_mono_and_stereo_is_read_through() -> None:
    joined = encode("mp3") + encode("mp3", layout="stereo")
    assert text(b"".join(decode_file(joined))) == f"{SENTENCE} {SENTENCE}"


@given(st.sampled_from(list(CODECS)), st.data())
def test_a_damaged_recording_gives_audio_or_a_coded_error(kind: str, data: st.DataObject) -> None:
    broken = bytearray(encode(kind))
    reach = data.draw(st.sampled_from([60, 600, len(broken)]))
    for _ in range(data.draw(st.integers(1, 20))):
        broken[data.draw(st.integers(0, min(reach, len(broken)) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadAudio):
        assert sum(map(len, decode_file(bytes(broken), max_seconds=30))) <= 30 * 32_000
