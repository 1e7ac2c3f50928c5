"""How many words are wrong, over the whole road: a number that may only be made worse on purpose."""

import re

import jiwer
import pytest

from inference.corpus import clips, needs_speech
from inference.road import transcribe
from perch.inference.embedded import EmbeddedRecogniser

WORST = 0.45
"""Word error rate over the development clips."""


def normalise(text: str) -> str:
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


@needs_speech
@pytest.mark.golden
@pytest.mark.timeout(300)
async def test_word_error_rate_over_the_development_clips() -> None:
    recogniser = await EmbeddedRecogniser.start(slots=1)
    references, hypotheses = [], []
    try:
        for clip in clips().values():
            heard = await transcribe(recogniser, clip.pcm)
            references.append(normalise(clip.text))
            hypotheses.append(normalise(heard.text))
            print(f"{jiwer.wer(references[-1], hypotheses[-1]):5.0%} {clip.file}: {hypotheses[-1]}")
    finally:
        await recogniser.aclose()
    rate = jiwer.wer(references, hypotheses)
    print(f"{rate:.1%} of {sum(len(text.split()) for text in references)} words")
    assert rate <= WORST
