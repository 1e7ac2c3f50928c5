"""The figures for people and programs: a table in the terminal, JSON, one HTML file."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.figures import Figure, Results, all_latencies, failures, figures, machine, outcomes, warnings
from bench.job import Outcome
from bench.latency import percentile
from rich.console import Console
from rich.markup import escape as markup
from rich.table import Table

from perch.measure.plot import Axis, Line, cdf, plot

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1917 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #e7e5e4; text-align: left }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.good { color: #3f6212 } .bad { color: #b91c1c; font-weight: 600 }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: #57534e } svg line { stroke: #e7e5e4 }
li { margin: .2rem 0 } .note { color: #57534e }
"""


def as_json(results: Results) -> dict[str, Any]:
    """Every figure by its key, with what casts doubt on them."""
    return {
        "machine": machine(),
        "figures": {figure.key: figure.as_json() for figure in figures(results)},
        "generator": [_generator(road, outcome) for road, outcome in outcomes(results)],
        "warnings": warnings(results),
        "failures": failures(results),
        "resident_mib": [(round(at, 2), round(mib, 2)) for at, mib in _resident(results)],
    }


def write(results: Results, directory: Path) -> tuple[Path, Path]:
    """``bench.json`` and ``bench.html`` in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    data, page = directory / "bench.json", directory / "bench.html"
    data.write_text(json.dumps(as_json(results), indent=1) + "\n", encoding="utf-8")
    page.write_text(_html(results), encoding="utf-8")
    return data, page


def show(results: Results, console: Console) -> None:
    """The table, and what casts doubt on it."""
    table = Table("", "measured", "", "target", "of target", "each round", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in (1, 3, 4, 5):
        table.columns[column].justify = "right"
    for figure in figures(results):
        table.add_row(*_cells(figure), style=_verdict(figure, "green", "bold red"))
    console.print(table)
    console.print(_context())
    for warning in warnings(results):
        console.print(f"[yellow]doubt:[/] {markup(warning)}")
    for failure in failures(results):
        console.print(f"[bold red]failed:[/] {markup(failure)}")


def _cells(figure: Figure) -> tuple[str, ...]:
    target = "" if figure.target is None else f"≤ {figure.target:g}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    rounds = " ".join(_number(value) for value in figure.spread) if len(figure.spread) > 1 else ""
    return figure.name, _number(figure.value), figure.unit, target, ratio, rounds


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _verdict(figure: Figure, good: str, bad: str) -> str:
    if figure.ratio is None:
        return ""
    return good if figure.ratio <= 1 else bad


def _context() -> str:
    facts = machine()
    return (
        f"{facts['cores']} cores, load average {facts['load_average']}, all processes on them. "
        "Trust ratios between roads of one run more than absolute figures."
    )


# --- HTML --------------------------------------------------------------------------------------------


def _html(results: Results) -> str:
    doubts = "".join(f"<li>{escape(text)}</li>" for text in (*failures(results), *warnings(results)))
    sections = [
        "<h1>Perch: the gateway beside direct gRPC</h1>",
        f'<p class="note">{escape(_context())}</p>',
        _table(figures(results)),
        f"<h2>Doubts</h2><ul>{doubts}</ul>" if doubts else "",
        *_latency_plot(results),
        *_resident_plot(results),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Perch benchmark</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>{"".join(sections)}</html>\n'
    )


def _table(rows: Sequence[Figure]) -> str:
    head = "<tr><th><th class=number>measured<th><th class=number>target<th class=number>of target<th class=number>each round</tr>"
    return f"<table>{head}{''.join(map(_row, rows))}</table>"


def _row(figure: Figure) -> str:
    name, *rest = map(escape, _cells(figure))
    verdict = _verdict(figure, "good", "bad")
    value, unit, *others = rest
    cells = "".join(f"<td class=number>{cell}" for cell in others)
    return f'<tr class="{verdict}"><td>{name}<td class=number>{value}<td>{unit}{cells}</tr>'


def _latency_plot(results: Results) -> list[str]:
    if not results.latency:
        return []
    both = all_latencies(results.latency)
    longest = 2.0 * max(percentile(both.direct_ms, 95), percentile(both.gateway_ms, 95), 1.0)
    lines = [
        Line(f"direct gRPC ({len(both.direct_ms)} events)", _up_to(longest, cdf(both.direct_ms))),
        Line(f"through the gateway ({len(both.gateway_ms)} events)", _up_to(longest, cdf(both.gateway_ms))),
    ]
    return [
        f"<h2>Latency of partials and finals, {both.streams} streams</h2>",
        plot("Latency", Axis("ms after the frame was sent", 0, longest), Axis("% of events", 0, 100), lines),
    ]


def _up_to(longest: float, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the far end of a long tail, which would press all else against the axis."""
    return [point for point in points if point[0] <= longest]


def _resident_plot(results: Results) -> list[str]:
    series = _resident(results)
    if not series:
        return []
    highest = 1.1 * max(mib for _, mib in series)
    title = "Resident memory of the gateway" + (", long sessions" if results.growth is not None else "")
    line = Line("gateway", series)
    return [
        f"<h2>{title}</h2>",
        plot(title, Axis("seconds", 0, series[-1][0] or 1.0), Axis("MiB", 0, highest), [line]),
    ]


def _resident(results: Results) -> Sequence[tuple[float, float]]:
    return results.resident if results.growth is None else results.growth.series


# --- the generator -----------------------------------------------------------------------------------


def _generator(road: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "road": road,
        "streams": len(outcome.streams),
        "seconds": round(outcome.seconds, 2),
        "cpu_share": round(outcome.cpu_s["generator"] / outcome.seconds, 3),
        "cores_used_by_others": round(outcome.cpu_s["others"] / outcome.seconds, 3),
        "late_ms_p50_p99": [round(ms, 2) for ms in outcome.late_ms],
        "loop_lag_ms_p50_p99": [round(ms, 2) for ms in outcome.lag_ms],
        "frames": outcome.frames,
        "messages": outcome.messages,
        "partials_and_finals": sum(len(log.heard) for log in outcome.streams),
    }
