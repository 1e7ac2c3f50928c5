"""The report of a run: JSON for programs, HTML with plots for people, a table for the terminal. No I/O."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from perch.loadtest.campaign import Campaign, verdict
from perch.loadtest.results import SAFETY, Slo, Spread, Step, recommended
from perch.loadtest.steps import Plan
from perch.measure.page import Row, items, note, page, section, table
from perch.measure.plot import Axis, Line, plot

NOTHING = "-"
"""Where there is no figure."""

_TIMES: tuple[tuple[str, Callable[[Step], Spread]], ...] = (
    ("connect", lambda step: step.ready),
    ("first partial", lambda step: step.first_partial),
    ("partial", lambda step: step.partial),
    ("final", lambda step: step.final),
    ("done", lambda step: step.done),
)
_MEANINGS = (
    "connect: from opening the socket to ready, with TLS, admission and the engine's stream: the queue time.",
    (
        "first partial, partial, final: from sending the audio in which its words end to receiving it. "
        "For a final this includes the silence by which the engine knows that the sentence is over."
    ),
    "done: from stop to done, the last word included.",
    "RTFx, p50 / p95 / p99: seconds of audio for each second from the first frame to done; at the pace of speech just below 1.",
    (
        "errors: sessions that ended otherwise than with done, of those not refused. "
        "refused: HTTP 503 or 429 in place of a session."
    ),
    "lost: connections that broke off without a close frame.",
    "late: how long after its time the generator sent a frame. If that is much, the generator is in the figures.",
)


def as_json(campaign: Campaign, plan: Plan) -> dict[str, Any]:
    """Everything, without the key."""
    return {
        "verdict": verdict(campaign),
        "passed": campaign.passed,
        "kind": campaign.kind,
        "ended": campaign.ended,
        "knee": campaign.knee,
        "limit": campaign.limit,
        "safety": SAFETY,
        "recommended_sessions_per_gateway": recommended(campaign.knee),
        "recommended_sessions_per_engine": recommended(campaign.knee) // campaign.engines,
        "engines": campaign.engines,
        "url": plan.target.url.partition("?")[0],
        "silence_ms": plan.target.silence_ms,
        "slo": asdict(plan.slo),
        "seconds": plan.seconds,
        "session_s": plan.session_s,
        "processes": plan.processes,
        "steps": [step.as_json() for step in campaign.steps],
    }


def as_html(campaign: Campaign, plan: Plan) -> str:
    """One page: the verdict, the tables, the plots."""
    steps = sorted(campaign.steps, key=lambda step: step.sessions)
    headline, *rest = verdict(campaign)
    colour = "good" if campaign.passed else "bad"
    parts = [f'<p class="{colour}">{escape(headline)}</p>', items(rest)]
    if steps:
        parts += [
            section(
                "Latency, milliseconds: p50 / p95 / p99", table(_latency_head(), map(_latency_row, steps))
            ),
            section("Sessions, errors and load", table(_load_head(), map(_load_row, steps)), _codes(steps)),
            *_plots(_best(steps), plan.slo),
        ]
    parts.append(section("What the columns mean", items(_MEANINGS), note(_conditions(plan))))
    return page("Load", parts)


def _conditions(plan: Plan) -> str:
    slo = plan.slo
    silence = (
        f"{plan.target.silence_ms} ms of silence" if plan.target.silence_ms else "the engine's own silence"
    )
    return (
        f"SLO: partial p95 up to {slo.partial_p95_ms:g} ms, final p95 up to {slo.final_p95_ms:g} ms, errors up to "
        f"{slo.error_rate:.1%}, no refusal. Each step was measured for {plan.seconds:g} s, after the sessions "
        f"had begun one after the other and {plan.warm_up_s:g} s more; each session spoke for up to "
        f"{plan.session_s:g} s. {plan.processes} generator process(es). "
        f"An utterance ended after {silence}. The recommended maximum is {SAFETY:.0%} of the knee."
    )


def _latency_head() -> list[str]:
    return ["sessions", *(name for name, _ in _TIMES)]


def _latency_row(step: Step) -> Row:
    return Row([str(step.sessions), *(_percentiles(spread(step)) for _, spread in _TIMES)], _passed(step))


def _load_head() -> list[str]:
    return [
        "sessions",
        "within SLO",
        "attempts",
        "errors",
        "refused",
        "lost",
        "RTFx",
        "gateway CPU",
        "ms/stream-s",
        "gateway MiB",
        "loop lag p99 ms",
        "machine",
        "generator CPU",
        "late p99 ms",
    ]


def _load_row(step: Step) -> Row:
    server = step.server
    cells = [
        "cut" if step.cut else "yes" if step.held else "no",
        str(step.attempts),
        f"{step.error_rate:.2%}",
        f"{step.refusal_rate:.2%}",
        str(step.disconnected),
        " / ".join(_number(value, 2) for value in (step.rtfx.p50, step.rtfx.p95, step.rtfx.p99)),
        NOTHING if server is None else f"{server.cpu_share:.0%}",
        NOTHING if server is None else _number(server.cpu_ms_per_stream_s, 2),
        NOTHING if server is None else _number(server.resident_mib, 0),
        NOTHING if server is None else _number(server.lag_p99_ms, 0),
        NOTHING if step.machine_busy is None else f"{step.machine_busy:.0%}",
        f"{step.generator_cpu:.0%}",
        _number(step.late.p99, 1),
    ]
    return Row([str(step.sessions), *cells], _passed(step))


def _codes(steps: Sequence[Step]) -> str:
    lines = [
        f"{step.sessions} sessions: {', '.join(f'{count} {code}' for code, count in step.outcomes.items())}"
        + _hint(step)
        + "".join(f"; {doubt}" for doubt in step.doubts)
        for step in steps
    ]
    return items(lines)


def _hint(step: Step) -> str:
    return f"; told to try again after {step.retry_after_s[0]:g} s" if step.retry_after_s else ""


def _best(steps: Sequence[Step]) -> list[Step]:
    """One step for each concurrency: what was tried twice did not hold at first."""
    best: dict[int, Step] = {}
    for step in steps:
        if (other := best.get(step.sessions)) is None or _worst(step) < _worst(other):
            best[step.sessions] = step
    return list(best.values())


def _worst(step: Step) -> tuple[bool, float]:
    return not step.held, step.partial.p95 or 0.0


def _plots(steps: Sequence[Step], slo: Slo) -> list[str]:
    x = Axis("sessions", 0, max(step.sessions for step in steps))

    def line(name: str, value: Callable[[Step], float | None]) -> Line:
        points = [(float(step.sessions), found) for step in steps if (found := value(step)) is not None]
        return Line(name, points)

    def drawn(title: str, unit: str, lines: Sequence[Line], mark: float = 0.0) -> str:
        highest = max((y for each in lines for _, y in each.points), default=0.0)
        # Far beyond what is allowed the shape tells nothing, and would flatten what does.
        top = 1.25 * (min(highest, 4 * mark) if mark else highest) or 1.0
        if mark:
            lines = [*lines, Line(f"SLO {mark:g}", [(0.0, mark), (x.high, mark)])]
            top = max(top, 1.5 * mark)
        return section(title, plot(title, x, Axis(unit, 0, top), lines))

    return [
        drawn(
            "Partials",
            "ms",
            [line("p50", lambda step: step.partial.p50), line("p95", lambda step: step.partial.p95)],
            slo.partial_p95_ms,
        ),
        drawn(
            "Finals",
            "ms",
            [line("p50", lambda step: step.final.p50), line("p95", lambda step: step.final.p95)],
            slo.final_p95_ms,
        ),
        drawn(
            "Connecting: from the socket to ready",
            "ms",
            [line("p50", lambda step: step.ready.p50), line("p95", lambda step: step.ready.p95)],
        ),
        drawn(
            "Errors and refusals",
            "% of sessions",
            [
                line("errors", lambda step: 100 * step.error_rate),
                line("refused", lambda step: 100 * step.refusal_rate),
            ],
            100 * slo.error_rate,
        ),
        drawn(
            "CPU",
            "% of a core; machine: of all its cores",
            [
                line("gateway", lambda step: 100 * step.server.cpu_share if step.server else None),
                line("generator", lambda step: 100 * step.generator_cpu),
                line("machine", lambda step: None if step.machine_busy is None else 100 * step.machine_busy),
            ],
        ),
    ]


def _passed(step: Step) -> bool | None:
    return None if step.cut or step.held else False


def _percentiles(spread: Spread) -> str:
    values = (spread.p50, spread.p95, spread.p99)
    return " / ".join(_number(value, 1 if (value or 0) < 10 else 0) for value in values)


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
