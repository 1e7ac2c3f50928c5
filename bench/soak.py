"""``./run soak``: sessions at real time with churn for as long as wanted, and what that does to the gateway.

Each place is held by one session after another: most talk for a while and stop, some break off. The report
shows resident memory, open descriptors and latency over time; what leaks or tires has a slope.
"""

import argparse
import asyncio
import json
import random
import sys
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from time import perf_counter

import psutil
import uvloop
from bench.clip import FRAME_S, endless, frames
from bench.events import from_gateway
from bench.latency import Event, percentile, slope
from bench.processes import ROOT, ProcessFailed, Server, engine, gateway
from bench.websocket_client import StreamFailed, WebSocketStream, audio_frame, connect

from perch.measure.plot import Axis, Line, Point, plot

_LOOK_S = 1.0
_SESSION_S = (8.0, 40.0)
_BREAKS_OFF = 0.25
"""The share of sessions that end without a word."""
_WARM_UP = 5
"""The first part, one in so many, in which caches fill: not judged."""
_REST_S = 30.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Look:
    """The gateway at one moment."""

    at: float
    resident_mib: float
    descriptors: int
    sessions: int
    heard_ms: Sequence[float]
    """Latencies of the partials and finals since the look before."""


@dataclass(slots=True)
class Churn:
    """What became of the sessions."""

    opened: int = 0
    finished: int = 0
    broken_off: int = 0
    open: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Soak:
    """A whole run. ``idle`` are looks without any session: before the first and after the last."""

    looks: Sequence[Look]
    idle: tuple[Look, Look]
    churn: Churn

    @property
    def settled(self) -> Sequence[Look]:
        return self.looks[len(self.looks) // _WARM_UP :]

    @property
    def resident_mib_per_hour(self) -> float:
        return slope([(look.at, look.resident_mib) for look in self.settled]) * 3600

    @property
    def descriptors_left(self) -> int:
        """More open without any session than at the start."""
        return self.idle[1].descriptors - self.idle[0].descriptors

    def p95_ms(self, looks: Sequence[Look]) -> float:
        return percentile([ms for look in looks for ms in look.heard_ms], 95)

    @property
    def drift_ms(self) -> float:
        """The p95 of the last third less that of the first, after the warm-up."""
        third = len(self.settled) // 3
        return self.p95_ms(self.settled[-third:]) - self.p95_ms(self.settled[:third]) if third else 0.0

    @property
    def problems(self) -> list[str]:
        """What no run may show, however short."""
        found = [f"session failed: {failure}" for failure in self.churn.failures[:10]]
        if self.descriptors_left > 0:
            found.append(f"{self.descriptors_left} descriptors more than before the first session")
        return found


class Latencies:
    """The latency of every event as it comes, by the frame that brought it about (see ``bench.latency``).

    The first session to get as far has nothing to compare with; what it overstates, the next corrects.
    """

    def __init__(self) -> None:
        self._causes: dict[Event, int] = {}
        self._heard_ms: list[float] = []

    def hear(self, sent: Sequence[float], messages: Sequence[tuple[float, bytes]]) -> None:
        """Take what came back on a stream whose frames were sent at ``sent``."""
        for heard in from_gateway(messages):
            last = bisect_left(sent, heard.at) - 1
            event = (heard.segment, heard.is_final, heard.text)
            known = event in self._causes
            cause = self._causes[event] = min(last, self._causes.get(event, last))
            if known:
                self._heard_ms.append((heard.at - sent[cause]) * 1000)

    def take(self) -> list[float]:
        """Those since the last call."""
        taken, self._heard_ms = self._heard_ms, []
        return taken


async def soak(server: Server, *, sessions: int, seconds: float, dice: random.Random) -> Soak:
    """Keep ``sessions`` talking to ``server`` for ``seconds``."""
    latencies, churn, looks = Latencies(), Churn(), list[Look]()
    start = perf_counter()
    prepared = [audio_frame(pcm) for pcm in frames()]
    await _session(server.address, prepared, 1.0, latencies, talks_on=False)  # what is made once is made
    before = _look(server, start, churn, latencies)
    async with _looking(server, start, churn, latencies, looks):
        async with asyncio.TaskGroup() as places:
            for index in range(sessions):
                began = start + min(_SESSION_S[0], seconds / 4) * index / sessions
                span = (began, start + seconds)
                places.create_task(
                    _place(server.address, prepared, span, latencies=latencies, churn=churn, dice=dice)
                )
    after = await _at_rest(server, start, churn, latencies, before)
    return Soak(looks, (before, after), churn)


async def _place(
    address: str,
    prepared: Sequence[bytes],
    span: tuple[float, float],
    *,
    latencies: Latencies,
    churn: Churn,
    dice: random.Random,
) -> None:
    """One session after another."""
    begin, end = span
    await asyncio.sleep(max(0.0, begin - perf_counter()))
    while (left := end - perf_counter()) > 1.0:
        breaks_off = dice.random() < _BREAKS_OFF
        churn.opened += 1
        churn.open += 1
        try:
            await _session(
                address, prepared, min(left, dice.uniform(*_SESSION_S)), latencies, talks_on=breaks_off
            )
        except (StreamFailed, OSError, TimeoutError) as error:
            churn.failures.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(1.0)  # a gateway that is gone is not to be hammered
        else:
            churn.broken_off += breaks_off
            churn.finished += not breaks_off
        finally:
            churn.open -= 1


async def _session(
    address: str, prepared: Sequence[bytes], seconds: float, latencies: Latencies, *, talks_on: bool
) -> None:
    """Talk for ``seconds``, then stop and wait for the end, or break off if one would have talked on.

    Raises:
        StreamFailed: It ended otherwise than it should.
    """
    stream = await connect(address)
    try:
        await _talk(stream, prepared, seconds, latencies)
        if not talks_on:
            await stream.finish()
    finally:
        stream.abort()


async def _talk(
    stream: WebSocketStream, prepared: Sequence[bytes], seconds: float, latencies: Latencies
) -> None:
    sent: list[float] = []
    due = perf_counter()
    for frame, _ in zip(endless(prepared), range(round(seconds / FRAME_S)), strict=False):
        await stream.send(frame)
        sent.append(perf_counter())
        due += FRAME_S
        await asyncio.sleep(max(0.0, due - perf_counter()))
        heard, stream.heard[:] = stream.heard[:], []
        latencies.hear(sent, heard)


# --- looking -----------------------------------------------------------------------------------------


def _look(server: Server, start: float, churn: Churn, latencies: Latencies) -> Look:
    process = psutil.Process(server.pid)
    return Look(
        perf_counter() - start,
        process.memory_info().rss / _MIB,
        process.num_fds(),
        churn.open,
        latencies.take(),
    )


@asynccontextmanager
async def _looking(
    server: Server, start: float, churn: Churn, latencies: Latencies, looks: list[Look]
) -> AsyncIterator[None]:
    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            looks.append(_look(server, start, churn, latencies))

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def _at_rest(server: Server, start: float, churn: Churn, latencies: Latencies, before: Look) -> Look:
    """The gateway once it has let go of the last session."""
    deadline = perf_counter() + _REST_S
    look = _look(server, start, churn, latencies)
    while look.descriptors > before.descriptors and perf_counter() < deadline:
        await asyncio.sleep(_LOOK_S / 4)
        look = _look(server, start, churn, latencies)
    return look


# --- the report --------------------------------------------------------------------------------------

_NOTE = (
    "The engine and the load generator share this machine's cores. The first fifth is not judged, and a slope "
    "over few minutes is mostly noise."
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1917 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td { padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #e7e5e4 }
td + td { text-align: right; font-variant-numeric: tabular-nums } .bad { color: #b91c1c; font-weight: 600 }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: #57534e } svg line { stroke: #e7e5e4 }
.note { color: #57534e }
"""


def facts(run: Soak) -> dict[str, float]:
    """The figures of the report."""
    return {
        "minutes": round(run.looks[-1].at / 60, 2),
        "sessions opened": run.churn.opened,
        "sessions finished": run.churn.finished,
        "sessions broken off": run.churn.broken_off,
        "sessions failed": len(run.churn.failures),
        "resident before the first session, MiB": round(run.idle[0].resident_mib, 1),
        "resident after the last session, MiB": round(run.idle[1].resident_mib, 1),
        "slope of resident memory, MiB per hour": round(run.resident_mib_per_hour, 2),
        "descriptors before the first session": run.idle[0].descriptors,
        "descriptors after the last session": run.idle[1].descriptors,
        "latency p95, ms": round(run.p95_ms(run.settled), 2),
        "drift of the p95 from first to last third, ms": round(run.drift_ms, 2),
    }


def page(run: Soak) -> str:
    """The report as one HTML file."""
    rows = "".join(f"<tr><td>{escape(name)}<td>{value:g}" for name, value in facts(run).items())
    problems = "".join(f'<p class="bad">{escape(problem)}</p>' for problem in run.problems)
    window = max(1, len(run.looks) // 60)
    latency = [
        (looks[-1].at / 60, run.p95_ms(looks)) for looks in _windows(run.looks, window) if run.p95_ms(looks)
    ]
    sections = [
        "<h1>Perch: soak</h1>",
        f'<p class="note">{_NOTE}</p>',
        problems,
        f"<table>{rows}</table>",
        _picture("Resident memory", "MiB", [(look.at / 60, look.resident_mib) for look in run.looks]),
        _picture("Open descriptors", "", [(look.at / 60, look.descriptors) for look in run.looks]),
        _picture("Latency of partials and finals, p95", "ms", latency),
        _picture("Sessions open", "", [(look.at / 60, look.sessions) for look in run.looks]),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Perch soak</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>{"".join(sections)}</html>\n'
    )


def write(run: Soak, directory: Path) -> None:
    """``soak.html`` and ``soak.json`` in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "soak.html").write_text(page(run), encoding="utf-8")
    (directory / "soak.json").write_text(json.dumps(facts(run), indent=1) + "\n", encoding="utf-8")


def _windows(looks: Sequence[Look], size: int) -> Iterator[Sequence[Look]]:
    return (looks[begin : begin + size] for begin in range(0, len(looks), size))


def _picture(title: str, unit: str, points: Sequence[Point]) -> str:
    highest = 1.1 * max((value for _, value in points), default=1.0)
    minutes = points[-1][0] if points else 1.0
    picture = plot(title, Axis("minutes", 0, minutes), Axis(unit, 0, highest), [Line("gateway", points)])
    return f"<h2>{escape(title)}</h2>{picture}"


# --- the command -------------------------------------------------------------------------------------


async def _run(sessions: int, minutes: float, output: Path, seed: int) -> int:
    try:
        async with engine() as riva, gateway(riva.address, sessions) as server:
            run = await soak(server, sessions=sessions, seconds=minutes * 60, dice=random.Random(seed))
    except ProcessFailed as error:
        print(error, file=sys.stderr)
        return 1
    write(run, output)
    for name, value in facts(run).items():
        print(f"{name:48} {value:g}")
    for problem in run.problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    print(f"report: {output / 'soak.html'}")
    return 1 if run.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run soak", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--sessions", type=int, default=50, help="at the same time (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the churn (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "reports", help="directory of the report")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments.sessions, arguments.minutes, arguments.output, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
