from bench.clip import FRAME_BYTES, endless, frames, sentence_s

from perch.audio.tones import read


def test_the_clip_is_whole_frames_of_words() -> None:
    prepared = frames()
    assert {len(frame) for frame in prepared} == {FRAME_BYTES}
    assert len(read(b"".join(prepared))) == 24


def test_the_clip_can_follow_itself_without_losing_a_word() -> None:
    prepared = frames()
    audio = endless(prepared)
    twice = b"".join(next(audio) for _ in range(2 * len(prepared)))
    assert len(read(twice)) == 48


def test_sentences_are_of_one_length_on_average() -> None:
    assert sentence_s() * 4 == len(frames()) * 0.1
