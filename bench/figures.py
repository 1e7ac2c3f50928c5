"""The figures of a run, their targets, and what makes them doubtful. No I/O."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import psutil
from bench.job import Outcome
from bench.latency import PERCENTILES, Causes, causes, latencies, percentile
from bench.memory import Growth, IdleMemory, Series

TARGET_ADDED_P95_MS = 10.0  # of 50 streams or more
TARGET_CPU_MS = 2.5  # of 100 streams or more: fewer share what the process costs anyway
TARGET_IDLE_KIB = 150.0
TARGET_GROWTH_MIB_PER_HOUR = 4.0

_LATENCY_STREAMS, _CPU_STREAMS = 50, 100

_LATE_MS = 5.0
_BUSY = 0.7
_OTHERS = 0.3  # cores
_APART = 2.0  # between rounds


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. A target is an upper bound; ``spread`` is the same number of each round."""

    key: str
    name: str
    value: float
    unit: str
    target: float | None = None
    spread: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Of the target; up to 1 is good."""
        return None if self.target is None else self.value / self.target

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "target": self.target,
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "rounds": [round(value, 3) for value in self.spread],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The same load along both roads, one right after the other."""

    direct: Outcome
    gateway: Outcome
    finals_only: Outcome | None = None
    """Through the gateway without partials: the same work but for fewer events."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds along each road, sorted, of the same events."""

    streams: int
    direct_ms: list[float]
    gateway_ms: list[float]


@dataclass(slots=True)
class Results:
    """All that was measured, as far as it was."""

    latency: list[Round] = field(default_factory=list)
    cpu: list[Round] = field(default_factory=list)
    idle: IdleMemory | None = None
    growth: Growth | None = None
    resident: Series = field(default_factory=list)


def all_latencies(rounds: Sequence[Round]) -> Latencies:
    """Both roads, all rounds together."""
    caused_by = causes(outcome for each in rounds for outcome in (each.direct, each.gateway))
    return Latencies(
        len(rounds[0].direct.streams),
        _sorted_ms([each.direct for each in rounds], caused_by),
        _sorted_ms([each.gateway for each in rounds], caused_by),
    )


def figures(results: Results) -> list[Figure]:
    """Every figure of ``results``."""
    found: list[Figure] = []
    if results.latency:
        found += _latency_figures(results.latency)
    if results.cpu:
        found += _cpu_figures(results.cpu)
    if results.idle is not None:
        found += _memory_figures(results.idle)
    if results.growth is not None:
        found += _growth_figures(results.growth)
    return found


def warnings(results: Results) -> list[str]:
    """Why not to believe the figures."""
    found = [
        f"{road}, {len(outcome.streams)} streams: {problem}"
        for road, outcome in outcomes(results)
        for problem in _doubts(outcome)
    ]
    found += _disagreements(results)
    if results.growth is not None and results.growth.lagged:
        found.append(f"recognition fell behind at pace {results.growth.pace:g}: lower --pace")
    return found


def failures(results: Results) -> list[str]:
    """Streams that broke: then the run proves nothing."""
    return [failure for _, outcome in outcomes(results) for failure in outcome.failures]


def outcomes(results: Results) -> Iterator[tuple[str, Outcome]]:
    """Every measurement with the road it took, each once."""
    rounds = results.latency + [each for each in results.cpu if each not in results.latency]
    for each in rounds:
        yield "direct", each.direct
        yield "gateway", each.gateway
        if each.finals_only is not None:
            yield "gateway, finals only", each.finals_only


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30)),
    }


def _latency_figures(rounds: Sequence[Round]) -> list[Figure]:
    both = all_latencies(rounds)
    each = [all_latencies([one]) for one in rounds]
    streams = both.streams
    target = TARGET_ADDED_P95_MS if streams >= _LATENCY_STREAMS else None
    found = []
    for percent in PERCENTILES:
        found += [
            Figure(
                f"{road}_p{percent}_ms",
                f"{road} p{percent}, {streams} streams",
                percentile(ms, percent),
                "ms",
            )
            for road, ms in (("direct", both.direct_ms), ("gateway", both.gateway_ms))
        ]
        found.append(
            Figure(
                f"added_p{percent}_ms",
                f"added by the gateway, p{percent}, {streams} streams",
                _added(both, percent),
                "ms",
                target if percent == 95 else None,
                tuple(_added(one, percent) for one in each),
            )
        )
    return found


def _cpu_figures(rounds: Sequence[Round]) -> list[Figure]:
    streams = len(rounds[0].gateway.streams)
    gateway = [one.gateway.cpu_ms_per_stream_second("gateway") for one in rounds]
    direct = [one.direct.cpu_ms_per_stream_second("generator") for one in rounds]
    driver = [one.gateway.cpu_ms_per_stream_second("generator") for one in rounds]
    engine = [one.gateway.cpu_ms_per_stream_second("engine") for one in rounds]
    unit = "ms/stream-s"
    target = TARGET_CPU_MS if streams >= _CPU_STREAMS else None
    return [
        _mean("gateway_cpu_ms", f"gateway CPU, {streams} streams", gateway, unit, target),
        _mean("direct_client_cpu_ms", "a direct gRPC client's CPU", direct, unit),
        _mean("ratio_to_direct_client", "gateway CPU / direct client's", _ratios(gateway, direct), "x"),
        _mean("generator_cpu_ms", "the WebSocket load generator's CPU", driver, unit),
        _mean("engine_cpu_ms", "the engine's CPU", engine, unit),
        _mean(
            "gateway_us_per_frame",
            "gateway CPU per frame, its events included",
            [one.gateway.cpu_us_per_frame("gateway") for one in rounds],
            "µs",
        ),
        _mean(
            "events_per_frame",
            "downstream events per frame",
            [one.gateway.messages / max(one.gateway.frames, 1) for one in rounds],
            "",
        ),
        *_event_figures(rounds),
    ]


def _event_figures(rounds: Sequence[Round]) -> list[Figure]:
    """What partials cost is what their absence saves; a frame with no event costs the rest."""
    pairs = [(one.gateway, one.finals_only) for one in rounds if one.finals_only is not None]
    if not pairs:
        return []
    per_event = [
        (words.cpu_us_per_frame("gateway") - finals.cpu_us_per_frame("gateway"))
        / ((words.messages / words.frames - finals.messages / finals.frames) or 1.0)
        for words, finals in pairs
    ]
    typical = mean(per_event)
    per_frame = [
        words.cpu_us_per_frame("gateway") - typical * words.messages / words.frames for words, _ in pairs
    ]
    return [
        _mean("gateway_us_per_event", "gateway CPU per downstream event", per_event, "µs"),
        _mean("gateway_us_per_upstream_frame", "gateway CPU per frame, without events", per_frame, "µs"),
    ]


def _memory_figures(idle: IdleMemory) -> list[Figure]:
    count = idle.sessions
    return [
        Figure("resident_empty_mib", "gateway resident, no session", idle.empty_mib, "MiB"),
        Figure(
            "kib_per_idle_session",
            f"per idle session, of {count}",
            idle.kib_per_idle_session,
            "KiB",
            TARGET_IDLE_KIB,
        ),
        Figure(
            "kib_per_engine_stream",
            f"per session with an engine stream, of {count}",
            idle.kib_per_engine_stream,
            "KiB",
        ),
    ]


def _growth_figures(growth: Growth) -> list[Figure]:
    where = f"{growth.sessions} sessions, {growth.audio_s / 60:.0f} min of audio each at pace {growth.pace:g}"
    return [
        Figure(
            "growth_mib_per_hour",
            f"growth of resident memory, {where}",
            growth.mib_per_hour,
            "MiB/h",
            TARGET_GROWTH_MIB_PER_HOUR,
        ),
        Figure(
            "growth_kib_per_audio_hour",
            "growth per session and hour of audio",
            growth.kib_per_audio_hour,
            "KiB",
        ),
    ]


def _doubts(outcome: Outcome) -> list[str]:
    busy = outcome.cpu_s["generator"] / outcome.seconds
    found = []
    if outcome.late_ms[1] > _LATE_MS:
        found.append(f"the generator sent frames {outcome.late_ms[1]:.0f} ms late (p99): the machine is busy")
    if busy > _BUSY:
        found.append(f"the generator used {busy:.0%} of a core: it is part of what is measured")
    others = outcome.cpu_s["others"] / outcome.seconds
    if others > _OTHERS:
        found.append(f"processes that are not of the benchmark used {others:.1f} cores")
    return found


def _disagreements(results: Results) -> list[str]:
    return [
        f"{figure.name}: the rounds disagree, so it is noise more than anything"
        for figure in figures(results)
        if len(figure.spread) > 1 and not 0 < max(figure.spread) <= _APART * min(figure.spread)
    ]


def _mean(key: str, name: str, values: Sequence[float], unit: str, target: float | None = None) -> Figure:
    return Figure(key, name, mean(values), unit, target, tuple(values))


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b if b else 0.0 for a, b in zip(above, below, strict=True)]


def _added(both: Latencies, percent: float) -> float:
    return percentile(both.gateway_ms, percent) - percentile(both.direct_ms, percent)


def _sorted_ms(outcomes: Sequence[Outcome], caused_by: Causes) -> list[float]:
    return sorted(1000 * seconds for outcome in outcomes for seconds in latencies(outcome, caused_by))
