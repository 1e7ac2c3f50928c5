"""What a manifest may say, and what is answered to one that makes no sense."""

import json
from pathlib import Path

import pytest

from perch.errors import BadAudio, BadConfig
from perch.quality.manifest import choose, load
from perch.quality.recording import record
from quality.speech_files import SECOND, manifest_of, wav

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/manifest.json"


def test_the_golden_clips_cover_every_kind_at_both_rates() -> None:
    """003-100, 003-101, 003-102, 003-160."""
    clips = load(GOLDEN)
    kinds = {clip.category for clip in clips}
    assert kinds >= {"clean", "fast", "accented", "noisy", "music", "silence", "long", "telephone"}
    recordings = {clip.name: record(clip) for clip in clips}
    assert {one.sample_rate for one in recordings.values()} == {8_000, 16_000}
    assert {one.encoding for one in recordings.values()} == {"pcm16", "mulaw"}
    assert all(recordings[clip.name].duration_s >= 120 for clip in clips if clip.category == "long")


@pytest.mark.parametrize("path", sorted((ROOT / "tests/golden").glob("*_*.json")), ids=lambda path: path.stem)
def test_what_a_golden_file_says_is_true_of_its_audio(path: Path) -> None:
    said = json.loads(path.read_text(encoding="utf-8"))
    [clip] = [clip for clip in load(GOLDEN) if clip.name == path.stem]
    recording = record(clip)
    assert said["sample_rate"] == recording.sample_rate
    assert said["duration"] == pytest.approx(recording.duration_s, abs=1e-3)
    assert said["licence"]
    assert said["source"]
    if clip.text:
        assert 0 <= recording.speech_start_s < recording.speech_end_s <= recording.duration_s


def test_the_recordings_stay_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "tests/fixtures/golden").glob("*.wav")) < 3_000_000


def test_a_manifest_of_the_fixtures_is_one_too() -> None:
    clips = load(ROOT / "tests/fixtures/speech/manifest.json")
    assert [clip.name for clip in clips] == ["jfk", "ps_librivox_0880", "lj001_0005"]


@pytest.mark.parametrize("name", ["list.jsonl", "list.json"])
def test_json_lines_as_nemo_writes_them(name: str, tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", SECOND)
    wav(tmp_path / "b.wav", SECOND)
    lines = [
        {"audio_filepath": "a.wav", "text": "hello", "duration": 1.0},
        {"audio_filepath": "b.wav", "text": ""},
    ]
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    assert [(clip.name, clip.text, clip.category) for clip in load(path)] == [
        ("a", "hello", "speech"),
        ("b", "", "silence"),
    ]


def test_a_concatenation_is_as_long_as_its_parts_and_the_gaps_between_them(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", SECOND)
    wav(tmp_path / "b.wav", SECOND[:16_000], rate=8_000)
    path = manifest_of(tmp_path, {"concat": ["a.wav", "b.wav", "a.wav"], "gap_s": 0.5, "text": "x"})
    recording = record(load(path)[0])
    assert recording.sample_rate == 16_000
    assert recording.duration_s == pytest.approx(4.0, abs=0.01)


def test_resampling_and_mulaw_are_declared_as_sent(tmp_path: Path) -> None:
    """003-101."""
    wav(tmp_path / "a.wav", SECOND)
    clip = {"file": "a.wav", "text": "x", "resample": 8_000, "encoding": "mulaw"}
    recording = record(load(manifest_of(tmp_path, clip))[0])
    assert (recording.sample_rate, recording.encoding, len(recording.data)) == (8_000, "mulaw", 8_000)
    assert [len(frame) for frame in recording.frames()] == [800] * 10


@pytest.mark.parametrize(
    ("clip", "problem"),
    [
        ({"text": "x"}, "which file"),
        ({"file": "gone.wav", "text": "x"}, "no file"),
        ({"file": "a.wav"}, "text must be a text"),
        ({"file": "a.wav", "text": 5}, "text must be a text"),
        ({"file": "a.wav", "text": "x", "offset": 2.0}, "offset is not supported"),
        ({"file": "a.wav", "text": "x", "resample": 4_000}, "resample must be"),
        ({"file": "a.wav", "text": "x", "encoding": "opus"}, "encoding must be one of"),
        ({"file": "a.wav", "text": "x", "speech_end_s": "late"}, "speech_end_s must be a number"),
        ({"file": "a.wav", "text": "x", "thresholds": {"riva": {"speed": 1}}}, "a threshold is one of"),
        ({"concat": [], "text": "x"}, "which file"),
        ("gone.json", "cannot be read"),
        (7, "must be a JSON object"),
    ],
)
def test_a_clip_that_makes_no_sense_is_named_with_what_is_wrong(
    clip: dict[str, object], problem: str, tmp_path: Path
) -> None:
    wav(tmp_path / "a.wav", SECOND)
    with pytest.raises(BadConfig, match=problem):
        load(manifest_of(tmp_path, clip))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"clips": []}', '{"clips": 3}'])
def test_a_file_that_is_no_manifest_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadConfig, match="manifest"):
        load(path)


def test_two_clips_of_one_name_are_refused(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", SECOND)
    with pytest.raises(BadConfig, match="called a"):
        load(manifest_of(tmp_path, *[{"file": "a.wav", "text": "x"}] * 2))


def test_a_file_that_is_no_audio_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio at all" * 100)
    [clip] = load(manifest_of(tmp_path, {"file": "a.wav", "text": "x"}))
    with pytest.raises(BadAudio, match=r"a\.wav"):
        record(clip)


def test_clips_are_chosen_by_name_and_category() -> None:
    clips = load(GOLDEN)
    assert {clip.category for clip in choose(clips, ["music", "silence"], ["silence_room"])} == {
        "music",
        "silence",
    }
    assert "long" not in {clip.category for clip in choose(clips, [], ["long"])}
    with pytest.raises(BadConfig, match="called typo"):
        choose(clips, ["typo"], [])
    with pytest.raises(BadConfig, match="No clip is left"):
        choose(clips, ["music"], ["music"])
