"""A run: the worker process and the plain loop in turn, at one number of streams after another."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from perch.core.audio import RATE, samples_to_bytes
from perch.enginebench.figures import (
    Agreement,
    Live,
    Pace,
    Round,
    agreement,
    carried,
    live,
    pace,
    per_added_stream,
    ratio,
    throughput,
)
from perch.enginebench.ours import Ours, chunk_of
from perch.enginebench.plain import Spec, has_loop
from perch.enginebench.plain_orders import Order, What
from perch.enginebench.plain_process import PlainProcess
from perch.enginebench.script import utterances
from perch.errors import BadConfig
from perch.inference.parakeet.model import LoadOptions
from perch.inference.parakeet.recogniser import ModelRecogniser
from perch.inference.recogniser import Capabilities

WHOLE_LIMIT_MS = 1000.0
"""What p95 may be where an utterance is one piece."""

_LONGEST_WHOLE = 6 * RATE
"""Samples of such an utterance: as long as people speak without a pause."""

Tell = Callable[[str], None]
Choose = Callable[[Sequence[Live], Sequence[Live]], int | None]
"""The next number of streams, from what our side and the plain loop did so far; None is the end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    backend: str
    options: LoadOptions
    recordings: Sequence[bytes]
    choose: Choose
    seconds: float = 20.0
    """Of live streams on each side, at each number of streams; half as much as fast as it goes."""
    rounds: int = 2
    """In which both sides take turns, so that what else the machine does hits both."""
    plain: bool = True
    beside: str = ""
    """The library of the plain loop; the model's own if none is named."""
    files: int = 0
    """Recordings at once; 0 leaves them out."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side at one number of streams."""

    live: Live | None
    """None if it cannot hold so many streams open."""
    throughput: float | None
    """Seconds of audio a second, as fast as it goes."""
    pace: Pace
    each_p95_ms: list[float | None] = field(default_factory=list)
    """Of each live round: far apart if the machine did other things too."""
    each_throughput: list[float | None] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One number of streams."""

    streams: int
    ours: Side
    plain: Side | None
    agreement: Agreement | None

    @property
    def ratio(self) -> float | None:
        """Throughput, ours to the plain loop's."""
        return ratio(self.ours.throughput, self.plain.throughput if self.plain else None)


@dataclass(frozen=True, slots=True)
class Offline:
    """Recordings: all at once on our side, one after the other on the other."""

    files: int
    audio_s: float
    ours: float | None
    """RTFx: seconds of audio for each second."""
    plain: float | None
    pace: Pace
    agreement: Agreement | None

    @property
    def ratio(self) -> float | None:
        return ratio(self.ours, self.plain)


@dataclass(slots=True)
class Campaign:
    """What is known so far."""

    capabilities: Capabilities | None = None
    chunk: int = 0
    ready_s: float = 0.0
    """To load the model and calibrate."""
    loads_s: list[float] = field(default_factory=list)
    """To load the model with a given number of slots."""
    plain_about: str = ""
    plain_loads_s: list[float] = field(default_factory=list)
    no_plain: str = ""
    """Why there is no plain loop."""
    steps: list[Step] = field(default_factory=list)
    offline: Offline | None = None
    ended: str = ""
    """Why it was ended before its time."""

    @property
    def limit_ms(self) -> float:
        return 1000 * self.chunk / RATE or WHOLE_LIMIT_MS

    @property
    def ours(self) -> list[Live]:
        return [step.ours.live for step in self.steps if step.ours.live]

    @property
    def plain(self) -> list[Live]:
        return [step.plain.live for step in self.steps if step.plain and step.plain.live]

    @property
    def carried(self) -> int:
        return carried(self.ours)

    @property
    def plain_carried(self) -> int | None:
        return carried(self.plain) if self.plain else None

    @property
    def carried_ratio(self) -> float | None:
        return ratio(self.carried, self.plain_carried)

    @property
    def memory_per_stream(self) -> float | None:
        """MiB of our side."""
        return per_added_stream({one.streams: one.resident_mib for one in self.ours})

    @property
    def plain_memory_per_stream(self) -> float | None:
        return per_added_stream({one.streams: one.resident_mib for one in self.plain})


async def run(plan: Plan, campaign: Campaign, tell: Tell) -> None:
    """Measure, and put what is known into ``campaign`` as it becomes known.

    Raises:
        BadConfig: The model cannot be loaded as asked for.
        EngineFailed: A side broke.
    """
    runner = _Runner(plan, campaign, tell)
    await runner.calibrate()
    while (streams := plan.choose(campaign.ours, campaign.plain)) is not None:
        campaign.steps.append(await runner.step(streams))
    if plan.files:
        campaign.offline = await runner.offline(plan.files)


class _Runner:
    def __init__(self, plan: Plan, campaign: Campaign, tell: Tell) -> None:
        self._plan = plan
        self._campaign = campaign
        self._tell = tell
        self._clips: list[bytes] = []
        self._slots = 1
        self._library = plan.beside or plan.backend
        if not plan.plain:
            campaign.no_plain = "It was not asked for."
        elif not has_loop(self._library):
            campaign.no_plain = f"There is none of {self._library} here."

    async def calibrate(self) -> None:
        """Find out what an engine would: what the model is, and how many slots it gives it."""
        self._tell("loading and calibrating")
        began = perf_counter()
        recogniser = await ModelRecogniser.start(self._plan.backend, self._plan.options)
        try:
            self._campaign.ready_s = perf_counter() - began
            self._slots = recogniser.capabilities.slots
            self._campaign.capabilities = recogniser.capabilities
            self._campaign.chunk = chunk_of(recogniser)
            longest = recogniser.capabilities.max_utterance
            if not self._campaign.chunk:
                longest = min(longest, _LONGEST_WHOLE)
            self._clips = utterances(self._plan.recordings, longest)
        finally:
            await recogniser.aclose()

    async def step(self, streams: int) -> Step:
        """Live rounds of both sides in turn, then rounds as fast as it goes."""
        seconds = self._seconds()
        async with self._sides(streams, f"{streams} streams") as (ours, plain):
            most = plain.loaded.most if plain else 0
            takes_live = plain is not None and (most is None or streams <= most)
            lives, plain_lives = await self._in_turn(
                f"{streams} streams, live",
                lambda: ours.live(streams, seconds),
                _ordered(plain if takes_live else None, "live", streams, seconds),
            )
            flats, plain_flats = await self._in_turn(
                f"{streams} streams, as fast as it goes",
                lambda: ours.flat_out(streams, seconds / 2),
                _ordered(plain if most != 0 else None, "flat_out", streams, seconds / 2),
            )
        limit = self._campaign.limit_ms
        return Step(
            streams,
            _side(lives, flats, limit),
            _side(plain_lives, plain_flats, limit) if plain_flats else None,
            _agreement([*lives, *flats], [*plain_lives, *plain_flats]),
        )

    async def offline(self, files: int) -> Offline:
        async with self._sides(self._slots, "recordings") as (ours, plain):
            told, plain_told = await self._in_turn(
                f"{files} recordings", lambda: ours.offline(files), _ordered(plain, "offline", files)
            )
        said = [one for each in plain_told or told for one in each.said]
        return Offline(
            files,
            told[0].audio_s,
            throughput(told),
            throughput(plain_told),
            pace(said),
            _agreement(told, plain_told),
        )

    def _seconds(self) -> float:
        """Of a live round: where an utterance is one piece, every stream shall come to the end of one."""
        least = 0.0 if self._campaign.chunk else 2 * max(map(len, self._clips)) / samples_to_bytes(RATE)
        return max(self._plan.seconds / self._plan.rounds, least)

    async def _in_turn(
        self, about: str, ours: "_Measure", plain: "_Measure | None"
    ) -> tuple[list[Round], list[Round]]:
        left: list[Round] = []
        right: list[Round] = []
        for number in range(1, self._plan.rounds + 1):
            self._tell(f"{about}: round {number} of {self._plan.rounds}")
            left.append(await ours())
            if plain is not None:
                self._tell(f"{about}: round {number} of {self._plan.rounds}, plain loop")
                right.append(await plain())
        return left, right

    @asynccontextmanager
    async def _sides(self, slots: int, about: str) -> AsyncIterator[tuple[Ours, PlainProcess | None]]:
        """Both sides, loaded afresh so that memory is that of so many slots, and warmed up."""
        self._tell(f"{about}: loading")
        async with AsyncExitStack() as stack:
            began = perf_counter()
            recogniser = await ModelRecogniser.start(self._plan.backend, self._plan.options, slots=slots)
            stack.push_async_callback(recogniser.aclose)
            self._campaign.loads_s.append(perf_counter() - began)
            ours = Ours(recogniser, self._clips)
            plain = await self._plain()
            if plain is not None:
                stack.push_async_callback(plain.aclose)
                await plain.run(Order("warm", 1))
            await ours.warm(slots)
            yield ours, plain

    async def _plain(self) -> PlainProcess | None:
        if self._campaign.no_plain:
            return None
        spec = Spec(self._library, self._plan.options, self._campaign.chunk, self._clips)
        try:
            plain = await PlainProcess.start(spec)
        except BadConfig as problem:
            self._campaign.no_plain = problem.message
            return None
        self._campaign.plain_about = plain.loaded.about
        self._campaign.plain_loads_s.append(plain.loaded.seconds)
        return plain


_Measure = Callable[[], Awaitable[Round]]


def _ordered(plain: PlainProcess | None, what: What, streams: int, seconds: float = 0.0) -> "_Measure | None":
    return None if plain is None else lambda: plain.run(Order(what, streams, seconds))


def _side(lives: Sequence[Round], flats: Sequence[Round], limit_ms: float) -> Side:
    said = [one for each in (*lives, *flats) for one in each.said]
    return Side(
        live(lives, limit_ms) if lives else None,
        throughput(flats),
        pace(said),
        [live([one], limit_ms).latency.p95 for one in lives],
        [throughput([one]) for one in flats],
    )


def _agreement(ours: Sequence[Round], plain: Sequence[Round]) -> Agreement | None:
    if not plain:
        return None
    return agreement(
        (one for each in ours for one in each.said), (one for each in plain for one in each.said)
    )
