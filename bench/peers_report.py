"""The comparison for people and programs: a table in the terminal, JSON, HTML, and Markdown for the docs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import machine
from bench.peers_figures import Cell, Comparison, ratio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perch.measure.page import Row, items, note, page, section, table
from perch.measure.plot import Axis, Line, plot

_PLOTTED = ("perch", "node", "go")
_COMPARED = ("node", "go")

Titles = Mapping[str, str]
Lines = list[tuple[str, ...]]

_HEAD = (
    "gateway",
    "CPU µs per frame",
    "µs per event",
    "added p50 ms",
    "p95 ms",
    "p99 ms",
    "CPU / Node's",
    "CPU / Go's",
    "p95 / Node's",
    "p95 / Go's",
)
_SIZES_REMARK = "Of a session: resident memory gained from no stream to the most streams above, per stream."
_SIZES_HEAD = ("gateway", "KiB per session", "streams before added p95 > 50 ms", "CPU µs per frame there")


def rows(comparison: Comparison, titles: Titles, streams: int) -> Lines:
    """The table of one number of streams."""
    cells = {peer: comparison.cell(peer, streams) for peer in comparison.peers}
    return [_row(cell, titles[peer], cells) for peer, cell in cells.items()]


def _row(cell: Cell, title: str, cells: Mapping[str, Cell]) -> tuple[str, ...]:
    others = [cells.get(name) for name in _COMPARED]
    by_cpu = [ratio(cell.us_per_frame, other.us_per_frame) if other else None for other in others]
    by_p95 = [ratio(cell.added_ms[1], other.added_ms[1]) if other else None for other in others]
    added = [f"{value:.2f}" for value in cell.added_ms]
    figures = (f"{cell.us_per_frame:.0f}", f"{cell.us_per_event:.0f}", *added)
    return (title, *figures, *map(_times, (*by_cpu, *by_p95)))


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def sizes(comparison: Comparison, titles: Titles) -> Lines:
    """Memory of a session, and how many of them one gateway takes."""
    return [
        (titles[peer], f"{comparison.kib_per_session(peer):.0f}", *_knee(comparison, peer))
        for peer in comparison.peers
    ]


def _knee(comparison: Comparison, peer: str) -> tuple[str, str]:
    if peer not in comparison.ramps:
        return "", ""
    knee = comparison.knee(peer)
    if knee is None:
        return f"< {comparison.ramps[peer][0].streams}", ""
    there = next(window for window in comparison.ramps[peer] if window.streams == knee)
    return ("≥ " if comparison.knee_is_open(peer) else "") + str(knee), f"{there.us_per_frame:.0f}"


@dataclass(frozen=True, slots=True)
class _Part:
    """One table of the report."""

    title: str
    remark: str
    head: tuple[str, ...]
    lines: Lines


def _parts(comparison: Comparison, titles: Titles) -> list[_Part]:
    found = []
    for streams in comparison.streams:
        direct = " / ".join(f"{value:.2f}" for value in comparison.direct_ms(streams))
        remark = f"Direct gRPC p50 / p95 / p99: {direct} ms."
        title = f"{streams} stream{'s' if streams > 1 else ''}"
        found.append(_Part(title, remark, _HEAD, rows(comparison, titles, streams)))
    found.append(_Part("Memory and the knee", _SIZES_REMARK, _SIZES_HEAD, sizes(comparison, titles)))
    return found


def show(comparison: Comparison, titles: Titles, console: Console) -> None:
    """The tables, and what casts doubt on them."""
    for part in _parts(comparison, titles):
        console.print(f"[bold]{part.title}[/]  [dim]{part.remark}[/]")
        shown = Table(*part.head, box=None, pad_edge=False)
        for column in shown.columns[1:]:
            column.justify = "right"
        for line in part.lines:
            shown.add_row(*line)
        console.print(shown, "")
    console.print(_context())
    for peer, reason in comparison.skipped.items():
        console.print(f"[yellow]left out:[/] {titles[peer]}: {escape(reason)}")
    for doubt in comparison.doubts():
        console.print(f"[yellow]doubt:[/] {escape(doubt)}")
    for failure in comparison.failures():
        console.print(f"[bold red]failed:[/] {escape(failure)}")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Every figure."""
    return {
        "machine": machine(),
        "direct_ms": {str(n): [round(v, 3) for v in comparison.direct_ms(n)] for n in comparison.streams},
        "cells": [_cell(cell) for cell in comparison.cells()],
        "kib_per_session": {peer: round(comparison.kib_per_session(peer), 1) for peer in comparison.peers},
        "knee": {
            peer: {
                "streams": comparison.knee(peer),
                "ramp_ended_first": comparison.knee_is_open(peer),
                "steps": [
                    {
                        "streams": window.streams,
                        "p95_ms": round(window.latency_ms[1], 2),
                        "us_per_frame": round(window.us_per_frame, 1),
                        "late_p99_ms": round(window.late_ms[1], 2),
                    }
                    for window in windows
                ],
            }
            for peer, windows in comparison.ramps.items()
        },
        "skipped": comparison.skipped,
        "doubts": comparison.doubts(),
        "failures": comparison.failures(),
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "peer": cell.peer,
        "streams": cell.streams,
        "us_per_frame": round(cell.us_per_frame, 1),
        "us_per_event": round(cell.us_per_event, 1),
        "cpu_ms_per_stream_second": round(cell.ms_per_stream_second, 3),
        "added_ms_p50_p95_p99": [round(value, 3) for value in cell.added_ms],
        "rounds_us_per_frame": [round(value, 1) for value in cell.rounds_us],
        "rounds_added_p95_ms": [round(value, 3) for value in cell.rounds_p95],
    }


def write(comparison: Comparison, titles: Titles, directory: Path) -> tuple[Path, Path]:
    """``peers.json`` and ``peers.html`` in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    data, html = directory / "peers.json", directory / "peers.html"
    data.write_text(json.dumps(as_json(comparison), indent=1) + "\n", encoding="utf-8")
    html.write_text(_html(comparison, titles), encoding="utf-8")
    return data, html


def _html(comparison: Comparison, titles: Titles) -> str:
    sections = [note(_context())]
    sections += [
        section(part.title, note(part.remark), table(part.head, [Row(line) for line in part.lines]))
        for part in _parts(comparison, titles)
    ]
    sections += _plots(comparison, titles)
    skipped = [f"{titles[peer]} was left out: {reason}" for peer, reason in comparison.skipped.items()]
    if remarks := [*comparison.failures(), *comparison.doubts(), *skipped]:
        sections.append(section("Doubts", items(remarks)))
    return page("Perch beside the gateways one would write instead", sections)


def _plots(comparison: Comparison, titles: Titles) -> list[str]:
    peers = [peer for peer in _PLOTTED if peer in comparison.peers]
    cpu, p95 = [], []
    for peer in peers:
        cells = [comparison.cell(peer, streams) for streams in comparison.streams]
        ramp = [window for window in comparison.ramps.get(peer, []) if window.streams > cells[-1].streams]
        further = [(window.streams, window.us_per_frame) for window in ramp]
        slower = [(window.streams, window.latency_ms[1]) for window in ramp]
        cpu.append(Line(titles[peer], [*((c.streams, c.us_per_frame) for c in cells), *further]))
        p95.append(Line(titles[peer], [*((c.streams, c.added_ms[1]) for c in cells), *slower]))
    return [
        _plot("CPU per frame", "µs", cpu, None),
        _plot("Added latency, p95", "ms", p95, 100.0),
    ]


def _plot(title: str, unit: str, lines: Sequence[Line], most: float | None) -> str:
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    highest = 1.1 * max(y for _, y in points)
    axis = Axis(unit, 0, highest if most is None else min(highest, most))
    return section(title, plot(title, Axis("streams", 0, max(x for x, _ in points)), axis, lines))


def _context() -> str:
    facts = machine()
    return (
        f"{facts['cores']} cores, load average {facts['load_average']}; gateway, scripted Riva and load on them. "
        "Medians of the rounds, each gateway in turn. Ratios travel, absolute figures do not."
    )


def markdown(comparison: Comparison, titles: Titles, command: str) -> str:
    """The page for the docs."""
    parts = [
        "# Perch beside the gateways one would write instead",
        "",
        f"Made by `{command}`, which also draws `reports/peers.html`. {_context()}",
        "",
        _EXPLAINED,
    ]
    for part in _parts(comparison, titles):
        parts += ["", f"## {part.title}", "", part.remark, "", _pipes(part.head), _rule(len(part.head))]
        parts += map(_pipes, part.lines)
    if remarks := [*comparison.failures(), *comparison.doubts()]:
        parts += ["", "## Doubts", "", *(f"- {remark}" for remark in remarks)]
    for peer, reason in comparison.skipped.items():
        parts += ["", f"{titles[peer]} was left out: {reason}"]
    return "\n".join(parts) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return _pipes(["---", *["---:"] * (columns - 1)])


_EXPLAINED = """\
- Streams at real-time pace, 16 kHz PCM16 in frames of 100 ms, an event for every second frame, a final every 3 s.
- **CPU** is user and system time of the gateway's processes over the window, per frame up (its share of events down included) and per event down (its share of frames included).
- **Added** is the gateway's percentile less that of direct gRPC streams from the same load generator to the same scripted Riva.
- **Ratios** are this gateway's figure in the other's: below 1 is less. Of latencies they are empty where a gateway added too little to tell.
- The Node and Go gateways are tuned but do only the minimum. They **lack** replay and failover, resuming, limits, keys, metrics, drain, dialects and the rest of [what Perch does](../../bench/baselines/README.md) meanwhile."""
