"""The recogniser that is always there: pocketsphinx, on the CPU, with the model its wheel carries.

It needs no download, no GPU and no account, and it is not accurate: its notice says so. Voices run in worker
processes (``embedded_worker``); this side only talks to them.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from itertools import chain, repeat

from perch.core.audio import bytes_to_samples, samples_to_seconds
from perch.core.command import command
from perch.core.speech import RecognitionConfig
from perch.errors import EngineFailed, EngineFull
from perch.inference import embedded_wire as wire
from perch.inference.health import Health
from perch.inference.recogniser import Capabilities, Recognition
from perch.inference.vad import SileroDetector, SileroVad
from perch.inference.worker_pool import Channel, Zygote

_QUALITY = (
    "Demonstration recogniser: pocketsphinx on the CPU, American English only. Expect about every second "
    "word to be wrong on hard audio and every fifth on short, clear sentences."
)
_BETTER = "parakeet-tdt-0.6b-v2"

SLOTS_PER_CORE = 3
"""A stream takes about a third of a core, partials and final together."""

LONGEST_UTTERANCE = 60 * 16_000
"""Samples. A decoder's memory grows with its utterance; the engine ends them long before this."""

UNHEALTHY_AT_LEAST = 1.0
"""Seconds. A probe that looks now and then must be able to see that a worker was lost."""

REQUEST_DEADLINE = 30.0
SLOWEST = 8.0
"""Seconds that a second of audio may take on a machine with every slot busy."""

BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0)

_log = logging.getLogger(__name__)


class EmbeddedVoice:
    """One caller's ``Voice``: a worker process of its own.

    Args:
        channel: The worker.
        release: Called once, when the voice is closed.
    """

    def __init__(self, channel: Channel, release: Callable[[], None]) -> None:
        self._channel = channel
        self._release = release
        self._samples = 0
        self._closed = False

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._channel.pid

    async def feed(self, pcm: bytes) -> str | None:
        if not pcm:
            return None
        samples = bytes_to_samples(len(pcm))
        self._samples += samples
        if self._samples > LONGEST_UTTERANCE:
            seconds = samples_to_seconds(LONGEST_UTTERANCE)
            raise EngineFailed(f"An utterance may last {seconds:.0f} seconds at most.")
        kind, body = await self._channel.request(wire.FEED, pcm, _deadline(samples))
        return body.decode() if kind == wire.TEXT else None

    async def finish(self) -> Recognition:
        samples, self._samples = self._samples, 0
        _, body = await self._channel.request(wire.FINISH, b"", _deadline(samples))
        return wire.unpack(body)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._release()


class EmbeddedRecogniser:
    """A ``Recogniser``. Make it with ``start``; it repairs itself until ``aclose``."""

    def __init__(self, vad: SileroVad, zygote: Zygote, slots: int, instead: str = "") -> None:
        self._vad = vad
        self._zygote = zygote
        self._slots = slots
        self._notice = f"{_QUALITY} {instead or _advice()}"
        self._taken = 0
        self._health = Health()
        self._closed = False
        self._watch = self._watch_over(zygote)
        self._repair = asyncio.create_task(self._keep_in_repair(), name="embedded-repair")

    @classmethod
    async def start(cls, *, slots: int | None = None, instead: str = "") -> "EmbeddedRecogniser":
        """Load everything and return once it recognises.

        Args:
            slots: Voices at the same time; by default three for each core.
            instead: Why it is this one and not a better, for users to be told.

        Raises:
            EngineFailed: The model or a process could not be loaded.
        """
        vad = await asyncio.to_thread(SileroVad.load)
        try:
            zygote = await Zygote.start()
        except BaseException:
            await vad.aclose()
            raise
        return cls(vad, zygote, slots or SLOTS_PER_CORE * len(os.sched_getaffinity(0)), instead)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            model="embedded-en-us",
            aliases=("embedded", "default"),
            languages=("en-US",),
            streaming_mode="vad-segmented",
            slots=self._slots,
            notice=self._notice,
            parameters={
                "decoder": "pocketsphinx en-us",
                "quality": "demonstration",
            },
        )

    @property
    def healthy(self) -> bool:
        return self._health.problem is None

    @property
    def pid(self) -> int:
        """The process id of the zygote, which all workers descend from."""
        return self._zygote.pid

    async def open(self, config: RecognitionConfig) -> EmbeddedVoice:
        """A voice for one caller, in a worker process of its own.

        Raises:
            EngineFull: Every slot is taken.
            EngineFailed: The recogniser is closed or being restarted.
        """
        if self._closed:
            raise EngineFailed("The recogniser is closed.")
        if self._watch.done():
            raise EngineFailed("The recogniser is being restarted.", retry_after=UNHEALTHY_AT_LEAST)
        if self._taken >= self._slots:
            raise EngineFull(f"All {self._slots} voices of the recogniser are taken.", retry_after=1.0)
        zygote = self._zygote
        self._taken += 1
        try:
            channel = await zygote.fork(self._lose, partials=config.interim_results)
        except BaseException:
            self._taken -= 1
            raise
        return EmbeddedVoice(channel, lambda: self._release(zygote, channel))

    def detector(self) -> SileroDetector:
        """A fresh speech detector for one stream."""
        return self._vad.detector()

    async def wait_unhealthy(self) -> str:
        """Return, with the reason, as soon as the recogniser stops being healthy."""
        return await self._health.lost()

    async def aclose(self) -> None:
        """Stop every process and thread. Open voices fail. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._health.lose("The recogniser is closed.")
        for task in (self._repair, self._watch):
            task.cancel()
        await asyncio.wait([self._repair, self._watch])
        await self._zygote.aclose()
        await self._vad.aclose()

    def _release(self, zygote: Zygote, channel: Channel) -> None:
        zygote.discard(channel)
        self._taken -= 1

    def _lose(self, reason: str) -> None:
        if not self._closed:
            _log.error("recogniser unhealthy: %s", reason)
            self._health.lose(reason)

    def _watch_over(self, zygote: Zygote) -> asyncio.Task[None]:
        return asyncio.create_task(self._outlive(zygote), name="embedded-watch")

    async def _outlive(self, zygote: Zygote) -> None:
        self._lose(await zygote.ended())

    async def _keep_in_repair(self) -> None:
        """Whenever health is lost: bring back what died, prove that it works, and only then say so."""
        while True:
            await self._health.lost()
            await asyncio.sleep(UNHEALTHY_AT_LEAST)
            losses = self._health.losses
            await self._revive()
            if self._health.losses == losses:
                self._health.regain()
                _log.info("recogniser healthy again")

    async def _revive(self) -> None:
        for pause in chain(BACKOFF, repeat(BACKOFF[-1])):
            try:
                await self._try_to_revive()
            except EngineFailed as problem:
                _log.warning("recogniser not restarted, next try in %s s: %s", pause, problem.message)
                await asyncio.sleep(pause)
            else:
                return

    async def _try_to_revive(self) -> None:
        if self._watch.done():
            await self._zygote.aclose()
            self._zygote = await Zygote.start()
            self._watch = self._watch_over(self._zygote)
        try:
            proof = await self._zygote.fork(_ignore)
        except EngineFailed:
            self._zygote.kill()  # it lives and does nothing: the next try starts another
            raise
        self._zygote.discard(proof)


def _advice() -> str:
    """What to do for better words, whichever way this recogniser was started."""
    return (
        f"For real work take Parakeet: `{command(f'models pull {_BETTER}')}`, after which `{command('demo')}` and "
        f"`{command('serve')}` start with it, and so does `{command(f'engine --model {_BETTER}')}`. "
        "Or set RIVA_HOST to a Riva or Speech NIM."
    )


def _deadline(samples: int) -> float:
    return REQUEST_DEADLINE + SLOWEST * samples_to_seconds(samples)


def _ignore(_reason: str) -> None:
    """A worker that fails its proof is reported by the proof."""
