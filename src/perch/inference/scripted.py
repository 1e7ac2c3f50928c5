"""A recogniser of tone words: the whole interface, exact and at next to no cost.

It proves roads, not models: hundreds of streams on one core, and a transcript that is a pure
function of the audio, so a load test can check every word of every stream.
"""

import asyncio

from perch.audio.tones import WINDOW, Framer, ToneReader, analyse
from perch.core.speech import RecognitionConfig, Word
from perch.errors import EngineFailed, EngineFull
from perch.inference.recogniser import Capabilities, Recognition

CAPABILITIES = Capabilities(
    model="scripted",
    languages=("en-US",),
    slots=4_096,
    notice="This engine recognises tone words only, for tests. Real speech comes out empty.",
)


class ScriptedRecogniser:
    """Implements ``Recogniser``. ``fail`` makes it behave like one whose worker died."""

    def __init__(self, capabilities: Capabilities = CAPABILITIES) -> None:
        self._capabilities = capabilities
        self._voices: set[ScriptedVoice] = set()
        self._failure = ""
        self._failed = asyncio.Event()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def healthy(self) -> bool:
        return not self._failed.is_set()

    @property
    def open_voices(self) -> int:
        return len(self._voices)

    async def open(self, config: RecognitionConfig) -> "ScriptedVoice":
        """A voice for one caller; every configuration is understood alike."""
        del config
        self.check_running()
        if len(self._voices) >= self._capabilities.slots:
            raise EngineFull(
                f"All {self._capabilities.slots} streams of the engine are taken; try again later."
            )
        voice = ScriptedVoice(self)
        self._voices.add(voice)
        return voice

    def detector(self) -> "ToneDetector":
        return ToneDetector()

    async def wait_unhealthy(self) -> str:
        await self._failed.wait()
        return self._failure

    async def aclose(self) -> None:
        self.fail("the recogniser was closed")

    def fail(self, reason: str) -> None:
        """Die: open voices fail at their next call, new ones are refused."""
        if self.healthy:
            self._failure = reason
            self._failed.set()

    def check_running(self) -> None:
        """Raise ``EngineFailed`` unless healthy."""
        if not self.healthy:
            raise EngineFailed(f"The engine is not running: {self._failure}.")

    def release(self, voice: "ScriptedVoice") -> None:
        """Give back the slot of ``voice``."""
        self._voices.discard(voice)


class ScriptedVoice:
    """Implements ``Voice``: reads tone words, and starts afresh with each utterance."""

    def __init__(self, recogniser: ScriptedRecogniser) -> None:
        self._recogniser = recogniser
        self._reader = ToneReader()
        self._words: list[Word] = []

    async def feed(self, pcm: bytes) -> str | None:
        """Take more of the utterance; return its words so far if there are new ones."""
        self._recogniser.check_running()
        new = self._reader.feed(pcm)
        if not new:
            return None
        self._words += new
        return _text(self._words)

    async def finish(self) -> Recognition:
        """The words of the utterance. Confidence is the mean purity of its tones."""
        self._recogniser.check_running()
        words = (*self._words, *self._reader.flush())
        self._reader = ToneReader()
        self._words = []
        return Recognition(_text(words), words, _confidence(words))

    async def aclose(self) -> None:
        self._recogniser.release(self)


class ToneDetector:
    """Implements ``SpeechDetector``: how much of each frame's energy is in one pair of tones.

    A frame half covered by a word scores one half, so an utterance found at a threshold of 0.5
    needs one frame of audio from before it, and one from after it, to hold its words whole.
    """

    def __init__(self) -> None:
        self._framer = Framer()

    @property
    def frame(self) -> int:
        return WINDOW

    async def probabilities(self, pcm: bytes) -> list[float]:
        windows = self._framer.windows(pcm)
        purity: list[float] = analyse(windows).purity.tolist() if len(windows) else []
        return purity


def _text(words: "list[Word] | tuple[Word, ...]") -> str:
    return " ".join(word.text for word in words)


def _confidence(words: tuple[Word, ...]) -> float | None:
    known = [word.confidence for word in words if word.confidence is not None]
    return round(sum(known) / len(known), 3) if known else None
