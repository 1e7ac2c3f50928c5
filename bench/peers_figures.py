"""The figures of the comparison: what one window came to, and what windows come to together. No I/O."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.latency import PERCENTILES, percentile

DIRECT = "direct"
KNEE_ADDED_MS = 50.0

_LATE_MS = 20.0
_APART = 2.0
_AUDIO_FRAMES_PER_S = 10


@dataclass(frozen=True, slots=True)
class Window:
    """What the load generator measured of one peer while its streams ran.

    Args:
        streams: How many ran.
        seconds: How long the window was.
        frames: Frames sent in it.
        messages: Partials and finals received in it.
        latency_ms: Percentiles (50, 95, 99) over the events of those frames.
        late_ms: How late the generator sent them (p50, p99).
        cpu_s: CPU time of the gateway's processes; 0 on the direct road.
        resident_before: Bytes of their memory before any stream of this window.
        resident: At its end.
        failures: Streams that failed, by reason.
    """

    streams: int
    seconds: float
    frames: int
    messages: int
    latency_ms: tuple[float, ...]
    late_ms: tuple[float, float]
    cpu_s: float
    resident_before: int
    resident: int
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def us_per_frame(self) -> float:
        """CPU time per frame up, its share of the events down included."""
        return 1e6 * self.cpu_s / max(self.frames, 1)

    @property
    def us_per_event(self) -> float:
        """The same CPU time per event down: two frames bring one about."""
        return 1e6 * self.cpu_s / max(self.messages, 1)


def window_of(text: str | bytes) -> Window:
    """What the load generator printed."""
    told: dict[str, Any] = json.loads(text)
    latencies = [value / 1000 for value in told["latencies_us"]]
    late = [value / 1000 for value in told["late_us"]]
    gateway = told["processes"].get("gateway", {"cpu_s": 0.0, "resident_before": 0, "resident": 0})
    return Window(
        streams=told["streams"],
        seconds=told["seconds"],
        frames=told["frames"],
        messages=told["messages"],
        latency_ms=tuple(percentile(latencies, percent) for percent in PERCENTILES),
        late_ms=(percentile(late, 50), percentile(late, 99)),
        cpu_s=gateway["cpu_s"],
        resident_before=gateway["resident_before"],
        resident=gateway["resident"],
        failures=told["failures"],
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """One peer at one number of streams: the median of the rounds."""

    peer: str
    streams: int
    us_per_frame: float
    us_per_event: float
    added_ms: tuple[float, ...]
    rounds_us: tuple[float, ...]
    rounds_p95: tuple[float, ...]

    @property
    def ms_per_stream_second(self) -> float:
        return self.us_per_frame * _AUDIO_FRAMES_PER_S / 1000


@dataclass(slots=True)
class Comparison:
    """Everything measured.

    Args:
        windows: By peer and number of streams, one for each round.
        ramps: By peer, the windows of the search for the knee, a second try in place of its first.
        skipped: Peers that could not run, and why.
    """

    windows: dict[tuple[str, int], list[Window]] = field(default_factory=dict)
    ramps: dict[str, list[Window]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        """The gateways, in the order they were measured in."""
        return list(dict.fromkeys(peer for peer, _ in self.windows if peer != DIRECT))

    @property
    def streams(self) -> list[int]:
        return list(dict.fromkeys(streams for _, streams in self.windows))

    def direct_ms(self, streams: int) -> tuple[float, ...]:
        """The direct road's percentiles."""
        return _medians([window.latency_ms for window in self.windows.get((DIRECT, streams), [])])

    def cell(self, peer: str, streams: int) -> Cell:
        windows = self.windows[peer, streams]
        direct = self.windows.get((DIRECT, streams), [])
        added = [
            tuple(value - less for value, less in zip(window.latency_ms, base.latency_ms, strict=True))
            for window, base in zip(windows, direct, strict=False)
        ]
        each = tuple(window.us_per_frame for window in windows)
        return Cell(
            peer=peer,
            streams=streams,
            us_per_frame=median(each),
            us_per_event=median(window.us_per_event for window in windows),
            added_ms=_medians(added),
            rounds_us=each,
            rounds_p95=tuple(one[1] for one in added),
        )

    def cells(self) -> list[Cell]:
        """Every gateway at every number of streams."""
        return [self.cell(peer, streams) for streams in self.streams for peer in self.peers]

    def kib_per_session(self, peer: str) -> float:
        """Resident memory gained from no stream to the most streams, per stream."""
        most = max(streams for name, streams in self.windows if name == peer)
        first = next(windows[0] for (name, _), windows in self.windows.items() if name == peer)
        highest = max(window.resident for window in self.windows[peer, most])
        return (highest - first.resident_before) / most / 1024

    def knee(self, peer: str) -> int | None:
        """The most streams of the ramp with added p95 up to 50 ms; None if not even its first step."""
        held = [window.streams for window in self.ramps[peer] if holds(window)]
        return max(held, default=None)

    def knee_is_open(self, peer: str) -> bool:
        """Whether the ramp ended before the peer did."""
        return bool(self.ramps[peer]) and holds(self.ramps[peer][-1])

    def failures(self) -> list[str]:
        """Streams that failed at the set numbers; past its knee a gateway may lose some."""
        return [
            f"{peer} at {streams}: {count} streams {reason}"
            for (peer, streams), windows in self.windows.items()
            for window in windows
            for reason, count in window.failures.items()
        ]

    def doubts(self) -> list[str]:
        """What makes figures less sure."""
        found = []
        for (peer, streams), windows in self.windows.items():
            late = max(window.late_ms[1] for window in windows)
            if late > _LATE_MS:
                found.append(f"{peer} at {streams}: the load was sent {late:.0f} ms late (p99)")
        for cell in self.cells():
            if max(cell.rounds_us) > _APART * min(cell.rounds_us):
                spread = ", ".join(f"{value:.0f}" for value in cell.rounds_us)
                found.append(
                    f"{cell.peer} at {cell.streams}: CPU per frame differs between rounds: {spread} µs"
                )
        return found


def holds(window: Window) -> bool:
    """Whether a gateway keeps up in ``window``: direct, the p95 is a fraction of a millisecond, so all is added."""
    return not window.failures and bool(window.messages) and window.latency_ms[1] <= KNEE_ADDED_MS


def ratio(value: float, other: float) -> float | None:
    """``value`` in ``other``s; None where a figure is within what the clock of the machine can tell."""
    return value / other if value > 0 and other > 0 else None


def _medians(each: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(median(values) for values in zip(*each, strict=True))
