"""The committed audio is what its manifest says, and says what it should."""

import hashlib
import json
from pathlib import Path

import pytest

from perch.audio import tones
from perch.audio.containers import ContainerDecoder
from perch.audio.files import decode_file
from perch.core.audio import AudioFormat, Encoding

FOLDER = Path(__file__).parents[1] / "fixtures" / "audio"
FILES = {entry["file"]: entry for entry in json.loads((FOLDER / "manifest.json").read_text())["files"]}
TONES = [name for name in FILES if name.startswith("tones")]
STREAMABLE = ["tones_16k.wav", "tones_8k.wav", "tones_48k.wav", "tones.flac", "tones.ogg", "tones_8k.mulaw"]


def text(pcm: bytes) -> str:
    return " ".join(word.text for word in tones.read(pcm))


def streamed(name: str) -> bytes:
    decoder = ContainerDecoder(AudioFormat(Encoding.MULAW, 8_000))
    data = (FOLDER / name).read_bytes()
    pieces = [decoder.feed(data[at : at + 1_600]) for at in range(0, len(data), 1_600)]
    return b"".join(pieces) + decoder.flush()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_one_in_the_manifest(name: str) -> None:
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == FILES[name]["sha256"]


def test_the_manifest_names_every_file() -> None:
    present = {path.name for path in FOLDER.iterdir()} - {"README.md", "manifest.json"}
    assert present == set(FILES)


@pytest.mark.parametrize("name", [name for name in TONES if not name.endswith(".mulaw")])
def test_tone_words_are_read_from_every_container(name: str) -> None:
    assert text(b"".join(decode_file(FOLDER / name))) == FILES[name]["text"]


@pytest.mark.parametrize("name", STREAMABLE)
def test_a_streamed_file_keeps_its_words_its_places_and_its_length(name: str) -> None:
    original = b"".join(decode_file(FOLDER / "tones_16k.wav"))
    pcm = streamed(name)
    assert text(pcm) == FILES[name]["text"]
    assert abs(len(pcm) - len(original)) <= 2
    pairs = zip(tones.read(pcm), tones.read(original), strict=True)
    assert all(abs(heard.start - spoken.start) <= 40 for heard, spoken in pairs)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("tones")])
def test_nothing_else_holds_a_tone_word(name: str) -> None:
    assert text(b"".join(decode_file(FOLDER / name))) == ""
