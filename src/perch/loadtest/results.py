"""From logs to the figures of a step, and what they say. No clock, no I/O."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from perch.loadtest.records import Log, Session
from perch.loadtest.server_side import ServerSide

SAFETY = 0.7
"""The recommended share of the knee: what is left takes the clients of one process of three that fails (two
thirds of the load become all of it), and traffic that is less even than a test's."""

Limit = Literal["admission", "generator", "gateway", "machine", "engine"]

_BUSY = 0.85  # of one core: an event loop that uses more has queues
_FULL = 0.92  # of all cores
_LAG_MS = 50.0
_LATE_MS = 20.0


@dataclass(frozen=True, slots=True)
class Slo:
    """What has to hold at a concurrency."""

    partial_p95_ms: float = 300.0
    final_p95_ms: float = 800.0
    error_rate: float = 0.005


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of ``count`` samples; NaN-free: None of nothing."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """The figures of one concurrency. Times are milliseconds."""

    sessions: int
    seconds: float
    attempts: int
    refused: int
    failed: int
    disconnected: int
    outcomes: dict[str, int]
    retry_after_s: list[float]
    ready: Spread
    first_partial: Spread
    partial: Spread
    final: Spread
    done: Spread
    rtfx: Spread
    late: Spread
    generator_cpu: float
    """Of one core, for each generator process."""
    machine_busy: float | None
    """Share of all cores of the machine that the generator runs on."""
    server: ServerSide | None
    cut: bool = False
    """The step was ended before its time."""
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Every SLO did."""
        return not self.problems

    @property
    def error_rate(self) -> float:
        return self.failed / max(self.attempts - self.refused, 1)

    @property
    def refusal_rate(self) -> float:
        return self.refused / max(self.attempts, 1)

    def as_json(self) -> dict[str, Any]:
        rates = {"error_rate": self.error_rate, "refusal_rate": self.refusal_rate, "held": self.held}
        return asdict(self) | rates


def summarise(
    sessions: int,
    seconds: float,
    logs: Sequence[Log],
    *,
    slo: Slo,
    server: ServerSide | None = None,
    machine_busy: float | None = None,
    cut: bool = False,
) -> Step:
    """The figures of a step, judged."""
    records = [record for log in logs for record in log.sessions]
    tried = [record for record in records if record.outcome != "cut"]
    step = Step(
        sessions=sessions,
        seconds=seconds,
        attempts=len(tried),
        refused=sum(record.refused for record in tried),
        failed=sum(record.failed for record in tried),
        disconnected=sum(record.disconnected for record in tried),
        outcomes=dict(Counter(record.outcome for record in tried).most_common()),
        retry_after_s=sorted({r.retry_after_s for r in tried if r.refused and r.retry_after_s is not None}),
        ready=_of(record.ready for record in records),
        first_partial=_of(record.first_partial for record in records),
        partial=_of(value for record in records for value in record.partials),
        final=_of(value for record in records for value in record.finals),
        done=_of(record.done for record in tried),
        rtfx=_of(_rtfx(tried)),
        late=_of(value for log in logs for value in log.late),
        generator_cpu=max((log.cpu_s for log in logs), default=0.0) / seconds,
        machine_busy=machine_busy,
        server=server,
        cut=cut,
    )
    step.problems.extend(_problems(step, slo))
    step.doubts.extend(_doubts(step))
    return step


def limit(step: Step) -> Limit:
    """What gave way first at a step whose SLOs were missed.

    A full machine is told from a full gateway by the gateway's own share of it: where the gateway, the engine
    and the generator share the cores, each of them is late for want of the others' time.
    """
    if step.refused:
        return "admission"
    if step.generator_cpu >= _BUSY:
        return "generator"
    server = step.server
    if server is not None and server.cpu_share >= _BUSY:
        return "gateway"
    if step.machine_busy is not None and step.machine_busy >= _FULL:
        return "machine"
    if server is not None and (server.lag_p99_ms or 0) >= _LAG_MS:
        return "gateway"
    return "generator" if (step.late.p99 or 0) >= _LATE_MS else "engine"


def recommended(knee: int) -> int:
    """Sessions to plan for, given those at which everything just holds."""
    return int(knee * SAFETY)


def _rtfx(records: Iterable[Session]) -> Iterable[float]:
    # Of a session shorter than a few seconds the figure is mostly the one answer at its end.
    return (record.rtfx for record in records if record.rtfx is not None and record.audio_s >= 2.0)


def _problems(step: Step, slo: Slo) -> Iterable[str]:
    found = []
    for name, spread, most in (
        ("partial", step.partial, slo.partial_p95_ms),
        ("final", step.final, slo.final_p95_ms),
    ):
        if spread.p95 is not None and spread.p95 > most:
            found.append(f"{name} p95 {spread.p95:.0f} ms is over {most:g} ms")
    if not step.cut and not step.partial.count and step.refused < step.attempts:
        found.append("no partial came: does this engine understand the clips?")
    if step.error_rate > slo.error_rate:
        found.append(
            f"{step.failed} of {step.attempts - step.refused} sessions failed ({step.error_rate:.1%})"
        )
    if step.refused:
        found.append(f"{step.refused} of {step.attempts} sessions were refused")
    return found


def _doubts(step: Step) -> Iterable[str]:
    found = []
    if (step.late.p99 or 0) >= _LATE_MS:
        found.append(f"the generator sent frames {step.late.p99:.0f} ms late (p99)")
    if step.generator_cpu >= _BUSY:
        found.append(f"a generator process used {step.generator_cpu:.0%} of a core: add --processes")
    if step.machine_busy is not None and step.machine_busy >= _FULL:
        cores = os.cpu_count() or 1
        found.append(f"the machine was full ({step.machine_busy:.0%} of its {cores} cores)")
    return found


def _of(values: Iterable[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    if not known:
        return Spread(0, None, None, None)
    p50, p95, p99 = (round(float(found), 3) for found in np.percentile(known, (50, 95, 99)))
    return Spread(len(known), p50, p95, p99)
